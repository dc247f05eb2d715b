"""Write the reference pages that are made from the code: `python docs/generate.py`. A test compares them with what stands here."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from securepacs.wiring import ERROR_TABLE
from securepacs_proxy.agent.config import AgentConfig
from securepacs_proxy.config import settings_markdown

REPOSITORY = Path(__file__).resolve().parent.parent
REFERENCE = Path(__file__).resolve().parent / "reference"
PROGRAMS = {"securepacs": "securepacs.cli.main", "securepacs-proxy": "securepacs_proxy.cli"}
CLAUSE = re.compile(r"\b(PS3\.\d+[ \d.A-Z]*|RFC \d+(?: [\d.]+)?|ISO \d+(?:-\d+)?|ITI-\d+|IEC \d+|CID \d+)")


def commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield every leaf command with its full name."""
    children = getattr(command, "commands", None)
    if not children:
        yield " ".join(words), command
        return
    for name in sorted(children):
        yield from commands(children[name], (*words, name))


def _option_row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        name = ", ".join(f"`{spelling}`" for spelling in (*parameter.opts, *parameter.secondary_opts))
    text = (getattr(parameter, "help", "") or "").replace("\n", " ").replace("|", "\\|")
    return f"| {name} | {text}{' (required)' if parameter.required else ''} |"


def cli_page() -> str:
    """The page of all commands and their options."""
    lines = [
        "# Command line",
        "",
        "Made by `python docs/generate.py`. Exit codes: 0 done or all valid; 1 a verdict is negative or undecided;",
    ]
    lines += ["2 usage or configuration; 3 malformed input; 4 token or PIN; 5 something outside did not answer."]
    for program, module in PROGRAMS.items():
        for name, command in commands(typer.main.get_command(importlib.import_module(module).app), (program,)):
            lines += ["", f"## {name}", "", (command.help or "").strip(), "", "| argument or option | meaning |", "|---|---|"]
            lines += [_option_row(parameter) for parameter in command.params if parameter.name != "help"]
    return "\n".join(lines) + "\n"


def errors_page() -> str:
    """The table of errors: who acts, exit code, reply on the wire, audit."""
    lines = ["# Errors", "", "Made by `python docs/generate.py` from `securepacs.errors` and the table in `securepacs.wiring`.", ""]
    lines += ["| class | code | meaning | exit code | reply on the wire | Security Alert type |", "|---|---|---|---|---|---|"]
    for cls, row in ERROR_TABLE.items():
        meaning = (cls.__doc__ or "").strip().split("\n")[0]
        alert = f"{row.audit.csd_code} {row.audit.originalText}" if row.audit else "-"
        lines.append(f"| `{cls.__name__}` | `{cls.code}` | {meaning} | {row.exit_code} | {row.protocol_reply} | {alert} |")
    return "\n".join(lines) + "\n"


def _cited(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (clause, object, first line) of every docstring in a file that cites a clause."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removeprefix("proxy.").removesuffix(".__init__")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        first = (ast.get_docstring(node) or "").split("\n")[0]
        name = module if isinstance(node, ast.Module) else f"{module}.{node.name}"
        if name.rpartition(".")[2].startswith("_"):
            continue
        for clause in dict.fromkeys(match.strip(" .") for match in CLAUSE.findall(first)):
            yield clause, name, first


def _clause_order(row: tuple[str, str, str]) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.findall(r"\d+|[A-Za-z]+", row[0])
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts], row[1]


def standards_page() -> str:
    """The map from clauses of the standards to the code that implements them."""
    rows: set[tuple[str, str, str]] = set()
    for folder in (REPOSITORY / "securepacs", REPOSITORY / "proxy" / "securepacs_proxy"):
        for path in folder.rglob("*.py"):
            rows.update(_cited(path))
    lines = [
        "# Standards and where they are implemented",
        "",
        "Made by `python docs/generate.py` from the first lines of docstrings.",
        "",
    ]
    lines += ["| clause | where | what |", "|---|---|---|"]
    lines += [
        f"| {clause} | `{where}` | {what.replace('|', chr(92) + '|')} |" for clause, where, what in sorted(rows, key=_clause_order)
    ]
    return "\n".join(lines) + "\n"


def agent_settings_page() -> str:
    """The settings of the agent, from the descriptions in its model."""
    text = settings_markdown(AgentConfig)
    head, separator, rest = text.partition("\n## ")
    lines = ["# Settings of the agent", "", "Made by `python docs/generate.py` from the descriptions in the model."]
    return "\n".join([*lines, *head.splitlines()[3:]]) + "\n" + separator + rest


def audited_page() -> str:
    """The table of what is audited when."""
    return _beside("audited").page(REPOSITORY)  # type: ignore[no-any-return]


def _beside(name: str) -> Any:
    """Import a module that stands beside this file, however this file itself was loaded."""
    specification = importlib.util.spec_from_file_location(f"docs_{name}", Path(__file__).with_name(f"{name}.py"))
    if specification is None or specification.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def pages() -> dict[str, str]:
    """Every generated page by file name."""
    return {
        "cli.md": cli_page(),
        "errors.md": errors_page(),
        "standards.md": standards_page(),
        "agent-settings.md": agent_settings_page(),
        "audited-events.md": audited_page(),
    }


def main() -> None:
    """Write the pages."""
    REFERENCE.mkdir(exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"docs/reference/{name}\n")


if __name__ == "__main__":
    main()

"""The table "what is audited when", read from the code: who builds which audit message, by the first line of its docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from securepacs import codes
from securepacs.codes import CodedValue

# functions that build a message for others; the rows are their callers
RELAYS = {"_used": "audit_log_used", "alert": "security_alert", "_alert": "security_alert"}
# what a first line does not say, because it speaks to the reader of the code
WHEN = {
    f"{module}.{name}": when
    for module, names in {
        "securepacs.audit.repository": {
            "server.RepositoryServer._activity": "The repository started or stopped.",
            "server.RepositoryServer._tell": "A sender failed the TLS handshake; a flood is one record per peer and minute.",
            "fhir_service.AuditEventServer._tell": "A client of the FHIR service failed the TLS handshake; a flood likewise.",
            "fhir_service.AuditEventServer.denied": "Somebody who is no auditor asked the FHIR service.",
            "repository.Repository.reading": "A report was made, or an auditor searched by FHIR (ITI-81); before the answer.",
            "repository.Repository.search": "Somebody searched the trail; before the answer.",
            "repository.Repository.used": "An auditor signed a report.",
            "repository.Repository.erase": "Records were lawfully erased, by a person or by retention.",
            "repository.Repository.export": "The log was exported.",
            "repository.Repository.hold": "Records were held for a case.",
            "repository.Repository.release": "The holds of a case were ended.",
        },
        "securepacs.audit": {"witness.witness_message": "A checkpoint of the log was signed and told to a witness."},
        "securepacs_proxy": {
            "agent.records.Records._authentication": "A person logged in to a card or out, or could not.",
            "dicom.exchange.Exchange.refuse": "A request was refused that gateway and archive could read differently.",
            "dicom.records.Recorder._transferred": "A transfer of a study ended: one record for what arrived, one for the rest.",
            "dicom.relay.DicomRelay._decide_request": "An association request breaks PS3.8, or names no route.",
            "dicom.relay.DicomRelay._ended_by_defect": "The gateway ended an association because of an error of its own.",
            "dicom.relay.DicomRelay._on_handshake_failed": "A peer failed the TLS handshake; the record holds the exact reason.",
            "dicom.relay.DicomRelay._on_unreachable": "No archive of the route could be reached.",
        },
    }.items()
    for name, when in names.items()
}
_TYPES = range(110120, 110150)  # CID 401, CID 403
_EVENTS = range(110100, 110120)  # CID 400
_PROGRAMS = (
    ("securepacs_proxy.agent", "agent"),
    ("securepacs_proxy", "gateway"),
    ("securepacs.audit.repository", "repository"),
    ("securepacs", "library"),
)


@dataclass(frozen=True)
class Row:
    """One place in the code that makes audit messages."""

    event: CodedValue
    types: tuple[CodedValue, ...]
    program: str
    where: str
    when: str


def _code_named(node: ast.AST) -> CodedValue | None:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    found = getattr(codes, name, None) if name.isupper() else None
    return found if isinstance(found, CodedValue) and found.codeSystemName == "DCM" else None


def _codes_in(nodes: list[ast.AST], numbers: range) -> list[CodedValue]:
    found = (_code_named(node) for root in nodes for node in ast.walk(root))
    named = {code.csd_code: code for code in found if code is not None and int(code.csd_code) in numbers}
    return [named[number] for number in sorted(named)]


def constructors(events: Path) -> dict[str, tuple[CodedValue, list[CodedValue]]]:
    """Return event and types of every constructor."""
    found = {}
    for node in ast.parse(events.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            found[node.name] = (_codes_in([node], _EVENTS)[0], _codes_in([node], _TYPES))
    return found


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{each.name}", each) for each in node.body if isinstance(each, ast.FunctionDef))


def _called(call: ast.Call) -> tuple[str, bool]:
    """Return the name that is called, and whether it can be a constructor: by itself, or in `events`."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr, isinstance(call.func.value, ast.Name) and call.func.value.id == "events"
    return (call.func.id, True) if isinstance(call.func, ast.Name) else ("", False)


def rows(repository: Path) -> list[Row]:
    """Return all rows, in order of event, type and place."""
    made = constructors(repository / "securepacs" / "audit" / "events.py")
    found: list[Row] = []
    for folder in (repository / "securepacs", repository / "proxy" / "securepacs_proxy"):
        for path in sorted(folder.rglob("*.py")):
            if path.name == "events.py" or "demo" in path.parts:
                continue
            module = ".".join(path.relative_to(repository).with_suffix("").parts).removeprefix("proxy.").removesuffix(".__init__")
            for name, node in _functions(ast.parse(path.read_text(encoding="utf-8"))):
                found += _rows_of(node, f"{module}.{name}", module, made)
    return sorted(found, key=lambda row: (row.event.csd_code, [each.csd_code for each in row.types], row.where))


def _rows_of(
    function: ast.FunctionDef, where: str, module: str, made: dict[str, tuple[CodedValue, list[CodedValue]]]
) -> Iterator[Row]:
    if function.name in RELAYS:
        return
    program = next(program for prefix, program in _PROGRAMS if module.startswith(prefix))
    first_line = (ast.get_docstring(function) or function.name.strip("_").replace("_", " ")).split("\n")[0]
    when = WHEN.get(where, re.sub(r" \((?:PS3\.15|Audit Log Used)[^)]*\)", "", first_line))
    kinds: dict[str, list[CodedValue]] = {}
    for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
        name, is_constructor = _called(call)
        if name in made and is_constructor:
            kinds.setdefault(name, []).extend(made[name][1] or _codes_in([function], _TYPES))
        elif name in RELAYS and (RELAYS[name] != "security_alert" or _codes_in([*call.args], _TYPES)):
            kinds.setdefault(RELAYS[name], []).extend(_codes_in([*call.args], _TYPES))
    for name, types in kinds.items():
        yield Row(made[name][0], tuple(dict.fromkeys(types)), program, where, when)


def page(repository: Path) -> str:
    """Return the page."""
    made = constructors(repository / "securepacs" / "audit" / "events.py")
    found = rows(repository)
    lines = [
        "# What is audited when",
        "",
        "Made by `python docs/generate.py` from the code: every place that makes an audit message (PS3.15 A.5). A record is on",
        "disk before what it tells of goes on (the gateway) or is answered (the repository). Programs that log through",
        "`AuditHandler` make Security Alerts of the type they name, besides.",
        "",
        "| event | type | when | by | code |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        types = ", ".join(f"{each.csd_code} {each.originalText}" for each in row.types) or "-"
        when = row.when.replace("|", "\\|")
        lines.append(f"| {row.event.csd_code} {row.event.originalText} | {types} | {when} | {row.program} | `{row.where}` |")
    used = {row.event.csd_code for row in found}
    rest = sorted({(event.csd_code, event.originalText, name) for name, (event, _) in made.items() if event.csd_code not in used})
    lines += ["", "Not sent by any program of the product, but built by the library for programs of others:", ""]
    lines += [f"- {code} {text}: `securepacs.audit.events.{name}`" for code, text, name in rest]
    return "\n".join(lines) + "\n"

"""The reference pages say what the code does."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from securepacs import errors
from securepacs.wiring import ERROR_TABLE

REPOSITORY = Path(__file__).resolve().parents[2]


def _pages() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("docs_generate", REPOSITORY / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: dict[str, str] = module.pages()
    return pages


def test_generated_pages_are_current() -> None:
    stale = [
        name for name, text in _pages().items() if (REPOSITORY / "docs" / "reference" / name).read_text(encoding="utf-8") != text
    ]
    assert stale == [], "run: python docs/generate.py"


def test_every_error_class_has_a_row_of_its_own() -> None:
    def subclasses(cls: type[errors.SecurePacsError]) -> set[type[errors.SecurePacsError]]:
        return {cls}.union(*(subclasses(child) for child in cls.__subclasses__()))

    public = {cls for cls in subclasses(errors.SecurePacsError) if cls.__module__ == "securepacs.errors"}
    assert public == set(ERROR_TABLE)


def test_every_error_stands_in_the_tree_of_the_docstring() -> None:
    for cls in ERROR_TABLE:
        assert cls.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    "page", [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))], ids=lambda page: page.name
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    broken = [target for target in targets if not (page.parent / target).exists()]
    assert broken == []


def test_commands_in_the_pages_exist() -> None:
    known = set(re.findall(r"^## (.+)$", _pages()["cli.md"], flags=re.MULTILINE))
    texts = [page.read_text(encoding="utf-8") for page in [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]]
    used = set(re.findall(r"^ *(?:\$ )?(securepacs(?:-proxy)?(?: [a-z][a-z-]+){1,2})", "\n".join(texts), flags=re.MULTILINE))
    unknown = {
        words
        for words in used
        if not any(words == name or words.startswith(f"{name} ") or name.startswith(f"{words} ") for name in known)
    }
    assert unknown == set()


def test_decisions_are_numbered_once_and_say_their_number() -> None:
    pages = sorted((REPOSITORY / "docs" / "adr").glob("*.md"))
    numbers = [page.name[:4] for page in pages]
    assert sorted(set(numbers)) == numbers
    assert [page.read_text(encoding="utf-8")[:7] for page in pages] == [f"# {number}:" for number in numbers]


def test_every_audited_event_says_when_and_no_explanation_is_left_over() -> None:
    _pages()  # loads the module beside it
    audited = sys.modules["docs_audited"]
    rows = audited.rows(REPOSITORY)
    assert [row.where for row in rows if not row.when] == []
    assert set(audited.WHEN) <= {row.where for row in rows}
    assert {"gateway", "agent", "repository"} <= {row.program for row in rows}
    assert [row.where for row in rows if row.event.csd_code == "110113" and not row.types] == []

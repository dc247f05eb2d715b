"""The page of alerts: a section for each rule with its settings and defaults, a first command and whom to call."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from securepacs.audit.alerts import RULES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "alerts.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([a-z0-9-]+)\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))


def test_every_rule_has_a_section_and_no_other_is_left() -> None:
    assert SECTIONS.keys() == RULES.keys()


@pytest.mark.parametrize("kind", RULES)
def test_settings_and_defaults_are_those_of_the_code(kind: str) -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", SECTIONS[kind], flags=re.MULTILINE))
    expected = {}
    for one in fields(RULES[kind]):  # type: ignore[arg-type]
        default = one.default if one.default is not MISSING else one.default_factory()  # type: ignore[misc]
        expected[one.name] = json.dumps(float(default) if one.name == "seconds" else default)
    assert table == expected


@pytest.mark.parametrize("kind", RULES)
def test_every_section_says_what_to_do(kind: str) -> None:
    assert "First command: `securepacs" in SECTIONS[kind]
    assert "call" in SECTIONS[kind].lower()


def test_options_in_the_page_are_those_of_the_commands() -> None:
    cli = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    known = {
        name: set(re.findall(r"--[a-z-]+", body))
        for name, body in re.findall(r"^## (securepacs\S*(?: [a-z-]+)*)\n(.*?)(?=^## |\Z)", cli, flags=re.MULTILINE | re.DOTALL)
    }
    used = re.findall(r"(securepacs(?:-proxy)?(?: [a-z]+)+) ((?:-{1,2}|<)[^`\n]*)", PAGE)
    assert used
    wrong = [(name, option) for name, rest in used for option in re.findall(r"--[a-z-]+", rest) if option not in known[name]]
    assert wrong == []
    assert not any(" -o " in f" {rest} " for _, rest in used)

"""Rules about the repository that a reviewer would otherwise have to remember."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PRODUCT = sorted([*(REPOSITORY / "securepacs").rglob("*.py"), *(REPOSITORY / "proxy").rglob("*.py")])
TABLES = {"securepacs/signatures/profiles.py", "securepacs/codes.py"}
OUTSIDE_WORLD = {
    "socket",
    "ssl",
    "time",
    "threading",
    "sqlite3",
    "subprocess",
    "random",
    "asyncio",
    "http",
    "urllib",
    "selectors",
    "socketserver",
}
PURE = [
    "securepacs/codes.py",
    "securepacs/errors.py",
    "securepacs/tls_hello.py",
    "securepacs/audit/message.py",
    "securepacs/audit/events.py",
    "securepacs/audit/xml.py",
    "securepacs/audit/syslog.py",
    "securepacs/audit/framing.py",
    "securepacs/audit/merkle.py",
    "securepacs/audit/tiles.py",
    "securepacs/audit/checkpoint.py",
    "securepacs/audit/log_entry.py",
    "securepacs/audit/evidence.py",
    "securepacs/audit/sequences.py",
    "securepacs/audit/aggregate.py",
    "securepacs/cms/*.py",
    "securepacs/dicom/*.py",
    "securepacs/signatures/mac.py",
    "securepacs/signatures/profiles.py",
    "securepacs/signatures/report.py",
    "securepacs/signatures/sequences.py",
    "securepacs/originals/states.py",
    "securepacs/originals/stamp.py",
    "securepacs/policy/*.py",
    "securepacs/pki/ocsp.py",
    "securepacs/pki/tsa.py",
    "securepacs/pki/profiles.py",
    "securepacs/trust/hcrole.py",
    "proxy/securepacs_proxy/events.py",
    "proxy/securepacs_proxy/commands.py",
    "proxy/securepacs_proxy/relay.py",
    "proxy/securepacs_proxy/dicom/*.py",
    "proxy/securepacs_proxy/identity.py",
    "proxy/securepacs_proxy/revocation/verdicts.py",
]


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("path", [path for path in PRODUCT if name_of(path) not in TABLES], ids=name_of)
def test_a_file_stays_under_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", sorted({path for pattern in PURE for path in REPOSITORY.glob(pattern)}), ids=name_of)
def test_a_pure_file_imports_nothing_of_the_outside_world(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported & OUTSIDE_WORLD == set()


def test_every_pattern_of_pure_files_matches_something() -> None:
    assert [pattern for pattern in PURE if not list(REPOSITORY.glob(pattern))] == []


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_nothing_unfinished_is_shipped(path: Path) -> None:
    found = re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b|raise NotImplementedError", path.read_text(encoding="utf-8"))
    assert found == []


def test_the_tests_folder_mirrors_the_rooms() -> None:
    rooms = {path.name for path in (REPOSITORY / "securepacs").iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    missing = {room for room in rooms if not list((REPOSITORY / "tests" / room).glob("test_*.py"))}
    assert missing == set()


def test_no_private_key_is_in_the_repository() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    marker = "PRIVATE KEY" + "-----"
    holders = [
        name
        for name in listed.stdout.splitlines()
        if (REPOSITORY / name).is_file()
        and not name.endswith(".py")
        and marker in (REPOSITORY / name).read_text(encoding="utf-8", errors="replace")
    ]
    assert holders == []


def test_import_is_light() -> None:
    program = "import sys, securepacs; print(sorted({name.split('.')[0] for name in sys.modules} & set(sys.argv[1:])))"
    heavy = [
        "pydicom",
        "cryptography",
        "asn1crypto",
        "lxml",
        "sqlalchemy",
        "pydantic",
        "rich",
        "typer",
        "OpenSSL",
        "pynetdicom",
        "numpy",
    ]
    result = subprocess.run([sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert result.stdout.strip() == "[]"

"""`securepacs audit export|verify|hold|erase` as their users run them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from securepacs.audit.checkpoint import LogKey
from securepacs.audit.repository import Criteria, Repository
from securepacs.audit.syslog import to_syslog
from tests.cli.test_audit import client, files, securepacs, serving, store  # noqa: F401  (fixtures)
from tests.support.audit import LEE, TlsFiles, numbered
from tests.support.audit_log import ORIGIN, make_log_key
from tests.support.net import wait_until

NOW = datetime(2027, 2, 1, tzinfo=UTC)


@pytest.fixture
def log_key(tmp_path: Path) -> Path:
    return make_log_key(tmp_path / "log.key")


def public(log_key: Path) -> str:
    return str(LogKey.load(log_key.read_bytes(), origin=ORIGIN).public)


def test_export_and_verify(store: str, log_key: Path, tmp_path: Path) -> None:  # noqa: F811
    exported = securepacs("export", "--store", store, "-o", tmp_path / "e", "--log-key", log_key, "--origin", ORIGIN)
    assert (exported.returncode, exported.stdout) == (0, "")
    assert exported.stderr.startswith(f"15 entries of {ORIGIN}")
    first = securepacs("verify", tmp_path / "e", "--key", public(log_key))
    assert first.returncode == 1
    assert "nothing outside the folder speaks for it" in first.stdout
    assert securepacs("verify", tmp_path / "e", "--key", public(log_key), "--unsafe-no-anchor").returncode == 0
    kept = tmp_path / "e" / "checkpoint"
    result = securepacs("verify", tmp_path / "e", "--key", public(log_key), "--kept", kept, "--json")
    report = json.loads(result.stdout)
    assert (result.returncode, report["verdict"], report["size"], report["verified"]) == (0, "sound", 15, 15)


def test_verify_needs_nothing_but_the_folder_and_the_key(store: str, log_key: Path, tmp_path: Path) -> None:  # noqa: F811
    """A machine without network and without the store: no socket can be made, no driver be imported."""
    securepacs("export", "--store", store, "-o", tmp_path / "e", "--log-key", log_key, "--origin", ORIGIN)
    (tmp_path / "audit.db").unlink()
    program = (
        "import sys\n"
        "sys.modules['sqlalchemy'] = sys.modules['sqlite3'] = None\n"
        "sys.addaudithook(lambda event, _: sys.exit(event) if event.startswith('socket.') else None)\n"
        "from pathlib import Path\n"
        "from securepacs.audit.checkpoint import LogPublicKey\n"
        "from securepacs.audit.verifier import verify_export\n"
        "report = verify_export(Path(sys.argv[1]), LogPublicKey.parse(sys.argv[2]))\n"
        "print(report.sound, report.verified)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "e"), public(log_key)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("True 15\n", "")


def test_a_key_in_a_pem_file(store: str, log_key: Path, tmp_path: Path) -> None:  # noqa: F811
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    securepacs("export", "--store", store, "-o", tmp_path / "e", "--log-key", log_key, "--origin", ORIGIN)
    pem = tmp_path / "log.pub"
    key = LogKey.load(log_key.read_bytes(), origin=ORIGIN).key.public_key()
    pem.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert securepacs("verify", tmp_path / "e", "--key", pem, "--origin", ORIGIN, "--unsafe-no-anchor").returncode == 0
    wrong = securepacs("verify", tmp_path / "e", "--key", pem, "--unsafe-no-anchor")
    assert (wrong.returncode, "the key of the log cannot be read" in wrong.stderr) == (2, True)


def test_an_altered_export_is_1_and_says_where(store: str, log_key: Path, tmp_path: Path) -> None:  # noqa: F811
    securepacs("export", "--store", store, "-o", tmp_path / "e", "--log-key", log_key, "--origin", ORIGIN)
    path = tmp_path / "e" / "content" / "000"
    path.write_bytes(path.read_bytes().replace(b"Lee", b"Kim", 1))
    result = securepacs("verify", tmp_path / "e", "--key", public(log_key), "--kept", tmp_path / "e" / "checkpoint")
    assert result.returncode == 1
    assert "altered: entry 0: the octets are not those that were received" in result.stdout
    assert result.stdout.endswith("NOT SOUND: altered or incomplete\n")


def test_a_log_that_was_never_signed_is_2(store: str, tmp_path: Path) -> None:  # noqa: F811
    result = securepacs("export", "--store", store, "-o", tmp_path / "e")
    assert (result.returncode, "hint: give --log-key" in result.stderr) == (2, True)


def test_hold_export_of_a_case_and_release(store: str, log_key: Path, tmp_path: Path) -> None:  # noqa: F811
    held = ("hold", "C-1", "--store", store, "--reason", "complaint")
    assert securepacs(*held).returncode == 2
    assert securepacs(*held, "--study", "1.2.3.1").returncode == 0
    assert "C-1" in securepacs("hold", "--store", store).stdout
    with Repository(store) as repository:
        (record,) = repository.search(Criteria(study="1.2.3.1"), reader=LEE, at=NOW)
    erasing = ("erase", record.id, "--store", store, "--reason", "request", "--law", "GDPR 17")
    refused = securepacs(*erasing)
    assert (refused.returncode, "held for case 'C-1'" in refused.stderr) == (2, True)
    arguments = ("export", "--store", store, "-o", tmp_path / "case", "--case", "C-1", "--log-key", log_key, "--origin", ORIGIN)
    assert securepacs(*arguments).returncode == 0
    report = json.loads(securepacs("verify", tmp_path / "case", "--key", public(log_key), "--unsafe-no-anchor", "--json").stdout)
    assert (report["verdict"], report["verified"]) == ("sound", 1)
    assert securepacs(*held, "--release").returncode == 0
    assert securepacs(*held, "--release").returncode == 2
    assert securepacs(*erasing).returncode == 0
    with Repository(store) as repository:
        assert repository.search(Criteria(study="1.2.3.1", event="110105"), reader=LEE, at=NOW) == []
    assert securepacs("export", "--store", store, "-o", tmp_path / "no", "--case", "C-1").returncode == 2


def test_serve_signs_and_a_witness_has_every_checkpoint(tmp_path: Path, files: TlsFiles, log_key: Path) -> None:  # noqa: F811
    ours, theirs = (f"sqlite:///{tmp_path}/{name}.db" for name in ("ours", "theirs"))
    with serving(theirs, files) as (witness, _):
        program = (
            sys.executable, "-c", "from securepacs.cli.main import main; main()", "audit", "serve", "--listen", "127.0.0.1:0",
            "--store", ours, "--cert", str(files.server_cert), "--key", str(files.server_key), "--trust", str(files.trust),
            "--log-key", str(log_key), "--origin", ORIGIN, "--checkpoint-seconds", "0.2",
            "--witness", witness.replace("127.0.0.1", "localhost"), "--spool", str(tmp_path / "spool"),
        )  # fmt: skip
        process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert process.stderr.readline() == f"log key {public(log_key)}\n"
        address = process.stderr.readline().split()[-1].replace("127.0.0.1", "localhost")
        record = tmp_path / "record.syslog"
        record.write_bytes(to_syslog(numbered(5), hostname="h", app_name="a", procid="1"))
        assert securepacs("send", "--to", address, *client(files), record).returncode == 0
        with Repository(theirs) as repository:
            wait_until(lambda: len(repository.search(Criteria(event="110101", text=ORIGIN), reader=LEE, at=NOW)) > 0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        process.stderr.close()
    with Repository(theirs) as repository:
        found = [
            each
            for each in repository.search(Criteria(event="110101", newest_first=False), reader=LEE, at=NOW)
            if each.transport == "tls"
        ]
        last = tmp_path / "witnessed"
        last.write_bytes(repository.raw(found[-1].id))
    assert securepacs("export", "--store", ours, "-o", tmp_path / "e").returncode == 0
    result = securepacs("verify", tmp_path / "e", "--key", public(log_key), "--kept", last)
    assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "SOUND")


def test_serve_options_that_need_a_log_key(tmp_path: Path, files: TlsFiles) -> None:  # noqa: F811
    common = ("serve", "--listen", "127.0.0.1:0", "--store", f"sqlite:///{tmp_path}/a.db", "--cert", files.server_cert,
              "--key", files.server_key, "--trust", files.trust)  # fmt: skip
    for option in (
        ("--tsa", "http://localhost/tsa"),
        ("--witness", "localhost:1"),
        ("--keep-days", "900"),
        ("--keep", "patient=900"),
    ):
        result = securepacs(*common, *option)
        assert (result.returncode, "need --log-key" in result.stderr) == (2, True)

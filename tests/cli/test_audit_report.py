"""`securepacs audit report` as its users run it."""

from __future__ import annotations

import csv
import stat
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner

from securepacs.audit.message import AuditMessage
from securepacs.audit.repository import Criteria, Receipt, Repository
from securepacs.audit.syslog import to_syslog
from securepacs.audit.xml import from_xml
from securepacs.cli.main import app
from securepacs.pki import CertificateProfile
from tests.support.audit import AT, LEE, all_messages
from tests.support.pki import TestPki, make_pki, pem_of
from tests.support.programs import require
from tests.support.softhsm import enrolled_token


def report(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["audit", "report", *map(str, arguments)], env={"COLUMNS": "300"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


@pytest.fixture
def store(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/audit.db"
    with Repository(url) as repository:
        raws = [to_syslog(each, hostname="h", app_name="a", procid="1") for each in all_messages().values()]
        repository.store(Receipt.of(raw, received=AT, transport="test") for raw in raws)
    return url


@pytest.fixture
def pki(tmp_path: Path) -> TestPki:
    return make_pki(tmp_path / "pki")


def details_of(message: AuditMessage) -> dict[str, bytes]:
    (log,) = message.ParticipantObjectIdentification
    return {detail.type: detail.value for detail in log.ParticipantObjectDetail}


def test_each_report_is_written_privately_and_recorded(tmp_path: Path, store: str) -> None:
    period = ("--from", "2027-01-01", "--to", "2027-02-01")
    for arguments in (
        ("access", "--patient", "4711"),
        ("emergency", *period),
        ("breach", "--ae", "CT1", *period),
        ("monthly", "--month", "2027-01", "--language", "ko", "--time-zone", "Asia/Seoul"),
    ):
        page, rows = tmp_path / "r.html", tmp_path / "r.csv"
        assert report(*arguments, "--store", store, "--html", page, "--csv", rows) == (0, "")
        assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
        assert len(list(csv.reader(rows.read_text(encoding="utf-8-sig").splitlines()))) >= 1
        assert {stat.S_IMODE(each.stat().st_mode) for each in (page, rows)} == {0o600}
        page.unlink()
        rows.unlink()
    with Repository(store) as repository:
        uses = [from_xml_of(repository, each.id) for each in repository.search(Criteria(event="110101"), reader=LEE, at=AT)]
    assert {details_of(use).get("report") for use in uses} >= {b"access", b"emergency", b"breach", b"monthly"}


def from_xml_of(repository: Repository, number: int) -> AuditMessage:
    from securepacs.audit.syslog import parse_record

    return from_xml(parse_record(repository.raw(number)).msg)


def test_the_auditor_signs_the_month_and_the_trail_keeps_it(tmp_path: Path, store: str, pki: TestPki) -> None:
    auditor = pki.credential(CertificateProfile.AUDITOR, "Park Auditor")
    key, cert = pki.write_pem(auditor, tmp_path)
    page, rows = tmp_path / "m.html", tmp_path / "m.csv"
    code, told = report(
        "monthly", "--month", "2027-01", "--store", store, "--html", page, "--csv", rows, "--comment", "all <looked> into",
        "--key", key, "--cert", cert,
    )  # fmt: skip
    assert (code, told.startswith("signed by ")) == (0, True)
    text = page.read_text(encoding="utf-8")
    assert "all &lt;looked&gt; into" in text
    assert "Park Auditor" in text
    assert sha256(rows.read_bytes()).hexdigest() in text
    with Repository(store) as repository:
        (signed,) = repository.search(Criteria(text="signed report"), reader=LEE, at=AT)
        kept = details_of(from_xml_of(repository, signed.id))
    signature = Path(f"{page}.p7s").read_bytes()
    assert kept["signature"] == signature
    assert kept["sha256"].decode() == sha256(page.read_bytes()).hexdigest()
    verify = [
        require("openssl"), "cms", "-verify", "-binary", "-inform", "DER", "-in", f"{page}.p7s", "-content", str(page),
        "-CAfile", str(pki.write_trust(tmp_path)), "-purpose", "any", "-out", "/dev/null",
    ]  # fmt: skip
    assert subprocess.run(verify, check=False, capture_output=True).returncode == 0
    trusted = ("--trust", pki.write_trust(tmp_path))
    code, told = report("check", page, *trusted, "--store", store)
    assert (code, told) == (0, "")
    with Repository(f"sqlite:///{tmp_path}/other.db"):
        code, told = report("check", page, *trusted, "--store", f"sqlite:///{tmp_path}/other.db")
    assert (code, "does not hold" in told) == (1, True)
    stranger = make_pki(tmp_path / "stranger", name="Stranger").write_trust(tmp_path / "stranger")
    code, told = report("check", page, "--trust", stranger)
    assert (code, "no signer of the report is trusted" in told) == (1, True)
    page.write_bytes(page.read_bytes().replace(b"looked", b"l00ked"))
    assert report("check", page, *trusted)[0] == 1
    assert subprocess.run(verify, check=False, capture_output=True).returncode != 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("access", "--patient", "4711"), "where to?"),
        (("access", "--patient", " ", "--csv", "r.csv"), "patient ID"),
        (("breach", "--from", "2027-01-01", "--to", "2027-02-01", "--csv", "r.csv"), "exactly one"),
        (("breach", "--ae", "A", "--peer", "B", "--from", "2027-01-01", "--to", "2027-02-01", "--csv", "r.csv"), "exactly one"),
        (("monthly", "--month", "soon", "--csv", "r.csv"), "no month"),
        (("emergency", "--time-zone", "Mars/Base", "--csv", "r.csv"), "time zone"),
        (("emergency", "--language", "fr", "--csv", "r.csv"), "do not speak"),
        (("emergency", "--from", "yesterday", "--csv", "r.csv"), "no date"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str, arguments: tuple[str, ...], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, told = report(*arguments, "--store", store)
    assert code == 2
    assert reason in told
    assert not Path("r.csv").exists()


def test_a_signature_needs_a_page(store: str, tmp_path: Path, pki: TestPki) -> None:
    key, cert = pki.write_pem(pki.credential(CertificateProfile.AUDITOR, "Park Auditor"), tmp_path)
    code, told = report("monthly", "--store", store, "--csv", tmp_path / "r.csv", "--key", key, "--cert", cert)
    assert (code, "give --html" in told) == (2, True)


def test_a_signature_that_others_claim_is_not_the_trails(tmp_path: Path, store: str, pki: TestPki) -> None:
    """A sender may write anything into its records; only what the repository says of itself counts."""
    from securepacs.audit import events
    from securepacs.audit.reports import Scope, sign_page
    from tests.support.audit import SOURCE

    page, auditor = tmp_path / "m.html", pki.credential(CertificateProfile.AUDITOR, "Park Auditor")
    page.write_bytes(b"<html></html>")
    with Repository(store) as repository:
        signature = sign_page(page.read_bytes(), auditor, Scope(repository, LEE, AT))
        details = {"sha256": sha256(page.read_bytes()).hexdigest().encode(), "signature": signature}
        forged = events.audit_log_used(source=SOURCE, at=AT, users=(LEE,), log_uri="x", details=details)
        raw = to_syslog(forged, hostname="h", app_name="a", procid="1")
        repository.store([Receipt.of(raw, received=AT, transport="tls")])
    Path(f"{page}.p7s").write_bytes(signature)
    code, told = report("check", page, "--trust", pki.write_trust(tmp_path), "--store", store)
    assert (code, "does not hold" in told) == (1, True)


def test_a_card_signs_the_month(tmp_path: Path, store: str) -> None:
    token, card = enrolled_token()
    pin = tmp_path / "pin"
    pin.write_text(token.pin)
    pin.chmod(0o600)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(pem_of(*card.ca.chain))
    page = tmp_path / "m.html"
    own = ("--token", token.uri.replace("?", ";object=rsa-2048?"), "--pin-file", pin, "--chain", chain)
    code, told = report("monthly", "--month", "2027-01", "--store", store, "--html", page, *own)
    assert (code, told.startswith("signed by ")) == (0, True)
    assert report("check", page, "--trust", card.write_trust(tmp_path), "--store", store) == (0, "")

"""The verifier beyond attacks: time stamps, exports of a case, erasures, checkpoints out of audit records."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from securepacs.audit.evidence import Content, Scope, content_path, decode_content, encode_content
from securepacs.audit.repository import Criteria
from securepacs.audit.syslog import to_syslog
from securepacs.audit.verifier import verify_export
from securepacs.audit.witness import kept_checkpoint, witness_message
from securepacs.audit.xml import to_xml
from securepacs.errors import MalformedError, Unavailable, UsageError
from securepacs.pki import serve
from tests.support.audit import LEE, SOURCE, numbered
from tests.support.audit_log import BEGIN, SignedLog, codes, receipts
from tests.support.pki import make_pki

NOW = datetime(2027, 3, 1, tzinfo=UTC)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SignedLog]:
    made = SignedLog(tmp_path / "log", 600, every=300)
    yield made
    made.repository.close()


# --- time stamps ------------------------------------------------------------------------------------------------------
def test_time_stamps_anchor_a_log_and_tell_what_was_back_dated(log: SignedLog, tmp_path: Path) -> None:
    later = BEGIN + timedelta(hours=1)
    pki = make_pki(tmp_path / "pki", now=BEGIN - timedelta(days=1))
    with serve(pki.ca, clock=lambda: later) as server:
        log.repository.stamp([f"{server.url}/tsa"], at=later)
        log.repository.stamp([f"{server.url}/tsa"], at=later)  # the same checkpoint is not stamped twice
    folder = log.export("stamped")
    assert [path.name for path in (folder / "stamps").iterdir()] == ["600.1.tst"]
    report = verify_export(folder, log.key.public, stamp_policy=pki.policy(), at=NOW)
    assert (report.problems, report.anchors) == ([], ["time stamp 2027-02-01T01:00:00Z: 600 entries"])
    assert not log.verify(folder).anchored  # nobody said whom to trust

    log.repository.store(receipts(2, first=601))  # their moments are of before the stamp
    log.sign(later)
    report = verify_export(log.export("late"), log.key.public, stamp_policy=pki.policy(), at=NOW)
    # the first of them is the record of the first export, which took place after the stamp
    assert codes(report) == set()
    other = make_pki(tmp_path / "other", now=BEGIN - timedelta(days=1))
    report = verify_export(folder, log.key.public, stamp_policy=other.policy(), at=NOW)
    assert (codes(report), report.anchored) == ({"time-stamp"}, False)


def test_an_entry_recorded_before_an_earlier_time_stamp(log: SignedLog, tmp_path: Path) -> None:
    later = BEGIN + timedelta(days=10)
    pki = make_pki(tmp_path / "pki", now=BEGIN - timedelta(days=1))
    with serve(pki.ca, clock=lambda: later) as server:
        log.repository.stamp([f"{server.url}/tsa"], at=later)
    log.repository.store(receipts(3, first=600))
    log.sign(later)
    report = verify_export(log.export(), log.key.public, stamp_policy=pki.policy(), at=NOW)
    assert [(each.code, each.index) for each in report.problems] == [("back-dated", index) for index in (600, 601, 602)]


def test_every_byte_of_a_time_stamp_counts(tmp_path: Path) -> None:
    log = SignedLog(tmp_path / "log", 2, every=2)
    pki = make_pki(tmp_path / "pki", now=BEGIN - timedelta(days=1))
    with serve(pki.ca, clock=lambda: BEGIN) as server:
        log.repository.stamp([f"{server.url}/tsa"], at=BEGIN)
    folder = log.export()
    log.repository.close()
    path = folder / "stamps" / "2.1.tst"
    token = path.read_bytes()
    honest = verify_export(folder, log.key.public, stamp_policy=pki.policy(), at=NOW).anchors
    for at in range(0, len(token), 7):
        path.write_bytes(token[:at] + bytes([token[at] ^ 0x10]) + token[at + 1 :])
        report = verify_export(folder, log.key.public, stamp_policy=pki.policy(), at=NOW)
        # a certificate nobody needs may be damaged; what a stamp says can not
        assert codes(report) == {"time-stamp"} or report.anchors == honest, at


def test_an_authority_that_does_not_answer(log: SignedLog) -> None:
    with pytest.raises(Unavailable):
        log.repository.stamp(["http://127.0.0.1:1/tsa"], at=NOW)


# --- a case -----------------------------------------------------------------------------------------------------------
def test_the_export_of_a_case_shows_only_its_octets_and_proves_all(log: SignedLog) -> None:
    log.repository.hold("C-1", Criteria(study="1.2.3.17"), actor=LEE, reason="complaint", at=BEGIN)
    log.repository.hold("C-1", Criteria(study="1.2.3.400"), actor=LEE, reason="complaint", at=BEGIN)
    folder = log.folder / "case"
    log.repository.export(folder, reader=LEE, at=BEGIN, criteria=log.repository.holds()["C-1"])
    report = log.verify(folder, *log.notes)
    assert (report.problems, report.verified, report.withheld) == ([], 2, 598)
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert everything.count(b"1.2.3.17") > 0
    assert b"1.2.3.18" not in everything
    assert Scope.parse((folder / "scope").read_text()).content == (range(17, 18), range(400, 401))


def test_a_case_that_shows_more_or_less_than_it_says(log: SignedLog) -> None:
    folder = log.folder / "case"
    log.repository.export(folder, reader=LEE, at=BEGIN, criteria=[Criteria(study="1.2.3.17")])
    (folder / "scope").write_text(Scope.of(600, [17, 18]).text())
    assert codes(log.verify(folder)) == {"missing"}
    (folder / "scope").write_text(Scope.of(600, []).text())
    assert codes(log.verify(folder)) == {"content"}
    (folder / "scope").write_text(Scope.of(599, [17]).text())
    assert codes(log.verify(folder)) == {"scope"}


# --- erasures ---------------------------------------------------------------------------------------------------------
def test_a_lawful_erasure_leaves_the_log_sound_and_says_so(log: SignedLog) -> None:
    before = log.export("before")
    found = log.repository.search(Criteria(study="1.2.3.5"), reader=LEE, at=BEGIN)
    log.repository.erase([found[0].id, 8], actor=LEE, reason="request of the patient", law="GDPR 17", at=BEGIN)
    log.sign(BEGIN)
    after = log.export("after")
    report = log.verify(after, *log.notes)
    assert (report.problems, report.erased, [len(each.erases) for each in report.erasures]) == ([], 2, [2])
    assert b"1.2.3.5<" not in b"".join(path.read_bytes() for path in after.rglob("*") if path.is_file())
    # what was exported before cannot be smuggled back in, and an erasure cannot be claimed without its entry
    old, new = before / content_path(0), after / content_path(0)
    honest = new.read_bytes()
    new.write_bytes(old.read_bytes())
    assert codes(log.verify(after)) == {"not-erased"}
    new.write_bytes(encode_content(each for each in decode_content(honest) if each.place != 9))
    assert [(each.code, each.index) for each in log.verify(after).problems] == [("missing", 9)]


# --- what is brought and what is read ---------------------------------------------------------------------------------
def test_a_checkpoint_out_of_the_record_a_witness_received(log: SignedLog) -> None:
    checkpoint = log.key.public.verify(log.notes[-1])
    message = witness_message(checkpoint, source=SOURCE, log_uri="sqlite:///a.db", at=NOW)
    for octets in (to_xml(message), to_syslog(message, hostname="h", app_name="a", procid="1"), checkpoint.note.encode()):
        assert kept_checkpoint(octets) == checkpoint.note
    with pytest.raises(MalformedError, match="no checkpoint"):
        kept_checkpoint(to_xml(numbered(1)))


def test_a_kept_checkpoint_of_something_else(log: SignedLog) -> None:
    folder = log.export()
    assert codes(log.verify(folder, "nonsense")) == {"kept-checkpoint"}


def test_a_folder_that_is_none(log: SignedLog, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        log.verify(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert codes(log.verify(tmp_path / "empty")) == {"checkpoint"}


def test_a_report_is_no_truth_value(log: SignedLog) -> None:
    with pytest.raises(TypeError):
        bool(log.verify(log.export()))


def test_scopes() -> None:
    for scope in (Scope(5, None), Scope(5, ()), Scope.of(50, [3, 4, 9])):
        assert Scope.parse(scope.text()) == scope
    for text in ("", Scope(5, None).text() + "\n", Scope(5, None).text().replace("all", "3,4"), "x" + Scope(5, None).text()):
        with pytest.raises(MalformedError):
            Scope.parse(text)


def test_content_files() -> None:
    contents = [Content(3, b"s" * 32, b"octets"), Content(200, b"t" * 32, b"")]
    octets = encode_content(contents)
    assert decode_content(octets) == contents
    for wrong in (octets[:-1], octets[:20], encode_content(reversed(contents)), encode_content([contents[0]] * 2)):
        with pytest.raises(MalformedError):
            decode_content(wrong)

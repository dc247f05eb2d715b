"""Verdicts about certificates: windows of old data, what is final, who waits, and what may replace a list on disk."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ReasonFlags

from securepacs.errors import Unavailable
from securepacs.pki import CertificateProfile
from securepacs.pki.server import serve
from securepacs.policy.subject import SubjectKind
from securepacs.trust.fetch import Fetcher
from securepacs_proxy.config import RevocationSection
from securepacs_proxy.revocation.judge import UNCHECKED, Judge, Watched, WatchList
from securepacs_proxy.revocation.sources import KeepingFetcher
from securepacs_proxy.revocation.verdicts import Verdict, VerdictTable, is_compromise
from tests.support.http import ScriptedServer, body
from tests.support.net import free_port
from tests.support.pki import TestPki, make_pki

OFFLINE = RevocationSection(online=False)
REFRESH = timedelta(minutes=15)


def watched(pki: TestPki, kind: SubjectKind = SubjectKind.DEVICE, *, known_good: bool = False, name: str = "ct1") -> Watched:
    credential = pki.credential(CertificateProfile.MODALITY, name, lifetime=timedelta(days=365))
    return Watched("f" * 64, kind, (credential.certificate, *credential.chain), pki.now, known_good)


def judge_with_lists(pki: TestPki, section: RevocationSection = OFFLINE) -> Judge:
    crls = [pki.ca.crl(at=pki.now), pki.ca.root_crl(at=pki.now)]
    return Judge(section, anchors=[pki.ca.root], crls=crls, fetcher=Fetcher())


@pytest.mark.parametrize(
    ("kind", "known_good", "hours_late", "good"),
    [
        (SubjectKind.PERSON, False, -1, True),
        (SubjectKind.PERSON, False, 1, False),  # never for a first-seen certificate
        (SubjectKind.PERSON, True, 23, True),
        (SubjectKind.PERSON, True, 25, False),
        (SubjectKind.DEVICE, False, 1, False),
        (SubjectKind.DEVICE, True, 167, True),
        (SubjectKind.DEVICE, True, 169, False),
    ],
)
def test_old_data_count_within_the_window_only(
    tmp_path: Path, kind: SubjectKind, known_good: bool, hours_late: int, good: bool
) -> None:
    pki = make_pki(tmp_path)
    judge, row = judge_with_lists(pki), watched(pki, kind, known_good=known_good)
    verdict = judge.judge(row, at=pki.now + timedelta(days=7, hours=hours_late))
    assert verdict.good is good
    assert not verdict.final
    assert bool(verdict.warning) is (good and hours_late > 0)
    assert good or "its revocation status is not known" in verdict.reason


@pytest.mark.parametrize(
    ("reason", "at_once"),
    [(ReasonFlags.key_compromise, True), (ReasonFlags.superseded, False), (ReasonFlags.unspecified, False)],
)
def test_what_is_revoked_stays_revoked(tmp_path: Path, reason: ReasonFlags, at_once: bool) -> None:
    pki = make_pki(tmp_path)
    row, before = watched(pki), judge_with_lists(pki)
    pki.ca.revoke(row.chain[0], at=pki.now, reason=reason)
    row.verdict = judge_with_lists(pki).judge(row, at=pki.now)
    assert (row.verdict.good, row.verdict.final, row.verdict.at_once) == (False, True, at_once)
    assert "was revoked at" in row.verdict.reason
    assert before.judge(row, at=pki.now) == row.verdict  # an old list played back changes nothing


@pytest.mark.parametrize("spelling", ["keyCompromise", "key_compromise", "cACompromise", "ca_compromise", "aACompromise"])
def test_compromise_in_every_spelling(spelling: str) -> None:
    assert is_compromise(spelling)
    assert not is_compromise("superseded")


@pytest.mark.parametrize("accept", [True, False])
def test_nothing_to_check_is_refused_unless_the_operator_says_otherwise(tmp_path: Path, accept: bool) -> None:
    pki = make_pki(tmp_path)
    section = RevocationSection(online=True, unsafe_accept_unchecked=accept)
    verdict = Judge(section, anchors=[pki.ca.root], crls=[], fetcher=Fetcher()).judge(watched(pki), at=pki.now)
    assert verdict == Verdict("f" * 64, accept, "" if accept else UNCHECKED, UNCHECKED if accept else "")


def test_a_directly_trusted_certificate_needs_no_list(tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    row = watched(pki)
    judge = Judge(OFFLINE, anchors=[row.chain[0]], crls=[], fetcher=Fetcher())
    assert judge.judge(row, at=pki.now) == Verdict(row.fingerprint, True)


def test_newer_news_from_the_network_win_over_a_list_at_hand(tmp_path: Path) -> None:
    port = free_port()
    pki = make_pki(tmp_path, base_url=f"http://127.0.0.1:{port}")
    row = watched(pki)
    fetcher = KeepingFetcher(tmp_path, allowed_hosts=["127.0.0.1"], ocsp=True, alarm=lambda text, bad: None)
    crls = [pki.ca.crl(at=pki.now), pki.ca.root_crl(at=pki.now)]
    judge = Judge(RevocationSection(), anchors=[pki.ca.root], crls=crls, fetcher=fetcher)
    with serve(pki.ca, port=port):
        assert judge.judge(row, at=pki.now).good
        pki.ca.revoke(row.chain[0], at=pki.now, reason=ReasonFlags.superseded)
        assert judge.judge(row, at=pki.now).good  # asked once a generation
        fetcher.next_generation()
        assert not judge.judge(row, at=pki.now).good


def test_the_network_failing_the_list_at_hand_answers(tmp_path: Path) -> None:
    pki = make_pki(tmp_path, base_url=f"http://127.0.0.1:{free_port()}")
    alarms: list[tuple[str, bool]] = []
    fetcher = KeepingFetcher(tmp_path, allowed_hosts=["127.0.0.1"], ocsp=True, alarm=lambda text, bad: alarms.append((text, bad)))
    crls = [pki.ca.crl(at=pki.now), pki.ca.root_crl(at=pki.now)]
    judge = Judge(RevocationSection(), anchors=[pki.ca.root], crls=crls, fetcher=fetcher)
    assert judge.judge(watched(pki), at=pki.now).good
    assert alarms
    assert all(bad for _, bad in alarms)


def test_a_page_of_another_box_does_not_replace_a_list(tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    crl = pki.ca.crl(at=pki.now).public_bytes(Encoding.DER)
    alarms: list[bool] = []
    answers = iter([crl, b"<html>please log in</html>", crl])
    with ScriptedServer({"/ca.crl": lambda handler, request: body(next(answers))(handler, request)}) as server:
        url = f"{server.url}/ca.crl"
        fetcher = KeepingFetcher(tmp_path, allowed_hosts=["127.0.0.1"], ocsp=True, alarm=lambda text, bad: alarms.append(bad))
        assert fetcher.get(url) == crl
        fetcher.next_generation()
        assert fetcher.get(url) == crl
        assert alarms == [True]
        fetcher.next_generation()
        assert fetcher.get(url) == crl
        assert alarms == [True, False]


def test_ocsp_can_be_switched_off(tmp_path: Path) -> None:
    fetcher = KeepingFetcher(tmp_path, allowed_hosts=[], ocsp=False, alarm=lambda text, bad: None)
    with pytest.raises(Unavailable, match="switched off"):
        fetcher.post("http://127.0.0.1:1/", b"x", content_type="application/ocsp-request")


def test_the_watch_list_survives_on_disk_and_forgets_who_is_gone(tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    row = watched(pki)
    path = tmp_path / "certificates.json"
    watch_list = WatchList(path)
    kept = watch_list.see(SubjectKind.PERSON, row.chain, row.fingerprint, at=pki.now)
    kept.known_good, kept.verdict = True, Verdict(row.fingerprint, False, "revoked", final=True, at_once=True)
    watch_list.save()
    assert path.stat().st_mode & 0o777 == 0o600
    (again,) = WatchList(path).rows(at=pki.now)
    assert (again.chain, again.kind, again.known_good, again.verdict) == (row.chain, SubjectKind.PERSON, True, kept.verdict)
    later = WatchList(path)
    later.seen_again([row.fingerprint], at=pki.now + timedelta(days=6))
    assert later.rows(at=pki.now + timedelta(days=12))
    assert WatchList(path).rows(at=pki.now + timedelta(days=8)) == []
    path.write_text('[{"fingerprint": 1}]')
    assert WatchList(path).rows(at=pki.now) == []


class Table:
    """A table, what it asked for, and what it answered."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: list[str] = []
        self.table = VerdictTable(REFRESH, self.asked.append)

    def ask(self, fingerprint: str, at: datetime) -> None:
        self.table.ask(fingerprint, self.answers.append, at=at)


def test_who_comes_first_waits_and_who_comes_second_does_not(tmp_path: Path) -> None:
    now, sut = make_pki(tmp_path).now, Table()
    sut.ask("a", now)
    sut.ask("a", now)
    assert (sut.asked, sut.answers) == (["a"], [])
    assert sut.table.learn([Verdict("a", True)], version=1, full=False, at=now) == []
    assert sut.answers == ["", ""]
    sut.ask("a", now)
    assert (sut.asked, sut.answers) == (["a"], ["", "", ""])


def test_a_full_table_replaces_the_old_one_and_repeats_open_questions(tmp_path: Path) -> None:
    now, sut = make_pki(tmp_path).now, Table()
    sut.table.learn([Verdict("a", True), Verdict("b", True)], version=1, full=True, at=now)
    sut.ask("c", now)
    bad = Verdict("a", False, "revoked")
    assert sut.table.learn([bad], version=2, full=True, at=now) == [bad]
    assert sut.asked == ["c", "c"]
    assert not sut.table.knows("b")
    sut.ask("a", now)
    assert sut.answers == ["revoked"]
    assert sut.table.version == 2


def test_a_silent_keeper_is_noticed(tmp_path: Path) -> None:
    now, sut = make_pki(tmp_path).now, Table()
    sut.table.learn([Verdict("a", True), Verdict("z", False, "revoked", final=True)], version=1, full=True, at=now)
    late = now + 3 * REFRESH + timedelta(seconds=1)
    sut.ask("a", late)
    sut.ask("z", late)
    assert sut.asked == ["a"]
    assert sut.answers == ["revoked"]
    sut.table.learn([Verdict("a", True)], version=2, full=False, at=late)
    assert sut.answers == ["revoked", ""]

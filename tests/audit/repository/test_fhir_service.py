"""ITI-81 over real HTTPS: curl where it is installed, http.client for what curl would never send."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest

from securepacs.audit import events
from securepacs.audit.fhir import from_fhir
from securepacs.audit.message import EventActionCode
from securepacs.audit.repository import Criteria, Receipt, Repository
from securepacs.audit.repository.fhir_service import AuditEventServer
from securepacs.audit.syslog import to_syslog
from securepacs.errors import ConfigError
from securepacs.pki import CertificateProfile
from securepacs.tls import client_context, server_context
from tests.support.audit import AT, LEE, PATIENT, SOURCE, STUDY, all_messages
from tests.support.pki import TestPki, make_pki

DAY = "date=ge2027-01-31&date=le2027-01-31"


@dataclass
class World:
    """A repository that is served, and the people who may come."""

    repository: Repository
    server: AuditEventServer
    pki: TestPki
    folder: Path
    trust: Path

    def files(self, profile: CertificateProfile, name: str) -> tuple[Path, Path]:
        return self.pki.write_pem(self.pki.credential(profile, name, key_kind="p256"), self.folder)

    def connection(self, profile: CertificateProfile = CertificateProfile.AUDITOR) -> http.client.HTTPSConnection:
        key, cert = self.files(profile, f"Some {profile.value}")
        context = client_context(certificate=cert, key=key, trust=[self.trust])
        return http.client.HTTPSConnection("localhost", self.server.port, context=context, timeout=20)

    def ask(
        self,
        target: str,
        *,
        method: str = "GET",
        body: str | None = None,
        profile: CertificateProfile = CertificateProfile.AUDITOR,
        **headers: str,
    ) -> tuple[int, Any]:
        connection = self.connection(profile)
        try:
            connection.request(
                method, target, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
            )
            answer = connection.getresponse()
            text = answer.read()
            if method != "HEAD":
                assert answer.headers["Content-Type"] == "application/fhir+json; charset=utf-8"
            assert answer.headers["Cache-Control"] == "no-store"
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()

    def found(self, query: str) -> list[dict[str, Any]]:
        status, bundle = self.ask(f"/AuditEvent?{DAY}&{query}")
        assert status == 200, bundle
        return [each["resource"] for each in bundle.get("entry", ()) if each["search"]["mode"] == "match"]

    def recorded(self, event: str, text: str = "") -> list[Any]:
        """Return what the repository said about itself, but for the questions asked here."""
        criteria = Criteria(event=event, text=text, source="securepacs-audit@repo")
        return [each for each in self.repository.search(criteria, reader=LEE, at=AT) if each.user != LEE.UserID]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    pki = make_pki(tmp_path / "pki")
    trust = pki.write_trust(tmp_path)
    with Repository(f"sqlite:///{tmp_path}/audit.db", hostname="repo") as repository:
        raws = [to_syslog(each, hostname="h", app_name="a", procid="1") for each in all_messages().values()]
        repository.store(Receipt.of(raw, received=AT, transport="test") for raw in raws)
        host = pki.credential(CertificateProfile.AUDIT_REPOSITORY, "repo.hospital.example", key_kind="p256")
        key, cert = pki.write_pem(host, tmp_path)
        context = server_context(certificate=cert, key=key, trust=[trust])
        with AuditEventServer(repository, host="127.0.0.1", port=0, context=context, idle_seconds=5) as server:
            yield World(repository, server, pki, tmp_path, trust)


def outcome_of(answer: tuple[int, Any]) -> tuple[int, str]:
    status, resource = answer
    assert resource["resourceType"] == "OperationOutcome"
    return status, resource["issue"][0]["diagnostics"]


def answer_of(connection: http.client.HTTPSConnection, target: str) -> http.client.HTTPResponse:
    connection.request("GET", target)
    return connection.getresponse()


def codes(resources: list[dict[str, Any]]) -> list[str]:
    return sorted(each["type"]["code"] for each in resources)


def test_curl_searches_with_a_client_certificate(world: World) -> None:
    curl = shutil.which("curl")
    if not curl:
        pytest.skip("curl is not installed")
    key, cert = world.files(CertificateProfile.AUDITOR, "Park Auditor")
    command = [
        curl, "--silent", "--show-error", "--max-time", "20", "--cacert", str(world.trust), "--cert", str(cert), "--key", str(key),
        "--write-out", "\n%{http_code} %{content_type}",
    ]  # fmt: skip
    url = f"https://localhost:{world.server.port}/AuditEvent?{DAY}&type=110104"
    done = subprocess.run([*command, url], capture_output=True, text=True, check=True)
    text, _, status = done.stdout.rpartition("\n")
    assert status == "200 application/fhir+json; charset=utf-8"
    bundle = json.loads(text)
    assert (bundle["resourceType"], bundle["type"], bundle["total"]) == ("Bundle", "searchset", 1)
    assert from_fhir(bundle["entry"][0]["resource"]) == all_messages()["instances_transferred"]
    single = subprocess.run([*command, bundle["entry"][0]["fullUrl"]], capture_output=True, text=True, check=True)
    assert json.loads(single.stdout.rpartition("\n")[0]) == bundle["entry"][0]["resource"]
    naked = subprocess.run([*command[:6], str(world.trust), url], capture_output=True, text=True, check=False)
    assert naked.returncode != 0  # without a certificate there is no answer


def test_every_use_is_recorded_under_the_auditor(world: World) -> None:
    world.found("patient.identifier=4711")
    (used,) = world.recorded("110101", "patient.identifier=4711")
    assert used.user == "Some auditor"
    world.ask("/AuditEvent/3")
    assert [each.user for each in world.recorded("110101", "record\n3")] == ["Some auditor"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("type=110105", ["110105"]),
        ("type=http://dicom.nema.org/resources/ontology/DCM|110105", ["110105"]),
        ("type=urn:other|110105", []),
        ("type=110105,110112", ["110105", "110112"]),
        ("type=110105&type=110112", []),
        ("subtype=110126", ["110113"]),
        ("outcome=8", ["110113"]),
        ("outcome=4,8", ["110113", "110114"]),
        ("action=D", ["110105"]),
        ("agent.identifier=ct1&type=110103", ["110103"]),
        ("agent:identifier=nobody", []),
        ("agent-name=le&type=110110", ["110110"]),
        ("agent-role=110155", ["110107"]),
        ("altid=AETITLES%3DCT1&type=110108", ["110108"]),
        ("altid=ct1", []),
        ("address=10.0.0.1&type=110108", ["110108"]),
        ("patient.identifier=4712", ["110106"]),
        ("patient.identifier=urn:oid:1.2.3|4711&type=110109", ["110109"]),
        ("patient.identifier=urn:oid:9|4711", []),
        ("patient.identifier=4711%5E%5E%5E%261.2.3%26ISO&type=110109", ["110109"]),
        ("patient.identifier=doe", []),
        ("entity.identifier=1.2.3.1", ["110105"]),
        ("entity-name=security", ["110101"]),
        ("entity-role=13&outcome=8", ["110113"]),
        ("entity-type=2&type=110112", ["110112"]),
        ("source.identifier=gw1&type=110108", ["110108"]),
        ("site=Hospital&type=110108", ["110108"]),
        ("site=gw1", []),
    ],
)
def test_each_parameter(world: World, query: str, expected: list[str]) -> None:
    assert codes(world.found(query)) == expected


@pytest.mark.parametrize(
    ("dates", "count"),
    [
        ("date=2027-01-31", 15),
        ("date=2027-01", 15),
        ("date=2027", 15),
        ("date=ge2027-01-31T12:30:15.123456Z&date=le2027-01-31T12:30:15.123456Z", 15),
        ("date=gt2027-01-31T12:30:15.123456Z&date=le2027-02-01", 0),
        ("date=ge2027-01-31&date=lt2027-01-31T12:30:15.123456Z", 0),
        ("date=ge2027-01-31T12:30&date=le2027-01-31T12:30", 15),
        ("date=ge2027-01-31T21:30:15+09:00&date=le2027-01-31T21:30:15%2B09:00", 15),
        ("date=sa2027-01-30&date=eb2027-02-01", 15),
        ("date=ge2027-02-01&date=le2027-02-02", 0),
    ],
)
def test_dates_of_every_precision_and_prefix(world: World, dates: str, count: int) -> None:
    status, bundle = world.ask(f"/AuditEvent?{dates}&_count=100")
    assert status == 200
    assert bundle["total"] == len(bundle.get("entry", ())) == count


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/AuditEvent", "date interval"),
        ("/AuditEvent?date=ge2027-01-01", "date interval"),
        ("/AuditEvent?date=le2027-01-01&type=110105", "date interval"),
        ("/AuditEvent?date=tomorrow", "no FHIR date"),
        ("/AuditEvent?date=ap2027-01-01", "no FHIR date"),
        ("/AuditEvent?date=2027-02-30", "no FHIR date"),
        (f"/AuditEvent?{DAY}&patient=Patient/1", "parameter patient is not supported"),
        (f"/AuditEvent?{DAY}&%3Cscript%3E=1", "a parameter is not supported"),
        (f"/AuditEvent?{DAY}&type:not=110105", "not supported"),
        (f"/AuditEvent?{DAY}&type=", "has no value"),
        (f"/AuditEvent?{DAY}&type=,", "a value is empty"),
        (f"/AuditEvent?{DAY}&_count=0", "_count"),
        (f"/AuditEvent?{DAY}&_sort=agent", "_sort"),
        (f"/AuditEvent?{DAY}&_after=1", "_after"),
        (f"/AuditEvent?{DAY}&type={'x' * 600}", "too long"),
        (f"/AuditEvent?{DAY}" + "&type=1" * 50, "too many"),
        (f"/AuditEvent?{DAY}&type=%FF", "UTF-8"),
    ],
)
def test_what_cannot_be_meant_is_400_and_repeats_nothing(world: World, target: str, said: str) -> None:
    status, text = outcome_of(world.ask(target))
    assert status == 400
    assert said in text
    assert "script" not in text
    assert world.recorded("110101") == []


def test_pages_hold_everything_once_in_both_orders(world: World) -> None:
    for order in ("date", "-date"):
        target, seen, pages = f"/AuditEvent?{DAY}&_count=4&_sort={order}", list[str](), 0
        while target:
            status, bundle = world.ask(target)
            assert status == 200
            pages += 1
            assert len(bundle["entry"]) <= 4
            assert "total" not in bundle
            seen += [each["resource"]["id"] for each in bundle["entry"]]
            links = {each["relation"]: urlsplit(each["url"]) for each in bundle["link"]}
            target = f"{links['next'].path}?{links['next'].query}" if "next" in links else ""
        assert seen == [str(number) for number in (range(1, 16) if order == "date" else range(15, 0, -1))]
        assert pages == 4


def test_a_form_asks_the_same(world: World) -> None:
    body = urlencode([("date", "ge2027-01-31"), ("date", "le2027-01-31"), ("type", "110105")])
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    status, bundle = world.ask("/AuditEvent/_search", method="POST", body=body, **form)
    assert (status, codes([each["resource"] for each in bundle["entry"]])) == (200, ["110105"])
    assert outcome_of(world.ask("/AuditEvent/_search", method="POST", body=body))[0] == 400
    assert outcome_of(world.ask("/AuditEvent/_search", method="POST", body="x" * 70_000, **form))[0] == 400
    assert outcome_of(world.ask("/AuditEvent/_search", method="POST", body=b"\xff".decode("latin-1"), **form))[0] == 400


def test_formats(world: World) -> None:
    assert world.ask(f"/AuditEvent?{DAY}&_format=application/fhir%2Bjson")[0] == 200
    assert world.ask(f"/AuditEvent?{DAY}", Accept="application/fhir+json;q=0.9, text/html")[0] == 200
    assert outcome_of(world.ask(f"/AuditEvent?{DAY}&_format=xml"))[0] == 406
    assert outcome_of(world.ask(f"/AuditEvent?{DAY}", Accept="application/fhir+xml"))[0] == 406


def test_other_paths_and_methods(world: World) -> None:
    assert world.ask("/metadata")[1]["fhirVersion"] == "4.0.1"
    assert outcome_of(world.ask("/AuditEvent/999"))[0] == 404
    assert outcome_of(world.ask("/Patient/1"))[0] == 404
    assert outcome_of(world.ask("/AuditEvent", method="POST", body="{}", Content_Type="application/fhir+json"))[0] == 405
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert outcome_of(world.ask("/AuditEvent/1", method=method))[0] == 405
    assert world.ask("/metadata", method="HEAD")[0] == 405


def test_records_that_cannot_be_read_or_were_erased_are_told(world: World) -> None:
    (garbage,) = world.repository.store([Receipt.of(b"not an audit message", received=AT, transport="test")])
    world.repository.erase([8], actor=LEE, reason="asked", law="GDPR 17", at=datetime(2027, 3, 1, tzinfo=UTC))
    status, bundle = world.ask(f"/AuditEvent?{DAY}&_count=100")
    assert status == 200
    told = bundle["entry"][-1]
    assert told["search"]["mode"] == "outcome"
    assert told["resource"]["issue"][0]["diagnostics"].startswith("2 records")
    assert len(bundle["entry"]) == 15
    assert outcome_of(world.ask("/AuditEvent/8"))[0] == 410
    assert outcome_of(world.ask(f"/AuditEvent/{garbage}"))[0] == 422


@pytest.mark.parametrize(
    "profile", [CertificateProfile.RADIOLOGIST, CertificateProfile.ADMINISTRATOR, CertificateProfile.GATEWAY_PEER]
)
def test_others_than_auditors_get_403_and_a_record(world: World, profile: CertificateProfile) -> None:
    for target in (f"/AuditEvent?{DAY}", "/AuditEvent/1", "/metadata"):
        assert outcome_of(world.ask(target, profile=profile)) == (403, "only auditors may search the audit trail")
    alerts = world.recorded("110132")
    assert [each.outcome for each in alerts] == [8, 8, 8]
    assert world.recorded("110101") == []


def test_a_certificate_named_by_its_fingerprint_is_an_auditor(world: World) -> None:
    radiologist = world.pki.credential(CertificateProfile.RADIOLOGIST, "Some radiologist", key_kind="p256")
    from cryptography.hazmat.primitives import hashes

    server_key, server_cert = world.files(CertificateProfile.AUDIT_REPOSITORY, "repo2.hospital.example")
    context = server_context(certificate=server_cert, key=server_key, trust=[world.trust])
    fingerprint = radiologist.certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    key, cert = world.pki.write_pem(radiologist, world.folder / "named")
    with AuditEventServer(world.repository, host="127.0.0.1", port=0, context=context, auditors=[fingerprint]) as server:
        own = client_context(certificate=cert, key=key, trust=[world.trust])
        connection = http.client.HTTPSConnection("localhost", server.port, context=own, timeout=20)
        connection.request("GET", "/metadata")
        assert connection.getresponse().status == 200
        connection.close()


def test_strangers_do_not_get_in_and_are_recorded(world: World, tmp_path: Path) -> None:
    stranger = make_pki(tmp_path / "other", name="Elsewhere")
    key, cert = stranger.write_pem(stranger.credential(CertificateProfile.AUDITOR, "Evil", key_kind="p256"), tmp_path / "other")
    context = client_context(certificate=cert, key=key, trust=[world.trust])
    connection = http.client.HTTPSConnection("localhost", world.server.port, context=context, timeout=20)
    with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):  # TLS 1.3 tells a client late
        answer_of(connection, f"/AuditEvent?{DAY}")
    connection.close()
    world.server.stop()
    assert len(world.recorded("110126", "tls handshake of fhir refused")) == 1


@pytest.mark.parametrize(
    "request_text",
    [
        "GET /metadata HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /metadata HTTP/1.1\r\n\r\n",
        "GET /metadata HTTP/1.1\r\nHost: <script>\r\n\r\n",
        "GET /metadata HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "GET /metadata HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /metadata HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
        "POST /AuditEvent/_search HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        "GET https://evil/metadata HTTP/1.1\r\nHost: a\r\n\r\n",
        "<script> HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /metadata\r\n\r\n",
        "GET /" + "a" * 20_000 + " HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /metadata HTTP/9.9\r\nHost: a\r\n\r\n",
        "GET /metadata HTTP/1.1\r\n" + "X: y\r\n" * 200 + "\r\n",
    ],
    ids=lambda text: text[:50].encode("unicode_escape").decode()[-25:],
)
def test_requests_that_are_not_plain_end_their_connection(world: World, request_text: str) -> None:
    connection = world.connection()
    connection.connect()
    assert connection.sock is not None
    connection.sock.sendall(request_text.encode("latin-1"))
    answer = b""
    while data := connection.sock.recv(65_536):  # until the server closes
        answer += data
    connection.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1][:1] in (b"4", b"5")
    assert json.loads(body)["resourceType"] == "OperationOutcome"
    assert b"script" not in answer
    assert answer.count(b"HTTP/1.1 ") == 1


def test_the_end_of_a_connection_is_told(world: World) -> None:
    key, cert = world.files(CertificateProfile.AUDITOR, "Some auditor")
    context = client_context(certificate=cert, key=key, trust=[world.trust])
    with (
        socket.create_connection(("127.0.0.1", world.server.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as connection,
    ):
        connection.sendall(b"GET /metadata HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := connection.recv(65_536):  # a cut would raise SSLEOFError
            answer += data
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_silent_client_blocks_nobody(world: World) -> None:
    with socket.create_connection(("127.0.0.1", world.server.port)):
        assert world.ask("/metadata")[0] == 200


def test_one_connection_asks_many_times(world: World) -> None:
    connection = world.connection()
    for _ in range(3):
        connection.request("GET", f"/AuditEvent?{DAY}&_count=1")
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
    connection.close()


def test_hostile_values_find_nothing_and_break_nothing(world: World) -> None:
    for hostile in ("' OR 1=1 --", "%", "*", "\\", "\\,", "|", "a|b|c", "\x00", "<script>alert(1)</script>", "￿" * 100):
        for name in ("type", "agent-name", "patient.identifier", "address", "outcome"):
            status, _ = world.ask(f"/AuditEvent?{DAY}&{name}={quote(hostile)}")
            assert status in (200, 400)
    assert world.ask("/metadata")[0] == 200


def test_the_context_must_ask_for_certificates(world: World) -> None:
    key, cert = world.files(CertificateProfile.AUDIT_REPOSITORY, "repo3.hospital.example")
    open_to_all = server_context(certificate=cert, key=key, trust=[world.trust], require_client_certificate=False)
    with pytest.raises(ConfigError):
        AuditEventServer(world.repository, host="127.0.0.1", port=0, context=open_to_all)


@pytest.mark.parametrize("fingerprint", ["", "xyz", "ab" * 31])
def test_auditors_are_named_by_whole_fingerprints(world: World, fingerprint: str) -> None:
    key, cert = world.files(CertificateProfile.AUDIT_REPOSITORY, "repo4.hospital.example")
    context = server_context(certificate=cert, key=key, trust=[world.trust])
    with pytest.raises(ConfigError):
        AuditEventServer(world.repository, host="127.0.0.1", port=0, context=context, auditors=[fingerprint])


def test_a_page_ends_early_when_much_was_read_for_little(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from securepacs.audit.repository import fhir_answer

    monkeypatch.setattr(fhir_answer, "MOST_READ", 5)
    target, pages, found = f"/AuditEvent?{DAY}&agent-role=110155&_sort=date", 0, list[str]()
    while target:
        _, bundle = world.ask(target)
        pages += 1
        found += [each["resource"]["type"]["code"] for each in bundle.get("entry", ())]
        links = {each["relation"]: urlsplit(each["url"]) for each in bundle["link"]}
        target = f"{links['next'].path}?{links['next'].query}" if "next" in links else ""
    assert (found, pages) == (["110107"], 3)


def test_a_large_trail_is_paged(world: World) -> None:
    more = [
        events.instances_accessed(
            source=SOURCE, at=AT + timedelta(seconds=number // 3), action=EventActionCode.READ, users=(LEE,), studies=(STUDY,),
            patient=PATIENT, description=str(number),
        )
        for number in range(1200)
    ]  # fmt: skip
    raws = [to_syslog(each, hostname="h", app_name="a", procid="1") for each in more]
    world.repository.store(Receipt.of(raw, received=AT, transport="test") for raw in raws)
    target, seen = f"/AuditEvent?{DAY}&type=110103&_count=9999", set[str]()
    while target:
        _, bundle = world.ask(target)
        assert len(bundle["entry"]) <= 500
        seen |= {each["resource"]["id"] for each in bundle["entry"]}
        links = {each["relation"]: urlsplit(each["url"]) for each in bundle["link"]}
        target = f"{links['next'].path}?{links['next'].query}" if "next" in links else ""
    assert len(seen) == 1201

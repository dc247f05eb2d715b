"""The story, step by step; every fact told is checked against the world and not just printed."""

from __future__ import annotations

import json
import ssl
import subprocess
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pydicom import dcmread
from pydicom.data import get_testdata_file

from securepacs import media, originals, signatures, tls
from securepacs.audit import events
from securepacs.audit.message import ActiveParticipant, AuditMessage, AuditSourceIdentification
from securepacs.audit.parts import PatientObject, StudyObject, participant
from securepacs.audit.repository import Criteria
from securepacs.codes import URI_MEDIA
from securepacs.errors import AccessDenied, SecurePacsError, Unavailable
from securepacs.pacs import DimseConnector, QueryLevel
from securepacs.tokens.tls_key import client_context
from securepacs.trust.timestamp import request_timestamp
from securepacs_proxy.demo.cast import AUDITOR, MODALITY_HOST, RADIOLOGIST, REFERRING_PHYSICIAN
from securepacs_proxy.demo.telling import StoryBroken, Telling
from securepacs_proxy.demo.world import ARCHIVE_AE, MODALITY_AE, World

STORESCU = Path("/usr/bin/storescu")  # DCMTK's; pynetdicom puts a tool of the same name into the virtual environment


class Story:
    """One telling in one world. Steps use what earlier steps left in `self`."""

    def __init__(self, world: World, tell: Telling) -> None:
        self._world = world
        self._tell = tell
        self._work = world.folder / "work"
        self._work.mkdir()
        self._signed = self._work / "ct-signed.dcm"
        self._retrieved: list[Path] = []
        source = dcmread(str(_sample()), stop_before_pixels=True)
        self._patient, self._study = str(source.PatientID), str(source.StudyInstanceUID)

    def run(self) -> None:
        """Tell all steps; StoryBroken at the first that does not hold."""
        steps: tuple[tuple[str, Callable[[], None]], ...] = (
            ("a modality signs a real CT and stores it through the gateway", self._modality_stores),
            ("the archive's copy verifies", self._archive_copy_verifies),
            ("a radiologist logs in with the card, finds, retrieves, verifies and authorizes", self._radiologist_reads),
            ("who has no right is refused, and the reason is on record", self._others_are_refused),
            ("one pixel is changed", self._pixel_is_changed),
            ("the study leaves on an encrypted medium and is opened with the card", self._study_leaves),
            ("the auditor reads what happened", self._auditor_reads),
        )
        for letter, (title, step) in zip("abcdefg", steps, strict=True):
            with self._tell.step(letter, title):
                step()

    # --- (a) ----------------------------------------------------------------------------------------------------------

    def _modality_stores(self) -> None:
        tell, world = self._tell, self._world
        uid = signatures.sign(
            _sample(),
            world.cast.modality,
            profile="creator",
            identity=True,
            timestamp=lambda value: request_timestamp(value, url=f"{world.pki_url}/tsa"),
            output=self._signed,
        )
        tell.fact("the CT signed it: Creator RSA profile, SHA-256, time stamped (RFC 3161)")
        tell.detail(f"Digital Signature UID {uid}")
        (stamped,) = originals.create(
            [self._signed], world.registry, holder=ARCHIVE_AE, at=_now(), equipment="DEMO-CT-1", actor=MODALITY_AE
        )
        self._signed.write_bytes(stamped)
        tell.check(
            originals.read_stamp(stamped).status == "OR", "it is registered and stamped OR (original), which breaks no signature"
        )
        self._store_as_modality()
        found = self._as_modality_archive_answers()
        tell.check(found, "the archive answers that it has the image")

    def _store_as_modality(self) -> None:
        """Use DCMTK's storescu where it is: a sender from other hands."""
        key, certificate = self._world.cast.files("modality")
        if not STORESCU.exists():
            connector = self._connector(self._software("modality"), MODALITY_AE)
            self._tell.check(
                connector.store([self._signed]) == (0x0000,), "stored through the gateway (pynetdicom over mutual TLS)"
            )
            return
        command = [str(STORESCU), "--enable-tls", str(key), str(certificate), "--add-cert-file", str(self._world.cast.trust_file)]
        command += ["-aet", MODALITY_AE, "-aec", ARCHIVE_AE, "localhost", str(self._world.port), str(self._signed)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        self._tell.check(
            result.returncode == 0,
            "stored through the gateway (DCMTK storescu over mutual TLS)",
            f"storescu: {result.stderr.strip()}",
        )

    def _as_modality_archive_answers(self) -> bool:
        """Ask the archive directly, behind the gateway: this is the hospital's own network."""
        direct = DimseConnector("127.0.0.1", self._world.archive.port, called_ae_title=ARCHIVE_AE, calling_ae_title="INSIDE")
        return len(direct.find(QueryLevel.STUDY, {"StudyInstanceUID": self._study})) == 1

    # --- (b) ----------------------------------------------------------------------------------------------------------

    def _archive_copy_verifies(self) -> None:
        copy = self._archive_copy()
        report = signatures.evaluate(copy, self._world.trust(), require=["creator"])
        self._tell.check(report.verdict == "TOTAL-PASSED", "both signatures of the archive's copy verify", _why(report))
        for signature in report.signatures:
            self._tell.detail(f"{signature.signer}: {signature.profile}, {len(signature.covered)} elements covered")
        same = originals.content_digest(copy) == originals.content_digest(self._signed.read_bytes())
        self._tell.check(same, "and its content is that of the file the CT sent")

    def _archive_copy(self) -> bytes:
        archive = self._world.archive
        if archive.http_url:
            with urllib.request.urlopen(f"{archive.http_url}/instances", timeout=10) as answer:  # noqa: S310 - our own loopback URL
                (instance,) = json.loads(answer.read())
            with urllib.request.urlopen(f"{archive.http_url}/instances/{instance}/file", timeout=10) as answer:  # noqa: S310
                return bytes(answer.read())
        (path,) = (path for path in archive.folder.rglob("*") if path.is_file())
        return path.read_bytes()

    # --- (c) ----------------------------------------------------------------------------------------------------------

    def _radiologist_reads(self) -> None:
        tell, world, card = self._tell, self._world, self._world.cast.card
        with card.open() as me:
            tell.fact(f"{RADIOLOGIST} is logged in with a {card.description}")
            connector = self._connector(client_context(me, trust=[world.cast.authority.root]), "READING1")
            matches = connector.find(QueryLevel.STUDY, {"PatientID": self._patient, "StudyInstanceUID": ""})
            tell.check([match.StudyInstanceUID for match in matches] == [self._study], "found the study (C-FIND)")
            self._retrieved = connector.retrieve(self._study, self._work / "retrieved")
            tell.check(len(self._retrieved) == 1, "retrieved it (C-GET)")
            report = signatures.evaluate(self._retrieved[0], world.trust(), require=["creator"])
            tell.check(report.verdict == "TOTAL-PASSED", "verified it", _why(report))
            document = originals.build_key_object(self._retrieved, at=_now(), observer=RADIOLOGIST)
            signed = originals.sign_key_object(document, me, at=_now())
            tell.fact("signed a Key Object over the whole study with one PIN")
            authorization = originals.authorize(
                signed, self._retrieved, world.registry, policy=world.trust(), at=_now(), holder=ARCHIVE_AE, equipment="DEMO-READ-1"
            )
            tell.check(
                all(holding.status == "AO" for holding in authorization.holdings), "the study is now AO (authorized original)"
            )
            self._expect_refusal(lambda: self._authorize_again(signed), "authorizing it a second time is an illegal transition")
            key_object = self._work / "key-object.dcm"
            key_object.write_bytes(signed)
            tell.check(connector.store([key_object]) == (0x0000,), "the Key Object is stored beside the images")

    def _authorize_again(self, signed: bytes) -> None:
        originals.authorize(signed, self._retrieved, self._world.registry, policy=self._world.trust(), at=_now(), holder=ARCHIVE_AE)

    # --- (d) ----------------------------------------------------------------------------------------------------------

    def _others_are_refused(self) -> None:
        trust_file = self._world.cast.trust_file
        self._refused_by_tls("no certificate", tls.client_context(trust=[trust_file]), "certificate")
        self._refused_by_tls("an expired certificate", self._software("expired"), "expired")
        self._refused_by_tls("a revoked certificate", self._software("revoked"), "revoked")
        begun = _now()
        connector = self._connector(self._software("modality"), "CT2")
        self._expect_refusal(connector.echo, "a wrong AE title: A-ASSOCIATE-RJ, calling AE title not recognized", AccessDenied)
        self._on_record("110132", begun, "AE title")
        begun = _now()
        physician = self._connector(self._software("referring_physician"), "CLINIC1")
        wildcard = {"PatientName": "*", "PatientID": ""}
        self._expect_refusal(
            lambda: physician.find(QueryLevel.STUDY, wildcard), "a wrong role: browsing all patients answers 0x0124", AccessDenied
        )
        self._on_record("110132", begun, "C-FIND")
        mine = physician.find(QueryLevel.STUDY, {"PatientID": self._patient, "StudyInstanceUID": ""})
        self._tell.check(
            {match.StudyInstanceUID for match in mine} == {self._study},
            f"the same {REFERRING_PHYSICIAN} finds the patient she names",
        )

    def _refused_by_tls(self, what: str, context: ssl.SSLContext, reason: str) -> None:
        begun = _now()
        try:
            self._connector(context, "READING1").echo()
        except Unavailable:
            self._tell.fact(f"{what}: the TLS handshake is refused")
        else:
            raise StoryBroken(f"{what} was let in")
        self._on_record("110126", begun, reason)

    def _on_record(self, event_type: str, since: datetime, text: str) -> None:
        criteria = Criteria(event=event_type, since=since.replace(microsecond=0), text=text)
        records = self._world.records(criteria, self._auditor())
        self._tell.check(
            bool(records), f"on record: {records[0].description if records else ''}", f"no audit record of {event_type} {text}"
        )

    def _expect_refusal(self, call: Callable[[], object], text: str, kind: type[SecurePacsError] = SecurePacsError) -> None:
        try:
            call()
        except kind:
            self._tell.fact(text)
            return
        raise StoryBroken(f"was not refused: {text}")

    # --- (e) ----------------------------------------------------------------------------------------------------------

    def _pixel_is_changed(self) -> None:
        changed = bytearray(self._retrieved[0].read_bytes())
        pixels = dcmread(str(self._retrieved[0])).PixelData
        at = bytes(changed).index(pixels[:64]) + len(pixels) // 2
        changed[at] ^= 0x01
        report = signatures.evaluate(bytes(changed), self._world.trust())
        self._tell.check(report.verdict == "TOTAL-FAILED", "verification fails")
        broken = [signature for signature in report.signatures if signature.indication == "TOTAL-FAILED"]
        kept = [signature for signature in report.signatures if signature.indication == "TOTAL-PASSED"]
        self._tell.check(
            [signature.sub_indication for signature in broken] == ["HASH_FAILURE"],
            f"it names the signature that broke ({broken[0].profile}, by {broken[0].signer}) and why: {broken[0].sub_indication}",
        )
        self._tell.check(len(kept) == 1, "the signature over the patient's identity, which covers no pixels, still holds")

    # --- (f) ----------------------------------------------------------------------------------------------------------

    def _study_leaves(self) -> None:
        tell, world = self._tell, self._world
        leaving = originals.copy_of(self._retrieved[0], world.registry, to_profile_peer=True)
        tell.check(originals.read_stamp(leaving).status == "AC", "the copy that leaves is stamped AC (authorized copy)")
        disc = self._work / "study.p7m"
        with world.cast.card.open() as me:
            media.protect(leaving, recipients=[me.certificate], signer=world.cast.modality, output=disc)
            world.repository.record(self._export_record(disc), at=_now())
            description = media.inspect(disc)
            tell.check(
                self._patient.encode() not in disc.read_bytes(), f"encrypted for the card: {description.cipher}, signed inside"
            )
            opened = media.open(disc, me, policy=world.trust())
            tell.check(opened.content == leaving, "opened with the card: byte for byte what was put on it")
        self._expect_refusal(
            lambda: media.open(disc, world.cast.referring_physician), "nobody else opens it: no matching recipient"
        )
        tell.check(
            signatures.evaluate(opened.content, world.trust(), require=["creator"]).verdict == "TOTAL-PASSED",
            "and the signature of the CT still verifies",
        )

    def _export_record(self, disc: Path) -> AuditMessage:
        return events.data_export(
            source=AuditSourceIdentification("demo-workstation", "Demo Hospital", ("1",)),
            at=_now(),
            users=[participant("kim@hospital.example", requestor=True, name=RADIOLOGIST)],
            media=replace(participant(disc.as_uri()), MediaType=URI_MEDIA),
            studies=[StudyObject(self._study, {str(dcmread(str(self._retrieved[0])).SOPClassUID): 1}, Encrypted=True)],
            patients=[PatientObject(self._patient)],
        )

    # --- (g) ----------------------------------------------------------------------------------------------------------

    def _auditor_reads(self) -> None:
        expected = (
            ("the gateway started", Criteria(event="110100")),
            ("the CT began to send", Criteria(event="110102", user=MODALITY_HOST, study=self._study)),
            ("the study was transferred", Criteria(event="110104", study=self._study)),
            (f"{RADIOLOGIST} logged in and out", Criteria(event="110114", user="kim@hospital.example")),
            ("and searched", Criteria(event="110112", user="kim@hospital.example")),
            ("the callers that TLS refused", Criteria(event="110126")),
            ("the requests that policy refused", Criteria(event="110132")),
            ("the export", Criteria(event="110106", patient=self._patient)),
        )
        for meaning, criteria in expected:
            records = self._world.records(criteria, self._auditor())
            self._tell.check(bool(records), f"{meaning}: {len(records)} records of {criteria.event}", f"no audit record: {meaning}")
        failed = [record for record in self._world.records(Criteria(limit=1000), self._auditor()) if record.verdict != "conformant"]
        self._tell.check(not failed, "every record conforms to PS3.15 A.5")
        used = self._world.records(Criteria(event="110101"), self._auditor())
        self._tell.check(bool(used), "reading the trail is on the trail as well (Audit Log Used)")

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _auditor(self) -> ActiveParticipant:
        return participant("lee@hospital.example", requestor=True, name=AUDITOR)

    def _software(self, name: str) -> ssl.SSLContext:
        key, certificate = self._world.cast.files(name)
        return tls.client_context(trust=[self._world.cast.trust_file], certificate=certificate, key=key)

    def _connector(self, context: ssl.SSLContext, ae_title: str) -> DimseConnector:
        return DimseConnector(
            "localhost", self._world.port, called_ae_title=ARCHIVE_AE, calling_ae_title=ae_title, tls=context, timeout=20
        )


def _now() -> datetime:
    return datetime.now(UTC)


def _sample() -> Path:
    """The CT image that comes with pydicom."""
    return Path(str(get_testdata_file("CT_small.dcm", download=False)))


def _why(report: signatures.SignatureReport) -> str:
    return "; ".join(f"{each.profile}: {each.indication} {each.sub_indication}" for each in report.signatures) or report.verdict

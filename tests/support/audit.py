"""Audit messages of every kind, and TLS contexts for a sender and a repository."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from pathlib import Path

from securepacs.audit import events
from securepacs.audit.message import AuditMessage, AuditSourceIdentification, EventActionCode, EventOutcomeIndicator
from securepacs.codes import CD, NODE_AUTHENTICATION
from securepacs.pki import CertificateProfile
from securepacs.tls import client_context, server_context
from securepacs.tokens.credential import Credential
from tests.support.pki import TestPki

AT = datetime(2027, 1, 31, 12, 30, 15, 123456, tzinfo=UTC)
SOURCE = AuditSourceIdentification("gw1", "Hospital", ("7",))
LEE = events.participant("lee@hospital.example", requestor=True, name="Lee", host="10.0.0.7")
CT = events.participant("ct1", alternative=events.ae_titles("CT1"), host="10.0.0.1")
ARCHIVE = events.participant("archive", alternative=events.ae_titles("ARCHIVE"), host="archive.hospital.example")
STUDY = events.StudyObject("1.2.3.4", {"1.2.840.10008.5.1.4.1.1.2": 200}, Accession=("A1",), MPPS=("1.2.3.5",))
PATIENT = events.PatientObject("4711^^^&1.2.3&ISO", "Doe^Jane")


def numbered(number: int) -> AuditMessage:
    """Return a message that differs from every other number's."""
    return events.study_deleted(
        source=SOURCE, at=AT, users=(LEE,), studies=(events.StudyObject(f"1.2.3.{number}"),), patient=PATIENT
    )  # fmt: skip


def all_messages() -> dict[str, AuditMessage]:
    """Return one message of each constructor, by its name."""
    disc = events.media_participant("file:///media/cd", media_type=CD, alternative="VOL1")
    read = EventActionCode.READ
    return {
        "application_activity": events.application_activity(source=SOURCE, at=AT, started=True, application=CT, launchers=(LEE,)),
        "audit_log_used": events.audit_log_used(
            source=SOURCE, at=AT, users=(LEE,), log_uri="sqlite:///audit.db", details={"patient": b"4711"}
        ),
        "begin_transferring": events.begin_transferring(
            source=SOURCE, at=AT, sender=CT, receiver=ARCHIVE, others=(LEE,), studies=(STUDY,), patient=PATIENT
        ),
        "instances_transferred": events.instances_transferred(
            source=SOURCE, at=AT, action=EventActionCode.CREATE, sender=CT, receiver=ARCHIVE, studies=(STUDY,), patient=PATIENT
        ),
        "data_export": events.data_export(
            source=SOURCE, at=AT, users=(LEE,), media=disc, studies=(STUDY,), patients=(PATIENT, events.PatientObject("4712"))
        ),
        "data_import": events.data_import(source=SOURCE, at=AT, users=(LEE,), media=disc, sources=(CT,), patients=(PATIENT,)),
        "instances_accessed": events.instances_accessed(
            source=SOURCE, at=AT, action=read, users=(LEE, CT), studies=(STUDY,), patient=PATIENT
        ),
        "study_deleted": numbered(1),
        "network_entry": events.network_entry(source=SOURCE, at=AT, attached=False, node=CT),
        "order_record": events.order_record(source=SOURCE, at=AT, action=read, users=(LEE,), patient=PATIENT),
        "patient_record": events.patient_record(source=SOURCE, at=AT, action=read, users=(LEE,), patient=PATIENT),
        "procedure_record": events.procedure_record(
            source=SOURCE, at=AT, action=EventActionCode.UPDATE, users=(LEE,), studies=(STUDY,), patient=PATIENT
        ),
        "query": events.query(
            source=SOURCE,
            at=AT,
            issuer=LEE,
            responder=ARCHIVE,
            sop_class_uid="1.2.840.10008.5.1.4.1.2.2.1",
            identifier=b"\x08\x00\x52\x00\x06\x00\x00\x00STUDY ",
            transfer_syntax="1.2.840.10008.1.2",
        ),
        "security_alert": events.security_alert(
            source=SOURCE,
            at=AT,
            alert_type=NODE_AUTHENTICATION,
            reporter=ARCHIVE,
            performers=(CT,),
            node_id="10.0.0.1",
            uri="dicom-tls://archive:2762",
            alert_description="certificate expired",
            outcome=EventOutcomeIndicator.SERIOUS_FAILURE,
            description="handshake refused",
        ),
        "user_authentication": events.user_authentication(
            source=SOURCE, at=AT, login=True, user=LEE, node=ARCHIVE, outcome=EventOutcomeIndicator.MINOR_FAILURE
        ),
    }


def _host(pki: TestPki, profile: CertificateProfile) -> Credential:
    return pki.credential(profile, f"{profile}.hospital.example", key_kind="p256")


def real_messages() -> list[Path]:
    """Return audit messages of other implementations: of the folder SECUREPACS_CORPUS, else shared/corpus beside the checkout."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "corpus"
    return sorted((Path(os.environ.get("SECUREPACS_CORPUS", beside)) / "audit").rglob("*.xml"))


class TlsFiles:
    """PEM files of a repository and of a sender that trust each other's CA."""

    def __init__(self, pki: TestPki, folder: Path) -> None:
        self.trust = pki.write_trust(folder)
        # senders do not know the issuing CA: chains are in the certificate files
        self.server_key, self.server_cert = pki.write_pem(_host(pki, CertificateProfile.AUDIT_REPOSITORY), folder)
        self.client_key, self.client_cert = pki.write_pem(_host(pki, CertificateProfile.GATEWAY_PEER), folder)

    def server_context(self) -> ssl.SSLContext:
        """Return what a repository listens with."""
        return server_context(certificate=self.server_cert, key=self.server_key, trust=[self.trust])

    def client_context(self) -> ssl.SSLContext:
        """Return what a sender connects with."""
        return client_context(certificate=self.client_cert, key=self.client_key, trust=[self.trust])

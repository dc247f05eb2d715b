"""Authorization of a study: one signature over one key object, all instances or none."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from io import BytesIO
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from cryptography import x509
from pydicom import dcmread

from securepacs import signatures
from securepacs.dicom import open_dataset
from securepacs.errors import AccessDenied, IllegalTransition, IntegrityFailure, MalformedError, UsageError, VerificationError
from securepacs.originals import authorize, build_key_object, create, facts_of, read_stamp, sign_key_object, stamped
from securepacs.originals.sql_registry import SqlRegistry
from securepacs.originals.states import Rule, SOPInstanceStatus
from securepacs.pki import CertificateProfile
from securepacs.pki.keys import KeyKind
from securepacs.signatures.manifests import encode
from securepacs.store import open_store
from securepacs.tokens.credential import Credential
from securepacs.trust import TrustPolicy
from tests.support.pki import TestPki, make_pki, pem_of
from tests.support.samples import flip_pixel, new_instance

OR, AO = SOPInstanceStatus.OR, SOPInstanceStatus.AO
STUDY = "1.2.826.0.1.3680043.10.999.1"
NAMES = ("CT_small.dcm", "MR_small_RLE.dcm", "test-SR.dcm")


@dataclass
class Study:
    """Three originals of CT1, their physician, and the means to sign for them."""

    pki: TestPki
    url: str
    registry: SqlRegistry
    files: list[bytes]
    key_object: bytes = b""
    uids: list[str] = field(default_factory=list)

    def doctor(self, profile: CertificateProfile = CertificateProfile.RADIOLOGIST, kind: KeyKind = "rsa-2048") -> Credential:
        return self.pki.credential(profile, "Dr Kim", key_kind=kind)

    def sign(self, files: Sequence[bytes] | None = None, credential: Credential | None = None) -> bytes:
        document = build_key_object(files or self.files, at=self.pki.now)
        return sign_key_object(document, credential or self.doctor(), at=self.pki.now)

    def statuses(self) -> set[SOPInstanceStatus]:
        return {holding.status for holding in self.registry.originals_of_study(STUDY)}

    def entries(self) -> int:
        return sum(len(self.registry.history(uid)) for uid in self.uids)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    pki = make_pki(tmp_path)
    url = f"sqlite:///{tmp_path / 'store.db'}"
    registry = SqlRegistry(open_store(url))
    raw = [new_instance(name, number, study=STUDY) for number, name in enumerate(NAMES, 1)]
    files = list(create(raw, registry, holder="CT1", at=pki.now, equipment="CERT 7"))
    found = Study(pki, url, registry, files, uids=[facts_of(data).sop_instance_uid for data in files])
    found.key_object = found.sign()
    return found


def refused(study: Study, error: type[Exception], reason: str, **changes: object) -> None:
    """Authorize with one thing wrong: the error, and nothing changed."""
    arguments: dict[str, object] = {
        "key_object": study.key_object,
        "instances": study.files,
        "policy": study.pki.policy(),
        **changes,
    }
    key_object, instances = arguments.pop("key_object"), arguments.pop("instances")
    with pytest.raises(error) as caught:
        authorize(key_object, instances, study.registry, at=study.pki.now, **arguments)  # type: ignore[arg-type]
    report = getattr(caught.value, "report", None)
    reasons = [str(caught.value), *(result.sub_indication for result in (() if report is None else report.signatures))]
    assert any(reason in text for text in reasons), reasons
    assert study.statuses() == {OR}
    assert study.entries() == len(study.files)


@pytest.mark.parametrize("kind", ["rsa-2048", "p256"])
def test_a_signed_study_is_authorized(study: Study, kind: KeyKind, tmp_path: Path) -> None:
    doctor = study.doctor(kind=kind)
    key_object = tmp_path / "ko.dcm"
    key_object.write_bytes(study.sign(credential=doctor))
    at = study.pki.now + timedelta(minutes=5)
    result = authorize(key_object, study.files, study.registry, policy=study.pki.policy(), at=at, holder="CT1", equipment="WS 9")
    assert result.signer == doctor.certificate
    assert study.statuses() == {AO}
    assert {holding.facts.sop_instance_uid for holding in result.holdings} == set(study.uids)
    entry = study.registry.history(study.uids[0])[-1]
    assert (entry.rule, entry.at, entry.actor, entry.evidence) == (Rule.AUTHORIZE, at, result.actor, result.evidence)
    assert "Dr Kim" in entry.actor
    assert result.evidence.sop_instance_uid == dcmread(key_object).SOPInstanceUID
    stamps = [read_stamp(stamped(data, study.registry)) for data in study.files]
    assert {(stamp.status, stamp.equipment) for stamp in stamps} == {(AO, "WS 9")}


def test_what_was_signed_before_stays_valid_after_it(study: Study) -> None:
    """A creator signature made on the original, status attributes left out, survives OR and AO."""
    modality = study.pki.credential(CertificateProfile.MODALITY, "ct1.hospital.example")
    dataset = dcmread(BytesIO(new_instance("CT_small.dcm", 7, study="1.2.3")))
    signatures.sign(dataset, modality, at=study.pki.now, profile="creator", coverage="all")
    (original,) = create([encode(dataset)], study.registry, holder="CT1", at=study.pki.now)
    authorize(study.sign([original]), [original], study.registry, policy=study.pki.policy(), at=study.pki.now)
    authorized = stamped(original, study.registry)
    assert read_stamp(authorized).status is AO
    assert signatures.verify(authorized, study.pki.policy(), at=study.pki.now, bit_exact=True).verdict == "TOTAL-PASSED"


def test_a_second_authorization_is_refused(study: Study) -> None:
    authorize(study.key_object, study.files, study.registry, policy=study.pki.policy(), at=study.pki.now)
    with pytest.raises(IllegalTransition, match="AO to AO"):
        authorize(study.sign(), study.files, study.registry, policy=study.pki.policy(), at=study.pki.now)
    assert study.entries() == 2 * len(study.files)


# --- who ------------------------------------------------------------------------------------------------------------
def test_a_signer_without_the_role_is_refused(study: Study) -> None:
    physician = study.doctor(CertificateProfile.REFERRING_PHYSICIAN)
    refused(study, AccessDenied, "role 'radiologist'", key_object=study.sign(credential=physician))


def test_the_role_that_authorizes_is_an_argument(study: Study) -> None:
    refused(study, AccessDenied, "role 'cardiologist'", required_role="cardiologist")
    refused(study, UsageError, "role", required_role="")
    physician = study.doctor(CertificateProfile.REFERRING_PHYSICIAN)
    key_object = study.sign(credential=physician)
    policy = study.pki.policy()
    authorize(key_object, study.files, study.registry, policy=policy, at=study.pki.now, required_role="referring_physician")
    assert study.statuses() == {AO}


def test_a_revoked_radiologist_is_refused(study: Study) -> None:
    doctor = study.doctor()
    study.pki.ca.revoke(doctor.certificate, at=study.pki.now - timedelta(hours=1), reason=x509.ReasonFlags.key_compromise)
    crls = (study.pki.ca.crl(at=study.pki.now), study.pki.ca.root_crl(at=study.pki.now))
    refused(study, VerificationError, "REVOKED", key_object=study.sign(credential=doctor), policy=study.pki.policy(crls=crls))


def test_a_stranger_is_refused(study: Study, tmp_path: Path) -> None:
    stranger = make_pki(tmp_path / "other").credential(CertificateProfile.RADIOLOGIST, "Dr Kim")
    refused(study, VerificationError, "NO_CERTIFICATE_CHAIN_FOUND", key_object=study.sign(credential=stranger))


def test_a_signer_below_no_trusted_anchor_is_refused(study: Study, tmp_path: Path) -> None:
    other = make_pki(tmp_path / "other")
    refused(study, VerificationError, "NO_CERTIFICATE_CHAIN_FOUND", policy=TrustPolicy(anchors=(other.ca.root,)))


# --- the key object -------------------------------------------------------------------------------------------------
def test_an_unsigned_key_object_is_refused(study: Study) -> None:
    refused(study, VerificationError, "NO-SIGNATURE", key_object=encode(build_key_object(study.files, at=study.pki.now)))


def test_a_key_object_signed_in_part_is_refused(study: Study) -> None:
    document = build_key_object(study.files, at=study.pki.now)
    tags = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "ContentSequence"]
    signatures.sign(document, study.doctor(), at=study.pki.now, profile="base", tags=tags, purpose=5)
    refused(study, VerificationError, "does not cover SeriesInstanceUID", key_object=encode(document))


@pytest.mark.parametrize("purpose", [14, None])
def test_a_signature_for_another_purpose_is_refused(study: Study, purpose: int | None) -> None:
    document = build_key_object(study.files, at=study.pki.now)
    signatures.sign(document, study.doctor(), at=study.pki.now, profile="base", coverage="all", purpose=purpose)
    refused(study, VerificationError, "verification signature", key_object=encode(document))


def test_any_changed_reference_is_refused(study: Study) -> None:
    raw = study.key_object
    evidence = next(element for element in open_dataset(raw).elements() if element.tag == 0x0040A375)
    uid = study.uids[0].encode()
    position = raw.index(uid, evidence.offset) + len(uid) - 1
    changed = raw[:position] + b"9" + raw[position + 1 :]
    refused(study, VerificationError, "HASH_FAILURE", key_object=changed)


def test_what_is_no_key_object_is_refused(study: Study) -> None:
    refused(study, VerificationError, "NO-SIGNATURE", key_object=study.files[0])
    refused(study, MalformedError, "not a DICOM file", key_object=b"nothing of the kind" * 20)


def test_a_signed_document_of_another_kind_is_refused(study: Study) -> None:
    document = build_key_object(study.files, at=study.pki.now)
    document.ConceptNameCodeSequence[0].CodeValue = "113000"
    refused(study, MalformedError, "113031", key_object=sign_key_object(document, study.doctor(), at=study.pki.now))


def test_a_signature_inside_an_item_authorizes_nothing(study: Study) -> None:
    document = build_key_object(study.files, at=study.pki.now)
    signatures.sign(document, study.doctor(), at=study.pki.now, profile="base", coverage="all", item="0040A375[0]", purpose=5)
    refused(study, VerificationError, "not signed", key_object=encode(document))


# --- the instances --------------------------------------------------------------------------------------------------
def test_a_changed_pixel_is_refused(study: Study) -> None:
    refused(study, IntegrityFailure, "differs from what was signed for", instances=[flip_pixel(study.files[0]), *study.files[1:]])


def test_an_image_changed_before_the_signature_is_refused_by_the_registry(study: Study) -> None:
    files = [flip_pixel(study.files[0]), *study.files[1:]]
    refused(study, IntegrityFailure, "I3", key_object=study.sign(files), instances=files)


def test_a_missing_instance_is_refused(study: Study) -> None:
    refused(study, IntegrityFailure, "1 of 3 instances", instances=study.files[1:])


def test_an_instance_the_key_object_does_not_name_is_refused(study: Study) -> None:
    refused(study, UsageError, "does not name", instances=[*study.files, new_instance("CT_small.dcm", 9)])


def test_a_key_object_for_a_part_of_the_study_is_refused(study: Study) -> None:
    refused(
        study,
        IllegalTransition,
        "3 instances to authorize, 2 are named",
        key_object=study.sign(study.files[:2]),
        instances=study.files[:2],
    )


def test_an_instance_that_nobody_registered_is_refused(study: Study) -> None:
    files = [*study.files, new_instance("CT_small.dcm", 9, study=STUDY)]
    refused(study, IllegalTransition, "not held as an original", key_object=study.sign(files), instances=files)


def test_another_holder_is_refused(study: Study) -> None:
    refused(study, IllegalTransition, "holds all instances", holder="MR1")


def test_an_instance_of_another_series_is_refused(study: Study) -> None:
    dataset = dcmread(BytesIO(study.files[0]))
    dataset.SeriesInstanceUID = "1.2.3"
    refused(study, IntegrityFailure, "study, series or class", instances=[encode(dataset), *study.files[1:]])


def test_texts_that_cannot_be_stamped_are_refused(study: Study) -> None:
    refused(study, UsageError, "character set", comment="판독 완료")
    refused(study, UsageError, "equipment", equipment="x" * 65)


# --- two physicians at once -----------------------------------------------------------------------------------------
def _authorize(
    url: str, files: list[bytes], trust: list[Path], at: datetime, start: Barrier, results: multiprocessing.Queue[str]
) -> None:
    key_object, *instances = files
    registry, policy = SqlRegistry(open_store(url)), TrustPolicy.from_files(trust[:1], intermediates=trust[1:])
    start.wait()
    try:
        authorize(key_object, instances, registry, policy=policy, at=at)
        results.put("won")
    except IllegalTransition:
        results.put("refused")


def test_of_two_physicians_one_wins(study: Study) -> None:
    trust = [study.pki.folder / "root.pem", study.pki.folder / "issuing.pem"]
    for path, certificate in zip(trust, (study.pki.ca.root, study.pki.ca.issuing), strict=True):
        path.write_bytes(pem_of(certificate))
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    arguments = (study.url, [study.key_object, *study.files], trust, study.pki.now, start, results)
    processes = [context.Process(target=_authorize, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    assert sorted(results.get(timeout=60) for _ in processes) == ["refused", "won"]
    for process in processes:
        process.join(60)
    assert study.entries() == 2 * len(study.files)

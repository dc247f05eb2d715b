"""The signed Key Object with which a physician authorizes the instances of a study (PS3.3 A.35.4, C.17.6; PS3.15 A.4, C.4).

A Key Object Selection Document titled Signed Manifest (113031, DCM) names every instance in Current Requested Procedure Evidence
Sequence (0040,A375), each with the MAC of its content (0400,0403), and is signed once by the physician: one PIN for the study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from securepacs import codes
from securepacs.dicom import open_dataset
from securepacs.dicom.elements import Buffer
from securepacs.errors import MalformedError, UsageError
from securepacs.originals.instances import Target, load
from securepacs.originals.references import InstanceMac, mac_of
from securepacs.originals.stamp import facts_of

if TYPE_CHECKING:
    from securepacs.tokens.credential import Credential

_CLAUSE = "PS3.3 A.35.4, PS3.15 A.4"
SIGNED_MANIFEST = ("113031", "DCM")
PURPOSE_VERIFICATION = 5  # CID 7007; the physician verified the instances
PURPOSES = {"1 ASTM-sigpurpose", "5 ASTM-sigpurpose"}  # Author's and Verification Signature, as reports write them

_COPIED = (  # Patient and General Study modules: the Key Object belongs to the study of its instances
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber", "StudyDescription",
)  # fmt: skip
_TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
_WAVEFORM_SEQUENCE = 0x54000100
_ROWS = 0x00280010


@dataclass(frozen=True, slots=True)
class Reference:
    """One instance that a Key Object names, with its secure reference."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    mac: InstanceMac


@dataclass(frozen=True, slots=True)
class KeyObject:
    """What a Key Object says. Reading it proves nothing: see `originals.authorize`."""

    sop_instance_uid: str
    study_instance_uid: str
    references: tuple[Reference, ...]


def build_key_object(instances: Iterable[Target], *, at: datetime, observer: str = "") -> Dataset:
    """Return the unsigned Key Object that names `instances` of one study; `observer` is the name of the physician.

    UsageError when there are none, or of more than one study, or one twice. Patient and study are copied from the first instance.
    """
    first: Dataset | None = None
    references: list[tuple[Reference, str]] = []
    for target in instances:
        data = load(target)
        facts = facts_of(data)
        first = first or dcmread(BytesIO(data), stop_before_pixels=True)
        uids = (facts.study_instance_uid, facts.series_instance_uid, facts.sop_class_uid, facts.sop_instance_uid)
        references.append((Reference(*uids, mac_of(data)), _value_type(data)))
    if first is None:
        raise UsageError("a key object needs at least one instance")
    if len({reference.study_instance_uid for reference, _ in references}) > 1:
        raise UsageError("the instances belong to more than one study", hint="authorize each study by itself")
    if len({reference.sop_instance_uid for reference, _ in references}) < len(references):
        raise UsageError("an instance is given twice")
    return _document(first, references, at.astimezone(UTC), observer)


def sign_key_object(
    document: Dataset, credential: Credential, *, at: datetime, timestamp: Callable[[bytes], bytes] | None = None
) -> bytes:
    """Sign a Key Object (PS3.15 C.4, everything covered, purpose Verification) and return it as a DICOM file.

    A key that is not RSA signs outside the DICOM profiles.
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from securepacs import signatures

    profile = "sr" if isinstance(credential.private_key, RSAPrivateKey) else "none"
    signatures.sign(
        document,
        credential,
        at=at,
        profile=profile,
        coverage="all",
        mac="sha256",
        purpose=PURPOSE_VERIFICATION,
        timestamp=timestamp,
    )
    return encode(document)


def encode(document: Dataset) -> bytes:
    """Return a data set that carries its file meta information as a DICOM file."""
    buffer = BytesIO()
    document.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def read_key_object(data: Buffer) -> KeyObject:
    """Read a Key Object titled Signed Manifest with its secure references. MalformedError for anything else."""
    _check_order(data)
    try:
        document = dcmread(BytesIO(data))
        if document.SOPClassUID != codes.KEY_OBJECT_SELECTION_DOCUMENT:
            raise MalformedError("this is not a Key Object Selection Document", standard="PS3.3 A.35.4")
        title = document.ConceptNameCodeSequence[0]
        if (title.CodeValue, title.CodingSchemeDesignator) != SIGNED_MANIFEST:
            raise MalformedError("the key object is not titled Signed Manifest (113031, DCM)", standard="PS3.16 CID 7010")
        references = tuple(_read_references(document.CurrentRequestedProcedureEvidenceSequence))
        found = KeyObject(str(document.SOPInstanceUID), str(document.StudyInstanceUID), references)
    except (AttributeError, IndexError, TypeError, ValueError, KeyError, NotImplementedError, InvalidDicomError):
        raise MalformedError("the key object lacks an element it needs", standard=_CLAUSE) from None
    uids = [reference.sop_instance_uid for reference in references]
    if not uids or len(set(uids)) < len(uids):
        raise MalformedError("the key object names no instance, or one twice", standard=_CLAUSE)
    if any(reference.study_instance_uid != found.study_instance_uid for reference in references):
        raise MalformedError("the key object names instances of another study than its own", standard=_CLAUSE)
    return found


def _check_order(data: Buffer) -> None:
    """Refuse what two readers could understand differently: top-level elements out of order or twice."""
    last = -1
    for element in open_dataset(data).elements():
        if element.tag <= last:
            raise MalformedError("the elements are not in order", offset=element.offset, standard="PS3.5 7.1")
        last = element.tag


def _read_references(studies: Sequence[Dataset]) -> Iterable[Reference]:
    for study in studies:
        for series in study.ReferencedSeriesSequence:
            for item in series.ReferencedSOPSequence:
                if len(item.ReferencedSOPInstanceMACSequence) != 1:
                    raise MalformedError("a reference needs exactly one MAC", standard="PS3.3 C.17.2.1")
                mac = item.ReferencedSOPInstanceMACSequence[0]
                tags = mac.DataElementsSigned
                yield Reference(
                    study_instance_uid=str(study.StudyInstanceUID),
                    series_instance_uid=str(series.SeriesInstanceUID),
                    sop_class_uid=str(item.ReferencedSOPClassUID),
                    sop_instance_uid=str(item.ReferencedSOPInstanceUID),
                    mac=InstanceMac(
                        transfer_syntax=str(mac.MACCalculationTransferSyntaxUID),
                        algorithm=str(mac.MACAlgorithm),
                        tags=tuple(int(tag) for tag in (tags if isinstance(tags, Iterable) else [tags])),
                        mac=bytes(mac.MAC),
                    ),
                )


def _document(first: Dataset, references: Sequence[tuple[Reference, str]], at: datetime, observer: str) -> Dataset:
    document = Dataset()
    document.file_meta = FileMetaDataset()
    document.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    document.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _TYPE_2:
        setattr(document, keyword, None)
    for keyword in _COPIED:
        if keyword in first:
            setattr(document, keyword, first[keyword].value)
    document.SOPClassUID = codes.KEY_OBJECT_SELECTION_DOCUMENT
    document.SOPInstanceUID = generate_uid(prefix=None)
    document.file_meta.MediaStorageSOPClassUID = document.SOPClassUID
    document.file_meta.MediaStorageSOPInstanceUID = document.SOPInstanceUID
    document.InstanceCreationDate = document.ContentDate = at.strftime("%Y%m%d")
    document.InstanceCreationTime = document.ContentTime = at.strftime("%H%M%S.%f")
    document.TimezoneOffsetFromUTC = "+0000"
    document.Modality = "KO"
    document.SeriesInstanceUID = generate_uid(prefix=None)
    document.SeriesNumber = 1
    document.InstanceNumber = 1
    document.ReferencedPerformedProcedureStepSequence = Items([])
    document.Manufacturer = "securepacs"
    document.CurrentRequestedProcedureEvidenceSequence = Items([_evidence([reference for reference, _ in references])])
    document.ValueType = "CONTAINER"
    document.ConceptNameCodeSequence = Items([_code(*SIGNED_MANIFEST, "Signed Manifest")])
    document.ContinuityOfContent = "SEPARATE"
    document.ContentTemplateSequence = Items([_dataset(MappingResource="DCMR", TemplateIdentifier="2010")])
    document.ContentSequence = Items([*_observer(observer), *(_content(*reference) for reference in references)])
    return document


def _evidence(references: Sequence[Reference]) -> Dataset:
    """Return the item of (0040,A375): study, series, instances with their MACs."""
    series: dict[str, list[Dataset]] = {}
    for reference in references:
        mac = _dataset(
            MACCalculationTransferSyntaxUID=reference.mac.transfer_syntax,
            MACAlgorithm=reference.mac.algorithm,
            DataElementsSigned=list(reference.mac.tags),
            MAC=reference.mac.mac,
        )
        item = _dataset(
            ReferencedSOPClassUID=reference.sop_class_uid,
            ReferencedSOPInstanceUID=reference.sop_instance_uid,
            ReferencedSOPInstanceMACSequence=Items([mac]),
        )
        series.setdefault(reference.series_instance_uid, []).append(item)
    return _dataset(
        StudyInstanceUID=references[0].study_instance_uid,
        ReferencedSeriesSequence=Items(
            [_dataset(SeriesInstanceUID=uid, ReferencedSOPSequence=Items(items)) for uid, items in series.items()]
        ),
    )


def _content(reference: Reference, value_type: str) -> Dataset:
    target = _dataset(ReferencedSOPClassUID=reference.sop_class_uid, ReferencedSOPInstanceUID=reference.sop_instance_uid)
    return _dataset(RelationshipType="CONTAINS", ValueType=value_type, ReferencedSOPSequence=Items([target]))


def _observer(name: str) -> list[Dataset]:
    """Return who observed (PS3.16 TID 1002), or nothing when nobody is named."""
    if not name:
        return []
    relation = "HAS OBS CONTEXT"
    kind = _dataset(
        RelationshipType=relation, ValueType="CODE", ConceptNameCodeSequence=Items([_code("121005", "DCM", "Observer Type")])
    )
    kind.ConceptCodeSequence = Items([_code("121006", "DCM", "Person")])
    concept = Items([_code("121008", "DCM", "Person Observer Name")])
    # a certificate's common name has no components: all of it goes into the first, without the signs that divide them
    person = name.translate(str.maketrans("^=\\", "   "))[:64]
    return [kind, _dataset(RelationshipType=relation, ValueType="PNAME", ConceptNameCodeSequence=concept, PersonName=person)]


def _value_type(data: Buffer) -> str:
    tags = {element.tag for element in open_dataset(data).elements()}
    if _ROWS in tags:
        return "IMAGE"
    return "WAVEFORM" if _WAVEFORM_SEQUENCE in tags else "COMPOSITE"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _dataset(**elements: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset

"""Key Object documents with secure references: the signed manifest of a study (PS3.3 A.35.4, C.17.6; PS3.15 A.4, C.4; PS3.17 W).

A Key Object Selection Document titled Signed Manifest (113031, DCM) names every instance in Current Requested Procedure Evidence
Sequence (0040,A375), each with the MAC of its content (0400,0403), and is signed once: one signature for the study.

    manifest(instances, credential, at=now)  -> the signed document as a DICOM file
    add_references(document, instances)      adds what A.4 asks for to an SR or Key Object of one's own, before it is signed
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from securepacs import codes
from securepacs.dicom.elements import Buffer
from securepacs.dicom.part10 import EncodedDataSet, open_dataset
from securepacs.errors import MalformedError, UsageError
from securepacs.signatures.instances import raw_of
from securepacs.signatures.lookup import References, finder
from securepacs.signatures.profiles import AUTHOR, SOURCE
from securepacs.signatures.references import (
    CURRENT_EVIDENCE,
    InstanceMac,
    InstanceUids,
    SecureReference,
    SignatureCopy,
    mac_of,
    read_references,
    uids_of,
)
from securepacs.signatures.sequences import read_signatures, survey

if TYPE_CHECKING:
    from securepacs.tokens.credential import Credential

_CLAUSE = "PS3.3 A.35.4, PS3.15 A.4"
SIGNED_MANIFEST = ("113031", "DCM")
SIGNED_COMPLETE_ACQUISITION_CONTENT = ("113035", "DCM")
TITLES = {SIGNED_MANIFEST: "Signed Manifest", SIGNED_COMPLETE_ACQUISITION_CONTENT: "Signed Complete Acquisition Content"}
# PS3.17 W: the archive vouches as the source of complete content; otherwise the signer is the author of the manifest
PURPOSES = {SIGNED_MANIFEST: AUTHOR, SIGNED_COMPLETE_ACQUISITION_CONTENT: SOURCE}

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
class Manifest:
    """What a manifest says. Reading it proves nothing: `study.check_study` does."""

    sop_instance_uid: str
    study_instance_uid: str
    references: tuple[SecureReference, ...]
    title: tuple[str, str] = SIGNED_MANIFEST


def manifest(
    instances: Iterable[Path | Buffer],
    credential: Credential,
    *,
    at: datetime | None = None,
    title: tuple[str, str] = SIGNED_MANIFEST,
    purpose: int | None = None,
    observer: str = "",
    timestamp: Callable[[bytes], bytes] | None = None,
) -> bytes:
    """Return the signed manifest of the `instances` of one study as a DICOM file (PS3.15 A.4, C.4, PS3.17 W).

    `title`: a concept of CID 7010, SIGNED_MANIFEST or SIGNED_COMPLETE_ACQUISITION_CONTENT. `purpose`: 1-18 of CID 7007, Author for
    the former and Source for the latter by default. `timestamp` as in `sign`. UsageError for instances that are not one study.
    """
    moment = at or datetime.now(UTC)
    document = build_manifest(instances, at=moment, title=title, observer=observer)
    return sign_manifest(document, credential, at=moment, purpose=purpose or PURPOSES[title], timestamp=timestamp)


def build_manifest(
    instances: Iterable[Path | Buffer], *, at: datetime, title: tuple[str, str] = SIGNED_MANIFEST, observer: str = ""
) -> Dataset:
    """Return the unsigned manifest that names `instances` of one study; `observer` is the name of the person who answers for it.

    UsageError when there are none, or of more than one study, or one twice. Patient and study are copied from the first instance.
    """
    if title not in TITLES:
        raise UsageError("this title is not one of a signed document", standard="PS3.16 CID 7010")
    first: Dataset | None = None
    references: list[tuple[SecureReference, str]] = []
    for target in instances:
        data, _ = raw_of(target)
        dataset = open_dataset(data)
        uids = uids_of(dataset)
        if not (uids.study_instance_uid and uids.series_instance_uid and uids.sop_class_uid and uids.sop_instance_uid):
            raise MalformedError("an instance lacks one of its UIDs", standard="PS3.3 C.12.1")
        first = first or dcmread(BytesIO(data), stop_before_pixels=True)
        references.append((SecureReference(CURRENT_EVIDENCE, uids, mac_of(data)), _value_type(dataset)))
    if first is None:
        raise UsageError("a manifest needs at least one instance")
    if len({reference.instance.study_instance_uid for reference, _ in references}) > 1:
        raise UsageError("the instances belong to more than one study", hint="take each study by itself")
    if len({reference.instance.sop_instance_uid for reference, _ in references}) < len(references):
        raise UsageError("an instance is given twice")
    return _document(first, references, at.astimezone(UTC), title, observer)


def sign_manifest(
    document: Dataset,
    credential: Credential,
    *,
    at: datetime,
    purpose: int,
    timestamp: Callable[[bytes], bytes] | None = None,
) -> bytes:
    """Sign a manifest (PS3.15 C.4, everything covered) and return it as a DICOM file.

    A key that is not RSA signs outside the DICOM profiles.
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from securepacs.signatures.sign import sign

    profile = "sr" if isinstance(credential.private_key, RSAPrivateKey) else "none"
    sign(document, credential, at=at, profile=profile, coverage="all", purpose=purpose, timestamp=timestamp)
    return encode(document)


def encode(document: Dataset) -> bytes:
    """Return a data set that carries its file meta information as a DICOM file."""
    buffer = BytesIO()
    document.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def read_manifest(data: Buffer) -> Manifest:
    """Read a Key Object titled as a signed document, with its secure references. MalformedError for anything else.

    Every reference must have a MAC, all must be of the document's own study, and none may occur twice.
    """
    dataset = open_dataset(data)
    _check_order(dataset)
    try:
        document = dcmread(BytesIO(data), stop_before_pixels=True)
        if document.SOPClassUID != codes.KEY_OBJECT_SELECTION_DOCUMENT:
            raise MalformedError("this is not a Key Object Selection Document", standard="PS3.3 A.35.4")
        code = document.ConceptNameCodeSequence[0]
        title = str(code.CodeValue), str(code.CodingSchemeDesignator)
        if title not in TITLES:
            raise MalformedError("the key object is not titled Signed Manifest (113031, DCM)", standard="PS3.16 CID 7010")
        own = str(document.SOPInstanceUID), str(document.StudyInstanceUID)
    except (AttributeError, IndexError, TypeError, ValueError, KeyError, NotImplementedError, InvalidDicomError):
        raise MalformedError("the key object lacks an element it needs", standard=_CLAUSE) from None
    references = read_references(dataset)
    if any(reference.mac is None for reference in references):
        raise MalformedError("a reference needs exactly one MAC", standard="PS3.3 C.17.2.1")
    uids = [reference.instance.sop_instance_uid for reference in references]
    if not uids or len(set(uids)) < len(uids):
        raise MalformedError("the key object names no instance, or one twice", standard=_CLAUSE)
    if any(reference.instance.study_instance_uid != own[1] for reference in references):
        raise MalformedError("the key object names instances of another study than its own", standard=_CLAUSE)
    return Manifest(*own, references, title)


def _check_order(dataset: EncodedDataSet) -> None:
    """Refuse what two readers could understand differently: top-level elements out of order or twice."""
    last = -1
    for element in dataset.elements():
        if element.tag <= last:
            raise MalformedError("the elements are not in order", offset=element.offset, standard="PS3.5 7.1")
        last = element.tag


# --- secure references in a document of one's own -------------------------------------------------------------------


def add_references(document: Dataset, instances: References, *, macs: bool = True, signatures: bool = False) -> int:
    """Add a secure reference to every item of the evidence sequences of an SR or Key Object; return how many (PS3.15 A.4).

    `instances`: where the referenced instances are, as in `evaluate`. `macs`: the MAC of the content (0400,0403). `signatures`:
    copies of the signatures of the outermost data set (0400,0402), which later removal or replacement of these would break. What an
    item had before is replaced. UsageError when an instance is not found or has no signature to copy, when there is nothing to
    reference, and for a document that is signed already; the document is then unchanged.
    """
    if not (macs or signatures):
        raise UsageError("a secure reference is a MAC, a signature, or both", standard=_CLAUSE)
    if "DigitalSignaturesSequence" in document:
        raise UsageError("the document is signed already; references are added before", standard=_CLAUSE)
    find = finder(instances)
    items = list(_evidence_items(document))
    if not items:
        raise UsageError("the document has no evidence sequence to secure", standard=_CLAUSE)
    found: list[tuple[Dataset, InstanceMac | None, tuple[SignatureCopy, ...]]] = []
    for item in items:
        uid = str(item.get("ReferencedSOPInstanceUID", ""))
        target = find(uid)
        if target is None:
            raise UsageError(f"instance {uid} is referenced and not at hand", standard=_CLAUSE)
        raw, _ = raw_of(target)
        if uids_of(open_dataset(raw)).sop_instance_uid != uid:
            raise UsageError(f"what was found for instance {uid} is another one")
        copies = _signatures_of(open_dataset(raw)) if signatures else ()
        if not macs and not copies:
            raise UsageError(f"instance {uid} has no signature to refer to", hint="refer to its MAC", standard=_CLAUSE)
        found.append((item, mac_of(raw) if macs else None, copies))
    for item, mac, copies in found:
        _secure(item, mac, copies)
    return len(found)


def _evidence_items(document: Dataset) -> Iterable[Dataset]:
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in document.get(keyword) or ():
            for series in study.get("ReferencedSeriesSequence") or ():
                yield from series.get("ReferencedSOPSequence") or ()


def _signatures_of(dataset: EncodedDataSet) -> tuple[SignatureCopy, ...]:
    scope = survey(dataset).at(())
    if scope is None:
        return ()
    return tuple(SignatureCopy(item.uid, item.signature) for item in read_signatures(dataset, scope) if item.uid and item.signature)


def _secure(item: Dataset, mac: InstanceMac | None, copies: Sequence[SignatureCopy]) -> None:
    for keyword in ("ReferencedDigitalSignatureSequence", "ReferencedSOPInstanceMACSequence"):
        if keyword in item:
            del item[keyword]
    if copies:
        signed = [_dataset(DigitalSignatureUID=copy.uid, Signature=copy.value) for copy in copies]
        item.ReferencedDigitalSignatureSequence = Items(signed)
    if mac is not None:
        item.ReferencedSOPInstanceMACSequence = Items(
            [
                _dataset(
                    MACCalculationTransferSyntaxUID=mac.transfer_syntax,
                    MACAlgorithm=mac.algorithm,
                    DataElementsSigned=list(mac.tags),
                    MAC=mac.mac,
                )
            ]
        )


# --- the document ---------------------------------------------------------------------------------------------------


def _document(
    first: Dataset, references: Sequence[tuple[SecureReference, str]], at: datetime, title: tuple[str, str], observer: str
) -> Dataset:
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
    document.ConceptNameCodeSequence = Items([_code(*title, TITLES[title])])
    document.ContinuityOfContent = "SEPARATE"
    document.ContentTemplateSequence = Items([_dataset(MappingResource="DCMR", TemplateIdentifier="2010")])
    content = [*_observer(observer), *(_content(reference.instance, value_type) for reference, value_type in references)]
    document.ContentSequence = Items(content)
    return document


def _evidence(references: Sequence[SecureReference]) -> Dataset:
    """Return the item of (0040,A375): study, series, instances with their MACs."""
    series: dict[str, list[Dataset]] = {}
    for reference in references:
        item = _reference(reference.instance)
        _secure(item, reference.mac, reference.signatures)
        series.setdefault(reference.instance.series_instance_uid, []).append(item)
    return _dataset(
        StudyInstanceUID=references[0].instance.study_instance_uid,
        ReferencedSeriesSequence=Items(
            [_dataset(SeriesInstanceUID=uid, ReferencedSOPSequence=Items(items)) for uid, items in series.items()]
        ),
    )


def _reference(uids: InstanceUids) -> Dataset:
    return _dataset(ReferencedSOPClassUID=uids.sop_class_uid, ReferencedSOPInstanceUID=uids.sop_instance_uid)


def _content(uids: InstanceUids, value_type: str) -> Dataset:
    return _dataset(RelationshipType="CONTAINS", ValueType=value_type, ReferencedSOPSequence=Items([_reference(uids)]))


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


def _value_type(dataset: EncodedDataSet) -> str:
    tags = {element.tag for element in dataset.elements()}
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

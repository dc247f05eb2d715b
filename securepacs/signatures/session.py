"""Signing many instances with one PIN: what will be signed is shown first, then signed exactly as shown (PS3.15 C.3).

    session = SigningSession(options)
    session.add(source)                      # digests are computed now, before anybody is asked for a PIN
    for study in session.studies(): ...      # show patient, study and number of instances
    with open_credential(...) as credential: # the one PIN
        for source, signed in session.sign(credential): write_atomically(target, signed.pieces)

A card signs digests and shows nothing of what they stand for, so the moment between display and signature is guarded: the digests
signed are those computed by `add`, and a file whose bytes changed since is refused, not signed anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from securepacs.dicom.elements import Buffer
from securepacs.dicom.files import map_file
from securepacs.dicom.part10 import EncodedDataSet
from securepacs.errors import IntegrityFailure, SecurePacsError, TokenError
from securepacs.signatures.preparation import Digest, Draft, Signed, SigningOptions
from securepacs.signatures.sign import check_credential, prepare
from securepacs.tokens.credential import Credential

_CHARACTER_SET, _STUDY_DATE, _STUDY_DESCRIPTION = 0x00080005, 0x00080020, 0x00081030
_PATIENT_NAME, _PATIENT_ID, _BIRTH_DATE = 0x00100010, 0x00100020, 0x00100030
_STUDY_INSTANCE_UID = 0x0020000D
_SHOWN = (
    _CHARACTER_SET,
    _STUDY_DATE,
    _STUDY_DESCRIPTION,
    _PATIENT_NAME,
    _PATIENT_ID,
    _BIRTH_DATE,
    _STUDY_INSTANCE_UID,
)


@dataclass(frozen=True, slots=True)
class Study:
    """What is about to be signed, for a human to read: it holds patient data and belongs on a terminal, never in a log.

    Instances whose study or patient is described differently are different studies here, so that nothing hides in a count.
    """

    patient_name: str = field(repr=False)
    patient_id: str = field(repr=False)
    birth_date: str = field(repr=False)
    study_date: str = field(repr=False)
    description: str = field(repr=False)
    study_instance_uid: str = ""


@dataclass(frozen=True, slots=True)
class _Prepared:
    source: Path
    content: bytes  # SHA-256 of the whole file
    drafts: tuple[Draft, ...]
    digests: tuple[Digest, ...]
    study: Study = field(repr=False)


class SigningSession:
    """The instances of one act of signing; see the module. `options` are those of every signature, the time included."""

    def __init__(self, options: SigningOptions) -> None:
        self.options = options
        self._prepared: list[_Prepared] = []

    def add(self, source: Path) -> None:
        """Compute the digests of one file. MalformedError or UsageError when it cannot be signed under the options."""
        raw = map_file(source)
        preparation = prepare(raw, self.options)
        digests = tuple(preparation.digests())
        self._prepared.append(_Prepared(source, _content(raw), preparation.drafts, digests, _study(preparation.dataset)))

    def __len__(self) -> int:
        return len(self._prepared)

    def studies(self) -> dict[Study, int]:
        """Return the studies and how many instances of each will be signed, in the order they were added."""
        counted: dict[Study, int] = {}
        for one in self._prepared:
            counted[one.study] = counted.get(one.study, 0) + 1
        return counted

    def sign(self, credential: Credential) -> Iterator[tuple[Path, Signed | SecurePacsError]]:
        """Sign what was prepared, once; yield each source with its signed form, or with the error that kept it from being signed.

        IntegrityFailure for a file that changed since `add`. A TokenError ends everything: the card is gone, or its holder is.
        """
        check_credential(credential, self.options.profile)
        prepared, self._prepared = self._prepared, []
        for one in prepared:
            try:
                raw = map_file(one.source)
                if _content(raw) != one.content:
                    raise IntegrityFailure(
                        "the file changed after it was shown, and is not signed", hint="look at it and sign it again"
                    )
                preparation = prepare(raw, self.options, drafts=one.drafts)
                yield one.source, preparation.assemble(credential, preparation.values(credential, one.digests))
            except TokenError:
                raise
            except SecurePacsError as error:
                yield one.source, error


def _content(raw: Buffer) -> bytes:
    return hashlib.sha256(raw).digest()


def _study(dataset: EncodedDataSet) -> Study:
    from pydicom.charset import convert_encodings, decode_bytes

    values: dict[int, bytes] = {}
    for element in dataset.elements():
        if element.tag > _STUDY_INSTANCE_UID:
            break
        if element.tag in _SHOWN:
            values[element.tag] = bytes(dataset.value(element))
    names = values.get(_CHARACTER_SET, b"").decode("latin-1").strip(" \0")
    try:
        encodings = convert_encodings([name.strip() for name in names.split("\\")])
    except LookupError:
        encodings = ["latin-1"]

    def text(tag: int) -> str:
        raw = values.get(tag, b"").rstrip(b" \0")
        try:
            return str(decode_bytes(raw, encodings, {0x3D, 0x5E})) if raw else ""
        except (UnicodeError, LookupError):
            return raw.decode("latin-1")

    return Study(
        *(text(tag) for tag in (_PATIENT_NAME, _PATIENT_ID, _BIRTH_DATE, _STUDY_DATE, _STUDY_DESCRIPTION, _STUDY_INSTANCE_UID))
    )

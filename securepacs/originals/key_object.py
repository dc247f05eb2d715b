"""The signed Key Object with which a physician authorizes the instances of a study (PS3.3 A.35.4, C.17.6; PS3.15 A.4, C.4).

It is a manifest (`signatures.manifests`) titled Signed Manifest (113031, DCM), signed once by the physician for the purpose of
verification: one PIN for the study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from securepacs.dicom.elements import Buffer
from securepacs.errors import MalformedError
from securepacs.originals.instances import Target
from securepacs.signatures.manifests import SIGNED_MANIFEST, Manifest, build_manifest, read_manifest, sign_manifest
from securepacs.signatures.profiles import VERIFICATION

if TYPE_CHECKING:
    from pydicom import Dataset

    from securepacs.tokens.credential import Credential

KeyObject = Manifest
PURPOSES = {"1 ASTM-sigpurpose", "5 ASTM-sigpurpose"}  # Author's and Verification Signature, as reports write them


def build_key_object(instances: Iterable[Target], *, at: datetime, observer: str = "") -> Dataset:
    """Return the unsigned Key Object that names `instances` of one study; `observer` is the name of the physician.

    UsageError when there are none, or of more than one study, or one twice. Patient and study are copied from the first instance.
    """
    return build_manifest(instances, at=at, observer=observer)


def sign_key_object(
    document: Dataset, credential: Credential, *, at: datetime, timestamp: Callable[[bytes], bytes] | None = None
) -> bytes:
    """Sign a Key Object (PS3.15 C.4, everything covered, purpose Verification) and return it as a DICOM file.

    The physician verified the instances. A key that is not RSA signs outside the DICOM profiles.
    """
    return sign_manifest(document, credential, at=at, purpose=VERIFICATION, timestamp=timestamp)


def read_key_object(data: Buffer) -> KeyObject:
    """Read a Key Object titled Signed Manifest with its secure references. MalformedError for anything else.

    Complete acquisition content (113035, DCM), which an archive vouches for, authorizes nothing and is refused too.
    """
    document = read_manifest(data)
    if document.title != SIGNED_MANIFEST:
        raise MalformedError("the key object is not titled Signed Manifest (113031, DCM)", standard="PS3.16 CID 7010")
    return document

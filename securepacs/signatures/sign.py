"""Make digital signatures (PS3.15 C.1-C.4, PS3.3 C.12.1.1.3).

One signature item and one MAC Parameters item are added to the data set that is signed; every other byte of the file stays.
The MAC covers the values as they are stored. Group 0100 (SOP Instance Status) is signed only when named in `tags`.
Not checked: whether anybody will trust the certificate.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from securepacs import codes
from securepacs.dicom.edit import Path
from securepacs.dicom.elements import Buffer, Part, Token
from securepacs.dicom.files import write_atomically
from securepacs.dicom.part10 import EncodedDataSet, compression_of, open_dataset
from securepacs.dicom.vr import LONG_FORM
from securepacs.errors import MalformedError, UsageError
from securepacs.signatures import profiles
from securepacs.signatures.coverage import Outline, outline
from securepacs.signatures.instances import raw_of
from securepacs.signatures.preparation import Draft, Preparation, Signed, SigningOptions
from securepacs.signatures.profiles import CREATION_ALGORITHMS, Coverage, Profile, Traits, name_tag, parse_tag
from securepacs.signatures.sequences import (
    Scope,
    Survey,
    derive,
    encode_mac_parameters,
    encode_purpose,
    encode_signature_head,
    next_mac_id,
    survey,
)
from securepacs.signatures.values import format_date_time
from securepacs.tokens.credential import Credential

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

MINIMUM_RSA_BITS = 2048
_ITEM = re.compile(r"([0-9A-Fa-f]{8}|\w+)\[(\d{1,9})\]")
_DEFAULT_COVERAGE = {Profile.CREATOR: Coverage.CREATOR, Profile.AUTHORIZATION: Coverage.AUTHORIZATION, Profile.SR: Coverage.SR}


def sign(
    target: Dataset | FilePath,
    credential: Credential,
    *,
    at: datetime | None = None,
    profile: str | None = None,
    coverage: str | None = None,
    mac: str = "sha256",
    purpose: int | None = None,
    tags: Iterable[str | int] = (),
    item: str | None = None,
    identity: bool = False,
    timestamp: Callable[[bytes], bytes] | None = None,
    output: FilePath | None = None,
) -> UID:
    """Sign an instance and return the Digital Signature UID: a Dataset in place, a file into `output` (PS3.15 C.1-C.4).

    `profile`: base, creator (the default; base for an `item`), authorization, sr or none. `coverage` defaults to that of the
    profile, else to `tags`, else to all. `tags`: keywords or numbers, signed as well. `purpose`: 1-18 of CID 7007; SR signatures
    get 5 for verified documents, else 1. `item`: path such as 0040A730[0] of the item to sign in. `identity`: add a second
    signature over patient and study identity. `timestamp`: gets the signature value and returns a TimeStampToken over it. Naming
    the source as `output` replaces it.
    """
    options = make_options(
        at=at,
        profile=profile,
        coverage=coverage,
        mac=mac,
        purpose=purpose,
        tags=tags,
        item=item,
        identity=identity,
        timestamp=timestamp,
    )
    if isinstance(target, FilePath | str):
        if output is None:
            raise UsageError("no output is named for the signed file", hint="name the source itself to replace it")
        raw, _ = raw_of(target)
        signed = sign_encoded(raw, credential, options)
        write_atomically(output, signed.pieces)
    else:
        if output is not None:
            raise UsageError("a Dataset is signed in place; it has no output")
        signed = _sign_dataset(target, credential, options)
    from pydicom.uid import UID

    return UID(signed.uids[0])


def make_options(
    *,
    at: datetime | None = None,
    profile: str | None = None,
    coverage: str | None = None,
    mac: str = "sha256",
    purpose: int | None = None,
    tags: Iterable[str | int] = (),
    item: str | None = None,
    identity: bool = False,
    timestamp: Callable[[bytes], bytes] | None = None,
) -> SigningOptions:
    """Check the parameters of `sign` and return them as options. UsageError for what cannot be meant."""
    moment = at or datetime.now(UTC)
    if moment.tzinfo is None:
        raise UsageError("the signing time has no time zone", standard="PS3.3 C.12.1.1.3")
    if mac not in CREATION_ALGORITHMS:
        raise UsageError(f"signatures are made with {', '.join(CREATION_ALGORITHMS)}, not {mac}")
    if purpose is not None and purpose not in profiles.PURPOSES:
        raise UsageError("a signature purpose is a number from 1 to 18", standard="PS3.16 CID 7007")
    path = parse_item(item) if item else ()
    try:
        wanted = Profile(profile) if profile else (Profile.BASE if path else Profile.CREATOR)
        covers = Coverage(coverage) if coverage else None
    except ValueError:
        raise UsageError(f"no such profile or coverage: {profile or ''} {coverage or ''}".rstrip()) from None
    if path and wanted in _DEFAULT_COVERAGE:
        raise UsageError(f"a {wanted} signature belongs to the whole instance, not to an item", hint="use --profile base")
    named = tuple(parse_tag(tag) if isinstance(tag, str) else int(tag) for tag in tags)
    return SigningOptions(moment, wanted, covers, mac, purpose, named, path, identity, timestamp)


def parse_item(text: str) -> Path:
    """Read an item path: 0040A730[0]/0040A043[0], keywords allowed, outermost sequence first, items counted from 0."""
    steps = []
    for word in text.strip("/").split("/"):
        match = _ITEM.fullmatch(word.strip())
        if match is None:
            raise UsageError(f"{word!r} is no item of a sequence", hint="write 0040A730[0]/0040A043[0]")
        steps.append((parse_tag(match[1]), int(match[2])))
    return tuple(steps)


def sign_encoded(raw: Buffer, credential: Credential, options: SigningOptions) -> Signed:
    """Sign a DICOM file given as bytes or mapping; the result is in pieces, what is not new being views of `raw` (PS3.15 C)."""
    check_credential(credential, options.profile)
    preparation = prepare(raw, options)
    return preparation.assemble(credential, preparation.values(credential))


def prepare(raw: Buffer, options: SigningOptions, *, drafts: tuple[Draft, ...] | None = None) -> Preparation:
    """Settle all of the new signatures but their values: places, MAC IDs, UIDs, coverage. No key is needed yet.

    `drafts`: those of an earlier preparation of exactly this file, to be kept. Not checked: that they are of this file.
    """
    dataset = open_dataset(raw)
    found = survey(dataset, wanted=options.item)
    scope = found.at(options.item)
    if scope is None:
        raise UsageError("the data set has no such item to sign in")
    return Preparation(raw, dataset, scope, options, _drafts(dataset, found, scope, options) if drafts is None else drafts)


def _drafts(dataset: EncodedDataSet, found: Survey, scope: Scope, options: SigningOptions) -> tuple[Draft, ...]:
    own = outline(dataset, scope)
    signable = derive(dataset, scope, _signable)
    plans = [_choose(own, signable, options)]
    if options.identity:
        plans.append(tuple(sorted(profiles.IDENTITY_COVERAGE.intersection(signable))))
    taken = set(found.mac_ids)
    drafts = []
    for tags in plans:
        mac_id = next_mac_id(taken)
        taken.add(mac_id)
        drafts.append(_draft(dataset, own, tags, mac_id, options))
    return tuple(drafts)


def check_credential(credential: Credential, profile: Profile) -> None:
    """Raise UsageError unless key and certificate belong together and the key may sign under the profile."""
    key = credential.for_documents().private_key
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < MINIMUM_RSA_BITS:
            raise UsageError(f"an RSA key of {key.key_size} bits is too weak to sign with")
    elif not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError("this kind of key cannot sign DICOM", standard="PS3.15 C.1")
    elif profile is not Profile.NONE:
        hint = "use --profile none; other software may not be able to check it"
        raise UsageError(f"the {profile} profile takes RSA keys only", hint=hint, standard="PS3.15 C.1")
    certified = credential.certificate.public_key()
    public = key.public_key()
    same = type(certified) is type(public) or isinstance(certified, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
    if not same or certified.public_numbers() != public.public_numbers():  # type: ignore[union-attr]
        raise UsageError("the private key does not belong to the certificate")


def _signable(tokens: Iterable[Token]) -> frozenset[int]:
    """Return the tags of a data set that may be in a MAC. MalformedError when the order of elements is not ascending at any depth.

    Other software sorts elements when it reads; a MAC over an unsorted data set would never be reproduced.
    """
    last = [-1]
    found: set[int] = set()
    spoilt: set[int] = set()
    leaf = Part.ELEMENT
    top = 0
    for part, tag, vr, offset, _, length, depth in tokens:
        if part is leaf or part is Part.SEQUENCE or part is Part.FRAGMENTS:
            if tag <= last[-1]:
                raise MalformedError("elements are not in ascending order", offset=offset, standard="PS3.5 7.1")
            last[-1] = tag
            if not depth:
                top = tag
                found.add(tag)
            # a value of more than 65535 bytes in a VR with a 16 bit length, as implicit VR allows, has no explicit VR form
            if vr == b"UN" or (length > 0xFFFF and part is leaf and vr not in LONG_FORM):
                spoilt.add(top)
        elif part is Part.ITEM:
            last.append(-1)
        elif part is Part.ITEM_END:
            last.pop()
    return profiles.signable_of(frozenset(found - spoilt))


def _choose(own: Outline, signable: frozenset[int], options: SigningOptions) -> tuple[int, ...]:
    """Return the tags to sign, ascending. UsageError when the profile's demands cannot be met by this data set."""
    choose = _chosen if len(own.tags) <= profiles.MANY_TAGS else _chosen.__wrapped__
    return choose(own, signable, options.profile, options.coverage, options.tags, _purpose(options, own))


@lru_cache(maxsize=32)  # the images of a series are alike
def _chosen(
    own: Outline, signable: frozenset[int], profile: Profile, covers: Coverage | None, tags: tuple[int, ...], purpose: int | None
) -> tuple[int, ...]:
    present = own.tags
    named = frozenset(tags)
    coverage = covers or _DEFAULT_COVERAGE.get(profile)
    wanted = set(named)
    if coverage is Coverage.ALL or (coverage is None and not named):
        wanted |= {tag for tag in signable if tag >> 16 != profiles.STATUS_GROUP}
    elif coverage is not None:
        wanted |= profiles.covered(coverage, present, own.traits) & signable
    _demand(profile, own, purpose, wanted)
    impossible = sorted(wanted - signable)
    if impossible:
        names = ", ".join(name_tag(tag) for tag in impossible)
        hint = "they are absent, of unknown VR, or barred from signatures"
        raise UsageError(f"cannot sign {names}", hint=hint, standard="PS3.3 C.12.1.1.3.1.1")
    if not wanted:
        raise UsageError("there is nothing to sign in this data set")
    return tuple(sorted(wanted))


def _demand(profile: Profile, own: Outline, purpose: int | None, wanted: set[int]) -> None:
    """Add to `wanted` what the profile demands, whatever the coverage; UsageError when a mandatory element is missing."""
    if profile not in _DEFAULT_COVERAGE:
        return
    if profile is Profile.SR and not profiles.is_structured_report(own.tags):
        raise UsageError("the sr profile is for structured reports and key objects", standard="PS3.15 C.4")
    missing = profiles.MANDATORY[profile] - own.tags
    if missing:
        names = ", ".join(name_tag(tag) for tag in sorted(missing))
        raise UsageError(f"the {profile} profile needs {names}", hint="use --profile base", standard="PS3.15 C")
    traits = own.traits
    if profile is Profile.SR:
        traits = Traits(verified=traits.verified and purpose == profiles.VERIFICATION)
    wanted |= profiles.required(_DEFAULT_COVERAGE[profile], own.tags, traits)


def _purpose(options: SigningOptions, own: Outline) -> int | None:
    """Return the purpose to write: SR signatures must have one, Verification for a verified document, else Author (PS3.15 C.4)."""
    if options.purpose is not None or options.profile is not Profile.SR:
        return options.purpose
    return profiles.VERIFICATION if own.traits.verified else profiles.AUTHOR


def _draft(dataset: EncodedDataSet, own: Outline, tags: tuple[int, ...], mac_id: int, options: SigningOptions) -> Draft:
    syntax = compression_of(dataset.transfer_syntax) or codes.EXPLICIT_VR_LITTLE_ENDIAN
    uid = f"2.25.{uuid.uuid4().int}"  # PS3.5 B.2
    return Draft(
        uid,
        encode_mac_parameters(mac_id, syntax, CREATION_ALGORITHMS[options.mac], tags, dataset.encoding),
        encode_signature_head(mac_id, uid, format_date_time(options.at), dataset.encoding),
        encode_purpose(_purpose(options, own), dataset.encoding),
        tags,
    )


def _sign_dataset(target: Dataset, credential: Credential, options: SigningOptions) -> Signed:
    """Sign a Dataset: encode it, sign that, and put the two sequences, decoded by pydicom, into the Dataset."""
    raw, _ = raw_of(target)
    signed = sign_encoded(raw, credential, options)
    from io import BytesIO

    from pydicom.filereader import read_dataset

    encoded = b"".join(signed.additions[tag] for tag in sorted(signed.additions))
    inner = target
    for tag, index in options.item:
        inner = inner[tag].value[index]
    inner.update(read_dataset(BytesIO(encoded), is_implicit_VR=False, is_little_endian=True))
    return signed

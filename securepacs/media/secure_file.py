"""The Secure DICOM File of the Basic DICOM Media Security Profile: one Part 10 file in CMS (PS3.15 D.1, PS3.10 7.4).

Written: SignedData (RSA) or, without a signer, DigestedData, bare inside EnvelopedData for RSA recipients. Read: also the nestings
that other writers make. Nothing leaves this module before its integrity is verified; what fails after decryption is always one
error, so that nobody learns where (RFC 3218). Whole files are held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from securepacs.cms import digested, enveloped, signed
from securepacs.cms.nesting import layer_of
from securepacs.codes import ID_DATA, ID_DIGESTED_DATA, ID_SIGNED_DATA
from securepacs.dicom.files import write_atomically
from securepacs.dicom.part10 import PREAMBLE_SIZE, read_part10
from securepacs.errors import IntegrityFailure, MalformedError, UsageError, VerificationError
from securepacs.media.preamble import require_harmless, suspicion
from securepacs.tokens.credential import Credential
from securepacs.trust import PathResult, Purpose, TrustPolicy, validate

MAX_SIZE = 1 << 31  # bytes of one file, protected or not
DEFAULT_CIPHER = "aes256-cbc"

_SEQUENCE = 0x30
_STANDARD = "PS3.15 D.1"
_NOT_OPENED = "the file cannot be opened: it was changed, or the private key is not the recipient's"

Integrity = Literal["signed", "digested", "none"]


@dataclass(frozen=True, slots=True)
class MediaSigner:
    """One who signed. `signing_time` is the signer's claim; `path` is None when nobody asked for trust."""

    certificate: x509.Certificate
    signing_time: datetime | None
    path: PathResult | None = None


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """The Part 10 file that was inside. `warnings`: executable-preamble, unknown-preamble, no-integrity, untrusted-signer."""

    content: bytes
    integrity: Integrity
    signers: tuple[MediaSigner, ...] = ()
    warnings: tuple[str, ...] = ()
    certificates: tuple[x509.Certificate, ...] = ()  # all that came along, untrusted


def protect(
    src: bytes | Path,
    *,
    recipients: Sequence[x509.Certificate],
    signer: Credential | None = None,
    cipher: str = DEFAULT_CIPHER,
    at: datetime | None = None,
    output: Path | None = None,
) -> bytes:
    """Make a Secure DICOM File of the Part 10 file `src` (PS3.15 D.1); return it, and write it to `output` when given.

    `at` (now when None) becomes the signing time and is when the recipients' certificates must be valid. Raises MalformedError when
    `src` is not a DICOM file or has a suspicious preamble, UsageError for a recipient or signer the profile does not allow. NOT
    checked: trust in the recipients' certificates.
    """
    moment = at or datetime.now(UTC)
    content = _read(src)
    read_part10(content)
    require_harmless(content)
    _require_recipients(recipients, moment)
    inner, inner_type = _seal(content, signer, moment)
    protected = enveloped.encrypt(inner, recipients, cipher=cipher, content_type=inner_type)
    if output is not None:
        write_atomically(output, [protected])
    return protected


def _seal(content: bytes, signer: Credential | None, moment: datetime) -> tuple[bytes, str]:
    if signer is None:
        return digested.seal(content, bare=True), ID_DIGESTED_DATA
    if not isinstance(signer.private_key, RSAPrivateKey):
        raise UsageError("the profile has RSA signers only", hint="sign with an RSA key, or without a signer", standard=_STANDARD)
    signer = signer.for_documents()
    who = signed.Signer(signer.certificate, signer.private_key, signer.chain)
    return signed.sign(content, [who], content_type=ID_DATA, signing_time=moment, bare=True), ID_SIGNED_DATA


def _require_recipients(recipients: Iterable[x509.Certificate], moment: datetime) -> None:
    for certificate in recipients:
        name = certificate.subject.rfc4514_string()
        if not certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc:
            raise UsageError(f"the recipient's certificate is not valid now: {name}", standard="RFC 5280 4.1.2.5")
        try:
            usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        except x509.ExtensionNotFound:
            continue
        if not usage.key_encipherment:
            raise UsageError(f"the recipient's certificate is not made for encryption: {name}", standard="RFC 5280 4.2.1.3")


def open(
    src: bytes | Path,
    credential: Credential,
    *,
    policy: TrustPolicy | None = None,
    at: datetime | None = None,
    allow_no_integrity: bool = False,
    output: Path | None = None,
) -> OpenedFile:
    """Open a Secure DICOM File with the recipient's `credential` (PS3.15 D.1); write the Part 10 file to `output` when given.

    With `policy`, one signer at least must be trusted as of `at` (now when None), or VerificationError. Raises NoMatchingRecipient,
    IntegrityFailure (changed, wrong private key, or no integrity layer unless `allow_no_integrity`), MalformedError. On any error
    nothing is written. NOT checked: the DICOM data set inside.
    """
    raw = _read(src)
    if looks_like_part10(raw):
        raise MalformedError("the file is not protected: it is a plain DICOM file", offset=0, standard="PS3.10 7.4")
    opened = _decrypt_and_verify(raw, credential)
    if opened.integrity == "none" and not allow_no_integrity:
        raise IntegrityFailure("the file is encrypted without integrity protection", standard=_STANDARD)
    read_part10(opened.content)
    if policy is not None:
        opened = _with_trust(opened, policy, at or datetime.now(UTC))
    if found := suspicion(opened.content):
        opened = replace(opened, warnings=(*opened.warnings, found))
    if output is not None:
        write_atomically(output, [opened.content])
    return opened


def _decrypt_and_verify(raw: bytes, credential: Credential) -> OpenedFile:
    try:
        _, plain = enveloped.decrypt(raw, credential.certificate, credential.private_key)
    except IntegrityFailure:
        raise IntegrityFailure(_NOT_OPENED, standard=_STANDARD) from None
    try:
        return _verify(plain)
    except (MalformedError, UsageError, IntegrityFailure):  # the same words as above, whatever was found inside
        raise IntegrityFailure(_NOT_OPENED, standard=_STANDARD) from None


def _verify(plain: bytes) -> OpenedFile:
    """Check the integrity layer, in any of the nestings that writers make: bare structure, ContentInfo, or none at all."""
    if looks_like_part10(plain):
        return OpenedFile(plain, "none", warnings=("no-integrity",))
    kind = layer_of(plain)
    if kind == "signed":
        result = signed.verify(plain)
        signers = tuple(MediaSigner(signer.certificate, signer.signing_time) for signer in result.signers)
        return OpenedFile(result.content, "signed", signers, certificates=result.certificates)
    if kind == "digested":
        return OpenedFile(digested.check(plain)[1], "digested")
    raise MalformedError("there is no integrity layer", standard=_STANDARD)


def _with_trust(opened: OpenedFile, policy: TrustPolicy, moment: datetime) -> OpenedFile:
    judged = tuple(
        MediaSigner(
            signer.certificate,
            signer.signing_time,
            validate(signer.certificate, policy=policy, at=moment, purpose=Purpose.SIGNER, extra=opened.certificates),
        )
        for signer in opened.signers
    )
    trusted = [signer for signer in judged if signer.path is not None and signer.path.passed]
    if not trusted:
        paths = [signer.path for signer in judged if signer.path is not None]
        reason = "; ".join(f"{path.sub_indication}: {path.detail}" for path in paths) or "nobody signed it"
        raise VerificationError(f"no signer of the file is trusted: {reason}", report=paths, standard=_STANDARD)
    warnings = opened.warnings if len(trusted) == len(judged) else (*opened.warnings, "untrusted-signer")
    return replace(opened, signers=judged, warnings=warnings)


def looks_like_part10(data: bytes) -> bool:
    """Tell whether `data` has "DICM" after the preamble (PS3.10 7.1)."""
    return data[PREAMBLE_SIZE : PREAMBLE_SIZE + 4] == b"DICM"


def _read(src: bytes | Path) -> bytes:
    if isinstance(src, bytes):
        data = src
    else:
        try:
            with src.open("rb") as file:
                data = file.read(MAX_SIZE + 1)
        except OSError as error:
            raise UsageError(f"cannot read {src}: {error.strerror}") from None
    if len(data) > MAX_SIZE:
        raise UsageError(f"the file is larger than {MAX_SIZE} bytes")
    return data


@dataclass(frozen=True, slots=True)
class MediaDescription:
    """What a file says of itself without any key. `kind` is secure or plain; the other fields are empty for plain files."""

    kind: Literal["secure", "plain"]
    size: int
    cipher: str = ""
    content_type: str = ""
    recipients: tuple[enveloped.Recipient, ...] = ()


def inspect(src: bytes | Path) -> MediaDescription:
    """Describe a Secure DICOM File, or tell that a DICOM file is plain; MalformedError for anything else."""
    raw = _read(src)
    if looks_like_part10(raw):
        return MediaDescription("plain", len(raw))
    if raw[:1] != bytes((_SEQUENCE,)):
        raise MalformedError("this is neither a DICOM file nor a protected one", offset=0, standard="PS3.10 7.4")
    envelope = enveloped.inspect(raw)
    return MediaDescription("secure", len(raw), envelope.cipher, envelope.content_type, envelope.recipients)

"""The Secure DICOM File of the Basic DICOM Media Security Profile: one Part 10 file in CMS (PS3.15 D.1, PS3.10 7.4).

Written: SignedData (RSA) or, without a signer, DigestedData, bare inside EnvelopedData. Read: also the nestings that other writers
make. Files pass through in constant memory. Nothing appears under an output's name before its integrity is verified; what fails
after decryption is always one error, so that nobody learns where (RFC 3218).

Elliptic curve recipients, RSA-OAEP and GCM ciphers are extensions: `inspect` names them, and such a file is not one of the profile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, overload

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from securepacs.cms import digested, enveloped, signed
from securepacs.cms.ciphers import CIPHERS
from securepacs.cms.encapsulated import joined
from securepacs.cms.passwords import Password, password_octets
from securepacs.cms.recipients import Keys, KeyTransport, require_fit
from securepacs.cms.stream import Buffer, Stream
from securepacs.codes import ID_DATA, ID_DIGESTED_DATA, ID_SIGNED_DATA
from securepacs.dicom.files import write_atomically
from securepacs.dicom.part10 import read_part10
from securepacs.dicom.preamble import require_harmless, suspicion
from securepacs.errors import IntegrityFailure, MalformedError, UsageError, VerificationError
from securepacs.media.ahead import ahead
from securepacs.media.passphrase import require_strong
from securepacs.media.source import HEAD_SIZE, Source
from securepacs.media.unsealing import STANDARD, Integrity, Unsealing, looks_like_part10
from securepacs.tokens.credential import Credential
from securepacs.trust import PathResult, Purpose, TrustPolicy, validate

DEFAULT_CIPHER = "aes256-cbc"

_SEQUENCE = 0x30


@dataclass(frozen=True, slots=True)
class MediaSigner:
    """One who signed. `signing_time` is the signer's claim; `path` is None when nobody asked for trust."""

    certificate: x509.Certificate
    signing_time: datetime | None
    path: PathResult | None = None


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """The Part 10 file that was inside; `content` is empty when it was written to a file.

    `integrity` is signed, digested, encrypted (AuthEnvelopedData alone) or none. `warnings`: executable-preamble, unknown-preamble,
    no-integrity, untrusted-signer.
    """

    content: bytes = field(repr=False)
    integrity: Integrity
    signers: tuple[MediaSigner, ...] = ()
    warnings: tuple[str, ...] = ()
    certificates: tuple[x509.Certificate, ...] = ()  # all that came along, untrusted

    @property
    def origin(self) -> Literal["proven", "not proven"]:
        """Whether a trusted signer made the file: only ever proven when a trust policy was given."""
        return "proven" if any(signer.path is not None and signer.path.passed for signer in self.signers) else "not proven"


@overload
def protect(
    src: bytes | Path,
    *,
    recipients: Sequence[x509.Certificate] = (),
    password: str | Password | None = None,
    signer: Credential | None = None,
    cipher: str = DEFAULT_CIPHER,
    key_transport: KeyTransport = "pkcs1v15",
    at: datetime | None = None,
    output: None = None,
    unsafe_weak_password: bool = False,
) -> bytes: ...
@overload
def protect(
    src: bytes | Path,
    *,
    recipients: Sequence[x509.Certificate] = (),
    password: str | Password | None = None,
    signer: Credential | None = None,
    cipher: str = DEFAULT_CIPHER,
    key_transport: KeyTransport = "pkcs1v15",
    at: datetime | None = None,
    output: Path,
    unsafe_weak_password: bool = False,
) -> None: ...
def protect(
    src: bytes | Path,
    *,
    recipients: Sequence[x509.Certificate] = (),
    password: str | Password | None = None,
    signer: Credential | None = None,
    cipher: str = DEFAULT_CIPHER,
    key_transport: KeyTransport = "pkcs1v15",
    at: datetime | None = None,
    output: Path | None = None,
    unsafe_weak_password: bool = False,
) -> bytes | None:
    """Make a Secure DICOM File of the Part 10 file `src` (PS3.15 D.1); return it, or write it to `output` in constant memory.

    `at` (now when None) becomes the signing time and is when the recipients' certificates must be valid. `password` adds a
    recipient who knows it; for many files of one medium make it with `passphrase.shared`. Raises MalformedError when `src` is not a
    DICOM file or has a suspicious preamble, UsageError for a weak password and for a recipient or signer that cannot be. NOT
    checked: trust in the recipients' certificates.
    """
    moment = at or datetime.now(UTC)
    passwords = () if password is None else (_octets(password, unsafe_weak=unsafe_weak_password),)
    require_fit(recipients, moment)
    with Source(src) as source:
        head = source.head()
        read_part10(head)
        require_harmless(head)
        bare = cipher in CIPHERS and not CIPHERS[cipher].authenticated
        inner, inner_type = _seal(Stream(source.size, source.chunks()), signer, moment, bare=bare)
        if source.large:  # hashing beside encrypting; opening is as fast as the files without a second thread
            inner = Stream(inner.size, ahead(inner.chunks))
        stream = enveloped.encrypt_stream(
            inner, recipients, passwords=passwords, cipher=cipher, content_type=inner_type, key_transport=key_transport
        )
        if output is None:
            return joined(stream.chunks)
        write_atomically(output, stream.chunks)
        return None


def _octets(password: str | Password, *, unsafe_weak: bool) -> bytes | Password:
    return password if isinstance(password, Password) else require_strong(password, unsafe_weak=unsafe_weak)


def _seal(content: Stream, signer: Credential | None, moment: datetime, *, bare: bool) -> tuple[Stream, str]:
    if signer is None:
        return digested.seal_stream(content, bare=bare), ID_DIGESTED_DATA
    if not isinstance(signer.private_key, RSAPrivateKey):
        raise UsageError("the profile has RSA signers only", hint="sign with an RSA key, or without a signer", standard=STANDARD)
    signer = signer.for_documents()
    who = signed.Signer(signer.certificate, signer.private_key, signer.chain)
    return signed.sign_stream(content, [who], content_type=ID_DATA, signing_time=moment, bare=bare), ID_SIGNED_DATA


def open(
    src: bytes | Path,
    credential: Credential | None = None,
    *,
    password: str | Password | None = None,
    policy: TrustPolicy | None = None,
    at: datetime | None = None,
    allow_no_integrity: bool = False,
    output: Path | None = None,
) -> OpenedFile:
    """Open a Secure DICOM File with the recipient's `credential` or `password` (PS3.15 D.1).

    The Part 10 file is returned, or written to `output` in constant memory. With `policy`, one signer at least must be trusted as
    of `at` (now when None), or VerificationError. Raises NoMatchingRecipient, PasswordIncorrect, IntegrityFailure (changed, wrong
    private key, or no integrity layer unless `allow_no_integrity`), MalformedError. On any error nothing is written under the name
    of `output`. NOT checked: the DICOM data set inside.
    """
    if credential is None and password is None:
        raise UsageError("opening needs a credential or a password", standard=STANDARD)
    mine = () if credential is None else ((credential.certificate, credential.private_key),)
    secret = password_octets(password) if isinstance(password, str) else password
    keys = Keys(mine, () if secret is None else (secret,))
    judge = _Judge(policy, at or datetime.now(UTC), allow_no_integrity)
    with Source(src) as source:
        if looks_like_part10(source.head()):
            raise MalformedError("the file is not protected: it is a plain DICOM file", offset=0, standard="PS3.10 7.4")
        try:
            return _open_once(source, keys, judge, None, output)
        except enveloped.AuthenticatedAttributes as found:  # they come after the content: now that they are known, once more
            try:
                return _open_once(source, keys, judge, found.encoded, output)
            except enveloped.AuthenticatedAttributes:
                raise IntegrityFailure("the file changed while it was read", standard="RFC 5083") from None


def _open_once(source: Source, keys: Keys, judge: _Judge, additional: bytes | None, output: Path | None) -> OpenedFile:
    unsealing = Unsealing(enveloped.Decryption(source.chunks(), keys, additional=additional))
    if output is None:
        content = joined(judge.passing(unsealing))
        return replace(judge.result, content=content)
    write_atomically(output, judge.passing(unsealing))
    return judge.result


class _Judge:
    """Decides after the last piece, and before anything gets its name, whether the content may be handed out."""

    def __init__(self, policy: TrustPolicy | None, moment: datetime, allow_no_integrity: bool) -> None:
        self._policy = policy
        self._moment = moment
        self._allow_no_integrity = allow_no_integrity
        self.result = OpenedFile(b"", "none")

    def passing(self, unsealing: Unsealing) -> Iterator[Buffer]:
        head = bytearray()
        for chunk in unsealing.chunks():
            if len(head) < HEAD_SIZE:
                head += chunk[: HEAD_SIZE - len(head)]
            yield chunk
        self.result = self._judged(unsealing, bytes(head))

    def _judged(self, unsealing: Unsealing, head: bytes) -> OpenedFile:
        if unsealing.integrity == "none" and not self._allow_no_integrity:
            raise IntegrityFailure("the file is encrypted without integrity protection", standard=STANDARD)
        read_part10(head)
        opened = OpenedFile(b"", unsealing.integrity, warnings=("no-integrity",) if unsealing.integrity == "none" else ())
        if isinstance(unsealing.inside, signed.SignedReader):
            signers = tuple(MediaSigner(signer.certificate, signer.signing_time) for signer in unsealing.inside.signers)
            opened = replace(opened, signers=signers, certificates=unsealing.inside.certificates)
        if self._policy is not None:
            opened = _with_trust(opened, self._policy, self._moment)
        if found := suspicion(head):
            opened = replace(opened, warnings=(*opened.warnings, found))
        return opened


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
        raise VerificationError(f"no signer of the file is trusted: {reason}", report=paths, standard=STANDARD)
    warnings = opened.warnings if len(trusted) == len(judged) else (*opened.warnings, "untrusted-signer")
    return replace(opened, signers=judged, warnings=warnings)


@dataclass(frozen=True, slots=True)
class MediaDescription:
    """What a file says of itself without any key. `kind` is secure or plain; the other fields are empty for plain files.

    `extensions` names what PS3.15 D.1 does not have; `profile` is empty then.
    """

    kind: Literal["secure", "plain"]
    size: int
    cipher: str = ""
    content_type: str = ""
    recipients: tuple[enveloped.Recipient, ...] = ()
    extensions: tuple[str, ...] = ()

    @property
    def profile(self) -> str:
        """The profile whose means alone are used, as far as can be seen from outside."""
        return STANDARD if self.kind == "secure" and not self.extensions else ""


def inspect(src: bytes | Path) -> MediaDescription:
    """Describe a Secure DICOM File, or tell that a DICOM file is plain; MalformedError for anything else."""
    with Source(src) as source:
        head = source.head()
        if looks_like_part10(head):
            return MediaDescription("plain", source.total())
        if head[:1] != bytes((_SEQUENCE,)):
            raise MalformedError("this is neither a DICOM file nor a protected one", offset=0, standard="PS3.10 7.4")
        envelope = enveloped.inspect(source.chunks())
        return MediaDescription(
            "secure", source.total(), envelope.cipher, envelope.content_type, envelope.recipients, _extensions(envelope)
        )


def _extensions(envelope: enveloped.Envelope) -> tuple[str, ...]:
    found = []
    if envelope.cipher not in CIPHERS or not CIPHERS[envelope.cipher].within_profile:
        found.append(f"cipher {envelope.cipher}")
    if any(recipient.algorithm == "rsaes_oaep" for recipient in envelope.recipients):
        found.append("RSA-OAEP recipient")
    if any(recipient.kind not in ("ktri", "pwri") for recipient in envelope.recipients):
        found.append("recipient by key agreement or other means")
    return tuple(found)

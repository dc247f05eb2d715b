"""Re-identification: the original values come back out of the Encrypted Attributes Sequence (PS3.15 E.1.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from securepacs.cms import enveloped
from securepacs.cms.passwords import password_octets
from securepacs.cms.recipients import Keys
from securepacs.confidentiality import instance
from securepacs.confidentiality.deidentify import STANDARD
from securepacs.confidentiality.instance import Instance
from securepacs.confidentiality.tree import Attribute, standing
from securepacs.dicom import EncodedDataSet
from securepacs.dicom.elements import EXPLICIT_LITTLE
from securepacs.dicom.part10 import encoding_of, inflate, is_deflated
from securepacs.errors import IntegrityFailure, MalformedError, NoMatchingRecipient, PasswordIncorrect, SecurePacsError, UsageError
from securepacs.tokens.credential import Credential

MAX_ATTRIBUTES = 1 << 28  # octets of originals after inflating


@dataclass(frozen=True, slots=True)
class Reidentified:
    """The instance with its original values; `content` is empty when it was written to a file. `restored`: tags that came back."""

    content: bytes = field(repr=False)
    sop_instance_uid: str
    restored: tuple[int, ...]


def reidentify(
    src: bytes | Path, credential: Credential | None = None, *, password: str | None = None, output: Path | None = None
) -> Reidentified:
    """Restore the identity in the Part 10 file `src` for the recipient's `credential` (PS3.15 E.1.2), or for a `password`.

    Password recipients are not of the profile, but some writers make them. The first encrypted item that opens is used.
    Raises UsageError when there are no encrypted attributes, NoMatchingRecipient, PasswordIncorrect, IntegrityFailure (changed or
    wrong private key), MalformedError. NOT checked: that the encrypted values belong to this instance; the profile protects them
    against reading, not against exchange, and only a signature over the instance would tell.
    """
    if credential is None and password is None:
        raise UsageError("re-identifying needs a credential or a password", standard=STANDARD)
    mine = () if credential is None else ((credential.certificate, credential.private_key),)
    keys = Keys(mine, () if password is None else (password_octets(password),))
    source = Instance(src)
    standing_sequence = source.attributes.get(instance.ENCRYPTED_ATTRIBUTES)
    if standing_sequence is None:
        raise UsageError("the instance has no encrypted attributes", standard="PS3.3 C.12.1.1.4.1")
    originals = _originals(standing_sequence.read(), keys)
    changed: dict[int, Attribute | None] = dict.fromkeys(
        (instance.ENCRYPTED_ATTRIBUTES, instance.METHOD, instance.METHOD_CODES, instance.LONGITUDINAL_MODIFIED)
    )
    changed[instance.PATIENT_IDENTITY_REMOVED] = Attribute(instance.PATIENT_IDENTITY_REMOVED, b"CS", value=b"NO")
    changed |= originals
    uid = originals.get(instance.SOP_INSTANCE_UID)
    content = instance.delivered(source.pieces(changed), output)
    return Reidentified(content, uid.text if uid else source.text(instance.SOP_INSTANCE_UID), tuple(sorted(originals)))


def _originals(sequence: Attribute, keys: Keys) -> dict[int, Attribute]:
    """Return the attributes of the first item that one of `keys` opens."""
    refusal: SecurePacsError = MalformedError("the Encrypted Attributes Sequence has no item", standard="PS3.3 C.12.1.1.4.1")
    for item in sequence.items or ():
        values = {each.tag: each for each in item}
        envelope, syntax = values.get(instance.ENCRYPTED_CONTENT), values.get(instance.ENCRYPTED_CONTENT_SYNTAX)
        if envelope is None or syntax is None or not envelope.value:
            raise MalformedError("an item of the Encrypted Attributes Sequence is incomplete", standard="PS3.3 C.12.1.1.4.1")
        if encoding_of(syntax.text) != EXPLICIT_LITTLE:
            raise MalformedError(
                f"the encrypted attributes are in transfer syntax {syntax.text}, not explicit VR little endian",
                standard="PS3.3 C.12.1.1.4.2",
            )
        try:
            _, plain = enveloped.decrypt_with(_der(envelope.value), keys)
        except (NoMatchingRecipient, PasswordIncorrect) as error:
            refusal = error
            continue
        return _decoded(plain, syntax.text)
    raise refusal


def _der(value: bytes) -> bytes:
    """Return the envelope without the octet that makes an OB value even; a writer may also have used indefinite lengths."""
    return value[:-1] if value[:1] == b"\x30" and _is_padded(value) else value


def _is_padded(value: bytes) -> bool:
    if value[-1] or len(value) < 6 or value[1] < 0x81 or value[1] > 0x84:
        return False
    count = value[1] & 0x7F
    return 2 + count + int.from_bytes(value[2 : 2 + count], "big") == len(value) - 1


def _decoded(plain: bytes, transfer_syntax: str) -> dict[int, Attribute]:
    """Return the attributes of the only item of the Modified Attributes Sequence.

    Whatever is wrong after decryption is one error, so that nobody learns where a changed envelope failed (RFC 3218).
    """
    try:
        view = memoryview(inflate(plain, limit=MAX_ATTRIBUTES) if is_deflated(transfer_syntax) else plain)
        found = [each.read() for each in standing(EncodedDataSet(view, 0, len(view), transfer_syntax))]
    except MalformedError:
        found = []
    sequences = [each.items for each in found if each.tag == instance.MODIFIED_ATTRIBUTES]
    if len(sequences) != 1 or not sequences[0] or len(sequences[0]) != 1:
        raise IntegrityFailure(
            "the encrypted attributes cannot be opened: they were changed, or the key is wrong", standard=STANDARD
        )
    return {each.tag: each for each in sequences[0][0] if each.tag & 0xFFFF}

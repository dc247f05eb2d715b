"""SignedData: round trips, tampering, tolerance, and openssl cms in both directions."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import cms, core
from hypothesis import given, settings
from hypothesis import strategies as st

from securepacs.cms.signed import Signer, sign, verify
from securepacs.codes import ID_CONTENT_TYPE, ID_DATA, ID_MESSAGE_DIGEST, ID_SIGNING_CERTIFICATE_V2, ID_SIGNING_TIME
from securepacs.errors import IntegrityFailure, MalformedError, SecurePacsError, UsageError, VerificationError
from tests.support.cms_samples import NOW, holder, openssl_cms

CONTENT = b"what was signed, " * 40
TST_INFO = "1.2.840.113549.1.9.16.1.4"


def signer(kind: str = "rsa-2048", name: str = "signer") -> Signer:
    found = holder(name, kind)
    return Signer(found.certificate, found.private_key)


def changed(der: bytes, change: Any, *, bare: bool = False) -> bytes:
    """Return the message with its SignedData changed by `change`."""
    info = cms.ContentInfo.load(der)
    change(info["content"])
    return bytes(info.dump(force=True))


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("kind", ["rsa-2048", "p256", "p384"])
def test_round_trip(kind: str, digest: str) -> None:
    result = verify(sign(CONTENT, [signer(kind)], digest=digest, signing_time=NOW))
    assert (result.content, result.content_type) == (CONTENT, ID_DATA)
    (only,) = result.signers
    assert only.certificate == holder("signer", kind).certificate
    assert only.digest_algorithm == digest
    assert only.signing_time == NOW
    assert set(only.signed_attributes) == {ID_CONTENT_TYPE, ID_MESSAGE_DIGEST, ID_SIGNING_TIME, ID_SIGNING_CERTIFICATE_V2}
    assert result.certificates == (only.certificate,)


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("bare", [False, True])
def test_detached_and_bare(detached: bool, bare: bool) -> None:
    message = sign(CONTENT, [signer()], signing_time=None, detached=detached, bare=bare)
    result = verify(message, detached_content=CONTENT if detached else None)
    assert result.content == CONTENT
    assert result.signers[0].signing_time is None
    assert (CONTENT in message) is not detached


def test_other_content_types_and_several_signers_and_chains() -> None:
    extra = holder("an issuer", "p256").certificate
    first = Signer(holder("signer").certificate, holder("signer").private_key, (extra,))
    result = verify(sign(CONTENT, [first, signer("p256")], content_type=TST_INFO, signing_time=NOW))
    assert result.content_type == TST_INFO
    assert len(result.signers) == 2
    assert extra in result.certificates


def test_versions_follow_the_content_type() -> None:
    plain = cms.ContentInfo.load(sign(CONTENT, [signer()], signing_time=NOW))["content"]
    other = cms.ContentInfo.load(sign(CONTENT, [signer()], content_type=TST_INFO, signing_time=NOW))["content"]
    assert (plain["version"].native, other["version"].native) == ("v1", "v3")


@pytest.mark.parametrize(("year", "form"), [(2049, "utc_time"), (2050, "generalized_time")])
def test_signing_time_changes_its_form_in_2050(year: int, form: str) -> None:
    moment = datetime(year, 1, 2, 3, 4, 5, 999, tzinfo=UTC)
    result = verify(sign(CONTENT, [signer()], signing_time=moment))
    assert result.signers[0].signing_time == moment.replace(microsecond=0)
    (value,) = result.signers[0].signed_attributes[ID_SIGNING_TIME]
    assert cms.Time.load(value).name == form


@pytest.mark.parametrize(
    "arguments",
    [
        {"signers": []},
        {"digest": "sha1"},
        {"digest": "md5"},
        {"signing_time": datetime(2026, 1, 1)},
    ],
)
def test_misuse_is_refused(arguments: dict[str, Any]) -> None:
    wanted = {"signers": [signer()], "signing_time": NOW, **arguments}
    with pytest.raises(UsageError):
        sign(CONTENT, wanted.pop("signers"), **wanted)


def test_detached_content_is_needed_exactly_when_there_is_none_inside() -> None:
    with pytest.raises(UsageError):
        verify(sign(CONTENT, [signer()], signing_time=NOW, detached=True))
    with pytest.raises(UsageError):
        verify(sign(CONTENT, [signer()], signing_time=NOW), detached_content=CONTENT)


def test_wrong_detached_content() -> None:
    with pytest.raises(IntegrityFailure):
        verify(sign(CONTENT, [signer()], signing_time=NOW, detached=True), detached_content=CONTENT + b"!")


def test_changed_content() -> None:
    message = sign(CONTENT, [signer()], signing_time=NOW).replace(CONTENT, CONTENT[:-1] + b"!")
    with pytest.raises(IntegrityFailure, match="not what was signed"):
        verify(message)


def test_changed_signed_attribute() -> None:
    def later(structure: Any) -> None:
        attributes = structure["signer_infos"][0]["signed_attrs"]
        time = next(one for one in attributes if one["type"].native == "signing_time")
        time["values"] = [cms.Time("utc_time", datetime(2031, 1, 1, tzinfo=UTC))]

    with pytest.raises(IntegrityFailure, match="signature does not fit"):
        verify(changed(sign(CONTENT, [signer()], signing_time=NOW), later))


def test_one_wrong_signature_of_two_is_enough() -> None:
    def damage(structure: Any) -> None:
        value = structure["signer_infos"][1]["signature"].native
        structure["signer_infos"][1]["signature"] = value[:-1] + bytes((value[-1] ^ 1,))

    with pytest.raises(IntegrityFailure):
        verify(changed(sign(CONTENT, [signer(), signer(name="second")], signing_time=NOW), damage))


def test_nobody_signed() -> None:
    def remove(structure: Any) -> None:
        structure["signer_infos"] = []

    with pytest.raises(IntegrityFailure, match="nobody"):
        verify(changed(sign(CONTENT, [signer()], signing_time=NOW), remove))


def test_certificate_with_the_same_key_in_the_signers_place() -> None:
    """The signature still fits the key: only the ESS attribute tells."""
    from datetime import timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    mine = holder("signer")
    double = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody else")]))
        .issuer_name(mine.certificate.issuer)
        .public_key(mine.certificate.public_key())
        .serial_number(mine.certificate.serial_number)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .sign(mine.private_key, hashes.SHA256())
    )
    from asn1crypto import x509 as asn1_x509
    from cryptography.hazmat.primitives.serialization import Encoding

    def swap(structure: Any) -> None:
        replacement = asn1_x509.Certificate.load(double.public_bytes(Encoding.DER))
        structure["certificates"] = [cms.CertificateChoices("certificate", replacement)]

    with pytest.raises(IntegrityFailure, match="another than the signed one"):
        verify(changed(sign(CONTENT, [signer()], signing_time=NOW), swap))


def test_missing_certificate_and_how_to_help() -> None:
    def remove(structure: Any) -> None:
        structure["certificates"] = []

    message = changed(sign(CONTENT, [signer()], signing_time=NOW), remove)
    with pytest.raises(VerificationError, match="not at hand") as caught:
        verify(message)
    assert not isinstance(caught.value, IntegrityFailure)
    assert verify(message, certificates=[holder("signer").certificate]).content == CONTENT


def test_required_attribute_missing_or_content_type_wrong() -> None:
    def without(name: str) -> Any:
        def change(structure: Any) -> None:
            info = structure["signer_infos"][0]
            info["signed_attrs"] = [one for one in info["signed_attrs"] if one["type"].native != name]

        return change

    message = sign(CONTENT, [signer()], signing_time=NOW)
    for name in ("message_digest", "content_type"):
        with pytest.raises(IntegrityFailure, match="missing or repeated"):
            verify(changed(message, without(name)))

    def retype(structure: Any) -> None:
        structure["encap_content_info"]["content_type"] = "1.2.3.4"

    with pytest.raises(IntegrityFailure, match="content type"):
        verify(changed(sign(CONTENT, [signer()], content_type="1.2.3.5", signing_time=NOW), retype))


def test_another_kind_of_message_is_malformed() -> None:
    with pytest.raises(MalformedError, match="not SignedData"):
        verify(cms.ContentInfo({"content_type": "data", "content": core.OctetString(b"x")}).dump())


def test_md5_is_not_supported() -> None:
    def weaken(structure: Any) -> None:
        structure["signer_infos"][0]["digest_algorithm"]["algorithm"] = "md5"

    with pytest.raises(VerificationError, match="md5"):
        verify(changed(sign(CONTENT, [signer()], signing_time=NOW), weaken))


def test_every_truncation_gives_a_typed_error() -> None:
    message = sign(b"small", [signer("p256")], signing_time=NOW)
    for size in range(len(message)):
        with pytest.raises(MalformedError):
            verify(message[:size])


_FLIPPED = sign(CONTENT, [signer("p256")], signing_time=NOW)


@settings(max_examples=300)
@given(st.data())
def test_a_flipped_bit_never_changes_content_or_signer(data: st.DataObject) -> None:
    """Bits that carry no meaning may flip unnoticed (versions, algorithm lists); what the caller gets must stay the same."""
    message = bytearray(_FLIPPED)
    position = data.draw(st.integers(0, 8 * len(message) - 1))
    message[position // 8] ^= 1 << position % 8
    try:
        result = verify(bytes(message))
    except SecurePacsError:
        return
    assert result.content == CONTENT
    assert [one.certificate for one in result.signers] == [holder("signer", "p256").certificate]
    assert result.signers[0].signing_time == NOW


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_garbage_gives_a_typed_error(garbage: bytes) -> None:
    with pytest.raises(SecurePacsError):
        verify(garbage)


@pytest.mark.interop
@pytest.mark.parametrize("kind", ["rsa-2048", "p256"])
@pytest.mark.parametrize("detached", [False, True])
def test_openssl_verifies_ours(tmp_path: Path, kind: str, detached: bool) -> None:
    _, certificate = holder("signer", kind).write(tmp_path)
    message, content = tmp_path / "message", tmp_path / "content"
    message.write_bytes(sign(CONTENT, [signer(kind)], signing_time=NOW, detached=detached))
    content.write_bytes(CONTENT)
    more = ["-content", content] if detached else []
    out = openssl_cms("-verify", "-binary", "-inform", "DER", "-in", message, "-CAfile", certificate, "-purpose", "any", *more)
    assert out == CONTENT


@pytest.mark.interop
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-stream", "-indef"],
        ["-keyid"],
        ["-noattr"],
        ["-md", "sha512"],
        ["-md", "sha1"],
        ["-keyopt", "rsa_padding_mode:pss"],
        ["-cades"],
    ],
    ids=" ".join,
)
def test_we_verify_openssls(tmp_path: Path, options: list[str]) -> None:
    key, certificate = holder("signer").write(tmp_path)
    message = openssl_cms(
        "-sign", "-binary", "-nodetach", "-outform", "DER", "-signer", certificate, "-inkey", key, *options, stdin=CONTENT
    )
    result = verify(message)
    assert result.content == CONTENT
    assert result.signers[0].certificate == holder("signer").certificate
    assert (result.signers[0].signing_time is None) == (options == ["-noattr"])


def test_an_enclosed_certificate_of_unknown_version_is_malformed() -> None:
    der = sign(b"content", [signer()], signing_time=NOW)
    version = bytes.fromhex("a003020102")  # [0] INTEGER 2: the third version
    assert der.count(version) >= 1
    with pytest.raises(MalformedError):
        verify(der.replace(version, bytes.fromhex("a003020103")))

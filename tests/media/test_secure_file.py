"""Secure DICOM Files: for people and cards, signed or digested, in every nesting, and never opened wrongly."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given, settings
from hypothesis import strategies as st

from securepacs import media
from securepacs.cms import digested, enveloped, signed
from securepacs.codes import ID_DATA, ID_DIGESTED_DATA, ID_SIGNED_DATA
from securepacs.errors import IntegrityFailure, MalformedError, NoMatchingRecipient, SecurePacsError, UsageError, VerificationError
from securepacs.pki import CertificateProfile
from securepacs.tokens.credential import Credential
from tests.support.cms_samples import Holder, holder, openssl_cms
from tests.support.pki import TestPki, make_pki
from tests.support.samples import sample
from tests.support.softhsm import enrolled_token, token_credential

FILES = ["CT_small.dcm", "MR_small_implicit.dcm", "rtplan.dcm", "reportsi.dcm", "image_dfl.dcm", "SC_rgb_jpeg_dcmtk.dcm"]


def small_file() -> bytes:
    """The smallest DICOM file there is: a preamble and one element of file meta information."""
    return bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\x12\x001.2.840.10008.1.2\x00"


@pytest.fixture
def pki(tmp_path: Path) -> TestPki:
    return make_pki(tmp_path)


@pytest.fixture
def signer(pki: TestPki) -> Credential:
    return pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Kim")


@pytest.fixture
def patient(pki: TestPki) -> Credential:
    return pki.credential(CertificateProfile.REFERRING_PHYSICIAN, "Dr. Lee")


@pytest.mark.parametrize("name", FILES)
def test_signed_round_trip_is_bit_exact(pki: TestPki, signer: Credential, patient: Credential, name: str) -> None:
    source = sample(name)
    protected = media.protect(source, recipients=[patient.certificate], signer=signer, at=pki.now)
    opened = media.open(protected, patient, policy=pki.policy(), at=pki.now)
    assert opened.content == source.read_bytes()
    assert opened.integrity == "signed"
    assert opened.warnings == ()
    (only,) = opened.signers
    assert (only.certificate, only.signing_time) == (signer.certificate, pki.now)
    assert only.path is not None
    assert only.path.passed


@pytest.mark.parametrize("cipher", ["aes128-cbc", "aes192-cbc", "aes256-cbc"])
def test_digested_round_trip_for_two(pki: TestPki, signer: Credential, patient: Credential, cipher: str) -> None:
    protected = media.protect(small_file(), recipients=[signer.certificate, patient.certificate], cipher=cipher)
    for who in (signer, patient):
        opened = media.open(protected, who)
        assert (opened.content, opened.integrity, opened.signers) == (small_file(), "digested", ())
    described = media.inspect(protected)
    assert (described.kind, described.cipher, described.content_type) == ("secure", cipher, ID_DIGESTED_DATA)
    assert {one.serial_number for one in described.recipients} == {who.certificate.serial_number for who in (signer, patient)}


def test_the_structures_are_those_of_the_profile(signer: Credential, patient: Credential) -> None:
    protected = media.protect(small_file(), recipients=[patient.certificate], signer=signer)
    declared, inner = enveloped.decrypt(protected, patient.certificate, patient.private_key)
    assert declared == ID_SIGNED_DATA
    assert inner[:1] == b"\x30"
    assert signed.verify(inner).content_type == ID_DATA
    assert inner[4:5] == b"\x02"  # bare: a version comes first, not a content type


@pytest.mark.interop
def test_cards_open_and_sign(pki: TestPki, patient: Credential) -> None:
    _, card_pki = enrolled_token()
    with token_credential("rsa-2048") as card:
        protected = media.protect(sample("CT_small.dcm"), recipients=[card.certificate], signer=card)
        opened = media.open(protected, card, policy=card_pki.policy())
        assert opened.content == sample("CT_small.dcm").read_bytes()
        with pytest.raises(NoMatchingRecipient):
            media.open(media.protect(small_file(), recipients=[patient.certificate]), card)


@pytest.mark.interop
def test_a_card_with_another_key_never_gives_content(patient: Credential) -> None:
    """A card reports bad padding as an error, a file key as random bytes: both must look the same."""
    protected = media.protect(small_file(), recipients=[patient.certificate])
    with token_credential("rsa-2048") as card:
        mixed = Credential(patient.certificate, card.private_key)
        with pytest.raises(IntegrityFailure):
            media.open(protected, mixed)


def test_the_wrong_private_key_is_an_integrity_failure(pki: TestPki, signer: Credential, patient: Credential) -> None:
    protected = media.protect(small_file(), recipients=[patient.certificate])
    for _ in range(10):
        with pytest.raises(IntegrityFailure):
            media.open(protected, Credential(patient.certificate, signer.private_key))
    with pytest.raises(NoMatchingRecipient):
        media.open(protected, signer)


def test_nothing_is_written_on_failure(tmp_path: Path, pki: TestPki, signer: Credential, patient: Credential) -> None:
    out = tmp_path / "out"
    out.mkdir()
    stranger = make_pki(tmp_path / "other")
    protected = media.protect(small_file(), recipients=[patient.certificate], signer=signer, at=pki.now)
    with pytest.raises(VerificationError, match="NO_CERTIFICATE_CHAIN_FOUND"):
        media.open(protected, patient, policy=stranger.policy(), at=pki.now, output=out / "a.dcm")
    with pytest.raises(IntegrityFailure):
        media.open(protected[:-1] + bytes((protected[-1] ^ 1,)), patient, output=out / "a.dcm")
    with pytest.raises(MalformedError):
        media.protect(b"not a DICOM file" * 20, recipients=[patient.certificate], output=out / "b.dcm")
    assert list(out.iterdir()) == []
    media.open(protected, patient, policy=pki.policy(), at=pki.now, output=out / "a.dcm")
    assert [path.name for path in out.iterdir()] == ["a.dcm"]
    assert (out / "a.dcm").read_bytes() == small_file()


def test_trust_needs_a_signer(pki: TestPki, patient: Credential) -> None:
    protected = media.protect(small_file(), recipients=[patient.certificate])
    with pytest.raises(VerificationError, match="nobody signed it"):
        media.open(protected, patient, policy=pki.policy(), at=pki.now)


def test_one_trusted_signer_is_enough_and_the_other_is_warned_of(pki: TestPki, signer: Credential, patient: Credential) -> None:
    stranger = holder("stranger")
    both = [
        signed.Signer(signer.certificate, signer.private_key, signer.chain),
        signed.Signer(stranger.certificate, stranger.private_key),
    ]
    inner = signed.sign(small_file(), both, signing_time=pki.now, bare=True)
    opened = media.open(enveloped.encrypt(inner, [patient.certificate]), patient, policy=pki.policy(), at=pki.now)
    assert opened.warnings == ("untrusted-signer",)
    assert [one.path.passed for one in opened.signers if one.path is not None].count(True) == 1


Nest = Callable[[bytes, Holder], tuple[bytes, str]]
NESTINGS: dict[str, Nest] = {
    "bare SignedData": lambda data, who: (_signed(data, who, bare=True), ID_SIGNED_DATA),
    "bare SignedData, declared as data": lambda data, who: (_signed(data, who, bare=True), ID_DATA),
    "ContentInfo of SignedData": lambda data, who: (_signed(data, who, bare=False), ID_SIGNED_DATA),
    "ContentInfo of SignedData, declared as data": lambda data, who: (_signed(data, who, bare=False), ID_DATA),
    "ContentInfo of DigestedData": lambda data, who: (digested.seal(data), ID_DATA),
    "bare DigestedData, declared as data": lambda data, who: (digested.seal(data, bare=True), ID_DATA),
}


def _signed(data: bytes, who: Holder, *, bare: bool) -> bytes:
    return signed.sign(data, [signed.Signer(who.certificate, who.private_key)], signing_time=None, bare=bare)


@pytest.mark.parametrize("nesting", NESTINGS)
def test_every_nesting_is_read(patient: Credential, nesting: str) -> None:
    inner, declared = NESTINGS[nesting](small_file(), holder("signer"))
    opened = media.open(enveloped.encrypt(inner, [patient.certificate], content_type=declared), patient)
    assert opened.content == small_file()
    assert opened.integrity == ("signed" if "Signed" in nesting else "digested")


def test_no_integrity_layer_is_refused_unless_allowed(patient: Credential) -> None:
    protected = enveloped.encrypt(small_file(), [patient.certificate], content_type=ID_DATA)
    with pytest.raises(IntegrityFailure, match="without integrity"):
        media.open(protected, patient)
    opened = media.open(protected, patient, allow_no_integrity=True)
    assert (opened.content, opened.integrity, opened.warnings) == (small_file(), "none", ("no-integrity",))


@pytest.mark.parametrize("inner", [b"", b"anything", b"\x30\x00", b"\x30\x80" * 100, bytes(400)])
def test_what_is_inside_but_no_layer_is_an_integrity_failure(patient: Credential, inner: bytes) -> None:
    with pytest.raises(IntegrityFailure):
        media.open(enveloped.encrypt(inner, [patient.certificate]), patient, allow_no_integrity=True)


def test_detached_and_other_contents(patient: Credential) -> None:
    who = signed.Signer(holder("signer").certificate, holder("signer").private_key)
    detached = signed.sign(small_file(), [who], signing_time=None, detached=True, bare=True)
    with pytest.raises(IntegrityFailure):
        media.open(enveloped.encrypt(detached, [patient.certificate]), patient)
    text = signed.sign(b"no DICOM file", [who], signing_time=None, bare=True)
    with pytest.raises(MalformedError, match="not a DICOM file"):
        media.open(enveloped.encrypt(text, [patient.certificate]), patient)


PREAMBLES = {
    b"II*\0": "",
    b"MM\0*": "",
    b"MZ\x90\0": "executable-preamble",
    b"\x7fELF": "executable-preamble",
    b"#!/bin/sh\n": "executable-preamble",
    b"hello": "unknown-preamble",
    b"\0" * 127 + b"x": "unknown-preamble",
}


@pytest.mark.parametrize("start", PREAMBLES)
def test_preambles(patient: Credential, start: bytes) -> None:
    part10 = start.ljust(128, b"\0") + small_file()[128:]
    protected = enveloped.encrypt(digested.seal(part10, bare=True), [patient.certificate], content_type=ID_DIGESTED_DATA)
    opened = media.open(protected, patient)
    assert opened.content == part10
    if PREAMBLES[start]:
        assert opened.warnings == (PREAMBLES[start],)
        with pytest.raises(MalformedError, match="preamble"):
            media.protect(part10, recipients=[patient.certificate])
    else:
        assert opened.warnings == ()
        media.protect(part10, recipients=[patient.certificate])


def test_recipients_and_signers_the_profile_does_not_allow(pki: TestPki, signer: Credential, patient: Credential) -> None:
    curve = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Curve", key_kind="p256")
    ec_signer_only = pki.credential(CertificateProfile.GATEWAY_PEER, "EC peer", key_kind="p256")
    short = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Short", lifetime=timedelta(hours=1))
    no_encryption = pki.credential(CertificateProfile.GATEWAY_PEER, "peer")
    with pytest.raises(UsageError, match="at least one"):
        media.protect(small_file(), recipients=[])
    with pytest.raises(UsageError, match="not made for encryption"):
        media.protect(small_file(), recipients=[ec_signer_only.certificate])
    with pytest.raises(UsageError, match="not valid now"):
        media.protect(small_file(), recipients=[short.certificate], at=pki.now + timedelta(hours=2))
    with pytest.raises(UsageError, match="not made for encryption"):
        media.protect(small_file(), recipients=[no_encryption.certificate])
    with pytest.raises(UsageError, match="RSA signers"):
        media.protect(small_file(), recipients=[patient.certificate], signer=curve)
    with pytest.raises(UsageError, match="cipher"):
        media.protect(small_file(), recipients=[patient.certificate], cipher="rot13")


def test_a_recipient_without_key_usage_is_taken(patient: Credential) -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "plain")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(patient.private_key.public_key())
        .serial_number(1)
        .not_valid_before(patient.certificate.not_valid_before_utc)
        .not_valid_after(patient.certificate.not_valid_after_utc)
        .sign(patient.private_key, hashes.SHA256())
    )
    protected = media.protect(small_file(), recipients=[certificate])
    assert media.open(protected, Credential(certificate, patient.private_key)).content == small_file()


def test_sources(tmp_path: Path, patient: Credential) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        media.inspect(tmp_path / "none")
    assert media.inspect(small_file()).kind == "plain"
    with pytest.raises(MalformedError, match="neither"):
        media.inspect(b"hello")
    with pytest.raises(MalformedError, match="plain DICOM file"):
        media.open(small_file(), patient)
    with pytest.raises(UsageError, match="directory"):
        media.inspect(tmp_path)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Credential, bytes]:
    pki = make_pki(tmp_path_factory.mktemp("pki"))
    who = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Kim")
    return who, media.protect(small_file(), recipients=[who.certificate], signer=who)


def test_every_truncation_gives_a_typed_error(one: tuple[Credential, bytes]) -> None:
    who, protected = one
    for size in range(0, len(protected), 3):
        with pytest.raises(MalformedError):
            media.open(protected[:size], who)


@settings(max_examples=150)
@given(position=st.integers(0, 1 << 20))
def test_a_flipped_bit_never_gives_other_content(one: tuple[Credential, bytes], position: int) -> None:
    who, protected = one
    position %= 8 * len(protected)
    changed = bytearray(protected)
    changed[position // 8] ^= 1 << position % 8
    try:
        assert media.open(bytes(changed), who).content == small_file()
    except SecurePacsError:
        return


@pytest.mark.interop
def test_openssl_opens_and_verifies_ours(tmp_path: Path, pki: TestPki, signer: Credential, patient: Credential) -> None:
    key, certificate = pki.write_pem(patient)
    content = sample("CT_small.dcm").read_bytes()
    protected = media.protect(content, recipients=[patient.certificate], signer=signer)
    inner = openssl_cms("-decrypt", "-binary", "-inform", "DER", "-inkey", key, "-recip", certificate, stdin=protected)
    assert signed.verify(inner).content == content
    sealed = media.protect(content, recipients=[patient.certificate])
    inner = openssl_cms("-decrypt", "-binary", "-inform", "DER", "-inkey", key, "-recip", certificate, stdin=sealed)
    assert digested.check(inner) == (ID_DATA, content)


@pytest.mark.interop
@pytest.mark.parametrize("cipher", ["aes128", "aes256", "des3"])
@pytest.mark.parametrize("streaming", [[], ["-stream", "-indef"]], ids=["definite", "indefinite"])
def test_we_open_what_openssls_recipe_makes(
    tmp_path: Path, pki: TestPki, signer: Credential, patient: Credential, cipher: str, streaming: list[str]
) -> None:
    """IHE DEN's recipe: a whole SignedData ContentInfo inside EnvelopedData that says id-data."""
    signer_key, signer_certificate = pki.write_pem(signer)
    _, certificate = pki.write_pem(patient)
    content = sample("MR_small.dcm").read_bytes()
    inner = openssl_cms(
        "-sign", "-binary", "-nodetach", "-outform", "DER", "-signer", signer_certificate, "-inkey", signer_key, *streaming,
        stdin=content,
    )  # fmt: skip
    protected = openssl_cms("-encrypt", "-binary", f"-{cipher}", "-outform", "DER", *streaming, certificate, stdin=inner)
    opened = media.open(protected, patient, policy=pki.policy())
    assert (opened.content, opened.integrity) == (content, "signed")

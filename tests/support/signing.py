"""A signer and a trust policy shared by the signature tests, and the samples they sign."""

from __future__ import annotations

import functools
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from securepacs.dicom.edit import encode_sequence, replace_elements
from securepacs.dicom.part10 import open_dataset
from securepacs.pki import CertificateProfile
from securepacs.signatures.check import digest
from securepacs.signatures.mac import BIT_EXACT, Reading
from securepacs.signatures.sequences import (
    DIGITAL_SIGNATURES_SEQUENCE,
    MAC_PARAMETERS_SEQUENCE,
    encode_mac_parameters,
    encode_signature_head,
    encode_signature_value,
    survey,
)
from securepacs.signatures.sign import make_options, sign_encoded
from securepacs.signatures.values import format_date_time
from securepacs.tokens.credential import Credential
from securepacs.trust import TrustPolicy
from tests.support.pki import TestPki, make_pki
from tests.support.samples import sample

# one of each kind: native, encapsulated, with sequences, private, deflated, big endian, implicit
NATIVE = (
    "CT_small.dcm",
    "MR_small.dcm",
    "rtplan.dcm",
    "reportsi.dcm",
    "image_dfl.dcm",
    "ExplVR_BigEnd.dcm",
    "MR_small_implicit.dcm",
)
ENCAPSULATED = ("MR_small_RLE.dcm", "SC_rgb_jpeg_dcmtk.dcm", "JPEG2000.dcm", "SC_rgb_rle_2frame.dcm")


@functools.cache
def pki() -> TestPki:
    """The CA of this process, an hour old so that nothing is too fresh."""
    now = datetime.now(UTC) - timedelta(hours=1)
    return make_pki(Path(tempfile.mkdtemp(prefix="securepacs-test-pki-")), now=now)


@functools.cache
def signer(name: str = "Dr. Signer", key_kind: str = "rsa-2048") -> Credential:
    return pki().credential(CertificateProfile.RADIOLOGIST, name, key_kind=key_kind)  # type: ignore[arg-type]


def policy(**changes: object) -> TrustPolicy:
    return pki().policy(**changes)


def signed_bytes(raw: bytes, credential: Credential | None = None, **options: object) -> bytes:
    """Sign a file in memory with the test signer."""
    signed = sign_encoded(raw, credential or signer(), make_options(**options))  # type: ignore[arg-type]
    return b"".join(bytes(piece) for piece in signed.pieces)


def signed_sample(name: str, **options: object) -> bytes:
    return signed_bytes(sample(name).read_bytes(), **options)


def self_signed(key: Any, *, common_name: str = "Own", hours: int = 2, **usage: bool) -> x509.Certificate:
    """A certificate outside any PKI, valid since an hour; `usage` are key usage bits, no extension when none is given."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    end = start + timedelta(hours=hours)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), start, end)
    if usage:
        bits = (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        )
        builder = builder.add_extension(x509.KeyUsage(**{bit: usage.get(bit, False) for bit in bits}), critical=True)
    return builder.sign(key, hashes.SHA256())


def forge(
    raw: bytes,
    *,
    credential: Credential | None = None,
    algorithm: str = "SHA256",
    tags: tuple[int, ...] = (0x00080018, 0x00100010),
    reading: Reading = BIT_EXACT,
    mac_ids: tuple[int, int] = (0, 0),
    certificate: bytes | None = None,
    timestamp: bytes = b"",
    date_time: str | None = None,
    parameters: bytes | None = None,
    signature_tail: bytes = b"",
) -> bytes:
    """Sign an explicit VR little endian file as our own signer never would; the RSA step is done by hand."""
    credential = credential or signer()
    dataset = open_dataset(raw)
    scope = survey(dataset, wanted=()).at(())
    assert scope is not None
    head = encode_signature_head(mac_ids[1], "1.2.3.4", date_time or format_date_time(datetime.now(UTC)), dataset.encoding)
    mac, _ = digest(dataset, scope, frozenset(tags), (memoryview(head), 0, len(head)), algorithm, reading)
    value = rsa_signature(credential.private_key, DIGEST_INFO[algorithm] + mac) + signature_tail
    der = credential.certificate.public_bytes(Encoding.DER) if certificate is None else certificate
    item = head + encode_signature_value(der, value, timestamp, dataset.encoding)
    described = parameters or encode_mac_parameters(mac_ids[0], dataset.transfer_syntax, algorithm, tags, dataset.encoding)
    changes = {
        MAC_PARAMETERS_SEQUENCE: encode_sequence(MAC_PARAMETERS_SEQUENCE, [described], dataset.encoding),
        DIGITAL_SIGNATURES_SEQUENCE: encode_sequence(DIGITAL_SIGNATURES_SEQUENCE, [item], dataset.encoding),
    }
    return replace_elements(raw, changes)


DIGEST_INFO = {
    "MD5": bytes.fromhex("3020300c06082a864886f70d020505000410"),
    "SHA1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "RIPEMD160": bytes.fromhex("3021300906052b2403020105000414"),
    "SHA256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "SHA3_256": bytes.fromhex("3031300d060960864801650304020805000420"),
}


def rsa_signature(key: Any, digest_info: bytes) -> bytes:
    """EMSA-PKCS1-v1_5 and RSASP1 (RFC 8017) by hand."""
    numbers = key.private_numbers()
    modulus = numbers.public_numbers.n
    size = (modulus.bit_length() + 7) // 8
    block = b"\0\1" + b"\xff" * (size - len(digest_info) - 3) + b"\0" + digest_info
    return pow(int.from_bytes(block, "big"), numbers.d, modulus).to_bytes(size, "big")

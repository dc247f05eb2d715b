"""The matrix with DCMTK: transfer syntaxes, profiles, time stamps of `openssl ts`, tampering, the worked vector; both ways."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding as CertificateEncoding
from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from securepacs.dicom.edit import encode_element, encode_sequence, replace_elements
from securepacs.dicom.part10 import open_dataset, read_part10
from securepacs.signatures import evaluate
from securepacs.signatures.check import digest
from securepacs.signatures.preparation import sign_digest
from securepacs.signatures.sequences import (
    DIGITAL_SIGNATURES_SEQUENCE,
    MAC_PARAMETERS_SEQUENCE,
    encode_mac_parameters,
    encode_signature_head,
    encode_signature_value,
    survey,
)
from securepacs.trust import TrustPolicy
from securepacs.trust.timestamp import build_request, read_response
from tests.signatures.test_dcmsign import material, run, sign_with_dcmsign, verify_with_dcmsign
from tests.signatures.test_mac import VECTOR_DATASET, VECTOR_SHA256, VECTOR_TAGS
from tests.support.encoded import RLE, element, encapsulated, part10
from tests.support.pki import make_party, pem_of, usage
from tests.support.programs import require
from tests.support.samples import sample
from tests.support.signing import pki, policy, signed_bytes, signer

pytestmark = pytest.mark.interop

# transfer syntax -> tool and options that make it of an explicit little endian file, and what the file must then say
SYNTAXES = {
    "implicit": (("dcmconv", "+ti"), "1.2.840.10008.1.2"),
    "explicit": (("dcmconv", "+te"), "1.2.840.10008.1.2.1"),
    "big": (("dcmconv", "+tb"), "1.2.840.10008.1.2.2"),
    "deflated": (("dcmconv", "+td"), "1.2.840.10008.1.2.1.99"),
    "rle": (("dcmcrle",), "1.2.840.10008.1.2.5"),
    "jpeg": (("dcmcjpeg", "+e1"), "1.2.840.10008.1.2.4.70"),
    "jpeg-fragments": (("dcmcjpeg", "+fs", "4"), "1.2.840.10008.1.2.4.70"),
}
KEPT = ("implicit", "explicit", "big", "deflated")  # a signature over native data holds in all of these


@cache
def in_syntax(name: str) -> bytes:
    (tool, *options), uid = SYNTAXES[name]
    folder = pki().folder / "syntaxes"
    folder.mkdir(exist_ok=True)
    run(tool, *options, sample("CT_small.dcm"), folder / name)
    raw = (folder / name).read_bytes()
    assert read_part10(raw).transfer_syntax == uid
    return raw


@pytest.mark.parametrize("name", SYNTAXES)
def test_every_syntax_signed_by_us(name: str, tmp_path: Path) -> None:
    signed = tmp_path / "signed.dcm"
    signed.write_bytes(signed_bytes(in_syntax(name), profile="base", coverage="all", identity=True))
    assert evaluate(signed, policy()).verdict == "TOTAL-PASSED"
    assert "2 signatures verified" in verify_with_dcmsign(signed)


@pytest.mark.parametrize("name", SYNTAXES)
def test_every_syntax_signed_by_dcmsign(name: str, tmp_path: Path) -> None:
    source = tmp_path / "source.dcm"
    source.write_bytes(in_syntax(name))
    signed = sign_with_dcmsign(source, tmp_path / "signed.dcm", "+m2")
    assert read_part10(signed.read_bytes()).transfer_syntax == SYNTAXES[name][1]
    (result,) = evaluate(signed, policy()).signatures
    assert (result.indication, result.detail) == ("TOTAL-PASSED", "")
    assert not {"trimmed-values", "mac-transfer-syntax-differs"}.intersection(result.warnings)


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("before", KEPT)
@pytest.mark.parametrize("after", KEPT)
def test_native_encodings_into_each_other(before: str, after: str, ours: bool, tmp_path: Path) -> None:
    source, signed, converted = (tmp_path / name for name in ("source.dcm", "signed.dcm", "converted.dcm"))
    source.write_bytes(in_syntax(before))
    if ours:
        signed.write_bytes(signed_bytes(source.read_bytes(), profile="base", tags=["SOPInstanceUID", "PatientName", "PixelData"]))
    else:
        sign_with_dcmsign(source, signed, "+m2", "-t", "0008,0018", "-t", "0010,0010", "-t", "7FE0,0010")
    run("dcmconv", *SYNTAXES[after][0][1:], "-e", signed, converted)
    (result,) = evaluate(converted, policy()).signatures
    assert (result.indication, result.detail) == ("TOTAL-PASSED", "")
    verify_with_dcmsign(converted)


@pytest.mark.parametrize(
    ("source", "options", "profile"),
    [
        ("CT_small.dcm", ["+pb"], "base"),
        ("CT_small.dcm", ["+pc"], "creator"),
        ("CT_small.dcm", ["+pa"], "authorization"),
        ("reportsi.dcm", ["+pr", "+sp", "1"], "sr"),
    ],
)
def test_profiles_of_dcmsign_are_met(source: str, options: list[str], profile: str, tmp_path: Path) -> None:
    signed = sign_with_dcmsign(sample(source), tmp_path / "signed.dcm", "+m2", *options)
    (result,) = evaluate(signed, policy()).signatures
    assert (result.indication, result.detail) == ("TOTAL-PASSED", "")
    assert profile in result.profiles


def test_dcmsign_signs_on_top_of_ours(tmp_path: Path) -> None:
    first = tmp_path / "first.dcm"
    first.write_bytes(signed_bytes(sample("reportsi.dcm").read_bytes(), item="0040A730[1]"))
    second = sign_with_dcmsign(first, tmp_path / "second.dcm", "+m3")
    report = evaluate(second, policy())
    assert report.verdict == "TOTAL-PASSED"
    assert [result.location for result in report.signatures] == ["", "0040A730[1]"]
    assert "2 signatures verified" in verify_with_dcmsign(second)


# --- time stamps made by openssl ----------------------------------------------------------------------------------------
@cache
def authority() -> tuple[Path, TrustPolicy, Path]:
    """A folder with an openssl time stamp authority, a policy that trusts it, and its root as PEM."""
    folder = pki().folder / "tsa"
    folder.mkdir()
    now = datetime.now(UTC)
    root = make_party("TSA Root", now=now, ca=True, key_usage=usage(key_cert_sign=True))
    tsa = make_party(
        "TSA",
        now=now,
        issuer=root,
        key_usage=usage(digital_signature=True),
        extended_key_usage=(ExtendedKeyUsageOID.TIME_STAMPING,),
        extended_critical=True,
    )
    (folder / "root.pem").write_bytes(pem_of(root.certificate))
    (folder / "tsa.pem").write_bytes(pem_of(tsa.certificate))
    (folder / "tsa.key").write_bytes(tsa.key.private_bytes(CertificateEncoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "tsa.cnf").write_text(
        "[tsa]\ndefault_tsa = t\n[t]\nserial = serial\nsigner_digest = sha256\ndefault_policy = 1.2.3.4\ndigests = sha256\n"
        "ess_cert_id_alg = sha256\n"
    )
    return folder, policy(timestamp_anchors=(root.certificate,)), folder / "root.pem"


def openssl_reply(request: Path, reply: Path) -> None:
    folder, _, _ = authority()
    command = [require("openssl"), "ts", "-reply", "-config", "tsa.cnf", "-queryfile", str(request), "-signer", "tsa.pem"]
    command += ["-inkey", "tsa.key", "-out", str(reply)]
    subprocess.run(command, check=True, cwd=folder, capture_output=True, timeout=30)


def test_a_time_stamp_that_dcmsign_inserted(tmp_path: Path) -> None:
    signed, stamped = tmp_path / "signed.dcm", tmp_path / "stamped.dcm"
    query, reply, uid = (tmp_path / name for name in ("a.tsq", "a.tsr", "uid.txt"))
    sign_with_dcmsign(sample("CT_small.dcm"), signed, "+m2", "+ts", str(query), str(uid))
    openssl_reply(query, reply)
    run("dcmsign", "+t", query, reply, uid, signed, stamped)
    (result,) = evaluate(stamped, authority()[1]).signatures
    assert (result.indication, result.detail) == ("TOTAL-PASSED", "")
    assert result.timestamp is not None
    assert abs(result.timestamp - datetime.now(UTC)) < timedelta(minutes=5)


def test_dcmsign_verifies_a_time_stamp_that_we_inserted(tmp_path: Path) -> None:
    def stamp(value: bytes) -> bytes:
        request = build_request(value, nonce=7)
        (tmp_path / "a.tsq").write_bytes(request)
        openssl_reply(tmp_path / "a.tsq", tmp_path / "a.tsr")
        return read_response((tmp_path / "a.tsr").read_bytes(), request)

    signed = tmp_path / "signed.dcm"
    signed.write_bytes(signed_bytes(sample("CT_small.dcm").read_bytes(), timestamp=stamp))
    _, trusting, tsa_root = authority()
    (result,) = evaluate(signed, trusting).signatures
    assert (result.indication, result.timestamp is None) == ("TOTAL-PASSED", False)
    _, _, root, issuing = material()
    run("dcmsign", "--verify", "+tr", "+cf", root, "+cf", tsa_root, "+uf", issuing, signed)


# --- tampering that does not break the mathematics, for dcmsign either ---------------------------------------------------
def test_an_appended_element_is_named(tmp_path: Path) -> None:
    raw = signed_bytes(sample("CT_small.dcm").read_bytes(), profile="creator")
    new = element(0x00102160, b"SH", b"Forged")
    changed = tmp_path / "changed.dcm"
    changed.write_bytes(replace_elements(raw, {0x00102160: new}))
    verify_with_dcmsign(changed)
    (result,) = evaluate(changed, policy()).signatures
    assert result.indication == "TOTAL-PASSED"
    assert "EthnicGroup" in result.uncovered
    place = changed.read_bytes().index(new)
    assert any(start <= place and place + len(new) <= end for start, end in result.uncovered_ranges)


def test_tags_added_to_the_list_are_told_to_be_absent(tmp_path: Path) -> None:
    tags = [0x00080018, 0x00100010]
    raw = signed_bytes(part10(element(0x00080018, b"UI", b"1.2.3\0") + element(0x00100010, b"PN", b"Test^P")), profile="base")
    listed = b"".join(tag.to_bytes(4, "big")[1::-1] + tag.to_bytes(4, "big")[:1:-1] for tag in tags)
    longer = listed + b"\x10\0\x20\0"
    assert raw.count(encode_element(0x04000020, b"AT", listed, open_dataset(raw).encoding)) == 1
    parameters = encode_mac_parameters(0, "1.2.840.10008.1.2.1", "SHA256", (*tags, 0x00100020), open_dataset(raw).encoding)
    assert longer in parameters
    replaced = encode_sequence(MAC_PARAMETERS_SEQUENCE, [parameters], open_dataset(raw).encoding)
    changed = tmp_path / "changed.dcm"
    changed.write_bytes(replace_elements(raw, {MAC_PARAMETERS_SEQUENCE: replaced}))
    verify_with_dcmsign(changed)
    (result,) = evaluate(changed, policy()).signatures
    assert result.indication == "TOTAL-PASSED"
    assert "listed-but-absent:PatientID" in result.warnings
    assert result.covered == ("SOPInstanceUID", "PatientName")


def test_merged_fragments_are_flagged(tmp_path: Path) -> None:
    head = element(0x00080018, b"UI", b"1.2.3\0")
    raw = signed_bytes(part10(head + encapsulated(b"", b"\1\2\3\4", b"\5\6\7\x08"), RLE), profile="base")
    merged = encapsulated(b"", b"\1\2\3\4" + b"\xfe\xff\x00\xe0" + b"\5\6\7\x08")
    changed = tmp_path / "changed.dcm"
    changed.write_bytes(raw.replace(encapsulated(b"", b"\1\2\3\4", b"\5\6\7\x08"), merged))
    assert merged in changed.read_bytes()
    verify_with_dcmsign(changed)
    (before,) = evaluate(raw, policy()).signatures
    (after,) = evaluate(changed, policy()).signatures
    assert "fragment-embeds-item-tag" not in before.warnings
    assert (after.indication, "fragment-embeds-item-tag" in after.warnings) == ("TOTAL-PASSED", True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "(0010,0010)=Other^Name"],
        ["-m", "(0008,0018)=1.2.3.4.5"],
        ["-e", "(0008,0080)"],
        ["-m", "(0028,0010)=64"],
    ],
)
def test_both_see_what_dcmodify_did(arguments: list[str], tmp_path: Path) -> None:
    changed = tmp_path / "changed.dcm"
    changed.write_bytes(signed_bytes(sample("CT_small.dcm").read_bytes(), coverage="all"))
    run("dcmodify", "-nb", "-imt", *arguments, changed)
    verify_with_dcmsign(changed, expect=101)
    (result,) = evaluate(changed, policy()).signatures
    assert (result.indication, result.sub_indication) == ("TOTAL-FAILED", "HASH_FAILURE")


# --- the worked vector, in a file -----------------------------------------------------------------------------------------
def test_dcmsign_accepts_the_worked_vector(tmp_path: Path) -> None:
    raw = part10(VECTOR_DATASET, RLE)
    dataset = open_dataset(raw)
    scope = survey(dataset, wanted=()).at(())
    assert scope is not None
    head = encode_signature_head(0, "1.2.3.4.5", "20270101000000.000000+0000", dataset.encoding)
    mac, _ = digest(dataset, scope, frozenset(VECTOR_TAGS), (memoryview(head), 0, len(head)), "SHA256")
    assert mac.hex() == VECTOR_SHA256
    value = sign_digest(signer().private_key, mac, "sha256")
    certificate = signer().certificate.public_bytes(CertificateEncoding.DER)
    item = head + encode_signature_value(certificate, value, b"", dataset.encoding)
    parameters = encode_mac_parameters(0, RLE, "SHA256", tuple(sorted(VECTOR_TAGS)), dataset.encoding)
    signed = tmp_path / "signed.dcm"
    signed.write_bytes(
        replace_elements(
            raw,
            {
                MAC_PARAMETERS_SEQUENCE: encode_sequence(MAC_PARAMETERS_SEQUENCE, [parameters], dataset.encoding),
                DIGITAL_SIGNATURES_SEQUENCE: encode_sequence(DIGITAL_SIGNATURES_SEQUENCE, [item], dataset.encoding),
            },
        )
    )
    verify_with_dcmsign(signed)
    (result,) = evaluate(signed, policy()).signatures
    assert (result.indication, result.detail) == ("TOTAL-PASSED", "")

"""Both ways with DCMTK's dcmsign 3.6.7: what we sign it verifies, what it signs we verify."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import pydicom
import pytest

from securepacs.signatures import evaluate
from tests.support.pki import pem_of
from tests.support.programs import dcmtk
from tests.support.samples import sample
from tests.support.signing import ENCAPSULATED, NATIVE, pki, policy, signed_sample, signer

pytestmark = pytest.mark.interop
MAC_OPTIONS = {"RIPEMD160": "+mr", "SHA1": "+ms", "MD5": "+mm", "SHA256": "+m2", "SHA384": "+m3", "SHA512": "+m5"}


@cache
def material() -> tuple[Path, Path, Path, Path]:
    """Key, certificate, root and intermediate as files for dcmsign, which wants one certificate per file."""
    folder = pki().folder / "dcmsign"
    key, certificate = pki().write_pem(signer(), folder)
    certificate.write_bytes(pem_of(signer().certificate))
    issuing = folder / "issuing.pem"
    issuing.write_bytes(pem_of(pki().ca.issuing))
    return key, certificate, pki().write_trust(folder), issuing


def run(tool: str, *arguments: object, expect: int = 0) -> str:
    done = subprocess.run([dcmtk(tool), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def verify_with_dcmsign(path: Path, *, expect: int = 0) -> str:
    _, _, root, issuing = material()
    return run("dcmsign", "--verify", "-v", "+rg", "+cf", root, "+uf", issuing, path, expect=expect)


def sign_with_dcmsign(source: Path, target: Path, *options: str) -> Path:
    key, certificate, _, _ = material()
    run("dcmsign", *options, "+s", key, certificate, source, target)
    return target


@pytest.mark.parametrize("name", [*NATIVE, *ENCAPSULATED])
@pytest.mark.parametrize("profile", ["creator", "base"])
def test_dcmsign_verifies_ours(name: str, profile: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(signed_sample(name, profile=profile, purpose=1))
    assert "OK" in verify_with_dcmsign(path)


@pytest.mark.parametrize("name", ["CT_small.dcm", "examples_overlay.dcm", "waveform_ecg.dcm", "rtdose.dcm"])
@pytest.mark.parametrize(("profile", "option"), [("creator", "+rc"), ("authorization", "+ru")])
def test_dcmsign_recognizes_our_profiles(name: str, profile: str, option: str, tmp_path: Path) -> None:
    path = tmp_path / "signed.dcm"
    path.write_bytes(signed_sample(name, profile=profile))
    _, _, root, issuing = material()
    run("dcmsign", "--verify", option, "+cf", root, "+uf", issuing, path)


def test_dcmsign_recognizes_our_structured_reports(tmp_path: Path) -> None:
    path = tmp_path / "signed.dcm"
    path.write_bytes(signed_sample("reportsi.dcm", profile="sr"))
    _, _, root, issuing = material()
    run("dcmsign", "--verify", "+rs", "+cf", root, "+uf", issuing, path)


@pytest.mark.parametrize("mac", ["sha256", "sha384", "sha512"])
def test_dcmsign_verifies_our_hashes(mac: str, tmp_path: Path) -> None:
    path = tmp_path / "signed.dcm"
    path.write_bytes(signed_sample("CT_small.dcm", mac=mac, identity=True))
    verify_with_dcmsign(path)


def test_dcmsign_verifies_our_nested_signature(tmp_path: Path) -> None:
    path = tmp_path / "signed.dcm"
    path.write_bytes(signed_sample("reportsi.dcm", item="0040A730[1]/0040A043[0]"))
    assert "OK" in verify_with_dcmsign(path)


def test_dcmsign_sees_our_file_changed(tmp_path: Path) -> None:
    path = tmp_path / "signed.dcm"
    path.write_bytes(signed_sample("CT_small.dcm").replace(b"JFK IMAGING CENTER", b"JFK IMAGING CENTRE"))
    assert "document corrupted" in verify_with_dcmsign(path, expect=101)


@pytest.mark.parametrize("name", [*NATIVE, *ENCAPSULATED, "priv_SQ.dcm", "waveform_ecg.dcm", "MR_small_jp2klossless.dcm"])
def test_we_verify_what_dcmsign_signs(name: str, tmp_path: Path) -> None:
    signed = sign_with_dcmsign(sample(name), tmp_path / "signed.dcm", "+m2")
    (result,) = evaluate(signed, policy()).signatures
    assert (result.indication, result.detail) == ("TOTAL-PASSED", "")


@pytest.mark.parametrize("algorithm", MAC_OPTIONS)
def test_we_verify_every_hash_of_dcmsign(algorithm: str, tmp_path: Path) -> None:
    signed = sign_with_dcmsign(sample("CT_small.dcm"), tmp_path / "signed.dcm", MAC_OPTIONS[algorithm])
    (result,) = evaluate(signed, policy(), allow_weak_hash=True).signatures
    assert (result.indication, result.mac_algorithm) == ("TOTAL-PASSED", algorithm)


def test_the_stream_dcmsign_dumps_is_the_one_we_hash(tmp_path: Path) -> None:
    from securepacs.dicom.part10 import open_dataset
    from securepacs.signatures.check import HASHED
    from securepacs.signatures.mac import MacStream
    from securepacs.signatures.sequences import read_mac_parameters, read_signatures, scope_tokens, survey

    dump = tmp_path / "stream.bin"
    signed = sign_with_dcmsign(sample("reportsi.dcm"), tmp_path / "signed.dcm", "+m2", "+sp", "5", "+d", str(dump))
    dataset = open_dataset(signed.read_bytes())
    (scope,) = survey(dataset).scopes
    (parameters,), (item,) = read_mac_parameters(dataset, scope), read_signatures(dataset, scope)
    made = bytearray()
    MacStream(made.extend).feed(dataset.view, scope_tokens(dataset, scope), frozenset(parameters.tags), dataset.encoding)
    inner = scope._replace(start=item.start, end=item.end)
    MacStream(made.extend).feed(dataset.view, scope_tokens(dataset, inner), HASHED, dataset.encoding)
    assert bytes(made) == dump.read_bytes()


def test_padded_values_signed_by_dcmsign_pass_with_a_warning(tmp_path: Path) -> None:
    from tests.support.encoded import element, part10

    padded = tmp_path / "padded.dcm"
    padded.write_bytes(part10(element(0x00080018, b"UI", b"1.2.3\0") + element(0x00100010, b"PN", b"Test^P  ")))
    signed = sign_with_dcmsign(padded, tmp_path / "signed.dcm", "+m2").read_bytes()
    again = signed.replace(element(0x00100010, b"PN", b"Test^P"), element(0x00100010, b"PN", b"Test^P  "))
    (result,) = evaluate(again, policy()).signatures
    assert result.indication == "TOTAL-PASSED"
    assert ("trimmed-values" in result.warnings) == (again != signed)


def test_the_old_format_of_dcmsign_is_recognized(tmp_path: Path) -> None:
    signed = sign_with_dcmsign(sample("MR_small_RLE.dcm"), tmp_path / "signed.dcm", "+m2", "--format-old")
    (result,) = evaluate(signed, policy()).signatures
    assert (result.indication, result.sub_indication) == ("INDETERMINATE", "FORMAT_FAILURE")


def test_signatures_of_dcmsign_in_items_and_on_top(tmp_path: Path) -> None:
    key, certificate, _, _ = material()
    inner, both = tmp_path / "inner.dcm", tmp_path / "both.dcm"
    run("dcmsign", "+m2", "+si", key, certificate, "ContentSequence[0]", sample("reportsi.dcm"), inner)
    sign_with_dcmsign(inner, both, "+m2")
    report = evaluate(both, policy())
    assert report.verdict == "TOTAL-PASSED"
    assert {result.location for result in report.signatures} == {"", "0040A730[0]"}
    assert all("mac-id-not-unique" in result.warnings for result in report.signatures)


def test_signing_on_top_of_dcmsign(tmp_path: Path) -> None:
    from tests.support.signing import signed_bytes

    signed = sign_with_dcmsign(sample("CT_small.dcm"), tmp_path / "signed.dcm", "+m2")
    twice = tmp_path / "twice.dcm"
    twice.write_bytes(signed_bytes(signed.read_bytes()))
    assert evaluate(twice, policy()).verdict == "TOTAL-PASSED"
    assert "2 signatures verified" in verify_with_dcmsign(twice)


@pytest.mark.parametrize("options", [["+e"], ["-e"], ["+g"], ["-g"], ["+te"], ["+ti"], ["+tb"]])
@pytest.mark.parametrize("name", ["reportsi.dcm", "CT_small.dcm", "liver_1frame.dcm"])
def test_another_encoding_stays_valid(name: str, options: list[str], tmp_path: Path) -> None:
    signed, converted = tmp_path / "signed.dcm", tmp_path / "converted.dcm"
    signed.write_bytes(signed_sample(name, profile="creator"))
    run("dcmconv", *options, signed, converted)
    (result,) = evaluate(converted, policy()).signatures
    assert (result.indication, result.detail) == ("TOTAL-PASSED", "")
    forgets_ob = name == "liver_1frame.dcm" and options == ["+ti"]
    assert ("pixel-vr-assumed" in result.warnings) == forgets_ob


def test_deflating_stays_valid(tmp_path: Path) -> None:
    signed = tmp_path / "signed.dcm"
    signed.write_bytes(signed_sample("CT_small.dcm"))
    dataset = pydicom.dcmread(signed)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    dataset.save_as(tmp_path / "deflated.dcm")
    assert evaluate(tmp_path / "deflated.dcm", policy()).verdict == "TOTAL-PASSED"


def test_decompressing_takes_the_signed_content_away(tmp_path: Path) -> None:
    signed, plain = tmp_path / "signed.dcm", tmp_path / "plain.dcm"
    signed.write_bytes(signed_sample("MR_small_RLE.dcm"))
    run("dcmdrle", signed, plain)
    (result,) = evaluate(plain, policy()).signatures
    assert result.indication != "TOTAL-PASSED"


def test_rle_made_by_dcmcrle(tmp_path: Path) -> None:
    compressed, signed = tmp_path / "rle.dcm", tmp_path / "signed.dcm"
    run("dcmcrle", sample("CT_small.dcm"), compressed)
    from tests.support.signing import signed_bytes

    signed.write_bytes(signed_bytes(compressed.read_bytes()))
    assert evaluate(signed, policy()).verdict == "TOTAL-PASSED"
    verify_with_dcmsign(signed)

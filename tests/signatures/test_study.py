"""A study against its manifest: missing, extra, changed."""

from __future__ import annotations

import pytest

from securepacs import signatures
from securepacs.dicom import encode_element, read_part10, replace_elements
from securepacs.errors import MalformedError, VerificationError
from securepacs.signatures import Verifier, check_study
from securepacs.signatures.manifests import build_manifest, encode
from tests.support.samples import flip_pixel, new_instance
from tests.support.signing import policy, signer

STUDY = "1.2.826.0.1.3680043.10.999.1"
UIDS = [f"{STUDY}.1.{number}" for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def instances() -> list[bytes]:
    return [new_instance("CT_small.dcm", number) for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def manifest(instances: list[bytes]) -> bytes:
    return signatures.manifest(instances, signer())


@pytest.fixture
def verifier() -> Verifier:
    return Verifier(policy())


def test_a_complete_study_passes(instances: list[bytes], manifest: bytes, verifier: Verifier) -> None:
    report = check_study(manifest, [*instances, manifest], verifier)
    assert (report.verdict, report.unchanged, report.study_instance_uid) == ("TOTAL-PASSED", tuple(UIDS), STUDY)
    assert report.to_dict()["manifest"]["verdict"] == "TOTAL-PASSED"
    with pytest.raises(TypeError):
        bool(report)


def test_missing_and_extra_instances_are_named(instances: list[bytes], manifest: bytes, verifier: Verifier) -> None:
    report = check_study(manifest, [instances[0], new_instance("CT_small.dcm", 9), instances[2]], verifier)
    assert (report.missing, report.extra, report.verdict) == ((UIDS[1],), (f"{STUDY}.1.9",), "INDETERMINATE")


def test_an_extra_instance_alone_is_no_pass(instances: list[bytes], manifest: bytes, verifier: Verifier) -> None:
    assert check_study(manifest, [*instances, new_instance("CT_small.dcm", 9)], verifier).verdict == "INDETERMINATE"


def test_a_changed_instance_fails(instances: list[bytes], manifest: bytes, verifier: Verifier) -> None:
    report = check_study(manifest, [instances[0], flip_pixel(instances[1]), instances[2]], verifier)
    assert (report.changed, report.unchanged, report.verdict) == ((UIDS[1],), (UIDS[0], UIDS[2]), "TOTAL-FAILED")


def test_an_element_that_was_added_is_a_change(instances: list[bytes], manifest: bytes, verifier: Verifier) -> None:
    encoding = read_part10(instances[0]).encoding
    added = replace_elements(instances[0], {0x00104000: encode_element(0x00104000, b"LT", b"no allergy", encoding)})
    report = check_study(manifest, [added, *instances[1:]], verifier)
    assert (report.changed, report.verdict) == ((UIDS[0],), "TOTAL-FAILED")


def test_a_forged_manifest_fails(instances: list[bytes], manifest: bytes, verifier: Verifier) -> None:
    forged = manifest.replace(b"securepacs", b"securepacz")
    assert check_study(forged, instances, verifier).verdict == "TOTAL-FAILED"


def test_what_is_no_signed_manifest_is_refused(instances: list[bytes], manifest: bytes, verifier: Verifier) -> None:
    from datetime import UTC, datetime

    with pytest.raises(VerificationError, match="no signature of the manifest"):
        check_study(encode(build_manifest(instances, at=datetime.now(UTC))), instances, verifier)
    with pytest.raises(MalformedError):
        check_study(instances[0], instances, verifier)
    with pytest.raises(VerificationError, match="same SOP Instance UID"):
        check_study(manifest, [instances[0], *instances], verifier)

"""The signed manifest of a study. Its content and what other programs make of it: tests/originals/test_key_object.py."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from securepacs import signatures
from securepacs.errors import MalformedError, UsageError
from securepacs.originals import read_key_object
from securepacs.signatures.manifests import SIGNED_COMPLETE_ACQUISITION_CONTENT, SIGNED_MANIFEST, build_manifest, read_manifest
from tests.support.samples import new_instance
from tests.support.signing import policy, signer


def test_a_manifest_is_signed_under_the_sr_profile() -> None:
    instances = [new_instance("CT_small.dcm", number) for number in (1, 2)]
    raw = signatures.manifest(instances, signer(), observer="Dr. Signer")
    (result,) = signatures.verify(raw, policy(), require=["sr"]).signatures
    assert ("sr" in result.profiles, result.purpose, result.uncovered) == (True, "1 ASTM-sigpurpose", ())
    document = read_manifest(raw)
    assert document.title == SIGNED_MANIFEST
    assert [reference.instance.sop_instance_uid[-1] for reference in document.references] == ["1", "2"]


def test_an_archive_signs_complete_content_as_its_source() -> None:
    raw = signatures.manifest([new_instance("CT_small.dcm", 1)], signer(), title=SIGNED_COMPLETE_ACQUISITION_CONTENT)
    (result,) = signatures.verify(raw, policy(), require=["sr"]).signatures
    assert result.purpose == "14 ASTM-sigpurpose"
    assert read_manifest(raw).title == SIGNED_COMPLETE_ACQUISITION_CONTENT
    with pytest.raises(MalformedError, match="not titled Signed Manifest"):  # it authorizes nothing
        read_key_object(raw)


def test_the_purpose_can_be_chosen() -> None:
    raw = signatures.manifest([new_instance("CT_small.dcm", 1)], signer(), purpose=5)
    assert signatures.verify(raw, policy()).signatures[0].purpose == "5 ASTM-sigpurpose"


def test_another_title_is_refused() -> None:
    with pytest.raises(UsageError, match="title"):
        build_manifest([new_instance("CT_small.dcm", 1)], at=datetime.now(UTC), title=("113000", "DCM"))

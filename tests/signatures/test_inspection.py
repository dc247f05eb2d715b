from __future__ import annotations

import pytest

from securepacs.dicom.edit import replace_elements
from securepacs.errors import MalformedError
from securepacs.signatures.inspection import describe
from tests.support.encoded import element, item, part10, sequence
from tests.support.samples import sample
from tests.support.signing import forge, signed_bytes, signed_sample

SMALL = part10(element(0x00080018, b"UI", b"1.2.3\0") + element(0x00100010, b"PN", b"Test^P"))


def test_everything_a_signature_says() -> None:
    (found,) = describe(signed_sample("reportsi.dcm", profile="sr", purpose=13))["signatures"]
    assert found["profile"] == "sr"
    assert found["purpose"] == "Review Signature"
    assert found["signer"] == "CN=Dr. Signer,O=Test Hospital"
    assert found["mac_algorithm"] == "SHA256"
    assert found["signature_algorithm"] == "RSA-2048"
    assert found["location"] == ""
    assert "0040A730" in found["signed_tags"]
    assert "ContentSequence" in found["covered"]
    assert "PatientName" in found["uncovered"]
    assert found["problems"] == []


def test_a_nested_signature_tells_its_place() -> None:
    (found,) = describe(signed_sample("reportsi.dcm", item="0040A730[1]"))["signatures"]
    assert found["location"] == "0040A730[1]"


def test_broken_signatures_are_shown_with_their_problems() -> None:
    (found,) = describe(forge(SMALL, mac_ids=(0, 1), certificate=b"rubbish.", date_time="soon"))["signatures"]
    assert (found["signer"], found["signing_time"], found["signature_algorithm"]) == ("", None, "")
    assert found["problems"] == ["no MAC Parameters item"]


def test_an_unknown_purpose_is_shown_as_it_stands() -> None:
    from securepacs.signatures.inspection import _purpose

    assert _purpose(("99", "ASTM-sigpurpose")) == "99 (ASTM-sigpurpose)"
    assert _purpose(None) == ""


def test_no_signatures() -> None:
    assert describe(sample("MR_small.dcm"))["signatures"] == []


def test_no_dicom() -> None:
    with pytest.raises(MalformedError):
        describe(b"text")


def test_a_signature_over_what_cannot_be_signed_is_shown() -> None:
    unknown = sequence(0x00081032, item(element(0x00091001, b"UN", b"??")))
    raw = signed_bytes(part10(element(0x00080018, b"UI", b"1.2.3\0") + sequence(0x00081032, item(b""))), profile="base")
    (found,) = describe(replace_elements(raw, {0x00081032: unknown}))["signatures"]
    assert found["problems"] == ["a signed sequence contains an element of unknown VR at byte 206"]

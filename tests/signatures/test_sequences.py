from __future__ import annotations

import pytest

from securepacs.dicom.edit import encode_sequence
from securepacs.dicom.elements import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, Encoding
from securepacs.dicom.part10 import open_dataset
from securepacs.errors import MalformedError
from securepacs.signatures.sequences import (
    DIGITAL_SIGNATURES_SEQUENCE,
    MAC_PARAMETERS_SEQUENCE,
    encode_mac_parameters,
    encode_purpose,
    encode_signature_head,
    encode_signature_value,
    next_mac_id,
    read_mac_parameters,
    read_signatures,
    survey,
    with_items,
)
from tests.support.encoded import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, element, item, part10, sequence

ENCODINGS = [(EXPLICIT_LITTLE, EXPLICIT_LE), (IMPLICIT_LITTLE, IMPLICIT_LE), (EXPLICIT_BIG, EXPLICIT_BE)]


def signature_elements(encoding: Encoding, mac_id: int = 7) -> tuple[bytes, bytes]:
    parameters = encode_mac_parameters(mac_id, EXPLICIT_LE, "SHA256", (0x00080018, 0x7FE00010), encoding)
    content = encode_signature_head(mac_id, "1.2.3", "20270101000000.000000+0000", encoding)
    content += encode_signature_value(b"\x30\x01\x05", b"\x30\x02\x01\x01", b"\x30\x00", encoding) + encode_purpose(5, encoding)
    return (
        encode_sequence(MAC_PARAMETERS_SEQUENCE, [parameters], encoding),
        encode_sequence(DIGITAL_SIGNATURES_SEQUENCE, [content], encoding),
    )


@pytest.mark.parametrize(("encoding", "syntax"), ENCODINGS)
def test_what_is_encoded_is_decoded(encoding: Encoding, syntax: str) -> None:
    dataset = open_dataset(part10(b"".join(signature_elements(encoding)), syntax))
    (scope,) = survey(dataset).scopes
    (parameters,) = read_mac_parameters(dataset, scope)
    assert (parameters.mac_id, parameters.transfer_syntax, parameters.algorithm) == (7, EXPLICIT_LE, "SHA256")
    assert parameters.tags == (0x00080018, 0x7FE00010)
    (found,) = read_signatures(dataset, scope)
    assert (found.mac_id, found.uid, found.date_time) == (7, "1.2.3", "20270101000000.000000+0000")
    assert (found.certificate, found.signature, found.timestamp) == (b"\x30\x01\x05\0", b"\x30\x02\x01\x01", b"\x30\x00")
    assert (found.timestamp_type, found.purpose, found.problems) == ("CMS_TSP", ("5", "ASTM-sigpurpose"), [])


def test_signatures_are_found_at_every_level() -> None:
    pair = b"".join(signature_elements(EXPLICIT_LITTLE))
    parameters, signatures = signature_elements(EXPLICIT_LITTLE)
    inner = sequence(0x00081032, item(b""), item(sequence(0x00400275, item(pair, undefined=True))), undefined=True)
    found = survey(open_dataset(part10(inner + parameters + signatures)))
    assert [scope.path for scope in found.scopes] == [(), ((0x00081032, 1), (0x00400275, 0))]
    assert found.mac_ids == {7}
    assert found.mac_ids_repeat


def test_original_attributes_are_history() -> None:
    pair = b"".join(signature_elements(EXPLICIT_LITTLE))
    found = survey(open_dataset(part10(sequence(0x04000561, item(pair)))))
    assert found.scopes == ()
    assert found.mac_ids == {7}  # taken all the same: MAC IDs are unique in the whole instance
    assert not found.mac_ids_repeat


def test_a_wanted_data_set_is_found_without_signatures() -> None:
    dataset = open_dataset(part10(sequence(0x00081032, item(b""))))
    assert survey(dataset, wanted=((0x00081032, 0),)).at(((0x00081032, 0),)) is not None
    assert survey(dataset, wanted=((0x00081032, 1),)).at(((0x00081032, 1),)) is None


def test_a_sequence_given_twice_is_malformed() -> None:
    parameters, _ = signature_elements(EXPLICIT_LITTLE)
    with pytest.raises(MalformedError, match="same tag"):
        survey(open_dataset(part10(parameters + parameters)))


def test_missing_and_repeated_elements_are_problems_not_errors() -> None:
    broken = element(0x04000005, b"US", b"\1\0") * 2
    dataset = open_dataset(part10(sequence(MAC_PARAMETERS_SEQUENCE, item(b"")) + sequence(0xFFFAFFFA, item(broken))))
    (scope,) = survey(dataset).scopes
    assert read_mac_parameters(dataset, scope)[0].problems == [
        "Data Elements Signed is missing or cut off",
        "MAC ID Number is missing",
    ]
    assert read_signatures(dataset, scope)[0].problems == [
        "(0400,0005) occurs twice",
        "Digital Signature UID is missing",
        "Certificate of Signer is missing",
        "Signature is missing",
    ]


@pytest.mark.parametrize("undefined", [False, True])
def test_items_are_added_in_the_style_of_the_sequence(undefined: bool) -> None:
    old = sequence(0xFFFAFFFA, item(b"ab"), undefined=undefined)
    assert with_items(old, item(b"cd"), EXPLICIT_LITTLE) == sequence(0xFFFAFFFA, item(b"ab"), item(b"cd"), undefined=undefined)


def test_the_smallest_free_mac_id_is_taken() -> None:
    assert next_mac_id({0, 1, 3}) == 2
    with pytest.raises(MalformedError):
        next_mac_id(frozenset(range(65536)))

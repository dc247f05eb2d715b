"""Status attributes in encoded files: they change, nothing else does."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset

from securepacs.dicom import Part, open_dataset, read_part10
from securepacs.errors import MalformedError, UsageError
from securepacs.originals.registry import Holding
from securepacs.originals.stamp import STATUS_ATTRIBUTES, content_digest, facts_of, read_stamp, stamp, stamp_holding
from securepacs.originals.states import SOPInstanceStatus
from tests.support.programs import dcmtk
from tests.support.samples import flip_pixel, sample

NS, OR, AO, AC = SOPInstanceStatus.NS, SOPInstanceStatus.OR, SOPInstanceStatus.AO, SOPInstanceStatus.AC
AT = datetime(2027, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
ENCODINGS = [
    "CT_small.dcm",  # explicit little endian
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_RLE.dcm",  # fragments
    "image_dfl.dcm",  # deflated
    "rtplan.dcm",  # implicit, deep sequences
    "test-SR.dcm",
    "nested_priv_SQ.dcm",
    "JPEG2000.dcm",
]


def without_status(data: bytes) -> list[tuple[int, bytes]]:
    dataset = open_dataset(data)
    return [
        (element.tag, bytes(dataset.view[element.offset : element.next_offset]))
        for element in dataset.elements()
        if element.tag not in STATUS_ATTRIBUTES
    ]


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_other_byte_stays(name: str) -> None:
    raw = sample(name).read_bytes()
    head = read_part10(raw)
    for status in SOPInstanceStatus:
        stamped = stamp(raw, status, at=AT, equipment="CERT 7", comment="checked")
        assert stamped[: head.dataset_offset] == raw[: head.dataset_offset]
        assert without_status(stamped) == without_status(raw)
        assert content_digest(stamped) == content_digest(raw)


@pytest.mark.parametrize("name", [name for name in ENCODINGS if name != "image_dfl.dcm"])
def test_the_bytes_added_are_one_run_and_nothing_else(name: str) -> None:
    raw = sample(name).read_bytes()
    stamped = stamp(raw, AO, at=AT, equipment="CERT 7", comment="checked")
    added = len(stamped) - len(raw)
    place = next((index for index, (old, new) in enumerate(zip(raw, stamped, strict=False)) if old != new), len(raw))
    assert any(stamped[:start] + stamped[start + added :] == raw for start in range(max(0, place - added), place + 1))


@pytest.mark.parametrize("name", ENCODINGS)
def test_what_is_written_reads_back(name: str) -> None:
    stamped = stamp(sample(name).read_bytes(), AO, at=AT, equipment="CERT 7", comment="checked")
    dataset = dcmread(BytesIO(stamped), force=True)
    assert dataset[0x01000410].value == "AO"
    assert dataset[0x01000420].value == "20270102030405.000678+0000"
    assert dataset[0x01000424].value == "checked"
    assert dataset[0x01000426].value == "CERT 7"
    read = read_stamp(stamped)
    assert (read.status, read.authorization_datetime, read.equipment) == (AO, "20270102030405.000678+0000", "CERT 7")


@pytest.mark.interop
def test_dcmdump_reads_the_stamp(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(stamp(sample("CT_small.dcm").read_bytes(), AO, at=AT, equipment="CERT 7"))
    command = [dcmtk("dcmdump"), "+P", "0100,0410", "+P", "0100,0420", "+P", "0100,0426", str(tmp_path / "a.dcm")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert shown.stderr == ""
    assert [line.split("[")[1].split("]")[0] for line in shown.stdout.splitlines()] == [
        "AO",
        "20270102030405.000678+0000",
        "CERT 7",
    ]


@given(st.lists(st.sampled_from([NS, OR, AO, AC]), min_size=1, max_size=6))
def test_only_the_last_stamp_counts(statuses: list[SOPInstanceStatus]) -> None:
    raw = sample("MR_small.dcm").read_bytes()
    stamped = raw
    for status in statuses:
        stamped = stamp(stamped, status, at=AT)
    assert stamped == stamp(raw, statuses[-1], at=AT)


def test_ns_drops_the_companions() -> None:
    raw = sample("CT_small.dcm").read_bytes()
    plain = stamp(stamp(raw, AO, at=AT, equipment="7", comment="x"), NS)
    dataset = dcmread(BytesIO(plain))
    assert dataset[0x01000410].value == "NS"
    assert [tag for tag in STATUS_ATTRIBUTES if tag in dataset] == [0x01000410]


def test_the_time_is_written_in_utc() -> None:
    seoul = AT.astimezone(timezone(timedelta(hours=9)))
    raw = sample("CT_small.dcm").read_bytes()
    assert stamp(raw, OR, at=seoul) == stamp(raw, OR, at=AT)


def test_a_group_length_follows() -> None:
    dataset = dcmread(sample("CT_small.dcm"))
    buffer = BytesIO()
    dataset.save_as(buffer)
    raw = buffer.getvalue()
    grouped = raw.replace(b"\x20\x00\x0d\x00UI", b"\x00\x01\x00\x00UL\x04\x00\x00\x00\x00\x00\x20\x00\x0d\x00UI", 1)
    # an (empty) group 0100 with its length stands out of order there; put it where it belongs instead
    assert grouped != raw
    position = grouped.index(b"\x20\x00\x0d\x00UI")
    ordered = open_dataset(raw)
    first_after = next(element for element in ordered.elements() if element.tag > 0x01000410)
    with_length = raw[: first_after.offset] + grouped[position - 12 : position] + raw[first_after.offset :]
    stamped = stamp(with_length, OR, at=AT, equipment="7")
    elements = [element for element in open_dataset(stamped).elements() if element.tag >> 16 == 0x0100]
    assert elements[0].tag == 0x01000000
    length = int.from_bytes(stamped[elements[0].value_offset : elements[0].next_offset], "little")
    assert length == elements[-1].next_offset - elements[1].offset
    assert content_digest(stamped) == content_digest(raw)


@pytest.mark.parametrize("position", [0.0, 0.3, 0.6, 1.0])
def test_a_changed_pixel_changes_the_digest(position: float) -> None:
    raw = sample("MR_small.dcm").read_bytes()
    assert content_digest(flip_pixel(raw, position)) != content_digest(raw)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_implicit.dcm", "test-SR.dcm", "nested_priv_SQ.dcm", "MR_small_RLE.dcm"])
def test_any_changed_value_changes_the_digest(name: str) -> None:
    raw = sample(name).read_bytes()
    before = content_digest(raw)
    dataset = open_dataset(raw)
    values = [token for token in dataset.tokens() if token.part in (Part.ELEMENT, Part.FRAGMENT) and token.length]
    ignored = [token for token in values if token.tag & 0xFFFF == 0 or token.tag == 0xFFFCFFFC]
    for token in values:
        changed = bytearray(raw)
        changed[token.value_offset] ^= 1
        assert (content_digest(bytes(changed)) == before) is (token in ignored), hex(token.tag)


def test_a_removed_or_added_element_changes_the_digest() -> None:
    raw = sample("CT_small.dcm").read_bytes()
    before = content_digest(raw)
    for element in open_dataset(raw).elements():
        without = raw[: element.offset] + raw[element.next_offset :]
        assert (content_digest(without) == before) is (element.tag & 0xFFFF == 0 or element.tag == 0xFFFCFFFC)


def test_where_an_item_ends_is_content() -> None:
    def sequence(*items: Dataset) -> bytes:
        dataset = dcmread(sample("CT_small.dcm"))
        dataset.ReferencedImageSequence = list(items)
        return file_of(dataset)

    first, second, both = Dataset(), Dataset(), Dataset()
    first.ReferencedSOPClassUID = both.ReferencedSOPClassUID = "1.2.3"
    second.ReferencedSOPInstanceUID = both.ReferencedSOPInstanceUID = "1.2.4"
    assert content_digest(sequence(first, second)) != content_digest(sequence(both))


@pytest.mark.parametrize("name", ["MR_small_implicit.dcm", "MR_small_bigendian.dcm"])
def test_another_way_to_write_native_data_is_no_other_content(name: str) -> None:
    assert content_digest(sample(name).read_bytes()) == content_digest(sample("MR_small.dcm").read_bytes())


@pytest.mark.interop
@pytest.mark.parametrize("option", ["+ti", "+tb", "+td", "+g", "-g", "+e", "-e"])
@pytest.mark.parametrize("name", ["MR_small.dcm", "test-SR.dcm", "rtplan.dcm"])
def test_what_dcmconv_rewrites_keeps_its_digest(name: str, option: str, tmp_path: Path) -> None:
    command = [dcmtk("dcmconv"), option, str(sample(name)), str(tmp_path / "out.dcm")]
    subprocess.run(command, capture_output=True, check=True, timeout=30)
    assert content_digest((tmp_path / "out.dcm").read_bytes()) == content_digest(sample(name).read_bytes())


def test_the_same_bytes_in_another_transfer_syntax_are_other_content() -> None:
    raw = sample("CT_small.dcm").read_bytes()
    renamed = raw.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0", 1)
    assert renamed != raw
    assert content_digest(renamed) != content_digest(raw)


def test_preamble_and_meta_information_are_not_content() -> None:
    raw = sample("CT_small.dcm").read_bytes()
    assert content_digest(b"\x01" * 128 + raw[128:]) == content_digest(raw)


def test_facts_are_the_uids_and_the_digest() -> None:
    raw = sample("CT_small.dcm").read_bytes()
    dataset = dcmread(BytesIO(raw))
    facts = facts_of(raw)
    assert facts.sop_class_uid == dataset.SOPClassUID
    assert facts.sop_instance_uid == dataset.SOPInstanceUID
    assert facts.study_instance_uid == dataset.StudyInstanceUID
    assert facts.series_instance_uid == dataset.SeriesInstanceUID
    assert facts.content_sha256 == content_digest(raw)


def file_of(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_an_instance_without_a_uid_is_malformed(keyword: str) -> None:
    dataset = dcmread(sample("CT_small.dcm"))
    delattr(dataset, keyword)
    with pytest.raises(MalformedError):
        facts_of(file_of(dataset))


def test_an_instance_with_a_uid_that_is_none_is_malformed() -> None:
    raw = sample("CT_small.dcm").read_bytes()
    uid = next(element for element in open_dataset(raw).elements() if element.tag == 0x00080018)
    with pytest.raises(MalformedError):
        facts_of(raw[: uid.value_offset] + b"x" + raw[uid.value_offset + 1 :])


def test_two_instance_uids_are_malformed() -> None:
    raw = sample("CT_small.dcm").read_bytes()
    uid = next(element for element in open_dataset(raw).elements() if element.tag == 0x00080018)
    with pytest.raises(MalformedError, match="twice"):
        facts_of(raw[: uid.next_offset] + raw[uid.offset : uid.next_offset] + raw[uid.next_offset :])


def test_an_unknown_status_is_malformed() -> None:
    stamped = stamp(sample("CT_small.dcm").read_bytes(), AO, at=AT)
    with pytest.raises(MalformedError, match="SOP Instance Status"):
        read_stamp(stamped.replace(b"CS\x02\x00AO", b"CS\x02\x00XX"))


def test_no_status_means_ns() -> None:
    assert read_stamp(sample("CT_small.dcm").read_bytes()).status is NS


@pytest.mark.parametrize("status", [OR, AO, AC])
@pytest.mark.parametrize("at", [None, datetime(2027, 1, 1)])
def test_a_status_needs_its_time(status: SOPInstanceStatus, at: datetime | None) -> None:
    with pytest.raises(UsageError, match="time"):
        stamp(sample("CT_small.dcm").read_bytes(), status, at=at)


@pytest.mark.parametrize(
    "texts",
    [
        {"comment": "x" * 10241},
        {"comment": "a\x00b"},
        {"equipment": "x" * 65},
        {"equipment": "a\\b"},
        {"equipment": "가"},
        {"equipment": "a\n"},
    ],
)
def test_text_that_does_not_fit_is_refused(texts: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        stamp(sample("CT_small.dcm").read_bytes(), AO, at=AT, **texts)


def test_a_comment_is_written_in_the_character_set_of_the_file() -> None:
    dataset = dcmread(sample("CT_small.dcm"))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    stamped = stamp(file_of(dataset), AO, at=AT, comment="판독 완료?")
    assert dcmread(BytesIO(stamped))[0x01000424].value == "판독 완료?"


def test_a_comment_that_the_file_cannot_write_is_refused() -> None:
    with pytest.raises(UsageError, match="character set"):
        stamp(sample("CT_small.dcm").read_bytes(), AO, at=AT, comment="판독 완료")


def test_a_holding_is_stamped_as_it_stands() -> None:
    raw = sample("CT_small.dcm").read_bytes()
    holding = Holding(facts_of(raw), "CT1", AO, AT, equipment="7", comment="c")
    assert stamp_holding(raw, holding) == stamp(raw, AO, at=AT, equipment="7", comment="c")


def test_garbage_is_malformed() -> None:
    for call in (content_digest, facts_of, read_stamp):
        with pytest.raises(MalformedError):
            call(b"nothing of the kind" * 20)

"""Signature profiles of PS3.15 Annex C as data: what each must cover, which algorithms it allows, which purposes exist.

Edition: DICOM 2024c, PS3.15 C.1-C.4 with the attributes of the PS3.3 modules they name, macros expanded, top level (nested elements
are signed with their sequence). "Encapsulated Document" stands beside "Encapsulated Document Series": editions differ in the name.
Curve (retired) and Enhanced Mammography follow the 2019c tables. Float and double pixel data count as Image Pixel attributes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from securepacs.errors import UsageError


class Profile(StrEnum):
    """A signature profile of PS3.15 Annex C; NONE is outside them (any key, any coverage)."""

    BASE = "base"
    CREATOR = "creator"
    AUTHORIZATION = "authorization"
    SR = "sr"
    NONE = "none"


class Coverage(StrEnum):
    """Which elements a new signature covers: those of a profile, or all that can be signed but group 0100."""

    CREATOR = "creator"
    AUTHORIZATION = "authorization"
    SR = "sr"
    ALL = "all"


# MAC Algorithm defined terms (PS3.3 C.12.1.1.3) -> hashlib names
PROFILE_ALGORITHMS = {
    "RIPEMD160": "ripemd160",
    "MD5": "md5",
    "SHA1": "sha1",
    "SHA256": "sha256",
    "SHA384": "sha384",
    "SHA512": "sha512",
}
OTHER_ALGORITHMS = {
    "SHA224": "sha224",
    "SHA512_224": "sha512_224",
    "SHA512_256": "sha512_256",
    "SHA3_224": "sha3_224",
    "SHA3_256": "sha3_256",
    "SHA3_384": "sha3_384",
    "SHA3_512": "sha3_512",
}
ALGORITHMS = PROFILE_ALGORITHMS | OTHER_ALGORITHMS
CREATION_ALGORITHMS = {"sha256": "SHA256", "sha384": "SHA384", "sha512": "SHA512"}
WEAK_ALGORITHMS = frozenset({"MD5", "SHA1"})  # refused unless the verifier allows them
AGEING_ALGORITHMS = frozenset({"RIPEMD160"})  # no attack known, 160 bits only: accepted with a warning

MANY_TAGS = 1000  # what is found out about a data set with more attributes is not worth its place in memory

# CID 7007 Signature Purpose; matched by value and designator, the meaning is only recommended
PURPOSE_SCHEME = "ASTM-sigpurpose"
PURPOSES = {
    1: "Author Signature",
    2: "Coauthor Signature",
    3: "Co-participant Signature",
    4: "Transcriptionist/Recorder Signature",
    5: "Verification Signature",
    6: "Validation Signature",
    7: "Consent Signature",
    8: "Signature Witness Signature",
    9: "Event Witness Signature",
    10: "Identity Witness Signature",
    11: "Consent Witness Signature",
    12: "Interpreter Signature",
    13: "Review Signature",
    14: "Source Signature",
    15: "Addendum Signature",
    16: "Modification Signature",
    17: "Administrative (Error/Edit) Signature",
    18: "Timestamp Signature",
}
AUTHOR, VERIFICATION, SOURCE = 1, 5, 14

SOP_CLASS_UID, SOP_INSTANCE_UID = 0x00080016, 0x00080018
STUDY_INSTANCE_UID, SERIES_INSTANCE_UID = 0x0020000D, 0x0020000E
VALUE_TYPE, CONCEPT_NAME, CONTENT_SEQUENCE = 0x0040A040, 0x0040A043, 0x0040A730
VERIFICATION_FLAG, VERIFYING_OBSERVER = 0x0040A493, 0x0040A073
CREATOR_VERSION_UID = 0x00089123  # occurs in the Raw Data module alone, whose payload is private
FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA, PIXEL_DATA = 0x7FE00008, 0x7FE00009, 0x7FE00010
PIXEL_TAGS = (PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA)

# whose image it is: named first when a signature leaves them out; what `--identity` signs
IDENTITY_TAGS = (0x00100010, 0x00100020, 0x00100030, 0x00100040, 0x00080050, 0x00200060, 0x00200062)
IDENTITY_COVERAGE = frozenset(
    {*IDENTITY_TAGS, 0x00100021, SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID}
)

STATUS_GROUP = 0x0100  # SOP Instance Status changes in the life of an instance (PS3.15 A.1), a signature must not break by it


def _tags(text: str) -> frozenset[int]:
    """Read "gggg,eeee eeee-eeee; gggg,eeee": a group stands until the next one."""
    found: set[int] = set()
    group = 0
    for word in text.replace(";", " ").split():
        head, _, rest = word.rpartition(",")
        group = int(head, 16) << 16 if head else group
        first, _, last = rest.partition("-")
        found.update(group | number for number in range(int(first, 16), int(last or first, 16) + 1))
    return frozenset(found)


OVERLAY = _tags("6000,0010 0011 0022 0040 0045 0050 0100 0102 1301 1302 1303 1500 3000")
CURVE = _tags("5000,0005 0010 0022 0030 0040 0103-0106 0110 0112 0114 2500 2600 3000")
_REPEATING = OVERLAY | CURVE

MODULES: dict[str, frozenset[int]] = {
    "General Equipment": _tags(
        "0008,0070 0080 0081 1010 1040 1041 1090; 0018,1000 1002 1008 100A 100B 1020 1050 1200 1201 1204 1205; 0028,0120"
    ),
    "Graphic Annotation": _tags("0070,0001"),
    "Volumetric Graphic Annotation": _tags("0070,1901 1905"),
    "General Image": _tags(
        "0008,0008 0023 0033 2218 2228; 0020,0013 0020 0062 4000; 0028,0300-0302 2110 2112 2114; 0040,9096; 0088,0200; 2050,0020"
    ),
    "Image Pixel": _tags(
        "0028,0002 0004 0006 0010 0011 0034 0100-0103 0106 0107 0121-0125 1101-1103 1201-1203 2000 2002 7FE0;"
        " 7FE0,0001 0002 0008 0009 0010"
    ),
    "SR Document General": _tags(
        "0008,0023 0033 114A; 0020,0013; 0040,A073 A078 A07A A07C A360 A370 A372 A375 A385 A491-A493 A496 A525"
    ),
    "SR Document Content": _tags(
        "0008,1199; 0040,A032 A040 A043 A050 A120-A124 A130 A132 A138 A13A A160 A168 A171 A300 A301 A504 A730 A801;"
        " 0048,0301; 0070,0022 0023 031A; 3006,0024"
    ),
    "Waveform": _tags("003A,0230 0231 0240; 5400,0100"),
    "Waveform Annotation": _tags("0040,B020"),
    "Multi-frame Functional Groups": _tags(
        "0008,0023 0033; 0020,0013 0242 9161-9163 9228; 0022,0028; 0028,0008 6010; 5200,9229 9230; 7FE0,0003"
    ),
    "Enhanced MR Image": _tags(
        "0008,0008 002A 113A 9092 9121 9154 9205-9209 9237; 0018,0087 1320 9004 9064 9073 9100 9174 9175 9622; 0020,0012 4000;"
        " 0028,0002 0004 0006 0100-0103 0301 0302 2110 2112 2114; 0054,0220 0500; 0088,0200; 2050,0020;"
        " 300A,012C 0675 079F-07A1; 300C,0002"
    ),
    "MR Spectroscopy": _tags(
        "0008,0008 002A 113A 9121 9154 9237 114A; 0018,0087 9004 9064 9073 9100 9174 9175;"
        " 0018,9005 9008 9011 9012 9017 9018 9025 9032-9034 9052-9054 9059 9060-9063 9065-9067 9093 9094 9098 9101"
        " 9126 9198 9199 9200 9297 9298;"
        " 0020,0012 4000; 0028,0010 0011 9001-9003 9108 9235; 0088,0200; 5600,0010 0020"
    ),
    "Raw Data": _tags("0008,0023 002A 0033 114A 9123; 0020,0013 0062; 0040,A043; 0070,0080 0081"),
    "Enhanced CT Image": _tags(
        "0008,0008 002A 113A 9092 9121 9154 9205-9207 9237; 0018,9004 9073 9361; 0020,0012 4000;"
        " 0028,0002 0004 0100-0102 0301 0302 2110 2112 2114; 0054,0220 0500; 0088,0200; 2050,0020;"
        " 300A,012C 0675 079F-07A1; 300C,0002"
    ),
    "Enhanced XA/XRF Image": _tags(
        "0008,0008 002A 114A 9092 9154 9410; 0010,9431; 0018,0022 9004 9410 9423 9424 9457 990C 990D; 0020,0012 4000;"
        " 0028,0002 0004 0100-0103 0300-0302 2110 2112 2114; 0054,0410 0414; 0088,0200; 2050,0020"
    ),
    "Segmentation Image": _tags(
        "0008,0008; 0020,0013; 0028,0002 0004 0100-0103 2110 2112 2114; 0040,A043; 0062,0001 0002 000E 0010 0013;"
        " 0070,0080 0081 0084 0086 0087"
    ),
    "Encapsulated Document Series": _tags(
        "0008,0021 0031 0060 103E 103F 1111; 0018,1030; 0020,000E 0011; 0040,0244 0245 0250 0251 0253 0254 0260 0275 0280;"
        " 300A,0700"
    ),
    "Encapsulated Document": _tags(
        "0008,0023 002A 0033 1140 114A; 0020,0013 0062; 0028,0301 0302;"
        " 0040,A040 A043 A050 A360 A493 A504 A525 A730 E001 E008; 0042,0010-0015"
    ),
    "X-Ray 3D Image": _tags(
        "0008,0008 3011 9092 9205-9207; 0018,9004 990C 990D; 0020,4000; 0028,0002 0004 0100-0102 0300-0302 2110 2112 2114;"
        " 0088,0200; 2050,0020"
    ),
    "Enhanced PET Image": _tags(
        "0008,0008 002A 113A 9092 9121 9154 9205-9207 9237; 0018,9004 9073; 0020,0012 4000;"
        " 0028,0002 0004 0100-0102 0301 0302 2110 2112 2114; 0088,0200; 2050,0020; 300A,012C 0675 079F-07A1; 300C,0002"
    ),
    "Enhanced US Image": _tags(
        "0008,0008 002A 1140 114A 2112 2122 2124 2133 2218 2228 9121;"
        " 0018,5010 5011 5020 5022 5024 5026 5027 5050 9073 9801 9809 980C-980F; 0020,9311;"
        " 0028,0002 0004 0100-0103 0301 0302 1052 1053 2110 2112 2114; 0040,000A; 0054,0220 0500; 0088,0200; 2050,0020"
    ),
    "Surface Segmentation": _tags("0008,0023 0033; 0020,0013; 0040,A043; 0062,0002; 0070,0080 0081 0084 0086 0087"),
    "Surface Mesh": _tags("0066,0001 0002"),
    "Point Cloud": _tags("0066,0011; 0080,0006 0007"),
    "Tractography Results": _tags("0008,0023 0033 114A; 0020,0013; 0040,A043; 0066,0101; 0070,0080 0081 0084 0086 0087"),
    "Structured Display": _tags(
        "0020,0013; 0040,A043; 0070,0080-0084 0086 0087; 0072,0002 0008 0100 0102 0420 0421 0422 0424 0430; 0088,0200"
    ),
    "Implant Template": _tags(
        "0008,0070; 0020,0052; 0022,1095 1097; 0068,6210 6221-6226 6230 6260 6265 62A0 62A5 62C0 6350 6360 6390 63A0 63A4 63A8 63AC"
        " 63B0 6500 6510 6520"
    ),
    "Implant Assembly Template": _tags(
        "0042,0011 0012; 0068,6226; 0076,0001 0003 0006 0008 000A 000C 000E 0010 0020 0030 0032 0060"
    ),
    "Implant Template Group": _tags("0068,6226; 0078,0001 0010 0020 0024 0026 0028 002A 00B0"),
    "Enhanced Mammography Image": _tags(
        "0008,0008 002A; 0018,0060 1190 1191 11A0 11A2-11A5 1500 1508 7060 7062 9004 9073 9328 9330 9332; 0020,0020 4000;"
        " 0028,0002 0004 0100-0103 0300-0302 2110 2112 2114; 0040,0316 8302 8303; 0054,0202; 0088,0200; 2050,0020"
    ),
    "Microscopy Bulk Simple Annotations": _tags(
        "0008,0023 0033 1140; 0020,0013; 0040,A043; 0048,0301; 006A,0001 0002; 0070,0080 0081 0084 0086 0087"
    ),
}  # fmt: skip

_NOT_OF_AUTHORIZATION = {"General Equipment", "Tractography Results", "Microscopy Bulk Simple Annotations"}
_COMMON = frozenset({SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID})
_AUTHORIZATION = _COMMON.union(_REPEATING, *(tags for name, tags in MODULES.items() if name not in _NOT_OF_AUTHORIZATION))
_CREATOR = _COMMON.union(_REPEATING, _tags("0008,0012 0013"), *MODULES.values())
_SR = frozenset({SOP_CLASS_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID}).union(
    MODULES["General Equipment"], MODULES["SR Document Content"], _tags("0040,A032 A360 A375 A385")
)
_LISTS = {Coverage.CREATOR: _CREATOR, Coverage.AUTHORIZATION: _AUTHORIZATION, Coverage.SR: _SR}

# what General Image held until it became General Acquisition (2019c and before): verifiers of that time still ask for it
_EARLIER_GENERAL_IMAGE = _tags("0008,0022 002A 0032 1140 2111 2112 9215; 0020,0012 0020 1002")

# what must be there at all, or a signature of the profile makes no sense
MANDATORY = {
    Profile.CREATOR: _COMMON,
    Profile.AUTHORIZATION: _COMMON,
    Profile.SR: frozenset({SOP_CLASS_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID}),
}


@dataclass(frozen=True, slots=True)
class Traits:
    """What the profiles ask about a data set beyond its tags."""

    raw_data: bool = False
    verified: bool = False


def required(coverage: Coverage, present: Iterable[int], traits: Traits) -> frozenset[int]:
    """Return those of the `present` top-level tags that a signature of this coverage must cover (PS3.15 C.2-C.4).

    With the Raw Data module all private elements count; a VERIFIED SR adds what a Verification signature must cover.
    """
    listed = _LISTS[coverage]
    found = {tag for tag in present if (_first_of_group(tag) if _repeats(tag) else tag) in listed}
    if traits.raw_data and coverage is not Coverage.SR:
        found.update(tag for tag in present if tag >> 16 & 1)
    if traits.verified and coverage is Coverage.SR:
        found.update(tag for tag in present if tag in (SOP_INSTANCE_UID, VERIFICATION_FLAG, VERIFYING_OBSERVER))
    return frozenset(found)


def covered(coverage: Coverage, present: Iterable[int], traits: Traits) -> frozenset[int]:
    """Return the `present` tags a new signature of this coverage signs: what is required, and what earlier editions required."""
    present = frozenset(present)
    earlier = frozenset[int]() if coverage is Coverage.SR else _EARLIER_GENERAL_IMAGE & present
    return required(coverage, present, traits) | earlier


def _repeats(tag: int) -> bool:
    """Return whether the tag is of a repeating group 50xx or 60xx (PS3.5 7.6)."""
    return tag >> 24 in (0x50, 0x60) and not tag >> 16 & 1 and tag >> 16 & 0xFF <= 0x1E


def _first_of_group(tag: int) -> int:
    return tag & 0xFF00FFFF


def is_structured_report(present: Iterable[int]) -> bool:
    """Return whether the data set is an SR or Key Object document: Value Type, Concept Name and content (PS3.3 C.17.3)."""
    return {VALUE_TYPE, CONCEPT_NAME, CONTENT_SEQUENCE}.issubset(present)


def is_signable(tag: int, vr: bytes) -> bool:
    """Return whether an element may be in a MAC (PS3.3 C.12.1.1.3.1.1). Not checked: a UN inside a sequence."""
    return vr != b"UN" and is_signable_tag(tag)


@lru_cache(maxsize=8192)
def is_signable_tag(tag: int) -> bool:
    """Return whether an element of this tag may be in a MAC when its VR is known (PS3.3 C.12.1.1.3.1.1)."""
    group = tag >> 16
    barred = tag & 0xFFFF == 0 or group < 0x0008 or group == 0xFFFA
    return not (barred or tag in (0x00080001, 0x4FFE0001, 0xFFFCFFFC, 0xFFFEE00D))


def signable_of(tags: frozenset[int]) -> frozenset[int]:
    """Return those of `tags` that `is_signable_tag`."""
    return _signable_of(tags) if len(tags) <= MANY_TAGS else frozenset(filter(is_signable_tag, tags))


@lru_cache(maxsize=32)  # the images of a series are alike
def _signable_of(tags: frozenset[int]) -> frozenset[int]:
    return frozenset(filter(is_signable_tag, tags))


def parse_tag(text: str) -> int:
    """Read a tag given as keyword (PatientName) or as eight hexadecimal digits (00100010). UsageError when it is neither."""
    word = text.strip()
    if len(word) == 8:
        try:
            return int(word, 16)
        except ValueError:
            pass  # eight letters that are no number: a keyword
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(word) if word else None
    if tag is None:
        raise UsageError(f"{word!r} is no attribute", hint="give a keyword such as PatientName, or eight hexadecimal digits")
    return int(tag)


@lru_cache(maxsize=8192)
def name_tag(tag: int) -> str:
    """Return the keyword of a tag, or its eight hexadecimal digits: what `parse_tag` reads."""
    from pydicom.datadict import keyword_for_tag

    return keyword_for_tag(tag) or f"{tag:08X}"

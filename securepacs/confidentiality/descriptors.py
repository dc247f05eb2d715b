"""The Clean Descriptors Option (PS3.15 E.3.5): of free text only words are kept that are known to say nothing of a person.

Known are the words of the standard's own terms for anatomy, views, modalities, contrast agents and procedures (PS3.16, as pydicom
has them) and a short list of words of technique. Numbers go, because they could be a date or an identifier, unless they count
millimetres.
Words that occur in a person's name anywhere in the same data set go even when they are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_WORD = re.compile(r"\d{1,2}(?:\.\d)? ?mm\b|[^\W_]+(?:'[^\W_]+)*", re.IGNORECASE)
_GROUPS = (4, 12, 13, 26, 29, 30, 244, 247, 4009, 4010, 4011, 4014, 4028, 4031)
_TECHNIQUE = frozenset(
    [
        "2d",
        "3d",
        "4d",
        "adc",
        "and",
        "angio",
        "angiography",
        "ap",
        "arterial",
        "artifact",
        "axial",
        "ax",
        "b0",
        "b1000",
        "body",
        "bone",
        "breath",
        "brain",
        "chest",
        "contrast",
        "cor",
        "coronal",
        "ct",
        "ctdi",
        "cta",
        "delayed",
        "diffusion",
        "dixon",
        "dose",
        "dwi",
        "dynamic",
        "dyn",
        "echo",
        "enhanced",
        "epi",
        "fast",
        "fat",
        "field",
        "fine",
        "flair",
        "flow",
        "fov",
        "frontal",
        "fse",
        "fused",
        "gre",
        "hold",
        "head",
        "high",
        "hr",
        "image",
        "images",
        "injection",
        "iv",
        "kernel",
        "lateral",
        "lat",
        "left",
        "low",
        "localizer",
        "lung",
        "mammo",
        "mip",
        "mm",
        "mpr",
        "mr",
        "mra",
        "mri",
        "native",
        "neck",
        "no",
        "oblique",
        "of",
        "or",
        "pa",
        "pelvis",
        "perfusion",
        "pet",
        "phase",
        "plain",
        "portal",
        "post",
        "postcontrast",
        "pre",
        "precontrast",
        "protocol",
        "proton",
        "radial",
        "recon",
        "reconstruction",
        "right",
        "routine",
        "sag",
        "sagittal",
        "saturation",
        "scan",
        "scout",
        "sense",
        "sequence",
        "series",
        "se",
        "shoulder",
        "skull",
        "slab",
        "slice",
        "soft",
        "spect",
        "spectroscopy",
        "spin",
        "spine",
        "spiral",
        "standard",
        "stir",
        "study",
        "survey",
        "swi",
        "t1",
        "t1w",
        "t2",
        "t2w",
        "test",
        "thin",
        "thick",
        "tissue",
        "tof",
        "topogram",
        "tra",
        "transverse",
        "trauma",
        "tse",
        "turbo",
        "ultrasound",
        "us",
        "venous",
        "view",
        "vol",
        "volume",
        "volumetric",
        "weighted",
        "wholebody",
        "window",
        "with",
        "without",
        "xr",
    ]
)
_THICKNESS = re.compile(r"\d.*mm", re.IGNORECASE)


@lru_cache(maxsize=1)
def harmless() -> frozenset[str]:
    """Return the known words, in lower case."""
    from pydicom.sr.codedict import codes

    meanings = (code.meaning for number in _GROUPS for code in getattr(codes, f"cid{number}").concepts.values())
    words = {word for meaning in meanings for word in _words(meaning) if not any(letter.isdigit() for letter in word)}
    return frozenset(words) | _TECHNIQUE


def _words(text: str) -> list[str]:
    return [match.group().casefold() for match in _WORD.finditer(text)]


def clean(text: str, names: frozenset[str]) -> str:
    """Return the known words of `text` that are not in `names` (lower case), separated by one space."""
    kept = (match.group() for match in _WORD.finditer(text))
    known = harmless()
    return " ".join(
        word for word in kept if word.casefold() not in names and (word.casefold() in known or _THICKNESS.fullmatch(word))
    )


def words_of(names: Iterable[str]) -> frozenset[str]:
    """Return the words of persons' names, in lower case."""
    return frozenset(word for name in names for word in _words(name))

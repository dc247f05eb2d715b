"""Encoded data sets without decoding: element walker, Part 10 head, and byte-exact editing (PS3.5 7, PS3.10 7).

`elements`  tokens() and walk() over bytes or mmap: headers parsed in place, values never copied.
`part10`    read_part10(), open_dataset(): preamble, meta information, transfer syntax, inflating.
`edit`      replace_elements(), splice(), encode_element(): change a few elements, leave every other byte alone.
`files`     map a file for reading, write one atomically.
"""

from __future__ import annotations

from securepacs.dicom.edit import encode_element, encode_item, encode_sequence, replace_elements, splice
from securepacs.dicom.elements import Element, Encoding, Part, Token, tokens, walk
from securepacs.dicom.files import map_file, write_atomically
from securepacs.dicom.part10 import EncodedDataSet, Part10, open_dataset, read_part10

__all__ = [
    "Element",
    "EncodedDataSet",
    "Encoding",
    "Part",
    "Part10",
    "Token",
    "encode_element",
    "encode_item",
    "encode_sequence",
    "map_file",
    "open_dataset",
    "read_part10",
    "replace_elements",
    "splice",
    "tokens",
    "walk",
    "write_atomically",
]

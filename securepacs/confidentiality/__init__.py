"""Attribute confidentiality (PS3.15 Annex E): de-identified instances that chosen recipients can identify again."""

from __future__ import annotations

from securepacs.confidentiality.deidentify import Deidentified, deidentify
from securepacs.confidentiality.options import Option
from securepacs.confidentiality.pseudonyms import Pseudonyms
from securepacs.confidentiality.reidentify import Reidentified, reidentify

__all__ = ["Deidentified", "Option", "Pseudonyms", "Reidentified", "deidentify", "reidentify"]

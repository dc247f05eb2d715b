"""Secure media storage application profiles (PS3.11 D, J): what may be on which medium."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from securepacs import codes
from securepacs.codes import CodedValue


class Medium(StrEnum):
    """What a file-set is written for."""

    USB = "usb"  # a folder or the root of a stick
    CD = "iso"  # an ISO 9660 image


@dataclass(frozen=True, slots=True)
class ApplicationProfile:
    """A profile whose X.3.5 section asks for PS3.15 D.1: every file of the set, the DICOMDIR too, is a Secure DICOM File."""

    identifier: str
    medium: Medium
    transfer_syntaxes: frozenset[str]


_JPEG = ("1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")

PROFILES = (  # the first that fits is the one claimed
    ApplicationProfile("STD-GEN-SEC-CD", Medium.CD, frozenset((codes.EXPLICIT_VR_LITTLE_ENDIAN,))),
    ApplicationProfile("STD-GEN-SEC-USB-JPEG", Medium.USB, frozenset((codes.EXPLICIT_VR_LITTLE_ENDIAN, *_JPEG))),
    ApplicationProfile("STD-GEN-SEC-USB-J2K", Medium.USB, frozenset((codes.EXPLICIT_VR_LITTLE_ENDIAN, *_JPEG_2000))),
)
MEDIA_TYPES: dict[Medium, CodedValue] = {Medium.USB: codes.USB_DISK_EMULATION, Medium.CD: codes.CD}  # PS3.16 CID 405


def profile_for(medium: Medium, transfer_syntaxes: frozenset[str]) -> ApplicationProfile | None:
    """Return the profile that takes all of these transfer syntaxes on this medium, None when there is none."""
    fitting = (profile for profile in PROFILES if profile.medium is medium and transfer_syntaxes <= profile.transfer_syntaxes)
    return next(fitting, None)

"""Media security (PS3.15 Annex D): DICOM files encrypted for their recipients, with integrity and, when signed, an author."""

from __future__ import annotations

from securepacs.media.passphrase import generate as generate_passphrase
from securepacs.media.secure_file import MediaDescription, MediaSigner, OpenedFile, inspect, open, protect

__all__ = ["MediaDescription", "MediaSigner", "OpenedFile", "generate_passphrase", "inspect", "open", "protect"]

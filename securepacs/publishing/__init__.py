"""Handing images out on media: what may go on a disc, the disc itself, its audit record, and opening one (PS3.11, PS3.15 D).

The means come from `media` (secure file-sets), `signatures` (the signed manifest), `originals` (the status of copies that leave)
and `audit` (the Export record); what they add up to stands here.

    publish([Path("STUDY")], Path("DISC.iso"), recipients=[lee], signer=hospital)    -> PublishedDisc
    open_disc(Path("DISC.iso"), Path("OUT"), credential, policy=policy)              -> OpenedDisc
"""

from __future__ import annotations

from securepacs.publishing.disc import PublishedDisc, publish
from securepacs.publishing.opening import OpenedDisc, is_disc, open_disc

__all__ = ["OpenedDisc", "PublishedDisc", "is_disc", "open_disc", "publish"]

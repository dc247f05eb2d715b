"""Names of SOP classes for reasons and tables (PS3.6 Annex A)."""

from __future__ import annotations

import re

from pydicom.uid import UID

_VALID = re.compile(r"(?=.{1,64}\Z)(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+", re.ASCII)


def sop_class_name(uid: str) -> str:
    """Return the name that PS3.6 gives; a valid UID without one, such as a private class, stays a UID (PS3.5 9.1).

    Text that is no UID is not repeated: it came from the network. Not even pydicom sees it: it would print it in a warning.
    """
    return UID(uid).name if _VALID.fullmatch(uid) else "an invalid SOP class"

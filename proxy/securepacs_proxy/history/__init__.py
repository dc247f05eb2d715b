"""The durable history of what a gateway worked by: configuration, policies, roles, enrolment of any day, and who changed them."""

from securepacs_proxy.history.changes import Change, ChangeKind, differences, settings_of
from securepacs_proxy.history.past import Past
from securepacs_proxy.history.store import FOLDER, History, Version

__all__ = ["History", "Version", "Past", "Change", "ChangeKind", "differences", "settings_of", "FOLDER"]

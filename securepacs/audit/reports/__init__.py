"""Reports over the audit trail: who saw a patient's images, the monthly check, emergency access, the extent of a breach.

    with access(Scope(repository, reader, at=now, language="ko"), patient="4711") as report:
        path.write_bytes(b"".join(html(report)))

Each is streamed from the repository, is itself recorded there (Audit Log Used), and is written as one page or as CSV.
"""

from __future__ import annotations

from securepacs.audit.reports.access import access
from securepacs.audit.reports.breach import Suspect, SuspectKind, breach
from securepacs.audit.reports.cells import csv_lines
from securepacs.audit.reports.emergency import emergency
from securepacs.audit.reports.model import Report
from securepacs.audit.reports.monthly import month_before, month_of, monthly
from securepacs.audit.reports.page import html
from securepacs.audit.reports.scope import Scope, time_zone
from securepacs.audit.reports.signing import check_signature, find_signature, record_signature, sign_page, signature_path

__all__ = [
    "Report", "Scope", "Suspect", "SuspectKind", "access", "breach", "check_signature", "csv_lines", "emergency", "find_signature",
    "html", "month_before", "month_of", "monthly", "record_signature", "sign_page", "signature_path", "time_zone",
]  # fmt: skip

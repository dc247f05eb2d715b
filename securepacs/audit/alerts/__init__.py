"""Alerts from the audit trail: rules over what was recorded, and ways out that lose nothing.

`facts`     what rules look at in a record        `settings`  alerts.toml
`rules`     facts -> findings, pure               `channels`  syslog, e-mail, webhook
`watcher`   repository -> rules -> durable queue -> channels
"""

from __future__ import annotations

from securepacs.audit.alerts.rules import RULES, Finding
from securepacs.audit.alerts.settings import AlertSettings, load_settings
from securepacs.audit.alerts.watcher import Alert, Watcher

__all__ = ["RULES", "Alert", "AlertSettings", "Finding", "Watcher", "load_settings"]

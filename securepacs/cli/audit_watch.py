"""`securepacs audit watch`: alerts from an audit record repository."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from securepacs.cli import audit_log, output

if TYPE_CHECKING:
    from securepacs.audit.alerts import Alert


@output.reports_errors
def watch(
    store: audit_log.StoreOption,
    config: Annotated[Path, typer.Option("-c", "--config", help="alerts.toml: rules, thresholds and where alerts go.")],
    once: Annotated[bool, typer.Option("--once", help="Look at what is new, deliver, and end: for a timer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on a line.")] = False,
) -> None:
    """Watch a repository and send alerts by syslog, e-mail and webhook, until SIGTERM. They are printed as well."""
    import signal
    import sys
    import threading

    from securepacs.audit.alerts import Watcher, load_settings
    from securepacs.audit.repository import Repository

    def tell(alert: Alert) -> None:
        if as_json:
            output.print_json(asdict(alert))
        else:
            output.console.print(f"{alert.at} {alert.kind}: {alert.text}", markup=False, highlight=False)
        sys.stdout.flush()  # whoever reads a pipe must not wait for the next one

    settings = load_settings(config)
    stopping = threading.Event()
    with Repository(store, must_exist=True) as repository, Watcher(repository, settings, on_alert=tell) as watcher:
        if once:
            watcher.turn()
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: stopping.set())
        output.errors.print(f"watching {repository.uri}", markup=False, highlight=False)
        watcher.run(stopping)

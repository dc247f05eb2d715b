"""`securepacs-proxy gateway check`: would a gateway start with this configuration, and serve?"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import typer

from securepacs.cli import output
from securepacs_proxy.cli.options import CONFIG_OPTION, JSON_OPTION


@output.reports_errors
def check(
    config: Path = CONFIG_OPTION,
    connect: bool = typer.Option(False, "--connect", help="Also open a TCP connection to every archive and audit repository."),
    print_settings: bool = typer.Option(
        False, "--print-settings", help="Print the reference page of all settings (Markdown) and exit."
    ),
    json: bool = JSON_OPTION,
) -> None:
    """Check a configuration with everything it names: certificates, keys, trust, CRLs, policies, spool. Exit 0 or 2."""
    from securepacs_proxy.config import GatewayConfig, settings_markdown
    from securepacs_proxy.config.check import State, check_gateway

    if print_settings:
        sys.stdout.write(settings_markdown(GatewayConfig))
        return
    findings = check_gateway(config, at=datetime.now(UTC), connect=connect)
    if json:
        for finding in findings:
            output.print_json({"key": finding.key, "state": finding.state.value, "detail": finding.detail, "hint": finding.hint})
    else:
        rows = (
            (finding.state.value, finding.key, f"{finding.detail}\nhint: {finding.hint}" if finding.hint else finding.detail)
            for finding in findings
        )
        output.print_table(f"Configuration {config}", ("state", "setting", "found"), rows)
    if any(finding.state is State.FAILED for finding in findings):
        raise SystemExit(2)

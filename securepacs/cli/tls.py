"""`securepacs tls probe`: what a TLS server offers, which profile of PS3.15 Annex B it meets, and what to change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from securepacs.cli import output
from securepacs.errors import UsageError

if TYPE_CHECKING:
    from securepacs.tls_probe import Findings, ProfileVerdict

app = typer.Typer(help="Transport security.", no_args_is_help=True)


@app.callback()
def tls() -> None:
    """Transport security."""


@app.command("probe")
@output.reports_errors
def probe(
    address: str = typer.Argument(metavar="HOST:PORT", help="The server; the port is 2762 when left out."),
    server_name: str = typer.Option("", "--server-name", help="Name to ask for (SNI), when it is not HOST."),
    seconds: float = typer.Option(5.0, "--timeout", min=0.1, max=60.0, help="Patience for each answer."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Say which secure transport profile a server meets. Exit 0 when B.12 or B.13, 1 when neither, 5 when nothing answers.

    Up to eighty connections are made, each of which the server may record as a failed handshake.
    """
    from securepacs.tls_probe import judge
    from securepacs.tls_probe import probe as look

    host, port = _split(address)
    found = look(host, port, server_name=server_name, seconds=seconds)
    verdicts = judge(found)
    if json:
        output.print_json(_as_json(found, verdicts))
    else:
        output.print_table(f"{host} port {port}", ("what", "found"), _rows(found))
        rows = [
            (verdict.profile, verdict.title, "yes" if verdict.met else "no", "; ".join(verdict.changes), "; ".join(verdict.advice))
            for verdict in verdicts
        ]
        output.print_table("Profiles of PS3.15 Annex B", ("profile", "title", "met", "must change", "should change"), rows)
    if not any(verdict.met for verdict in verdicts if verdict.profile in ("B.12", "B.13")):
        raise SystemExit(1)


def _split(address: str) -> tuple[str, int]:
    from securepacs.tls import DICOM_TLS_PORT

    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]") or (":" in host and not host.startswith("[")):
        host, port = address, str(DICOM_TLS_PORT)
    if not host or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise UsageError("the address is not HOST:PORT", hint="for example pacs.hospital.example:2762")
    return host.strip("[]"), int(port)


def _rows(found: Findings) -> list[tuple[str, str]]:
    from securepacs.tls_hello import VERSION_NAMES
    from securepacs.tls_probe import describe_key

    if found.plain:
        return [("TLS", "no"), ("instead", found.plain)]
    asks = {True: "yes", False: "no", None: "not known"}[found.asks_client]
    rows = [
        ("versions", ", ".join(VERSION_NAMES[version] for version in found.versions) or "none that was asked for"),
        ("suites of TLS 1.3", "\n".join(found.tls13_suites) or "none"),
        ("suites up to TLS 1.2", "\n".join(found.suites) or "none"),
        ("groups", ", ".join(found.groups) or "none"),
        ("asks for a client certificate", asks),
    ]
    if found.dh_bits:
        rows.append(("DH parameters", f"{found.dh_bits} bits"))
    now = datetime.now(UTC)
    for position, certificate in enumerate(found.chain):
        end = certificate.not_valid_after_utc
        validity = f"{'expired' if end < now else 'valid until'} {end:%Y-%m-%d}"
        names = f"{certificate.subject.rfc4514_string()}\nissued by {certificate.issuer.rfc4514_string()}"
        text = f"{names}\n{describe_key(certificate)}, {validity}"
        rows.append(("certificate" if position == 0 else f"chain {position}", text))
    return rows


def _as_json(found: Findings, verdicts: list[ProfileVerdict]) -> dict[str, object]:
    from cryptography.hazmat.primitives import hashes

    from securepacs.tls_hello import VERSION_NAMES
    from securepacs.tls_probe import describe_key

    chain = [
        {
            "subject": certificate.subject.rfc4514_string(),
            "issuer": certificate.issuer.rfc4514_string(),
            "key": describe_key(certificate),
            "not_after": certificate.not_valid_after_utc.isoformat(),
            "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
        }
        for certificate in found.chain
    ]
    return {
        "host": found.host,
        "port": found.port,
        "tls": not found.plain,
        "instead": found.plain,
        "versions": [VERSION_NAMES[version] for version in found.versions],
        "tls13_suites": found.tls13_suites,
        "suites": found.suites,
        "groups": found.groups,
        "dh_bits": found.dh_bits,
        "asks_client_certificate": found.asks_client,
        "chain": chain,
        "profiles": [
            {
                "profile": verdict.profile,
                "title": verdict.title,
                "met": verdict.met,
                "must_change": list(verdict.changes),
                "should_change": list(verdict.advice),
            }
            for verdict in verdicts
        ],
    }

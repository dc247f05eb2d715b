"""`securepacs audit serve`: run an audit record repository."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from securepacs.cli import audit_log, output
from securepacs.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from securepacs.audit.forwarder import SyslogSender
    from securepacs.audit.ntp import ClockState
    from securepacs.audit.repository import Repository
    from securepacs.audit.repository.fhir_service import AuditEventServer
    from securepacs.audit.sinks import SpoolSink

CertOption = Annotated[Path, typer.Option("--cert", help="Own certificate, its chain may follow (PEM).")]
KeyOption = Annotated[Path, typer.Option("--key", help="Private key of that certificate (PEM).")]
TrustOption = Annotated[list[Path], typer.Option("--trust", help="Certificates that peers are verified against: file or folder.")]
CrlOption = Annotated[list[Path] | None, typer.Option("--crl", help="Revocation lists; then every peer must be covered by one.")]


@output.reports_errors
def serve(
    listen: Annotated[str, typer.Option("--listen", help="HOST:PORT to listen on; port 0 takes a free one.")],
    store: audit_log.StoreOption,
    cert: CertOption,
    key: KeyOption,
    trust: TrustOption,
    crl: CrlOption = None,
    unsafe_tcp: Annotated[
        str, typer.Option("--unsafe-tcp", help="HOST:PORT to take syslog without TLS at (RFC 6587): its senders are strangers.")
    ] = "",
    unsafe_udp: Annotated[
        str, typer.Option("--unsafe-udp", help="HOST:PORT to take datagrams at (RFC 5426): strangers, and some may get lost.")
    ] = "",
    forward: Annotated[
        list[str] | None, typer.Option("--forward", help="HOST:PORT that every record is forwarded to, unchanged, over TLS.")
    ] = None,
    unsafe_forward: Annotated[
        list[str] | None,
        typer.Option("--unsafe-forward", help="The same without any protection: tcp://HOST:PORT or udp://HOST:PORT."),
    ] = None,
    positions: Annotated[
        Path | None, typer.Option("--positions", help="Folder that keeps how far every destination of --forward has come.")
    ] = None,
    log_key: audit_log.LogKeyOption = None,
    origin: audit_log.OriginOption = "",
    checkpoint_seconds: Annotated[float, typer.Option("--checkpoint-seconds", min=0.1, help="Sign the log so often.")] = 10.0,
    tsa: Annotated[list[str] | None, typer.Option("--tsa", help="Time stamp authority (RFC 3161) for a checkpoint a day.")] = None,
    witness: Annotated[str, typer.Option("--witness", help="HOST:PORT that every checkpoint is sent to as an audit record.")] = "",
    spool: Annotated[Path | None, typer.Option("--spool", help="Folder where checkpoints wait for the witness.")] = None,
    keep_days: Annotated[int, typer.Option("--keep-days", help="Erase what is older and not held; 0 keeps for ever.")] = 0,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="CLASS=DAYS of records of their own: patient, security or system.")
    ] = None,
    law: Annotated[str, typer.Option("--law", help="The law that retention follows; it is recorded.")] = "",
    fhir_listen: Annotated[str, typer.Option("--fhir-listen", help="HOST:PORT of FHIR search for auditors (IHE ITI-81).")] = "",
    fhir_trust: Annotated[
        list[Path] | None, typer.Option("--fhir-trust", help="Whom to trust for certificates of auditors: file or folder.")
    ] = None,
    fhir_crl: Annotated[list[Path] | None, typer.Option("--fhir-crl", help="Revocation lists of auditors.")] = None,
    auditor: Annotated[
        list[str] | None, typer.Option("--auditor", help="SHA-256 of a certificate that is an auditor's without saying so.")
    ] = None,
) -> None:
    """Run an audit record repository: syslog over mutual TLS (RFC 5425) into a searchable store, until SIGTERM.

    With --log-key the log over all records is signed, so that `audit verify` can prove it unaltered.
    """
    import signal
    import threading
    from contextlib import ExitStack

    from securepacs.audit.forwarder import Forwarder
    from securepacs.audit.ntp import ClockWatch
    from securepacs.audit.repository import Repository, RepositoryServer
    from securepacs.audit.repository.server import spare_collector
    from securepacs.tls import server_context

    if log_key is None and (tsa or witness or keep_days or keep):
        raise UsageError("--tsa, --witness, --keep-days and --keep need --log-key: only a signed log can prove what was erased")

    if not fhir_listen and (fhir_trust or fhir_crl or auditor):
        raise UsageError("--fhir-trust, --fhir-crl and --auditor need --fhir-listen")
    by_class = audit_log.retention_by_class(keep or ())
    host, port = address(listen)
    tcp, udp = (address(each) if each else None for each in (unsafe_tcp, unsafe_udp))
    context = server_context(certificate=cert, key=key, trust=trust, crls=crl or ())
    destinations = _destinations(forward or (), unsafe_forward or (), cert, key, trust)
    places = positions or Path()
    if destinations and positions is None:
        raise UsageError("--forward needs --positions: after a restart it goes on where it was")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    with Repository(store) as repository, ExitStack() as stack:
        if log_key is not None:
            from securepacs.audit.repository.keeper import LogKeeper
            from securepacs.audit.repository.signer import LogSigner

            signer = LogSigner.load(log_key, origin=origin)
            output.errors.print(f"log key {signer.public}", markup=False, highlight=False)
            sink = stack.enter_context(_witness(witness, spool, cert, key, trust)) if witness else None
            stack.enter_context(
                LogKeeper(
                    repository,
                    signer,
                    seconds=checkpoint_seconds,
                    witness=sink,
                    stamp_urls=tsa or (),
                    retention=timedelta(days=keep_days) if keep_days else None,
                    retention_by_class=by_class,
                    law=law,
                )
            )
        if fhir_listen:
            fhir = stack.enter_context(_fhir(repository, fhir_listen, cert, key, fhir_trust, fhir_crl, auditor))
            output.errors.print(f"FHIR at https://{_joined(address(fhir_listen)[0], fhir.port)}", markup=False, highlight=False)
        for name, sender in destinations.items():
            forwarder = Forwarder([repository.supply(places, name)], sender, name=name, poll_seconds=0.5)
            forwarder.start()
            stack.callback(forwarder.stop)
        stack.enter_context(ClockWatch(partial(_tell_clock, repository)))
        server = RepositoryServer(repository, host=host, port=port, context=context, unsafe_tcp=tcp, unsafe_udp=udp)
        spare_collector()
        with server:
            _print_listening(host, server.port, "")
            if tcp is not None:
                _print_listening(tcp[0], server.tcp_port, " without TLS: anybody may write")
            if udp is not None:
                _print_listening(udp[0], server.udp_port, " (UDP): anybody may write, and datagrams may get lost")
            ended.wait()


def _tell_clock(repository: Repository, state: ClockState, at: datetime) -> None:
    from securepacs.audit.events import participant
    from securepacs.audit.ntp import clock_record

    reporter = participant(repository.source.AuditSourceID, host=repository.hostname)
    try:
        repository.record(clock_record(state, source=repository.source, reporter=reporter, at=at), at=at)
    except Unavailable as error:
        output.errors.print(f"the state of the clock is not on record: {error}", markup=False, highlight=False)


def _destinations(
    forward: Sequence[str], unsafe_forward: Sequence[str], cert: Path, key: Path, trust: list[Path]
) -> dict[str, SyslogSender]:
    """Return a sender for each destination that is asked for, by the name of its position."""
    from securepacs.audit.senders import Transport, destination_name, make_sender
    from securepacs.tls import client_context

    context = partial(client_context, certificate=cert, key=key, trust=trust)
    wanted = [(Transport.TLS, *address(each)) for each in forward]
    for each in unsafe_forward:
        scheme, separator, rest = each.partition("://")
        if not separator or scheme not in ("tcp", "udp"):
            raise UsageError(f"{each!r} is neither tcp://HOST:PORT nor udp://HOST:PORT")
        wanted.append((Transport(f"unsafe-{scheme}"), *address(rest)))
    return {destination_name(*each): make_sender(*each, context=context) for each in wanted}


@contextmanager
def _witness(to: str, spool: Path | None, cert: Path, key: Path, trust: list[Path]) -> Iterator[SpoolSink]:
    """Yield a sink whose records are delivered to another repository."""
    if spool is None:
        raise UsageError("--witness needs --spool: checkpoints wait there while the witness cannot be reached")
    with delivered(to, spool, cert, key, trust, app_name="securepacs-audit", name="witness") as sink:
        yield sink


@contextmanager
def delivered(to: str, spool: Path, cert: Path, key: Path, trust: list[Path], *, app_name: str, name: str) -> Iterator[SpoolSink]:
    """Yield a sink whose records are delivered to the repository `to`; those that were not wait in the spool, and it is said."""
    from securepacs.audit.forwarder import Forwarder
    from securepacs.audit.sinks import SpoolSink
    from securepacs.audit.syslog_tls import SyslogTlsSender
    from securepacs.tls import client_context

    host, port = address(to)
    sender = SyslogTlsSender(host, port, client_context(certificate=cert, key=key, trust=trust))
    with SpoolSink.open(spool, app_name=app_name, destinations=(name,)) as sink:
        forwarder = Forwarder([spool], sender, name=name)
        forwarder.start()
        try:
            yield sink
        finally:
            if not forwarder.stop():
                text = f"warning: records for {to} wait in {spool}; the next command that delivers from there sends them"
                output.errors.print(text, markup=False, highlight=False)


def _fhir(
    repository: Repository,
    listen: str,
    cert: Path,
    key: Path,
    trust: list[Path] | None,
    crl: list[Path] | None,
    auditors: list[str] | None,
) -> AuditEventServer:
    """Return the FHIR service. Auditors have anchors of their own: a CA of devices must not be able to make one."""
    from securepacs.audit.repository.fhir_service import AuditEventServer
    from securepacs.tls import server_context

    if not trust:
        raise UsageError("--fhir-listen needs --fhir-trust: whose certificates may be auditors")
    host, port = address(listen)
    context = server_context(certificate=cert, key=key, trust=trust, crls=crl or (), alpn=("http/1.1",))
    return AuditEventServer(repository, host=host, port=port, context=context, auditors=auditors or ())


def _print_listening(host: str, port: int, how: str) -> None:
    output.errors.print(f"listening on {_joined(host, port)}{how}", highlight=False)


def address(text: str) -> tuple[str, int]:
    """Read HOST:PORT; the host of an IPv6 address may stand in brackets."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"{text!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

"""`securepacs media publish`, and `media open` for what it made: secure file-sets on sticks and discs (PS3.10 7.4, PS3.11 D, J)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from securepacs.cli import output
from securepacs.cli.keys import ChainOption, PinEnvOption, PinFileOption, TokenOption, credential_from
from securepacs.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from securepacs.cms.passwords import Password
    from securepacs.publishing import OpenedDisc, PublishedDisc
    from securepacs.publishing.disc import Recorder
    from securepacs.tokens.credential import Credential
    from securepacs.trust import TrustPolicy

_ARCHIVE, _CONTENT, _RECORD = "From an archive", "What goes on it", "The record of it"


_CD_SIZE = 360_000 * 2048  # octets on a CD-R of 80 minutes


class Image(StrEnum):
    """The kinds of image."""

    ISO = "iso"


@output.reports_errors
def publish(
    destination: Annotated[
        Path, typer.Option("-o", "--output", "--out", metavar="DST", help="A new or empty folder (a stick), or a new image *.iso.")
    ],
    sources: Annotated[list[Path] | None, typer.Argument(metavar="[SRC]...", help="DICOM files, or folders of them.")] = None,
    image: Annotated[Image | None, typer.Option("--image", help="Write an ISO 9660 image, whatever DST is called.")] = None,
    to: Annotated[list[Path] | None, typer.Option("--to", help="Certificate of a recipient (repeatable).")] = None,
    password_file: Annotated[Path | None, typer.Option("--password-file", help="File (mode 600) with their password.")] = None,
    new_password_file: Annotated[
        Path | None, typer.Option("--new-password-file", help="Make a passphrase of 100 bits and write it to this new file.")
    ] = None,
    sign_key: Annotated[Path | None, typer.Option("--sign-key", help="Private key of the signer (RSA).")] = None,
    sign_cert: Annotated[Path | None, typer.Option("--sign-cert", help="Certificate of the signer.")] = None,
    chain: ChainOption = None,
    token: TokenOption = None,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
    cipher: Annotated[str, typer.Option("--cipher", help="As in media protect; *-gcm is an extension.")] = "aes256-cbc",
    oaep: Annotated[bool, typer.Option("--oaep", help="RSA-OAEP for RSA recipients: an extension.")] = False,
    pacs: Annotated[
        str, typer.Option("--pacs", metavar="AET@HOST:PORT", help="Fetch the studies by C-GET.", rich_help_panel=_ARCHIVE)
    ] = "",
    study: Annotated[
        list[str] | None, typer.Option("--study", metavar="UID", help="Study Instance UID (repeatable).", rich_help_panel=_ARCHIVE)
    ] = None,
    calling: Annotated[str, typer.Option("--calling", metavar="AET", help="Our AE title", rich_help_panel=_ARCHIVE)] = "SECUREPACS",
    move_port: Annotated[
        int, typer.Option("--move-port", metavar="N", help="Fetch by C-MOVE, received on this port.", rich_help_panel=_ARCHIVE)
    ] = 0,
    tls_trust: Annotated[
        list[Path] | None, typer.Option("--tls-trust", help="Use TLS and trust these for it.", rich_help_panel=_ARCHIVE)
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="Our certificate for TLS.", rich_help_panel=_ARCHIVE)] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="The key of it.", rich_help_panel=_ARCHIVE)] = None,
    several_patients: Annotated[
        bool, typer.Option("--several-patients", help="The disc is meant to hold more than one patient.", rich_help_panel=_CONTENT)
    ] = False,
    skip_others: Annotated[
        bool, typer.Option("--skip-others", help="Leave out files that are not DICOM.", rich_help_panel=_CONTENT)
    ] = False,
    any_transfer_syntax: Annotated[
        bool,
        typer.Option("--any-transfer-syntax", help="Take what no profile has; the disc claims none.", rich_help_panel=_CONTENT),
    ] = False,
    store: Annotated[
        str,
        typer.Option("--store", envvar="SECUREPACS_STORE", metavar="URL", help="Registry of originals.", rich_help_panel=_CONTENT),
    ] = "",
    authorized_copies: Annotated[
        bool,
        typer.Option("--authorized-copies", help="Copies of authorized originals leave as AC, not NS.", rich_help_panel=_CONTENT),
    ] = False,
    audit_spool: Annotated[
        Path | None,
        typer.Option("--audit-spool", metavar="FOLDER", help="Spool for the Export record.", rich_help_panel=_RECORD),
    ] = None,
    audit_source: Annotated[
        str, typer.Option("--audit-source", metavar="ID", help="AuditSourceID of the record.", rich_help_panel=_RECORD)
    ] = "securepacs-media",
    audit_to: Annotated[
        str, typer.Option("--audit-to", metavar="HOST:PORT", help="Repository that the spool is sent to.", rich_help_panel=_RECORD)
    ] = "",
    audit_cert: Annotated[Path | None, typer.Option("--audit-cert", help="Our certificate.", rich_help_panel=_RECORD)] = None,
    audit_key: Annotated[Path | None, typer.Option("--audit-key", help="The key of it.", rich_help_panel=_RECORD)] = None,
    audit_trust: Annotated[
        list[Path] | None, typer.Option("--audit-trust", help="Whom to trust for it.", rich_help_panel=_RECORD)
    ] = None,
    unsafe_weak_password: Annotated[
        bool, typer.Option("--unsafe-weak-password", help="Take a password that could be found by trying.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a disc or stick for a patient or colleague: DICOMDIR and images encrypted, with a signed manifest of every study."""
    from securepacs.cli.media import password_from
    from securepacs.media import passphrase
    from securepacs.media.application_profiles import Medium
    from securepacs.media.file_set import Sealing
    from securepacs.publishing import publish as publish_disc
    from securepacs.tokens.software import load_certificates

    _check_sources(sources, pacs, study)
    medium = Medium.CD if image or destination.suffix.lower() == ".iso" else Medium.USB
    recipients = [load_certificates(path)[0] for path in to or ()]
    if not recipients and not (password_file or new_password_file):
        raise UsageError("nobody could open this disc", hint="give --to CERTIFICATE, --new-password-file or --password-file")
    signing = bool(sign_key or sign_cert or token)
    names = "--sign-key with --sign-cert, or --token"
    with ExitStack() as stack:
        signer: Credential | None = stack.enter_context(
            credential_from(key=sign_key, cert=sign_cert, chain=chain, token=token, pin_file=pin_file, pin_env=pin_env, names=names)
            if signing
            else nullcontext()
        )
        record = stack.enter_context(
            _recorder(audit_spool, audit_source, destination, audit_to, audit_cert, audit_key, audit_trust)
        )
        tls = (tls_trust, tls_cert, tls_key)
        paths = list(sources or ()) or stack.enter_context(_fetched(pacs, study or [], calling, move_port, *tls))
        text = password_from(password_file, new_password_file)
        stack.enter_context(_forgotten_on_error(new_password_file))
        password = None if text is None else passphrase.shared(text, unsafe_weak=unsafe_weak_password)
        made = publish_disc(
            paths, destination, Sealing(recipients, password, signer, cipher, "oaep" if oaep else "pkcs1v15"),
            medium=medium, several_patients=several_patients, skip_others=skip_others, any_transfer_syntax=any_transfer_syntax,
            registry=_registry(store) if store else None, authorized_copies=authorized_copies, record=record,
            progress=output.with_progress,
        )  # fmt: skip
    _print_published(made, signed=signing, recorded=audit_spool is not None, as_json=as_json)


@contextmanager
def _forgotten_on_error(new_password_file: Path | None) -> Iterator[None]:
    """Take the passphrase just made away when no disc comes of it: it would open nothing."""
    try:
        yield
    except BaseException:
        if new_password_file is not None:
            new_password_file.unlink(missing_ok=True)
        raise


def open_disc_at(
    source: Path,
    destination: Path,
    credential: Credential | None,
    password: Password | None,
    policy: TrustPolicy | None,
    *,
    allow_no_integrity: bool,
    allow_incomplete: bool,
    as_json: bool,
) -> None:
    """Open a disc and print what it holds."""
    from securepacs.publishing import open_disc

    opened = open_disc(
        source, destination, credential, password=password, policy=policy, allow_no_integrity=allow_no_integrity,
        allow_incomplete=allow_incomplete, progress=output.with_progress,
    )  # fmt: skip
    _print_opened(source, opened, as_json=as_json)
    if opened.file_set.failed:
        from securepacs.wiring import exit_code

        raise SystemExit(output.worst_of_files(exit_code(error) for _, error in opened.file_set.failed))


def _check_sources(sources: list[Path] | None, pacs: str, study: list[str] | None) -> None:
    if bool(sources) == bool(pacs) or bool(pacs) != bool(study):
        raise UsageError("say what to publish: files or folders, or --pacs AET@HOST:PORT with --study UID")


@contextmanager
def _fetched(
    pacs: str, study: list[str], calling: str, move_port: int, trust: list[Path] | None, certificate: Path | None, key: Path | None
) -> Iterator[list[Path]]:
    """Give the files of studies, fetched into a private folder that is taken away at the end; never onto the medium."""
    from tempfile import TemporaryDirectory

    from securepacs.publishing.retrieval import fetch_studies

    title, at, address = pacs.partition("@")
    host, colon, port = address.rpartition(":")
    if not (title and at and host and colon and port.isdigit() and 0 < int(port) < 1 << 16):
        raise UsageError("--pacs is AET@HOST:PORT, for example ARCHIVE@pacs.example:11112")
    try:
        from securepacs.pacs import DimseConnector, MoveConnector
    except ModuleNotFoundError as error:
        raise ConfigError(f"an archive needs {error.name}", key="pacs", hint="pip install 'securepacs[gateway]'") from None
    if (certificate or key) and not trust:
        raise UsageError("TLS needs --tls-trust: the archive is verified as well")
    names: dict[str, Any] = {"called_ae_title": title, "calling_ae_title": calling}
    if trust:
        from securepacs.tls import client_context, server_context

        names["tls"] = client_context(trust=trust, certificate=certificate, key=key)
        if move_port:
            if not (certificate and key):
                raise UsageError("C-MOVE over TLS needs --tls-cert and --tls-key: the archive connects to us")
            names["listen_tls"] = server_context(certificate=certificate, key=key, trust=trust)
    place = host.strip("[]"), int(port)
    archive = MoveConnector(*place, listen_port=move_port, **names) if move_port else DimseConnector(*place, **names)
    with TemporaryDirectory(prefix="securepacs-") as folder:
        yield fetch_studies(archive, study, Path(folder))


def _registry(url: str) -> Any:
    try:
        from securepacs.originals.sql_registry import SqlRegistry
        from securepacs.store import open_store
    except ModuleNotFoundError as error:
        raise ConfigError(f"the registry needs {error.name}", key="store", hint="pip install 'securepacs[audit]'") from None
    return SqlRegistry(open_store(url))


@contextmanager
def _recorder(
    spool: Path | None, source: str, place: Path, to: str, cert: Path | None, key: Path | None, trust: list[Path] | None
) -> Iterator[Recorder | None]:
    """Give what writes the Export record into a spool, and sends it on when a repository is named; None without a spool."""
    if to and not (spool and cert and key and trust):
        raise UsageError("--audit-to needs --audit-spool, --audit-cert, --audit-key and --audit-trust")
    if spool is None:
        yield None
        return
    from securepacs.audit.message import AuditSourceIdentification
    from securepacs.audit.sinks import SpoolSink
    from securepacs.cli.audit import reader
    from securepacs.cli.audit_serve import delivered
    from securepacs.publishing.export import export_record

    name = "securepacs-media"
    opened = (
        delivered(to, spool, cert, key, trust, app_name=name, name="repository")
        if to and cert and key and trust
        else SpoolSink.open(spool, app_name=name, destinations=("repository",))
    )
    with opened as sink:

        def record(sources: Any, medium: Any, label: str, outcome: Any) -> None:
            sink.emit(
                export_record(
                    sources, source=AuditSourceIdentification(source), at=datetime.now(UTC), users=[reader()], medium=medium,
                    place=place.absolute().as_uri(), label=label, outcome=outcome,
                )
            )  # fmt: skip

        yield record


def _print_published(made: PublishedDisc, *, signed: bool, recorded: bool, as_json: bool) -> None:
    facts: dict[str, Any] = {"output": str(made.output), "medium": made.medium.value, "profile": made.profile, "label": made.label}
    facts |= {"instances": made.instances, "studies": made.studies, "manifests": made.manifests, "left_out": list(made.left_out)}
    warnings = [
        *([] if signed else ["nobody signed this disc: a recipient cannot see who made it, nor whether something is missing"]),
        *([] if recorded else ["no audit record was written; --audit-spool writes one"]),
        *([] if made.profile else ["the disc conforms to no application profile of PS3.11"]),
        *(f"left out, not DICOM: {name}" for name in made.left_out),
    ]
    if made.size > _CD_SIZE:
        warnings.append(f"the image has {made.size >> 20} MiB and does not fit on a CD")
    _warn(warnings)
    if as_json:
        output.print_json(facts)
        return
    facts |= {"profile": made.profile or "none", "left_out": len(made.left_out)}
    output.print_table("published", ("property", "value"), facts.items())


def _print_opened(source: Path, opened: OpenedDisc, *, as_json: bool) -> None:
    studies = [report.to_dict() for report in opened.studies]
    files = [
        {
            "file": "/".join(member.file_id),
            "output": str(member.path),
            "integrity": member.opened.integrity,
            "origin": member.opened.origin,
            "warnings": list(member.opened.warnings),
        }
        for member in opened.file_set.members
    ]
    for identifier, error in opened.file_set.failed:
        output.print_error(error, file="/".join(identifier))
    if as_json:
        for facts in files:
            output.print_json(facts)
        disc = {"disc": str(source), "origin": opened.origin, "warnings": list(opened.warnings), "studies": studies}
        output.print_json({**disc, "unnamed": list(opened.file_set.unnamed)})
        return
    _warn([*opened.warnings, *(f"not named by the DICOMDIR, not opened: {name}" for name in opened.file_set.unnamed)])
    rows = [(facts["file"], facts["integrity"], f"origin {facts['origin']}") for facts in files]
    output.print_table("opened", ("file", "integrity", "origin"), rows)
    manifests = [
        (report.study_instance_uid, len(report.unchanged), len(report.missing), report.manifest.verdict)
        for report in opened.studies
    ]
    output.print_table("signed manifests", ("study", "unchanged", "missing", "signature"), manifests)


def _warn(texts: list[str]) -> None:
    from securepacs.cli.paths import printable

    for text in texts:
        output.errors.print(f"warning: {printable(text)}", markup=False, highlight=False)

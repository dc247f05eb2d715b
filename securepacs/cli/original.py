"""`securepacs original`: register, authorize and copy originals (PS3.15 A.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from securepacs.cli import output
from securepacs.cli.keys import (
    CertOption,
    ChainOption,
    KeyOption,
    P12Option,
    PinEnvOption,
    PinFileOption,
    TokenOption,
    credential_from,
)
from securepacs.cli.paths import files_in, outputs_for, printable
from securepacs.cli.trusting import AllowHostOption, CrlOption, IntermediatesOption, OnlineOption, read_policy
from securepacs.errors import ConfigError, IntegrityFailure, SecurePacsError, UsageError

if TYPE_CHECKING:
    from securepacs.originals.registry import HistoryEntry, Holding
    from securepacs.originals.sql_registry import SqlRegistry

app = typer.Typer(help="Originals: register, authorize, copy, and who holds what (PS3.15 A.1).", no_args_is_help=True)

FilesArgument = Annotated[list[Path], typer.Argument(metavar="FILE...", help="DICOM files, or folders of them.")]
NamesArgument = Annotated[list[str], typer.Argument(metavar="UID|FILE...", help="SOP Instance UIDs, or DICOM files.")]
StoreOption = Annotated[
    str,
    typer.Option(
        "--store", envvar="SECUREPACS_STORE", metavar="URL", help="The registry, e.g. sqlite:////var/lib/securepacs/store.db."
    ),
]
EquipmentOption = Annotated[str, typer.Option("--equipment", metavar="N", help="Equipment certification number (0100,0426).")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]


class CopyStatus(StrEnum):
    """What a copy may be."""

    AC = "AC"
    NS = "NS"


@app.command()
@output.reports_errors
def create(
    files: FilesArgument,
    store: StoreOption,
    holder: Annotated[str, typer.Option("--holder", metavar="AE", help="AE title that holds the originals.")],
    equipment: EquipmentOption = "",
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Where the stamped file or files go.")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the files by their stamped form.")] = False,
) -> None:
    """Register new instances as originals (T1) and stamp them OR. All are registered or none; repeating the command is safe."""
    from securepacs import originals

    pairs = outputs_for(files, destination, in_place=in_place)
    sources = [source for source, _ in pairs]
    stamped = originals.create(sources, _registry(store), holder=holder, at=datetime.now(UTC), equipment=equipment)
    for (_, target), data in zip(pairs, stamped, strict=True):
        _write(target, data)
        output.console.print(printable(f"OR {target}"), markup=False, highlight=False)


@app.command()
@output.reports_errors
def authorize(
    files: FilesArgument,
    store: StoreOption,
    trust: Annotated[list[Path], typer.Option("--trust", help="Certificates to trust: PEM file or folder.")],
    key_object: Annotated[Path, typer.Option("-o", "--output", metavar="KO.dcm", help="Where the signed key object goes.")],
    key: KeyOption = None,
    cert: CertOption = None,
    chain: ChainOption = None,
    p12: P12Option = None,
    token: TokenOption = None,
    pin_file: PinFileOption = None,
    pin_env: PinEnvOption = None,
    intermediates: IntermediatesOption = None,
    crl: CrlOption = None,
    online: OnlineOption = True,
    allow_host: AllowHostOption = None,
    role: Annotated[str, typer.Option("--role", help="Role that the signer's certificate must carry.")] = "radiologist",
    holder: Annotated[str | None, typer.Option("--holder", metavar="AE", help="AE title that must hold the originals.")] = None,
    equipment: EquipmentOption = "",
    comment: Annotated[str, typer.Option("--comment", help="SOP Authorization Comment (0100,0424).")] = "",
    tsa: Annotated[str | None, typer.Option("--tsa", help="URL of a time stamp authority (RFC 3161).")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Stamp the files AO as well.")] = False,
) -> None:
    """Authorize all originals of a study (T2): one key object, one signature, one PIN. All become AO, or none.

    FILE... are all instances of the study that are waiting. Without --in-place the files keep their stamp; `status --restamp`
    brings it up to date.
    """
    from securepacs import originals

    policy = read_policy(trust, intermediates, crl, online=online, allow_host=allow_host)
    if key_object.exists():
        raise UsageError(f"{key_object} exists already", hint="a key object is evidence: name a new file")
    registry, sources = _registry(store), files_in(files)
    _check_waiting(sources, registry)
    _show_study(sources)
    with credential_from(key=key, cert=cert, chain=chain, p12=p12, token=token, pin_file=pin_file, pin_env=pin_env) as credential:
        at = datetime.now(UTC)
        document = originals.build_key_object(sources, at=at, observer=_common_name(credential.certificate))
        signed = originals.sign_key_object(document, credential, at=at, timestamp=_timestamp(tsa))
        # the key object carries the signer's certificate alone; what stands above it helps to find the anchor, and proves nothing
        policy = replace(policy, intermediates=(*policy.intermediates, *credential.chain))
    # the evidence is on disk before the registry refers to it; a refusal takes it away again
    _write(key_object, signed)
    try:
        result = originals.authorize(
            signed, sources, registry, policy=policy, at=at, required_role=role, holder=holder, equipment=equipment, comment=comment
        )
    except SecurePacsError as error:
        key_object.unlink()
        _explain(error)
        raise
    for source in sources if in_place else ():
        _write(source, originals.stamped(source, registry))
    text = f"AO {len(result.holdings)} instances, authorized by {result.actor}, evidence {key_object}"
    output.console.print(printable(text), markup=False, highlight=False)


@app.command()
@output.reports_errors
def status(
    names: NamesArgument,
    store: StoreOption,
    restamp: Annotated[bool, typer.Option("--restamp", help="Write the registered status into files whose stamp differs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say which status instances have, and whether files still are what was registered. Ends with 1 if one is not."""
    registry = _registry(store)
    codes = []
    for name in names:
        record = _status_of(name, registry, restamp=restamp)
        codes.append(1 if record["content"] == "changed" else 0)
        if as_json:
            output.print_json(record)
            continue
        text = f"{record['status']} {record['file'] or record['sop_instance_uid']}"
        text += f" held by {record['holder']} since {record['since']}" if record["holder"] else " not held as an original here"
        if record["content"] == "changed":
            text += ", CHANGED since it was registered"
        elif record["stamp"] and record["stamp"] != record["status"]:
            text += f", stamped {record['stamp']} (--restamp corrects it)"
        output.console.print(printable(text), markup=False, highlight=False)
    raise SystemExit(output.worst_of_files(codes))


@app.command()
@output.reports_errors
def history(names: NamesArgument, store: StoreOption, as_json: JsonOption = False) -> None:
    """List every change of status: who, when, from, to, and the key object that proves it."""
    registry = _registry(store)
    for name in names:
        uid, _ = _instance(name)
        entries = [_entry(entry) for entry in registry.history(uid)]
        if as_json:
            for entry in entries:
                output.print_json(entry)
            continue
        columns = ("at", "rule", "before", "after", "ae_title", "actor", "key_object")
        output.print_table(uid, columns, ([printable(entry[column]) for column in columns] for entry in entries))


@app.command()
@output.reports_errors
def show(
    uid: Annotated[str, typer.Argument(metavar="UID|FILE", help="A study, an instance, or a DICOM file.")],
    store: StoreOption,
    as_json: JsonOption = False,
) -> None:
    """Show all that is recorded of the originals of a study, or of one instance; ends with 1 when nothing is."""
    registry = _registry(store)
    name, _ = _instance(uid)
    holdings = registry.originals_of_study(name) or registry.holdings(name)
    records = [
        _holding(holding) | {"history": [_entry(entry) for entry in registry.history(holding.facts.sop_instance_uid)]}
        for holding in holdings
    ]
    if as_json:
        for record in records:
            output.print_json(record)
    else:
        columns = ("sop_instance_uid", "status", "ae_title", "since", "equipment", "sop_class_uid", "content_sha256")
        output.print_table(name, columns, ([printable(record[column]) for column in columns] for record in records))
    raise SystemExit(0 if records else 1)


@app.command()
@output.reports_errors
def copy(
    files: FilesArgument,
    store: StoreOption,
    destination: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where the copies go.")],
    status: Annotated[
        CopyStatus, typer.Option("--as", help="AC for an AE of the profile over a secure connection, NS for others.")
    ],
) -> None:
    """Write copies as they may leave this AE (T5, T6); the originals stay as they are."""
    from securepacs import originals
    from securepacs.wiring import exit_code

    registry = _registry(store)
    wanted = originals.SOPInstanceStatus(status.value)
    codes = []
    destination.mkdir(parents=True, exist_ok=True)
    for source, target in outputs_for(files, destination, in_place=False):
        try:
            data = originals.copy_of(source, registry, to_profile_peer=status is CopyStatus.AC, status=wanted)
            _write(target, data)
        except SecurePacsError as error:
            output.print_error(error, file=printable(source))
            codes.append(exit_code(error))
            continue
        output.console.print(printable(f"{status.value} {target}"), markup=False, highlight=False)
    raise SystemExit(output.worst_of_files(codes))


# --- what commands share --------------------------------------------------------------------------------------------
def _registry(url: str) -> SqlRegistry:
    try:
        from securepacs.originals.sql_registry import SqlRegistry
        from securepacs.store import open_store
    except ModuleNotFoundError as error:
        raise ConfigError(f"the registry needs {error.name}", key="store", hint="pip install 'securepacs[audit]'") from None
    return SqlRegistry(open_store(url))


def _write(path: Path, data: bytes) -> None:
    from securepacs.dicom import write_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, [data])


def _instance(name: str) -> tuple[str, Path | None]:
    """Return the UID that an argument means, and the file when it names one."""
    path = Path(name)
    if path.is_file():
        from securepacs.dicom import map_file
        from securepacs.originals import facts_of

        return facts_of(map_file(path)).sop_instance_uid, path
    if name and set(name) <= set("0123456789."):
        return name, None
    raise UsageError(f"{printable(name)} is neither a file nor a UID")


def _check_waiting(sources: Iterable[Path], registry: SqlRegistry) -> None:
    """Refuse before the PIN is asked for what would be refused after it."""
    from securepacs.dicom import map_file
    from securepacs.originals import Rule, SOPInstanceStatus, check_transition, facts_of

    for source in sources:
        facts = facts_of(map_file(source))
        holding = registry.original(facts.sop_instance_uid)
        check_transition(Rule.AUTHORIZE, SOPInstanceStatus.NS if holding is None else holding.status, SOPInstanceStatus.AO)
        if holding is not None and holding.facts != facts:
            raise IntegrityFailure(f"{printable(source)} differs from what was registered (I3)", standard="PS3.15 A.1")


def _show_study(sources: list[Path]) -> None:
    """Say on stderr what is about to be signed for; the physician's PIN is the consent."""
    from pydicom import dcmread

    keywords = [
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "StudyDate",
        "StudyDescription",
        "StudyInstanceUID",
        "AccessionNumber",
    ]
    dataset = dcmread(sources[0], stop_before_pixels=True, specific_tags=[*keywords, "SpecificCharacterSet"])
    for keyword in keywords:
        output.errors.print(printable(f"{keyword + ':':<18} {dataset.get(keyword, '')}"), markup=False, highlight=False)
    output.errors.print(f"{'Instances:':<18} {len(sources)}", markup=False, highlight=False)


def _explain(error: SecurePacsError) -> None:
    """Print why signatures did not pass: the error itself only names the verdict."""
    report = getattr(error, "report", None)
    for result in () if report is None else report.signatures:
        if result.sub_indication:
            text = f"{result.indication} {result.sub_indication}: {result.detail}"
            output.errors.print(printable(text), markup=False, highlight=False)


def _timestamp(url: str | None) -> Any:
    if url is None:
        return None
    from functools import partial

    from securepacs.trust.timestamp import request_timestamp

    return partial(request_timestamp, url=url)


def _common_name(certificate: Any) -> str:
    from cryptography.x509.oid import NameOID

    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _status_of(name: str, registry: SqlRegistry, *, restamp: bool) -> dict[str, Any]:
    uid, path = _instance(name)
    holding = registry.original(uid)
    stamp, content = "", ""
    if path is not None:
        from securepacs import originals
        from securepacs.dicom import map_file

        data = map_file(path)
        stamp = originals.read_stamp(data).status.value
        if holding is not None:
            content = "unchanged" if originals.facts_of(data) == holding.facts else "changed"
            if restamp and content == "unchanged":
                _write(path, originals.stamped(path, registry))
                stamp = holding.status.value
    return {
        "sop_instance_uid": uid,
        "file": printable(path) if path else "",
        "status": holding.status.value if holding else "NS",
        "holder": holding.ae_title if holding else "",
        "since": holding.since.isoformat() if holding else "",
        "stamp": stamp,
        "content": content,
    }


def _holding(holding: Holding) -> dict[str, Any]:
    from dataclasses import asdict

    flat = asdict(holding)
    facts: dict[str, Any] = flat.pop("facts")
    return facts | flat | {"status": holding.status.value, "since": holding.since.isoformat()}


def _entry(entry: HistoryEntry) -> dict[str, Any]:
    return {
        "sop_instance_uid": entry.sop_instance_uid,
        "at": entry.at.isoformat(),
        "rule": entry.rule.value,
        "before": entry.before.value if entry.before else "",
        "after": entry.after.value,
        "ae_title": entry.ae_title,
        "actor": entry.actor,
        "key_object": entry.evidence.sop_instance_uid if entry.evidence else "",
        "signature": entry.evidence.signature_uid if entry.evidence else "",
    }

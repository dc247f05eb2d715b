"""A client of an archive that speaks DIMSE: C-ECHO, C-FIND, C-GET, C-STORE (PS3.4 A, B, C; PS3.7 9). Extra `gateway`.

Uses pynetdicom, but never its encoder for stored instances: data sets are sent as they stand in the file and written as they
arrive. TLS comes as an `ssl.SSLContext`, so the key may live in a token (`tokens.tls_key`).
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, StoragePresentationContexts, _config, build_context, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

from securepacs import codes
from securepacs.dicom import map_file, open_dataset, read_part10, write_atomically
from securepacs.errors import AccessDenied, MalformedError, ProtocolError, SecurePacsError, Unavailable, UsageError
from securepacs.pacs.connector import QueryLevel

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.presentation import PresentationContext

SUCCESS = 0x0000
NOT_AUTHORIZED = 0x0124
CANNOT_UNDERSTAND = 0xC000
_OUT_OF_RESOURCES = (0xA700, 0xA701)
_MAX_CONTEXTS = 128  # presentation context IDs are the odd numbers of one byte (PS3.8 9.3.2.2)
_SOP_INSTANCE_UID = 0x00080018
_STUDY_INSTANCE_UID = 0x0020000D
_PIXELS_FOLLOW = 0x7FE00000
_COMMON_SYNTAXES = (  # what archives keep most, asked for one by one as far as there is room
    codes.EXPLICIT_VR_LITTLE_ENDIAN,
    "1.2.840.10008.1.2.4.70",  # JPEG lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.50",  # JPEG baseline
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS
    "1.2.840.10008.1.2.4.51",  # JPEG extended
    codes.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
)
TRANSFER_SYNTAXES = tuple(dict.fromkeys((*_COMMON_SYNTAXES, *map(str, ALL_TRANSFER_SYNTAXES))))

_REJECT_SOURCES = {1: "service user", 2: "service provider (ACSE)", 3: "service provider (presentation)"}
_REJECT_REASONS = {  # (source, reason), PS3.8 table 9-21
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}


class DimseConnector:
    """`PacsConnector` for one archive.

    `tls` None means a plain connection. `timeout` (seconds) bounds connecting, each protocol answer and silence on the network.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        called_ae_title: str,
        calling_ae_title: str = "SECUREPACS",
        tls: ssl.SSLContext | None = None,
        server_hostname: str = "",
        timeout: float = 30.0,
    ) -> None:
        self._host, self._port, self._called = host, port, called_ae_title
        self._tls = (tls, server_hostname or host) if tls is not None else None
        try:
            self._ae = AE(calling_ae_title)
        except (TypeError, ValueError):
            raise UsageError("the calling AE title is not valid", standard="PS3.5 6.2") from None
        self._ae.connection_timeout = self._ae.acse_timeout = self._ae.dimse_timeout = self._ae.network_timeout = timeout

    def echo(self) -> None:
        """Return when the archive answered a C-ECHO (PS3.7 9.1.5)."""
        with self._association([build_context(Verification)]) as association:
            self._check(association, "C-ECHO", association.send_c_echo())

    def find(self, level: QueryLevel, keys: Mapping[str, str]) -> list[Dataset]:
        """Return the matches of a C-FIND (PS3.4 C.4.1); UsageError for an unknown keyword."""
        root = (
            PatientRootQueryRetrieveInformationModelFind
            if level is QueryLevel.PATIENT
            else StudyRootQueryRetrieveInformationModelFind
        )
        identifier = identifier_of(level, keys)
        matches: list[Dataset] = []
        with self._association([build_context(root)]) as association:
            for status, match in association.send_c_find(identifier, root):
                if self._check(association, "C-FIND", status) & 0xFF00 == 0xFF00 and match is not None:
                    matches.append(match)
        return matches

    def retrieve(self, study_instance_uid: str, folder: Path, *, sop_classes: Iterable[str] = ()) -> list[Path]:
        """Fetch a study by C-GET (PS3.4 C.4.3) into `folder`, files named after the SOP Instance UID."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write to {folder}: {error.strerror}") from None
        received = Receiver(study_instance_uid, folder)
        contexts = _get_contexts(list(sop_classes))
        roles = [build_role(uid, scp_role=True) for uid in dict.fromkeys(str(context.abstract_syntax) for context in contexts)]
        contexts.insert(0, build_context(StudyRootQueryRetrieveInformationModelGet))
        identifier = identifier_of(QueryLevel.STUDY, {"StudyInstanceUID": study_instance_uid})
        with self._association(contexts, ext_neg=roles, handlers=[(evt.EVT_C_STORE, received.store)]) as association:
            for status, _ in association.send_c_get(identifier, StudyRootQueryRetrieveInformationModelGet):
                code = self._check(association, "C-GET", status, allow_warning=False, why=received.error)
                if code == SUCCESS and status.get("NumberOfFailedSuboperations"):
                    raise ProtocolError(
                        f"{status.NumberOfFailedSuboperations} instances were not retrieved", standard="PS3.4 C.4.3"
                    )
        if received.error is not None:
            raise received.error
        return received.paths

    def store(self, files: Iterable[Path]) -> tuple[int, ...]:
        """Send files by C-STORE (PS3.4 B), their encoded data sets unchanged; see `PacsConnector.store`."""
        statuses: list[int] = []
        for batch in _batches(list(files)):
            contexts = [build_context(*pair) for pair in dict.fromkeys(item.context for item in batch)]
            with self._association(contexts) as association, _encoded_data_sets():
                for item in batch:
                    if not _accepted(association, item):
                        raise ProtocolError(
                            f"the archive does not take SOP Class {item.sop_class} in transfer syntax {item.transfer_syntax}",
                            hint="convert the file, or configure the archive to accept it",
                        )
                    statuses.append(self._check(association, "C-STORE", association.send_c_store(item.path)))
        return tuple(statuses)

    @contextmanager
    def _association(
        self, contexts: Sequence[PresentationContext], *, handlers: Sequence[evt.EventHandlerType] = (), ext_neg: Sequence[Any] = ()
    ) -> Iterator[Association]:
        association, connected = self._associate(contexts, handlers, ext_neg)
        if connected and not association.is_established and association.acceptor.primitive is None:
            # an archive that rejects and closes at once: pynetdicom may see the end of the connection before the answer
            association, connected = self._associate(contexts, handlers, ext_neg)
        if not association.is_established:
            raise self._not_established(association, connected)
        try:
            yield association
        except BaseException:
            association.abort()
            raise
        association.release()

    def _associate(
        self, contexts: Sequence[PresentationContext], handlers: Sequence[evt.EventHandlerType], ext_neg: Sequence[Any]
    ) -> tuple[Association, bool]:
        """Return an association, established or not, and whether there was a connection."""
        connected = threading.Event()
        bound: list[evt.EventHandlerType] = [(evt.EVT_CONN_OPEN, lambda _: connected.set()), *handlers]
        try:
            association = self._ae.associate(
                self._host,
                self._port,
                list(contexts),
                ae_title=self._called,
                ext_neg=list(ext_neg),
                evt_handlers=bound,
                tls_args=self._tls,
            )
        except (TypeError, ValueError):
            raise UsageError("the archive's address or AE title is not valid") from None
        return association, connected.is_set()

    def _not_established(self, association: Association, connected: bool) -> SecurePacsError:
        answer = association.acceptor.primitive
        if association.is_rejected and answer is not None:
            result, source, reason = int(answer.result or 0), int(answer.result_source or 0), int(answer.diagnostic or 0)
            text = (
                f"the archive rejected the association: result {result}, source {source} "
                f"({_REJECT_SOURCES.get(source, 'unknown')}), reason {reason} ({_REJECT_REASONS.get((source, reason), 'reserved')})"
            )
            if result == 2:  # rejected-transient
                return Unavailable(text, standard="PS3.8 9.3.4")
            return AccessDenied(text, hint="check both AE titles and that the archive knows this client", standard="PS3.8 9.3.4")
        if answer is not None and answer.result == 0:
            hint = "check which services the archive is configured for"
            return ProtocolError("the archive accepts none of the services asked for", hint=hint, standard="PS3.8 9.3.3.2")
        where = f"{self._host}:{self._port}"
        if not connected:
            hint = "check the address, and with TLS the certificates of both sides" if self._tls else "check the address"
            return Unavailable(f"no connection to the archive at {where}", hint=hint)
        hint = "it may not accept our certificate" if self._tls else "it may expect TLS"
        return Unavailable(f"the archive at {where} closed the connection before it answered", hint=hint)

    def _check(
        self,
        association: Association,
        service: str,
        status: Dataset,
        *,
        allow_warning: bool = True,
        why: SecurePacsError | None = None,
    ) -> int:
        """Return the status code of a response that is no failure (PS3.7 Annex C); raise the typed error otherwise."""
        if "Status" not in status:
            raise Unavailable(f"the archive did not finish the {service}: connection lost or time out")
        code = int(status.Status)
        if code == SUCCESS or code in (0xFF00, 0xFF01):
            return code
        if why is not None:
            raise why
        if code >> 12 == 0xB and allow_warning:
            return code
        text = f"the archive answered the {service} with status 0x{code:04X}"
        if code == NOT_AUTHORIZED:
            raise AccessDenied(f"{text}: not authorized", standard="PS3.7 C.5.27")
        if code in _OUT_OF_RESOURCES:
            raise Unavailable(f"{text}: out of resources")
        raise ProtocolError(text, hint="the archive's log says more")


class _Outgoing(NamedTuple):
    path: Path
    sop_class: str
    transfer_syntax: str

    @property
    def context(self) -> tuple[str, str]:
        return self.sop_class, self.transfer_syntax


class Receiver:
    """Writes what arrives during one C-GET; the first error is kept and refused to the archive."""

    def __init__(self, study_instance_uid: str, folder: Path) -> None:
        self._study, self._folder = study_instance_uid, folder
        self.paths: list[Path] = []
        self.error: SecurePacsError | None = None

    def store(self, event: evt.Event) -> int:
        """Handle one C-STORE sub-operation; return its status."""
        try:
            self._write(event)
        except SecurePacsError as error:
            self.error = self.error or error
            return CANNOT_UNDERSTAND
        return SUCCESS

    def _write(self, event: evt.Event) -> None:
        uid = str(getattr(event.request, "AffectedSOPInstanceUID", ""))
        raw = event.encoded_dataset()
        dataset = open_dataset(raw)
        found: dict[int, str] = {}
        for element in dataset.elements():
            if element.tag >= _PIXELS_FOLLOW:
                break
            if element.tag in (_SOP_INSTANCE_UID, _STUDY_INSTANCE_UID):
                found[element.tag] = bytes(dataset.value(element)).decode("latin-1").rstrip("\0 ")
        # the UID becomes a file name: it must be one, and the one of the data set
        if not UID(uid).is_valid or found.get(_SOP_INSTANCE_UID) != uid or found.get(_STUDY_INSTANCE_UID) != self._study:
            raise ProtocolError(
                "the archive sent an instance that is not what it says or what was asked for", standard="PS3.4 C.4.3"
            )
        path = self._folder / f"{uid}.dcm"
        write_atomically(path, [raw], mode=0o600)
        if path not in self.paths:
            self.paths.append(path)


class _SendEncoded:
    """pynetdicom's process-wide switch to send data sets as encoded in the file, on while anybody here is sending."""

    lock: ClassVar[threading.Lock] = threading.Lock()
    users: ClassVar[int] = 0
    before: ClassVar[bool] = False


@contextmanager
def _encoded_data_sets() -> Iterator[None]:
    with _SendEncoded.lock:
        if _SendEncoded.users == 0:
            _SendEncoded.before = _config.STORE_SEND_CHUNKED_DATASET
            _config.STORE_SEND_CHUNKED_DATASET = True
        _SendEncoded.users += 1
    try:
        yield
    finally:
        with _SendEncoded.lock:
            _SendEncoded.users -= 1
            if _SendEncoded.users == 0:
                _config.STORE_SEND_CHUNKED_DATASET = _SendEncoded.before


def identifier_of(level: QueryLevel, keys: Mapping[str, str]) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level.value
    if not all(value.isascii() for value in keys.values()):
        identifier.SpecificCharacterSet = "ISO_IR 192"
    from pydicom.datadict import tag_for_keyword

    for keyword, value in keys.items():
        if tag_for_keyword(keyword) is None:
            raise UsageError(f"{keyword!r} is not the keyword of an attribute", hint="for example PatientID", standard="PS3.6 6")
        setattr(identifier, keyword, value)
    return identifier


def _get_contexts(sop_classes: Sequence[str]) -> list[PresentationContext]:
    """Return what a C-GET proposes to receive: of each class as many transfer syntaxes singly as fit, the rest as one choice."""
    classes = list(dict.fromkeys(sop_classes)) or [str(context.abstract_syntax) for context in StoragePresentationContexts]
    room = _MAX_CONTEXTS - 1
    classes = classes[:room]
    single = room // len(classes) - 1
    contexts = []
    for uid in classes:
        contexts += [build_context(uid, syntax) for syntax in TRANSFER_SYNTAXES[:single]]
        if rest := list(TRANSFER_SYNTAXES[single:]):
            contexts.append(build_context(uid, rest))
    return contexts


def _batches(files: Sequence[Path]) -> Iterator[list[_Outgoing]]:
    """Yield the files in groups that need no more presentation contexts than one association has."""
    batch: list[_Outgoing] = []
    for path in files:
        head = read_part10(map_file(path))
        uids = {tag: head.meta.get(tag, b"").decode("latin-1").rstrip("\0 ") for tag in (0x00020002, 0x00020003)}
        if not all(uids.values()):
            raise MalformedError("the file meta information names no SOP Class or Instance", standard="PS3.10 7.1")
        item = _Outgoing(path, uids[0x00020002], head.transfer_syntax)
        if len({other.context for other in batch} | {item.context}) > _MAX_CONTEXTS:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _accepted(association: Association, item: _Outgoing) -> bool:
    return any(
        (str(context.abstract_syntax), str(context.transfer_syntax[0])) == item.context for context in association.accepted_contexts
    )

"""Fetching studies by C-MOVE (PS3.4 C.4.2) from archives without C-GET: they connect back to us and store. Extra `gateway`.

The listener lives for one retrieval, takes associations of the archive's AE title to ours only, and stores nothing but the study
that was asked for. Archives know where an AE title lives from their own configuration: ours must be in it, with this port.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pynetdicom import AE, StoragePresentationContexts, build_context, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove  # type: ignore[attr-defined]  # made at run time

from securepacs.errors import ProtocolError, UsageError
from securepacs.pacs.connector import QueryLevel
from securepacs.pacs.dimse import SUCCESS, TRANSFER_SYNTAXES, DimseConnector, Receiver, identifier_of


class MoveConnector(DimseConnector):
    """A `DimseConnector` that retrieves by C-MOVE to itself.

    `listen_port`: the port that the archive knows for our AE title. `listen_tls`: context of the listener, None for a plain one.
    `listen_host`: the address to listen on, all when empty.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        called_ae_title: str,
        calling_ae_title: str = "SECUREPACS",
        listen_port: int,
        listen_host: str = "",
        listen_tls: ssl.SSLContext | None = None,
        **more: Any,
    ) -> None:
        super().__init__(host, port, called_ae_title=called_ae_title, calling_ae_title=calling_ae_title, **more)
        self._own, self._archive = calling_ae_title, called_ae_title
        self._address, self._listen_tls = (listen_host, listen_port), listen_tls
        self._timeout = self._ae.network_timeout

    def retrieve(self, study_instance_uid: str, folder: Path, *, sop_classes: Iterable[str] = ()) -> list[Path]:
        """Fetch a study into `folder`, files named after the SOP Instance UID; errors as `PacsConnector`."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write to {folder}: {error.strerror}") from None
        received = Receiver(study_instance_uid, folder)
        identifier = identifier_of(QueryLevel.STUDY, {"StudyInstanceUID": study_instance_uid})
        contexts = [build_context(StudyRootQueryRetrieveInformationModelMove)]
        with self._listening(received, list(sop_classes)), self._association(contexts) as association:
            for status, _ in association.send_c_move(identifier, self._own, StudyRootQueryRetrieveInformationModelMove):
                code = self._check(association, "C-MOVE", status, allow_warning=False, why=received.error)
                if code == SUCCESS and status.get("NumberOfFailedSuboperations"):
                    text = f"{status.NumberOfFailedSuboperations} instances were not retrieved"
                    raise ProtocolError(text, standard="PS3.4 C.4.2")
        if received.error is not None:
            raise received.error
        return received.paths

    @contextmanager
    def _listening(self, received: Receiver, sop_classes: list[str]) -> Iterator[None]:
        ae = AE(self._own)
        ae.require_called_aet = True
        ae.require_calling_aet = [self._archive]
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = self._timeout
        classes = list(dict.fromkeys(sop_classes)) or [str(context.abstract_syntax) for context in StoragePresentationContexts]
        for uid in classes:
            ae.add_supported_context(uid, list(TRANSFER_SYNTAXES))
        handlers: list[evt.EventHandlerType] = [(evt.EVT_C_STORE, received.store)]
        try:
            ae.start_server(self._address, block=False, evt_handlers=handlers, ssl_context=self._listen_tls)
        except OSError as error:
            text = f"cannot listen on port {self._address[1]}: {error.strerror}"
            raise UsageError(text, hint="take the port that the archive knows for our AE title") from None
        try:
            yield
        finally:
            ae.shutdown()

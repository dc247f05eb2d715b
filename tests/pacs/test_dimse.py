"""The DIMSE client against real archives, and against one that misbehaves on demand."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, StoragePresentationContexts, _config, build_context, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    CTImageStorage,
    MRImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
    uid_to_service_class,
)

from securepacs.dicom import Encoding, open_dataset, walk
from securepacs.errors import AccessDenied, MalformedError, ProtocolError, SecurePacsError, Unavailable, UsageError
from securepacs.originals import content_digest
from securepacs.pacs import DimseConnector, PacsConnector, QueryLevel
from securepacs.pki import CertificateProfile
from tests.support.archives import Archive, orthanc, qrscp, storescp_bit_preserving
from tests.support.net import free_port, wait_until
from tests.support.pki import make_pki
from tests.support.samples import new_instance

STORAGE = uid_to_service_class(CTImageStorage)
STUDY = "1.2.826.0.1.3680043.10.999.1"
NAMES = ("CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "image_dfl.dcm")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for number, name in enumerate(NAMES, 1):
        paths.append(tmp_path / f"{number}.dcm")
        paths[-1].write_bytes(new_instance(name, number, study=STUDY))
    return paths


def connect(archive: Archive, **more: Any) -> PacsConnector:
    return DimseConnector("127.0.0.1", archive.port, called_ae_title=archive.ae_title, **more)


def encoded(data: bytes) -> bytes:
    """The data set of a file as it is encoded (inflated when deflated)."""
    dataset = open_dataset(data)
    return bytes(dataset.view[dataset.start : dataset.end])


@pytest.fixture(scope="module")
def running_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as archive:
        yield archive


# --- real archives --------------------------------------------------------------------------------------------------
def stores_finds_and_gives_back(archive: Archive, out: Path, files: list[Path]) -> PacsConnector:
    """The contract of PacsConnector."""
    pacs = connect(archive)
    pacs.echo()
    assert pacs.store(files[:3]) == (0, 0, 0)
    matches = pacs.find(QueryLevel.STUDY, {"StudyInstanceUID": STUDY, "PatientID": ""})  # of qrscp one for each instance
    assert {(match.StudyInstanceUID, match.PatientID) for match in matches} == {(STUDY, "1CT1")}
    assert pacs.find(QueryLevel.STUDY, {"StudyInstanceUID": "1.2.3"}) == []
    assert {match.PatientID for match in pacs.find(QueryLevel.PATIENT, {"PatientID": "1CT1"})} == {"1CT1"}
    got = pacs.retrieve(STUDY, out, sop_classes={str(dcmread(path).SOPClassUID) for path in files[:3]})
    assert sorted(path.name for path in got) == [f"{STUDY}.1.{number}.dcm" for number in (1, 2, 3)]
    assert {dcmread(path).StudyInstanceUID for path in got} == {STUDY}
    return pacs


@pytest.mark.interop
def test_qrscp_stores_finds_and_gives_back(tmp_path: Path, files: list[Path]) -> None:
    with qrscp(tmp_path / "archive") as archive:
        pacs = stores_finds_and_gives_back(archive, tmp_path / "out", files)
        assert pacs.retrieve("1.2.3", tmp_path / "out", sop_classes=[CTImageStorage]) == []


@pytest.mark.interop
def test_orthanc_stores_finds_and_gives_back(running_orthanc: Archive, tmp_path: Path, files: list[Path]) -> None:
    pacs = stores_finds_and_gives_back(running_orthanc, tmp_path / "out", files)
    with pytest.raises(ProtocolError, match="0xC000"):
        pacs.retrieve("1.2.3", tmp_path / "out", sop_classes=[CTImageStorage])


@pytest.mark.interop
def test_dcmtk_receives_exactly_the_bytes_of_the_files(tmp_path: Path, files: list[Path]) -> None:
    with storescp_bit_preserving(tmp_path / "archive") as archive:
        pacs = connect(archive)
        pacs.echo()
        pacs.store(files[:3])
        stored = {str(dcmread(path).SOPInstanceUID): encoded(path.read_bytes()) for path in archive.folder.iterdir()}
    assert stored == {f"{STUDY}.1.{number}": encoded(path.read_bytes()) for number, path in enumerate(files[:3], 1)}


@pytest.mark.interop
def test_orthanc_keeps_all_content_of_the_files(running_orthanc: Archive, files: list[Path]) -> None:
    connect(running_orthanc).store(files)
    for number, path in enumerate(files, 1):
        query = json.dumps({"Level": "Instance", "Query": {"SOPInstanceUID": f"{STUDY}.1.{number}"}}).encode()
        with urllib.request.urlopen(f"{running_orthanc.http_url}/tools/find", query, timeout=30) as answer:
            (identifier,) = json.load(answer)
        with urllib.request.urlopen(f"{running_orthanc.http_url}/instances/{identifier}/file", timeout=30) as answer:
            assert content_digest(answer.read()) == content_digest(path.read_bytes())


@pytest.mark.interop
def test_a_retrieved_file_is_what_the_archive_sent(tmp_path: Path, files: list[Path]) -> None:
    with qrscp(tmp_path / "archive") as archive:
        pacs = connect(archive)
        pacs.store(files[:2])
        pacs.retrieve(STUDY, tmp_path / "out", sop_classes=[CTImageStorage, MRImageStorage])
        for number in (1, 2):
            kept = (archive.folder / f"{STUDY}.1.{number}").read_bytes()
            assert encoded((tmp_path / "out" / f"{STUDY}.1.{number}.dcm").read_bytes()) == encoded(kept)


@pytest.mark.interop
def test_orthanc_rejects_a_wrong_ae_title(running_orthanc: Archive) -> None:
    pacs = DimseConnector("127.0.0.1", running_orthanc.port, called_ae_title="SOMEBODY")
    with pytest.raises(AccessDenied, match=r"result 1, source 1 \(service user\), reason 7 \(called AE title not recognized\)"):
        pacs.echo()


# --- an archive that does as it is told -----------------------------------------------------------------------------
@contextmanager
def archive_that(
    *, store: int = 0, find: int = 0, get: Callable[[evt.Event], Iterator[Any]] | None = None, **settings: Any
) -> Iterator[DimseConnector]:
    ae = AE("ARCHIVE")
    for name in ("require_called_aet", "require_calling_aet", "maximum_associations"):
        if name in settings:
            setattr(ae, name, settings[name])
    if settings.get("services", True):
        ae.add_supported_context(Verification)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
        for context in StoragePresentationContexts:
            syntaxes = settings.get("syntaxes", ALL_TRANSFER_SYNTAXES)
            ae.add_supported_context(str(context.abstract_syntax), syntaxes, scp_role=True, scu_role=True)
    else:
        ae.add_supported_context("1.2.3.4")

    def answer_find(_: evt.Event) -> Iterator[tuple[int, None]]:
        yield find, None

    handlers: list[Any] = [(evt.EVT_C_STORE, lambda _: store), (evt.EVT_C_FIND, answer_find)]
    if get is not None:
        handlers.append((evt.EVT_C_GET, get))
    server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=settings.get("tls"))
    try:
        client: dict[str, Any] = {name: settings[name] for name in ("calling_ae_title", "timeout") if name in settings}
        if "client_tls" in settings:
            client |= {"tls": settings["client_tls"], "server_hostname": "localhost"}
        yield DimseConnector("127.0.0.1", server.socket.getsockname()[1], called_ae_title="ARCHIVE", **client)
    finally:
        server.shutdown()
        ae.shutdown()


FAILURES: list[tuple[int, type[SecurePacsError], str]] = [
    (0x0124, AccessDenied, "0x0124: not authorized"),
    (0xA700, Unavailable, "0xA700: out of resources"),
    (0xA900, ProtocolError, "0xA900"),
    (0xC000, ProtocolError, "0xC000"),
]


@pytest.mark.parametrize(("status", "error", "reason"), FAILURES)
def test_a_refused_store_is_an_error(files: list[Path], status: int, error: type[SecurePacsError], reason: str) -> None:
    with archive_that(store=status) as pacs, pytest.raises(error, match=reason):
        pacs.store(files)


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006, 0xB007])
def test_warnings_of_a_store_are_returned(files: list[Path], status: int) -> None:
    with archive_that(store=status) as pacs:
        assert pacs.store(files) == (status,) * 4


@pytest.mark.parametrize(("status", "error", "reason"), FAILURES)
def test_a_refused_query_is_an_error(status: int, error: type[SecurePacsError], reason: str) -> None:
    with archive_that(find=status) as pacs, pytest.raises(error, match=reason):
        pacs.find(QueryLevel.STUDY, {"PatientID": "7"})


def test_a_query_may_ask_in_any_script() -> None:
    with archive_that() as pacs:
        assert pacs.find(QueryLevel.STUDY, {"PatientName": "홍*"}) == []


def test_an_unknown_keyword_is_refused() -> None:
    with archive_that() as pacs, pytest.raises(UsageError, match="PatientNme"):
        pacs.find(QueryLevel.STUDY, {"PatientNme": ""})


def test_a_rejected_association_names_its_reason() -> None:
    with (
        archive_that(require_calling_aet=["SOMEBODY"]) as pacs,
        pytest.raises(AccessDenied, match="calling AE title not recognized"),
    ):
        pacs.echo()


def test_a_busy_archive_is_unavailable_not_denied() -> None:
    with archive_that(maximum_associations=1) as pacs, pacs._association([build_context(Verification)]):
        with pytest.raises(Unavailable, match=r"result 2.*local limit exceeded") as caught:
            pacs.echo()
        assert caught.value.retryable


def test_an_archive_without_the_service_is_a_protocol_error() -> None:
    with archive_that(services=False) as pacs, pytest.raises(ProtocolError, match="none of the services"):
        pacs.echo()


def test_a_transfer_syntax_is_never_converted_to_please_the_archive(files: list[Path]) -> None:
    with archive_that(syntaxes=["1.2.840.10008.1.2.1"]) as pacs:
        with pytest.raises(ProtocolError, match=r"transfer syntax 1\.2\.840\.10008\.1\.2\.5"):
            pacs.store(files[:2])
        assert pacs.store(files[:1]) == (0,)


def test_more_kinds_of_files_than_one_association_can_carry(tmp_path: Path) -> None:
    raw = new_instance("CT_small.dcm", 1)
    kinds = [
        (str(context.abstract_syntax), syntax)
        for context in [
            known for known in StoragePresentationContexts if uid_to_service_class(str(known.abstract_syntax)) is STORAGE
        ][:43]
        for syntax in ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70")
    ]
    paths = [tmp_path / f"{number}.dcm" for number in range(len(kinds))]
    for path, (sop_class, syntax) in zip(paths, kinds, strict=True):
        path.write_bytes(raw)
        dataset = dcmread(path)
        dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class)
        dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1")
        dataset.save_as(path)
        path.write_bytes(_renamed(path.read_bytes(), syntax))
    with archive_that() as pacs:
        assert pacs.store(paths) == (0,) * 129


def _renamed(data: bytes, syntax: str) -> bytes:
    """The file with another transfer syntax in its meta information; the data set stays, nobody decodes it here."""
    from securepacs.dicom import encode_element

    head = next(element for element in walk(data, 132) if element.tag == 0x00020010)
    return data[: head.offset] + encode_element(0x00020010, b"UI", syntax.encode(), Encoding()) + data[head.next_offset :]


def test_what_is_no_dicom_file_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"no DICOM" * 40)
    with archive_that() as pacs, pytest.raises(MalformedError):
        pacs.store([tmp_path / "a.dcm"])


def test_a_file_without_identity_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM\x02\x00\x10\x00UI\x12\x001.2.840.10008.1.2\0")
    with archive_that() as pacs, pytest.raises(MalformedError, match="names no SOP Class"):
        pacs.store([tmp_path / "a.dcm"])


def test_the_setting_of_pynetdicom_is_put_back(files: list[Path]) -> None:
    before = _config.STORE_SEND_CHUNKED_DATASET
    with archive_that() as pacs:
        threads = [threading.Thread(target=pacs.store, args=(files,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert _config.STORE_SEND_CHUNKED_DATASET is before


# --- C-GET ----------------------------------------------------------------------------------------------------------
def giving(*datasets: Dataset, final: int = 0x0000) -> Callable[[evt.Event], Iterator[Any]]:
    def get(_: evt.Event) -> Iterator[Any]:
        yield len(datasets)
        for dataset in datasets:
            yield 0xFF00, dataset
        if final:
            yield final, None

    return get


def image(path: Path, **changes: str) -> Dataset:
    dataset = dcmread(path)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


def test_what_arrives_is_written_once_per_instance(tmp_path: Path, files: list[Path]) -> None:
    with archive_that(get=giving(image(files[0]), image(files[0]))) as pacs:
        got = pacs.retrieve(STUDY, tmp_path, sop_classes=[CTImageStorage])
    assert got == [tmp_path / f"{STUDY}.1.1.dcm"]
    assert got[0].stat().st_mode & 0o777 == 0o600


def test_without_known_classes_everything_is_offered(tmp_path: Path, files: list[Path]) -> None:
    with archive_that(get=giving(image(files[0]))) as pacs:
        assert len(pacs.retrieve(STUDY, tmp_path)) == 1


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"StudyInstanceUID": "1.2.3"}, f"{STUDY}.1.1.dcm"), ({"SOPInstanceUID": "../../etc/passwd"}, "passwd.dcm")],
)
@pytest.mark.filterwarnings("ignore:.*")
def test_an_instance_nobody_asked_for_is_refused(tmp_path: Path, files: list[Path], changes: dict[str, str], name: str) -> None:
    out = tmp_path / "a" / "b" / "out"
    out.mkdir(parents=True)
    with archive_that(get=giving(image(files[0], **changes))) as pacs, pytest.raises((ProtocolError, Unavailable)):
        pacs.retrieve(STUDY, out, sop_classes=[CTImageStorage])
    assert list(tmp_path.rglob(name)) == []


@pytest.mark.parametrize(
    ("status", "error"), [(0x0124, AccessDenied), (0xA701, Unavailable), (0xA702, ProtocolError), (0xC000, ProtocolError)]
)
def test_a_refused_retrieval_is_an_error(tmp_path: Path, files: list[Path], status: int, error: type[SecurePacsError]) -> None:
    def get(_: evt.Event) -> Iterator[Any]:
        yield 1
        yield status, None

    with archive_that(get=get) as pacs, pytest.raises(error, match=f"0x{status:04X}"):
        pacs.retrieve(STUDY, tmp_path, sop_classes=[CTImageStorage])


def test_a_partial_retrieval_is_an_error(tmp_path: Path, files: list[Path]) -> None:
    other = image(files[0])
    other.SOPClassUID = UID(MRImageStorage)  # not among the classes that were asked for
    with archive_that(get=giving(image(files[0]), other)) as pacs, pytest.raises(ProtocolError):
        pacs.retrieve(STUDY, tmp_path, sop_classes=[CTImageStorage])


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path, files: list[Path]) -> None:
    with archive_that(get=giving(image(files[0]))) as pacs, pytest.raises(UsageError, match="cannot write"):
        pacs.retrieve(STUDY, files[0], sop_classes=[CTImageStorage])


# --- connections ----------------------------------------------------------------------------------------------------
def test_nobody_listening_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="no connection") as caught:
        DimseConnector("127.0.0.1", free_port(), called_ae_title="ARCHIVE", timeout=5).echo()
    assert "check the address" in caught.value.hint


def test_silence_is_unavailable_after_the_time_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(Unavailable, match=r"closed the connection|no connection"):
            DimseConnector("127.0.0.1", port, called_ae_title="ARCHIVE", timeout=0.3).echo()


@pytest.mark.parametrize(
    "call",
    [
        lambda: DimseConnector("h", 1, called_ae_title="X", calling_ae_title=""),
        lambda: DimseConnector("127.0.0.1", 104, called_ae_title="X" * 17).echo(),
    ],
)
def test_an_ae_title_must_be_one(call: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        call()


def contexts(tmp_path: Path, *, known: bool = True) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server context that demands client certificates, and a client context; `known`: both under one CA."""
    pki = make_pki(tmp_path)
    foreign = pki if known else make_pki(tmp_path / "other")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki.write_trust()))
    server.verify_mode = ssl.CERT_REQUIRED
    key, certificate = pki.write_pem(pki.credential(CertificateProfile.PACS, "localhost"))
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=str(pki.write_trust()))
    key, certificate = foreign.write_pem(foreign.credential(CertificateProfile.MODALITY, "ct1"))
    client.load_cert_chain(certificate, key)
    return server, client


def test_mutual_tls(tmp_path: Path, files: list[Path]) -> None:
    server, client = contexts(tmp_path)
    with archive_that(tls=server, client_tls=client) as pacs:
        pacs.echo()
        assert pacs.store(files[:1]) == (0,)


def test_a_client_that_the_archive_does_not_trust_gets_nothing(tmp_path: Path) -> None:
    server, client = contexts(tmp_path, known=False)
    with archive_that(tls=server, client_tls=client, timeout=5) as pacs, pytest.raises(Unavailable):
        pacs.echo()


def test_an_archive_that_we_do_not_trust_gets_nothing(tmp_path: Path) -> None:
    server, _ = contexts(tmp_path)
    stranger = ssl.create_default_context(cafile=str(make_pki(tmp_path / "other").write_trust()))
    with (
        archive_that(tls=server, client_tls=stranger, timeout=5) as pacs,
        pytest.raises(Unavailable, match="no connection") as caught,
    ):
        pacs.echo()
    assert "certificates" in caught.value.hint


def test_threads_do_not_outlive_a_call(files: list[Path]) -> None:
    before = threading.active_count()
    with archive_that() as pacs:
        pacs.store(files)
    wait_until(lambda: threading.active_count() <= before, what="the end of all threads")

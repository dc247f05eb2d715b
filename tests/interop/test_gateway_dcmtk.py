"""Stock DCMTK clients through the real gateway to a bit-preserving archive, and what it does with those who may not pass."""

from __future__ import annotations

import random
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian

from securepacs.codes import BEGIN_TRANSFERRING_DICOM_INSTANCES, DICOM_INSTANCES_TRANSFERRED, SECURITY_ALERT
from securepacs.dicom import read_part10
from securepacs.pki import CertificateProfile
from tests.support.archives import Archive, storescp_bit_preserving
from tests.support.gateway import Gateway, running_gateway, text_of
from tests.support.net import wait_until
from tests.support.pki import make_pki
from tests.support.programs import dcmtk, require
from tests.support.samples import new_instance, sample

pytestmark = pytest.mark.interop

LIMITS = {"handshake_seconds": 2, "association_seconds": 2, "idle_seconds": 3}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with storescp_bit_preserving(tmp_path_factory.mktemp("archive")) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, archive: Archive) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(folder, {"STORESCP": ("127.0.0.1", archive.port)}, limits=LIMITS) as running:
        yield running


def call(
    tool: str, gateway: Gateway, *arguments: str, tls: list[str], calling: str = "CT1", called: str = "STORESCP"
) -> tuple[int, str]:
    """Run a DCMTK client against the gateway; return its exit code and everything it said."""
    done = subprocess.run(
        [dcmtk(tool), "-v", *tls, "-aet", calling, "-aec", called, "127.0.0.1", str(gateway.port), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def stored(archive: Archive, sop_instance_uid: str) -> bytes:
    """Return the data set that storescp wrote, as received."""
    (file,) = archive.folder.glob(f"*{sop_instance_uid}*")
    raw = file.read_bytes()
    return raw[read_part10(raw).dataset_offset :]


def alerts(gateway: Gateway) -> list[str]:
    return [text_of(message) for message in gateway.records(event=SECURITY_ALERT.csd_code)]


def test_echo(gateway: Gateway) -> None:
    code, said = call("echoscu", gateway, tls=gateway.dcmtk_options("ct1"))
    assert code == 0, said


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "reportsi.dcm"])
def test_a_stored_data_set_is_what_a_direct_store_gives(gateway: Gateway, archive: Archive, tmp_path: Path, name: str) -> None:
    """storescu encodes anew what it reads, so the yardstick is its own direct store."""
    file = sample(name)
    uid = str(dcmread(file, stop_before_pixels=True).SOPInstanceUID)
    direct = subprocess.run(
        [dcmtk("storescu"), "-aet", "CT1", "-aec", "STORESCP", "127.0.0.1", str(archive.port), str(file)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert direct.returncode == 0, direct.stderr
    expected = stored(archive, uid)
    for found in archive.folder.glob(f"*{uid}*"):
        found.unlink()
    code, said = call("storescu", gateway, str(file), tls=gateway.dcmtk_options("ct1"))
    assert code == 0, said
    assert stored(archive, uid) == expected
    transferred = gateway.records(event=DICOM_INSTANCES_TRANSFERRED.csd_code)
    study = str(dcmread(file, stop_before_pixels=True).StudyInstanceUID)
    assert any(what.ParticipantObjectID == study for one in transferred for what in one.ParticipantObjectIdentification)
    assert gateway.records(event=BEGIN_TRANSFERRING_DICOM_INSTANCES.csd_code)


def test_a_study_of_forty_instances_in_one_association(gateway: Gateway, archive: Archive, tmp_path: Path) -> None:
    study = "1.2.826.0.1.3680043.10.999.40"
    files = []
    for number in range(1, 41):
        files.append(tmp_path / f"{number}.dcm")
        files[-1].write_bytes(new_instance("CT_small.dcm", number, study=study))
    code, said = call("storescu", gateway, *map(str, files), tls=gateway.dcmtk_options("ct1"))
    assert code == 0, said
    for number, file in enumerate(files, 1):
        original = dcmread(file)
        kept = dcmread(next(archive.folder.glob(f"*{study}.1.{number}")))
        assert kept.SOPInstanceUID == original.SOPInstanceUID
        assert kept.PixelData == original.PixelData


def test_a_large_instance_arrives_bit_for_bit(gateway: Gateway, archive: Archive, tmp_path: Path) -> None:
    dataset = dcmread(sample("CT_small.dcm"))
    dataset.Rows = dataset.Columns = 4000
    dataset.PixelData = random.Random(5).randbytes(2 * 4000 * 4000)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.10.999.77"
    file = tmp_path / "large.dcm"
    dataset.save_as(file, enforce_file_format=True)
    code, said = call("storescu", gateway, str(file), tls=gateway.dcmtk_options("ct1"))
    assert code == 0, said
    (kept,) = archive.folder.glob("*10.999.77")
    assert dcmread(kept).PixelData == dataset.PixelData
    assert dcmread(kept).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_many_senders_at_once(gateway: Gateway, archive: Archive, tmp_path: Path) -> None:
    senders = []
    for sender in range(4):
        study = f"1.2.826.0.1.3680043.10.999.5{sender}"
        files = []
        for number in range(1, 6):
            files.append(tmp_path / f"{sender}-{number}.dcm")
            files[-1].write_bytes(new_instance("MR_small.dcm", number, study=study))
        tls = gateway.dcmtk_options("ct1")
        senders.append(
            subprocess.Popen(
                [dcmtk("storescu"), *tls, "-aet", "CT1", "-aec", "STORESCP", "127.0.0.1", str(gateway.port), *map(str, files)],
                stderr=subprocess.PIPE,
            )
        )
    for process in senders:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    for sender in range(4):
        assert len(list(archive.folder.glob(f"*10.999.5{sender}.1.*"))) == 5


# --- who may not pass: each with its refusal, its record, and service for the others ------------------------------------


@pytest.fixture
def others_go_on(gateway: Gateway) -> Iterator[None]:
    yield
    code, said = call("echoscu", gateway, tls=gateway.dcmtk_options("ct1"))
    assert code == 0, said


pytestmark_others = pytest.mark.usefixtures("others_go_on")


@pytestmark_others
def test_without_a_certificate(gateway: Gateway) -> None:
    _, _, trust = gateway.client_files("ct1")
    code, _ = call("echoscu", gateway, tls=["+tla", "+cf", str(trust)])
    assert code != 0
    wait_until(lambda: any("no certificate was shown" in text for text in alerts(gateway)), what="the record")


@pytestmark_others
def test_with_a_certificate_of_another_ca(gateway: Gateway, tmp_path: Path) -> None:
    stranger = make_pki(tmp_path, name="Stranger")
    key, certificate = stranger.write_pem(stranger.credential(CertificateProfile.MODALITY, "ct1"))
    code, _ = call("echoscu", gateway, tls=["+tls", str(key), str(certificate), "+cf", str(gateway.client_files("ct1")[2])])
    assert code != 0
    wait_until(lambda: any("unknown CA" in text for text in alerts(gateway)), what="the record")


def test_a_device_is_trusted_by_its_own_certificate(tmp_path: Path, archive: Archive) -> None:
    """Direct trust (IHE ITI-19): no CA and no revocation list stands above it; another one of the same name is refused."""
    own, other = make_pki(tmp_path / "own"), make_pki(tmp_path / "other")
    (tmp_path / "gateway").mkdir()
    key, certificate = own.write_pem(own.credential(CertificateProfile.MODALITY, "ct9"), tmp_path / "own")
    leaf = tmp_path / "leaf.pem"
    leaf.write_text(certificate.read_text().partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n")
    gateway = Gateway(
        tmp_path / "gateway",
        make_pki(tmp_path / "gateway"),
        {"STORESCP": ("127.0.0.1", archive.port)},
        devices={"ct9": ("CT9", "modality")},
    )
    gateway.write()
    text = gateway.config.read_text()
    gateway.config.write_text(text.replace('trust = ["root.pem"]', f'trust = ["root.pem", "{leaf}"]'))
    try:
        gateway.start("--drain", "2")
        trust = gateway.client_files("x")[2]
        code, said = call("echoscu", gateway, tls=["+tls", str(key), str(leaf), "+cf", str(trust)], calling="CT9")
        assert code == 0, said + gateway.log
        key, certificate = other.write_pem(other.credential(CertificateProfile.MODALITY, "ct9"), tmp_path / "other")
        code, said = call("echoscu", gateway, tls=["+tls", str(key), str(certificate), "+cf", str(trust)], calling="CT9")
        assert code != 0
        assert gateway.stop() == 0
    finally:
        gateway.kill()


@pytestmark_others
def test_without_tls(gateway: Gateway) -> None:
    code, _ = call("echoscu", gateway, tls=[])
    assert code != 0
    wait_until(lambda: any("unencrypted DICOM" in text for text in alerts(gateway)), what="the record")


@pytestmark_others
def test_a_browser_at_the_wrong_port(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as browser:
        browser.sendall(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")
        while browser.recv(4096):
            pass
    wait_until(lambda: any("an HTTP request" in text for text in alerts(gateway)), what="the record")


@pytestmark_others
def test_old_tls(gateway: Gateway) -> None:
    done = subprocess.run(
        [require("openssl"), "s_client", "-connect", f"127.0.0.1:{gateway.port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        capture_output=True,
        input=b"",
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    wait_until(lambda: any("no TLS version in common" in text for text in alerts(gateway)), what="the record")


@pytestmark_others
def test_a_calling_ae_title_that_belongs_to_another_device(gateway: Gateway) -> None:
    code, said = call("echoscu", gateway, tls=gateway.dcmtk_options("ct1"), calling="PEER1")
    assert code != 0
    assert "Calling AE Title Not Recognized" in said
    wait_until(lambda: any("calling AE title" in text for text in alerts(gateway)), what="the record")


@pytestmark_others
def test_a_called_ae_title_without_a_route(gateway: Gateway) -> None:
    code, said = call("echoscu", gateway, tls=gateway.dcmtk_options("ct1"), called="NOWHERE")
    assert code != 0
    assert "Called AE Title Not Recognized" in said


@pytestmark_others
def test_a_modality_may_not_query(gateway: Gateway) -> None:
    code, said = call(
        "findscu", gateway, "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID=*", tls=gateway.dcmtk_options("ct1")
    )
    assert code != 0 or "0x0124" in said or "Refused" in said or "Rejected" in said
    wait_until(lambda: any("policy" in text or "permit" in text or "refus" in text for text in alerts(gateway)), what="the record")


def tls_client(gateway: Gateway) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
    return gateway.client_context("ct1").wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=True)


def everything(client: ssl.SSLSocket) -> bytes:
    """Read until the end of the connection."""
    answer = b""
    try:
        while data := client.recv(65536):
            answer += data
    except ConnectionError:
        pass
    return answer


@pytestmark_others
@pytest.mark.parametrize(
    "noise",
    [b"\xde\xad\xbe\xef" * 500, b"\x01\x00\xff\xff\xff\xff" + bytes(100), b"\x04\x00\x00\x00\x00\x0c" + bytes(12)],
    ids=["random", "over-long-pdu", "data-before-association"],
)
def test_noise_inside_tls_is_answered_with_an_abort(gateway: Gateway, noise: bytes) -> None:
    before = len(alerts(gateway))
    with tls_client(gateway) as client:
        client.sendall(noise)
        answer = everything(client)
    assert answer[:1] == b"\x07"  # A-ABORT
    assert len(answer) == 10
    wait_until(lambda: len(alerts(gateway)) > before, what="the record")


@pytestmark_others
def test_a_silent_client_is_let_go_after_artim(gateway: Gateway) -> None:
    before = len(alerts(gateway))
    with tls_client(gateway) as client:
        assert everything(client)[:1] in (b"", b"\x07")
    wait_until(lambda: len(alerts(gateway)) > before, what="the record")


@pytestmark_others
def test_a_client_silent_before_tls_is_let_go(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as client:
        assert client.recv(10) == b""
    wait_until(lambda: any("the handshake was not complete" in text for text in alerts(gateway)), what="the record")


@pytestmark_others
def test_a_half_closed_association_request_is_let_go(gateway: Gateway) -> None:
    with tls_client(gateway) as client:
        client.sendall(b"\x01\x00\x00\x00\x00\xd0\x00\x01")
        client.shutdown(socket.SHUT_WR) if client.version() is None else socket.socket.shutdown(client, socket.SHUT_WR)
        client.settimeout(30)
        everything(client)
    wait_until(lambda: all(row["state"] != "authenticated" for row in gateway.status()), what="the end of the connection")


@pytestmark_others
def test_an_idle_association_is_ended(gateway: Gateway) -> None:
    association = gateway.associate("ct1", calling="CT1", called="STORESCP")
    assert association.is_established
    wait_until(lambda: association.is_aborted or association.is_released, seconds=30, what="the end of the association")

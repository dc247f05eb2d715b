"""The relay between programs of other hands: DCMTK and pynetdicom in front, Orthanc and storescp behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt

from securepacs.pki import CertificateProfile
from tests.support.archives import orthanc, storescp_bit_preserving
from tests.support.dicom_wire import CT, MR, STUDY_FIND, STUDY_GET, VERIFICATION
from tests.support.gateway import running_gateway
from tests.support.programs import dcmtk

pytestmark = pytest.mark.interop

NAMES = ["CT_small.dcm", "MR_small.dcm"]
BEGIN, TRANSFERRED, QUERY, ALERT, LOGIN = "110102", "110104", "110112", "110113", "110114"


def sample(name: str) -> Path:
    return Path(get_testdata_file(name, download=False))


def study_of(name: str) -> Dataset:
    keys = Dataset()
    keys.QueryRetrieveLevel = "STUDY"
    keys.StudyInstanceUID = pydicom.dcmread(sample(name), stop_before_pixels=True).StudyInstanceUID
    keys.PatientID = ""
    return keys


def test_store_find_and_get_through_the_gateway(tmp_path: Path) -> None:
    """A modality stores with DCMTK; a radiologist finds and gets with pynetdicom what Orthanc now holds."""
    storescu = dcmtk("storescu")
    with (
        orthanc(tmp_path / "orthanc", ae_title="ARCHIVE") as archive,
        running_gateway(tmp_path / "gw", {"ARCHIVE": ("127.0.0.1", archive.port)}) as gateway,
    ):
        command = [storescu, *gateway.dcmtk_options("ct1"), "-aet", "CT1", "-aec", "ARCHIVE", "localhost", str(gateway.port)]
        done = subprocess.run([*command, *map(str, map(sample, NAMES))], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr + gateway.log
        received: list[Dataset] = []

        def on_store(event: evt.Event) -> int:
            received.append(event.dataset)
            return 0

        entity = AE("VIEWER")
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
        for uid in (STUDY_FIND, STUDY_GET, CT, MR):
            entity.add_requested_context(uid)
        association = entity.associate(
            "127.0.0.1",
            gateway.port,
            ae_title="ARCHIVE",
            ext_neg=[build_role(uid, scu_role=True, scp_role=True) for uid in (CT, MR)],
            evt_handlers=[(evt.EVT_C_STORE, on_store)],
            tls_args=(gateway.client_context("kim", CertificateProfile.RADIOLOGIST), "localhost"),
        )
        assert association.is_established, gateway.log
        found = [found for status, found in association.send_c_find(study_of("CT_small.dcm"), STUDY_FIND) if found]
        assert len(found) == 1
        statuses = [status.Status for status, _ in association.send_c_get(study_of("CT_small.dcm"), STUDY_GET)]
        assert statuses[-1] == 0x0000
        original = pydicom.dcmread(sample("CT_small.dcm"))
        (image,) = received
        assert image.SOPInstanceUID == original.SOPInstanceUID
        assert image.PixelData == original.PixelData
        refused = association.send_c_store(original)
        assert refused.Status == 0x0124  # a radiologist stores no acquisition images
        association.release()
        assert [len(gateway.records(event=code)) for code in (QUERY, LOGIN)] == [1, 2]
        names = [{one.UserName for one in alert.ActiveParticipant} for alert in gateway.records(event=ALERT)]
        assert sum("kim" in each for each in names) == 1  # the refusal
        assert len(gateway.records(event=BEGIN)) == len(gateway.records(event=TRANSFERRED)) == 3


def test_what_is_stored_is_byte_for_byte_what_arrives_without_a_gateway(tmp_path: Path) -> None:
    storescu = dcmtk("storescu")
    with (
        storescp_bit_preserving(tmp_path / "scp") as archive,
        running_gateway(tmp_path / "gw", {"ARCHIVE": ("127.0.0.1", archive.port)}) as gateway,
    ):
        stored = []
        for options in ([*gateway.dcmtk_options("ct1"), "localhost", str(gateway.port)], ["localhost", str(archive.port)]):
            command = [storescu, "-aet", "CT1", "-aec", "ARCHIVE", *options, str(sample("CT_small.dcm"))]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr + gateway.log
            (file,) = (path for path in archive.folder.rglob("*") if path.is_file() and path.stat().st_size > 10_000)
            stored.append(file.read_bytes())
            file.unlink()
        assert stored[0] == stored[1]


def test_a_device_with_a_foreign_title_is_rejected_and_an_echo_passes(tmp_path: Path) -> None:
    with (
        storescp_bit_preserving(tmp_path / "scp") as archive,
        running_gateway(tmp_path / "gw", {"ARCHIVE": ("127.0.0.1", archive.port)}) as gateway,
    ):
        rejected = gateway.associate("ct1", calling="CT2", contexts=[VERIFICATION])
        assert rejected.is_rejected
        accepted = gateway.associate("ct1", calling="CT1", contexts=[VERIFICATION])
        assert accepted.is_established
        assert accepted.send_c_echo().Status == 0
        accepted.release()
        assert accepted.is_released
        assert any("not bound to the calling AE title" in text for text in gateway.texts(event=ALERT))

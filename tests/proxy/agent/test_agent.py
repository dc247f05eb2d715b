"""The agent between stock DCMTK clients and the real gateway, with a person's key in SoftHSM."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom import AE

from securepacs.codes import SECURITY_ALERT, VERIFICATION_SOP_CLASS
from securepacs.pki import CertificateProfile
from securepacs.tokens.pkcs11 import Pkcs11Token
from tests.support.agent import Agent, running_agent
from tests.support.archives import Archive, orthanc
from tests.support.gateway import Gateway, running_gateway, text_of
from tests.support.net import wait_until
from tests.support.samples import new_instance
from tests.support.softhsm import KINDS, SoftHsmToken, softhsm_token

pytestmark = pytest.mark.interop

STUDY = "1.2.826.0.1.3680043.10.999.71"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with orthanc(tmp_path_factory.mktemp("archive")) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, archive: Archive) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("gateway"), {"ORTHANC": ("127.0.0.1", archive.port)}) as running:
        yield running


@pytest.fixture(scope="module")
def token(gateway: Gateway) -> SoftHsmToken:
    made = softhsm_token()
    with Pkcs11Token.open(made.uri, pin=made.pin_source) as opened:
        for kind in KINDS:
            key = opened.generate(label=kind, kind=kind)
            certificate = gateway.pki.ca.issue(
                CertificateProfile.RADIOLOGIST, common_name=f"Dr {kind}", public_key=key.public_key(), at=gateway.pki.now
            )
            opened.write_certificate(certificate, label=kind)
    return made


@pytest.fixture
def agent(tmp_path: Path, gateway: Gateway, token: SoftHsmToken) -> Iterator[Agent]:
    uri = token.uri.replace("?", ";object=p256?")
    with running_agent(tmp_path / "agent", gateway, uri, token.environment, settings={"login_seconds": 1.0}) as running:
        yield running


@pytest.mark.parametrize("kind", KINDS)
def test_stock_clients_work_unchanged(tmp_path: Path, gateway: Gateway, token: SoftHsmToken, kind: str) -> None:
    file = tmp_path / "one.dcm"
    number = KINDS.index(kind) + 1  # type: ignore[arg-type]
    file.write_bytes(new_instance("reportsi.dcm", number, study=STUDY))  # what a radiologist may store
    uri = token.uri.replace("?", f";object={kind}?")
    with running_agent(tmp_path / "agent", gateway, uri, token.environment) as agent:
        agent.give_pin(token.pin)
        assert agent.call("echoscu", called="ORTHANC")[0] == 0, agent.log
        code, said = agent.call("storescu", str(file), called="ORTHANC")
        assert code == 0, said + agent.log
        find = ["-S", "-k", "QueryRetrieveLevel=IMAGE", "-k", f"StudyInstanceUID={STUDY}", "-k", f"SeriesInstanceUID={STUDY}.1"]
        code, said = agent.call("findscu", *find, "-k", f"SOPInstanceUID={STUDY}.1.{number}", called="ORTHANC")
        assert code == 0, said + agent.log
        assert f"{STUDY}.1.{number}" in said
        got = tmp_path / "got"
        got.mkdir()
        get = ["-S", "-od", str(got), "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
        code, said = agent.call("getscu", *get, called="ORTHANC")
        assert code == 0, said + agent.log
        kept = {str(dcmread(one).SOPInstanceUID) for one in got.iterdir()}
        assert f"{STUDY}.1.{number}" in kept
    assert [entry[:3] for entry in agent.logins()] == [("Login", f"Dr {kind}", 0), ("Logout", f"Dr {kind}", 0)]
    people = {user.UserName for record in gateway.records() for user in record.ActiveParticipant}
    assert f"Dr {kind}" in people  # the gateway's records name the person, not the workstation


def test_nobody_logged_in_means_try_again(agent: Agent) -> None:
    code, said = agent.call("echoscu", called="ORTHANC")
    assert code != 0
    assert "Rejected Transient" in said, said


def test_a_wrong_pin_is_on_record_and_the_next_one_is_asked(agent: Agent, token: SoftHsmToken) -> None:
    agent.give_pin("000000")
    agent.give_pin(token.pin)
    agent.wait_for("open")
    assert [entry[:3] for entry in agent.logins()] == [("Login", "unknown", 4), ("Login", "Dr p256", 0)]
    assert "000000" not in agent.log
    assert token.pin not in agent.log


def test_what_is_no_dicom_is_cut(agent: Agent) -> None:
    with socket.create_connection(("127.0.0.1", agent.port), 20) as viewer:
        viewer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        try:
            assert viewer.recv(100) == b""
        except ConnectionResetError:
            return  # closed with unread input


def test_a_gateway_that_is_away_means_try_again(tmp_path: Path, gateway: Gateway, token: SoftHsmToken) -> None:
    uri = token.uri.replace("?", ";object=p256?")
    with running_agent(tmp_path / "agent", gateway, uri, token.environment) as agent:
        agent.stop()
        text = agent.config.read_text().replace(f"localhost:{gateway.port}", "localhost:1")
        agent.config.write_text(text)
        agent.start()
        agent.give_pin(token.pin)
        code, said = agent.call("echoscu", called="ORTHANC")
        assert code != 0
        assert "Rejected Transient" in said, said
        agent.wait_for("open")  # the card is not to blame


def test_idle_time_locks_and_the_pin_opens_again(tmp_path: Path, gateway: Gateway, token: SoftHsmToken) -> None:
    uri = token.uri.replace("?", ";object=p256?")
    idle = {"idle_seconds": 1.0}
    with running_agent(tmp_path / "agent", gateway, uri, token.environment, token_settings=idle) as agent:
        agent.give_pin(token.pin)
        agent.wait_for("open")
        with gateway_association(agent), pytest.raises(TimeoutError):  # idle time does not run while an association lives
            wait_until(lambda: agent.status["state"] != "open", seconds=2.5)
        agent.wait_for("locked")
        agent.give_pin(token.pin)
        assert agent.call("echoscu", called="ORTHANC")[0] == 0, agent.log
    texts = [(kind, why) for kind, _, _, why in agent.logins()]
    assert ("Logout", "nothing happened for a while (time-out)") in texts
    assert [kind for kind, _ in texts] == ["Login", "Logout", "Login", "Logout"]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="another user id needs root and setpriv")
def test_another_user_is_refused(agent: Agent, token: SoftHsmToken) -> None:
    agent.give_pin(token.pin)
    agent.wait_for("open")
    command = ["setpriv", "--reuid", "65534", "--clear-groups", "/usr/bin/echoscu", "-aec", "ORTHANC", "127.0.0.1", str(agent.port)]
    stranger = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert stranger.returncode != 0
    assert agent.call("echoscu", called="ORTHANC")[0] == 0, agent.log
    (alert,) = [one for one in agent.records() if one.EventIdentification.EventID.csd_code == SECURITY_ALERT.csd_code]
    assert "user id 65534" in text_of(alert)


def test_the_state_is_for_its_owner_only(agent: Agent) -> None:
    state = agent.folder / "state"
    assert state.stat().st_mode & 0o077 == 0
    assert agent.stop() == 0
    state.chmod(0o755)
    with pytest.raises(AssertionError, match="others may look"):
        agent.start()
    state.chmod(0o700)
    agent.start()


def test_status(agent: Agent, token: SoftHsmToken) -> None:
    agent.give_pin(token.pin)
    agent.wait_for("open")
    shown = agent.run("status", "--json")
    assert json.loads(shown.stdout)["person"] == "Dr p256"
    assert agent.run("status").returncode == 0
    agent.stop()
    assert agent.run("status").returncode == 5


def gateway_association(agent: Agent) -> AbstractContextManager[None]:
    """Hold an association through the agent open."""

    @contextmanager
    def held() -> Iterator[None]:
        entity = AE("VIEWER1")
        entity.add_requested_context(VERIFICATION_SOP_CLASS)
        association = entity.associate("127.0.0.1", agent.port, ae_title="ORTHANC")
        assert association.is_established, agent.log
        yield
        association.release()

    return held()

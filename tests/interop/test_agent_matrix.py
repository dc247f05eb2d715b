"""A viewer with a card through agent and gateway to Orthanc, C-MOVE back included: every kind of key, TLS version and card.

The viewer is DCMTK's movescu, which listens for what it asked for: on loopback, where only the agent reaches it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from securepacs import codes
from securepacs.pki import CertificateProfile
from securepacs.tokens.pkcs11 import Pkcs11Token
from tests.support.agent import Agent, running_agent
from tests.support.net import free_port, wait_until
from tests.support.piv_card import PIN, piv_card
from tests.support.reverse import World, reverse_world
from tests.support.samples import new_instance
from tests.support.softhsm import KINDS, softhsm_token

pytestmark = pytest.mark.interop

STUDY = "1.2.826.0.1.3680043.10.999.81"
TLS12 = """
openssl_conf = main
[main]
ssl_conf = ssl
[ssl]
system_default = default
[default]
MaxProtocol = TLSv1.2
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with reverse_world(tmp_path_factory.mktemp("world")) as running:
        yield running


@dataclass
class Card:
    uri: str
    environment: dict[str, str]
    pin: str
    person: str


@pytest.fixture(params=["softhsm", "piv"])
def holder(request: pytest.FixtureRequest, tmp_path: Path, world: World, kind: Any) -> Iterator[Card]:
    ca, name = world.gateway.pki.ca, f"Dr {request.param} {kind}"
    if request.param == "piv":
        credential = world.gateway.pki.credential(CertificateProfile.RADIOLOGIST, name, key_kind=kind)
        with piv_card(tmp_path / "card", {"9a": credential}) as card:
            yield Card(card.uri(), dict(card.environment), PIN, name)
        return
    token = softhsm_token()
    with Pkcs11Token.open(token.uri, pin=token.pin_source) as opened:
        key = opened.generate(label="login", kind=kind)
        issued = ca.issue(CertificateProfile.RADIOLOGIST, common_name=name, public_key=key.public_key(), at=world.gateway.pki.now)
        opened.write_certificate(issued, label="login")
    yield Card(token.uri, dict(token.environment), token.pin, name)


def agent_for(folder: Path, world: World, card: Card, viewer: int, version: str) -> Any:
    environment = dict(card.environment)
    if version == "TLSv1.2":
        (folder / "openssl.cnf").write_text(TLS12)
        environment["OPENSSL_CONF"] = str(folder / "openssl.cnf")
    return running_agent(folder / "agent", world.gateway, card.uri, environment, viewers={"VIEWER1": viewer})


def is_ready(agent: Agent) -> bool:
    return agent.status.get("deliveries") == {"VIEWER1": ""}


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("kind", KINDS)
def test_store_find_and_move_back(tmp_path: Path, world: World, holder: Card, kind: str, version: str) -> None:
    number = int.from_bytes(os.urandom(4), "big")
    study = f"{STUDY}.{number}"
    file, kept, viewer = tmp_path / "one.dcm", tmp_path / "kept", free_port()
    file.write_bytes(new_instance("reportsi.dcm", 1, study=study))
    kept.mkdir()
    with agent_for(tmp_path, world, holder, viewer, version) as agent:
        agent.give_pin(holder.pin)
        wait_until(lambda: is_ready(agent), what=f"the waiting connections: {agent.log}")
        sessions = [row for row in world.gateway.status() if row["name"] == holder.person]
        assert {(row["tls_version"], row["called_ae_title"]) for row in sessions} == {(version, "VIEWER1")}
        code, said = agent.call("storescu", str(file), called="ORTHANC")
        assert code == 0, said + agent.log
        query = ["-S", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"]
        code, said = agent.call("findscu", *query, called="ORTHANC")
        assert (code, study in said) == (0, True), said + agent.log
        for _ in range(3):  # more often than connections wait: each is replaced
            code, said = agent.call("movescu", *query, "-aem", "VIEWER1", "+P", str(viewer), "-od", str(kept), called="ORTHANC")
            assert code == 0, said + agent.log + world.gateway.log[-2000:]
        assert {str(dcmread(one).StudyInstanceUID) for one in kept.iterdir()} == {study}
        wait_until(lambda: is_ready(agent), what="the waiting connections again")
    moved = [
        message
        for message in world.gateway.records(event=codes.DICOM_INSTANCES_TRANSFERRED.csd_code)
        if any(what.ParticipantObjectID == study for what in message.ParticipantObjectIdentification)
        and "VIEWER1" in {one.UserID for one in message.ActiveParticipant}
    ]
    assert moved
    assert all(holder.person in {one.UserName for one in message.ActiveParticipant} for message in moved)

"""The agent with a PIV card: the login key, pulling the card, putting it back, wrong PINs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE

from securepacs.codes import VERIFICATION_SOP_CLASS
from securepacs.pki import CertificateProfile
from securepacs_proxy.agent.records import name_of
from tests.support.agent import Agent, running_agent
from tests.support.archives import orthanc
from tests.support.gateway import Gateway, running_gateway
from tests.support.net import wait_until
from tests.support.piv_card import PIN, PivCard, piv_card

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with (
        orthanc(tmp_path_factory.mktemp("archive")) as archive,
        running_gateway(tmp_path_factory.mktemp("gateway"), {"ORTHANC": ("127.0.0.1", archive.port)}) as running,
    ):
        yield running


@pytest.fixture(params=["rsa-2048", "p256"])
def card(request: pytest.FixtureRequest, tmp_path: Path, gateway: Gateway) -> Iterator[PivCard]:
    def credential(slot: str) -> Any:
        return gateway.pki.credential(CertificateProfile.RADIOLOGIST, f"Dr {request.param}", key_kind=request.param)

    with piv_card(tmp_path / "card", {slot: credential(slot) for slot in ("9a", "9c")}) as inserted:
        yield inserted


@pytest.fixture
def agent(tmp_path: Path, gateway: Gateway, card: PivCard) -> Iterator[Agent]:
    # the URI names no key: among those of a PIV card the login key is taken
    with running_agent(tmp_path / "agent", gateway, card.uri(), card.environment) as running:
        yield running


def test_card_in_card_out_card_in(agent: Agent, card: PivCard) -> None:
    agent.give_pin(PIN)
    person = card.keys["9a"].certificate
    assert agent.call("echoscu", called="ORTHANC")[0] == 0, agent.log
    assert agent.call("echoscu", called="ORTHANC")[0] == 0, agent.log
    assert (card.state["verify"], card.state["wrong"], card.state["signed"]) == (1, 0, 2)

    entity = AE("VIEWER1")
    entity.add_requested_context(VERIFICATION_SOP_CLASS)
    association = entity.associate("127.0.0.1", agent.port, ae_title="ORTHANC")
    assert association.is_established, agent.log
    card.pull()
    pulled = time.monotonic()
    wait_until(lambda: association.is_aborted, seconds=10, what="the end of the association")
    assert time.monotonic() - pulled < 2.0
    agent.wait_for("card removed")

    card.insert()
    agent.give_pin(PIN)
    agent.wait_for("open")
    assert agent.call("echoscu", called="ORTHANC")[0] == 0, agent.log
    assert agent.stop() == 0
    name = name_of(person)
    assert agent.logins() == [
        ("Login", name, 0, ""),
        ("Logout", name, 0, "the card was removed"),
        ("Login", name, 0, ""),
        ("Logout", name, 0, "the agent was stopped"),
    ]


def test_a_wrong_pin_costs_one_try_and_is_not_repeated(agent: Agent, card: PivCard) -> None:
    agent.give_pin("000000")
    wait_until(lambda: "2 tries left" in str(agent.status.get("trouble")), what="the refusal")
    assert (card.state["wrong"], card.state["tries"]) == (1, 2)
    agent.give_pin(PIN)
    agent.wait_for("open")
    assert agent.call("echoscu", called="ORTHANC")[0] == 0, agent.log
    assert card.state["wrong"] == 1


def test_a_module_that_is_stuck_ends_the_agent_and_not_its_work(tmp_path: Path, gateway: Gateway, card: PivCard) -> None:
    """A card yanked in the middle of a signature can leave OpenSC waiting for itself: told, and the unit file starts anew."""
    agent = Agent(tmp_path / "agent", gateway, card.uri(), card.environment, settings={"login_seconds": 1.0})
    agent.folder.mkdir()
    agent.write()
    agent.start()
    try:
        agent.give_pin(PIN)
        agent.wait_for("open")
        card.yank()
        code, said = agent.call("echoscu", "-ta", "4", called="ORTHANC")
        assert code != 0, said
        wait_until(lambda: agent.ended or agent.status.get("state") == "card removed", seconds=20, what="the notice")
        assert ("Logout", "the card was removed") in [(kind, why) for kind, _, _, why in agent.logins()]
        card.insert()
        agent.give_pin(PIN)
        wait_until(lambda: agent.ended or agent.status.get("state") == "open", seconds=20, what="the end or the next login")
        if agent.ended:
            assert agent.process is not None
            assert agent.process.returncode == 4
            assert "a new agent is needed" in agent.log
            agent.start()
            agent.give_pin(PIN)
        assert agent.call("echoscu", called="ORTHANC")[0] == 0, agent.log
        assert agent.stop() == 0
    finally:
        if agent.process is not None and agent.process.poll() is None:
            agent.process.kill()
            agent.process.wait(10)

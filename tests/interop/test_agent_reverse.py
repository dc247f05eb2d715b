"""What is delivered to a viewer in reverse, and to whom not: live agents, two workers, Orthanc."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import ComprehensiveSRStorage, EnhancedSRStorage, Verification  # type: ignore[attr-defined]

from securepacs import codes
from securepacs.pki import CertificateProfile
from securepacs.tokens.pkcs11 import Pkcs11Token
from tests.support.agent import Agent, running_agent
from tests.support.gateway import Gateway
from tests.support.net import free_port, wait_until
from tests.support.piv_card import PIN, piv_card
from tests.support.programs import dcmtk
from tests.support.reverse import World, reverse_world
from tests.support.samples import new_instance
from tests.support.softhsm import SoftHsmToken, softhsm_token

pytestmark = pytest.mark.interop

STUDY = "1.2.826.0.1.3680043.10.999.82"


def alerted(world: World, words: str) -> None:
    def told() -> bool:
        return any(words in text for text in world.gateway.texts(event=codes.SECURITY_ALERT.csd_code))

    wait_until(told, what=f"the alert: {words}")


def viewer_answers(world: World) -> bool:
    """Call VIEWER1 as the archive does; whether it answered."""
    entity = AE("ORTHANC")
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", world.inner, ae_title="VIEWER1")
    established = bool(association.is_established)
    if established:
        assert association.send_c_echo().Status == 0
        association.release()
    return established


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with reverse_world(tmp_path_factory.mktemp("world")) as running:
        yield running


@dataclass
class Viewer:
    """A viewer that listens on loopback and may be slow."""

    port: int = 0
    stored: int = 0
    aborted: threading.Event = field(default_factory=threading.Event)
    busy: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


@contextmanager
def viewer() -> Iterator[Viewer]:
    place = Viewer()
    place.go_on.set()

    def on_store(_event: evt.Event) -> int:
        place.busy.set()
        place.go_on.wait(30)
        place.stored += 1
        return 0x0000

    entity = AE("VIEWER1")
    for uid in (Verification, ComprehensiveSRStorage, EnhancedSRStorage, "1.2.840.10008.5.1.4.1.1.88.11"):
        entity.add_supported_context(uid)
    handlers = [
        (evt.EVT_C_STORE, on_store),
        (evt.EVT_ABORTED, lambda _event: place.aborted.set()),
        (evt.EVT_CONN_CLOSE, lambda _event: place.aborted.set()),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)  # type: ignore[arg-type]
    place.port = int(server.server_address[1])
    try:
        yield place
    finally:
        place.go_on.set()
        server.shutdown()


def person_token(world: World, name: str, profile: CertificateProfile = CertificateProfile.RADIOLOGIST) -> SoftHsmToken:
    token = softhsm_token()
    with Pkcs11Token.open(token.uri, pin=token.pin_source) as opened:
        key = opened.generate(label="login", kind="p256")
        issued = world.gateway.pki.ca.issue(profile, common_name=name, public_key=key.public_key(), at=world.gateway.pki.now)
        opened.write_certificate(issued, label="login")
    return token


@contextmanager
def logged_in(folder: Path, world: World, token: SoftHsmToken, port: int, *, ready: bool = True) -> Iterator[Agent]:
    with running_agent(folder, world.gateway, token.uri, token.environment, viewers={"VIEWER1": port}) as agent:
        agent.give_pin(token.pin)
        agent.wait_for("open")
        if ready:
            wait_until(lambda: agent.status.get("deliveries") == {"VIEWER1": ""}, what=f"waiting: {agent.log}")
        yield agent


def waiting(gateway: Gateway) -> list[str]:
    """Return the sessions that wait for a delivery."""
    return [row["id"] for row in gateway.status() if (row["called_ae_title"], row["state"]) == ("VIEWER1", "authenticated")]


def test_what_the_archive_sends_by_itself_arrives(tmp_path: Path, world: World) -> None:
    assert not viewer_answers(world)
    alerted(world, "nobody waits for VIEWER1")
    with viewer() as place, logged_in(tmp_path / "kim", world, person_token(world, "Dr Kim"), place.port) as agent:
        assert viewer_answers(world)
        agent.stop()
        wait_until(lambda: not viewer_answers(world), what="the end of the waiting")


def test_several_people_for_one_title_get_nothing_nobody_asked_for(tmp_path: Path, world: World) -> None:
    with (
        viewer() as first,
        viewer() as second,
        logged_in(tmp_path / "kim", world, person_token(world, "Dr Kim"), first.port) as kim,
        logged_in(tmp_path / "lee", world, person_token(world, "Dr Lee"), second.port) as lee,
    ):
        assert not viewer_answers(world)
        alerted(world, "several people wait for VIEWER1")
        file = tmp_path / "one.dcm"
        file.write_bytes(new_instance("reportsi.dcm", 1, study=STUDY))
        assert kim.call("storescu", str(file), called="ORTHANC")[0] == 0
        query = ["-S", "-aem", "VIEWER1", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
        code, said = lee.call("movescu", *query, called="ORTHANC")
        assert code == 0, said
        assert (first.stored, second.stored) == (0, 1)


def test_who_may_not_receive_is_told_and_recorded(tmp_path: Path, world: World) -> None:
    token = person_token(world, "Dr Referring", CertificateProfile.REFERRING_PHYSICIAN)
    with viewer() as place, logged_in(tmp_path / "agent", world, token, place.port, ready=False) as agent:
        wait_until(lambda: "does not let this card receive" in str(agent.status.get("deliveries")), what="the refusal")
        alerted(world, "none of its roles may receive for VIEWER1")
        assert not viewer_answers(world)


def test_a_block_ends_the_waiting(tmp_path: Path, world: World) -> None:
    with viewer() as place, logged_in(tmp_path / "agent", world, person_token(world, "Dr Kim"), place.port):
        assert world.gateway.run("block", "--ae", "VIEWER1", "--reason", "lost laptop").returncode == 0
        try:
            wait_until(lambda: not viewer_answers(world), what="the end of the waiting")
        finally:
            assert world.gateway.run("unblock", "--ae", "VIEWER1", "--reason", "found").returncode == 0


def test_a_viewer_that_does_not_listen_is_a_rejection(tmp_path: Path, world: World) -> None:
    with logged_in(tmp_path / "agent", world, person_token(world, "Dr Kim"), free_port()) as agent:
        assert not viewer_answers(world)
        assert "was refused" in agent.log


def test_card_pulled_in_the_middle_of_a_move(tmp_path: Path, world: World) -> None:
    gateway = world.gateway
    credential = gateway.pki.credential(CertificateProfile.RADIOLOGIST, "Dr Card", key_kind="p256")
    study = STUDY + ".2"
    files = [tmp_path / f"{number}.dcm" for number in range(1, 4)]
    for number, file in enumerate(files, start=1):
        file.write_bytes(new_instance("reportsi.dcm", number, study=study))
    query = ["-S", "-aem", "VIEWER1", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"]
    with (
        viewer() as place,
        piv_card(tmp_path / "card", {"9a": credential}) as card,
        running_agent(tmp_path / "agent", gateway, card.uri(), card.environment, viewers={"VIEWER1": place.port}) as agent,
    ):

        def ready() -> bool:
            return agent.status.get("state") == "open" and agent.status.get("deliveries") == {"VIEWER1": ""}

        agent.give_pin(PIN)
        wait_until(ready, what=f"the waiting connections: {agent.log}")
        code, said = agent.call("storescu", *map(str, files), called="ORTHANC")
        assert code == 0, said
        place.go_on.clear()
        command = [dcmtk("movescu"), "-v", "-aet", "VIEWER1", "-aec", "ORTHANC", "127.0.0.1", str(agent.port), *query]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as mover:
            assert place.busy.wait(20)
            # a card pulled while it signs for the next connection may leave OpenSC waiting for itself: that is another test
            wait_until(lambda: len(waiting(gateway)) == 2, what="two waiting connections beside the busy one")
            place.aborted.clear()
            card.pull()
            pulled = time.monotonic()
            assert place.aborted.wait(5)
            said = mover.communicate(timeout=5)[0]
            assert time.monotonic() - pulled < 2.0
            assert "Abort" in said, said  # movescu's exit code does not tell
        place.go_on.set()
        agent.wait_for("card removed")
        assert agent.logins()[-1][3] == "the card was removed"

        def on_record() -> bool:
            people = [one.UserName for message in gateway.records() for one in message.ActiveParticipant]
            ends = [text for text in gateway.texts(event=codes.USER_AUTHENTICATION.csd_code) if "closed the connection" in text]
            return "Dr Card" in people and bool(ends)

        wait_until(on_record, what="the record of the interrupted move")
        card.insert()
        agent.give_pin(PIN)
        wait_until(ready, what="the login after the card came back")
        code, said = agent.call("movescu", *query, called="ORTHANC")
        assert code == 0, said

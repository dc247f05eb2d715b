"""Sixty-four connections at once through two workers, cut at random, each with its own marker: nothing of one reaches another."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path

import pytest

from tests.support.dicom_wire import CT, associate_ac, associate_rq, message, release_rp, release_rq, store_rq
from tests.support.gateway import Gateway, running_gateway

pytestmark = pytest.mark.interop
CONNECTIONS, STORES = 64, 4
CONTEXT = 1
_MARKER = re.compile(rb"#(\d{6})-(\d{6})##")


def instance(number: int, store: int) -> str:
    return f"1.2.826.0.1.3680043.10.994.{number + 1}.{store + 1}"


def stores(number: int, scale: int) -> list[bytes]:
    """What one client sends: pixels that say whose they are, in every sixteen bytes."""
    generator = random.Random(number)
    made = []
    for store in range(STORES):
        pixels = b"#%06d-%06d##" % (number, store) * generator.randint(100, 4000 * scale)
        made.append(
            store_rq(
                store + 1,
                uid=instance(number, store),
                study=f"1.2.826.0.1.3680043.10.994.{number + 1}",
                patient=f"PAT-{number}",
                pixels=pixels,
                max_pdu=generator.choice((4096, 16384)),
                context_id=CONTEXT,
            )
        )
    return made


def accepted(number: int, store: int) -> bytes:
    fields = {"AffectedSOPClassUID": CT, "AffectedSOPInstanceUID": instance(number, store)}
    return message("C_STORE_RSP", CONTEXT, MessageIDBeingRespondedTo=store + 1, Status=0, **fields)


async def read_pdu(reader: asyncio.StreamReader) -> bytes:
    header = await reader.readexactly(6)
    return header + await reader.readexactly(int.from_bytes(header[2:], "big"))


class Sink:
    """An archive that keeps the bytes of every association apart, reads at its own pace and answers each store."""

    def __init__(self) -> None:
        self.associations: list[list[bytes]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        generator, mine = random.Random(len(self.associations)), []
        self.associations.append(mine)
        writer.write(associate_ac(await read_pdu(reader), contexts=[(CONTEXT, "1.2.840.10008.1.2")]))
        current = b""
        while (pdu := await read_pdu(reader))[0] == 4:
            current += pdu
            if pdu[11] == 2:  # the last fragment of a data set
                number, store = map(int, _MARKER.findall(current)[0])
                mine.append(current)
                writer.write(accepted(number, store))
                current = b""
            if generator.random() < 0.05:
                await asyncio.sleep(generator.random() / 50)  # a slow sink: the sender must wait, and nothing may get lost
        writer.write(release_rp())
        await writer.drain()
        writer.close()


async def client(gateway: Gateway, number: int, sent: list[bytes]) -> bytes:
    """Send everything in random pieces; return everything that came back."""
    generator = random.Random(1000 + number)
    context = gateway.client_context("ct1")
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=context, server_hostname="localhost")
    writer.write(associate_rq(called="SINK", classes=[CT], syntaxes=["1.2.840.10008.1.2"]))
    acceptance = await read_pdu(reader)
    assert acceptance[0] == 2

    async def send() -> None:
        stream = b"".join(sent)
        while stream:
            length = generator.choice((1, 50, 3000, 100_000))
            writer.write(stream[:length])
            stream = stream[length:]
            await writer.drain()
            if generator.random() < 0.02:
                await asyncio.sleep(0.001)

    sending = asyncio.create_task(send())
    answers = b"".join([await read_pdu(reader) for _ in sent])
    await sending
    writer.write(release_rq())
    assert (await read_pdu(reader))[0] == 6
    writer.close()
    return answers


def run_crowd(folder: Path, scale: int) -> None:
    everything = [stores(number, scale) for number in range(CONNECTIONS)]

    async def scenario() -> tuple[list[bytes], Sink]:
        sink = Sink()
        server = await asyncio.start_server(sink.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with running_gateway(folder, {"SINK": ("127.0.0.1", port)}, workers=2) as gateway:
            gateway.client_files("ct1")  # issued once, before all need it
            answers = await asyncio.gather(*(client(gateway, number, sent) for number, sent in enumerate(everything)))
            assert len({row["id"] for row in await asyncio.to_thread(gateway.status)}) <= CONNECTIONS
        server.close()
        return answers, sink

    answers, sink = asyncio.run(asyncio.wait_for(scenario(), 600))
    for number, answer in enumerate(answers):
        assert answer == b"".join(accepted(number, store) for store in range(STORES)), f"client {number}"
    assert len(sink.associations) == CONNECTIONS
    assert sorted(map(b"".join, sink.associations)) == sorted(map(b"".join, everything))


def test_sixty_four_connections_never_mix(tmp_path: Path) -> None:
    run_crowd(tmp_path, 1)


@pytest.mark.full
@pytest.mark.parametrize("turn", range(4))
def test_sixty_four_connections_never_mix_at_length(tmp_path: Path, turn: int) -> None:
    run_crowd(tmp_path, 20 + turn)

"""One image after another as P-DATA: the sender (mutual TLS) and the receiver (plain) of the gateway's measurements.

    receive                                               prints its port, serves until its standard input is closed
    send HOST PORT KEY CERT TRUST ASSOCIATIONS MEGABYTES  prints the seconds from the first byte to the last answer

Both do as little as they can besides moving bytes, and both set TCP_NODELAY: what is measured is what stands between them.
"""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from securepacs.codes import IMPLICIT_VR_LITTLE_ENDIAN
from tests.support import dicom_wire as wire

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = (sys.executable, "-m", "tests.support.pdata")  # to be run in ROOT
PDU = 131072  # the maximum length that both sides announce
BATCH_PDUS = 8
CONTEXT = wire.CONTEXT_ID[wire.CT]
_HEADER = struct.Struct(">BxI")


def main() -> None:
    if sys.argv[1] == "receive":
        receive()
    else:
        host, port, key, certificate, trust, associations, megabytes = sys.argv[2:]
        context = client_context(key, certificate, trust)
        print(send(host, int(port), context, int(associations), int(megabytes)))


def client_context(key: str, certificate: str, trust: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=trust)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    return context


# --- receiver -------------------------------------------------------------------------------------------------------------


def receive() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()
    sys.stdin.read()


@contextmanager
def receiver() -> Iterator[int]:
    """Run the receiver as a process of its own; yield its port."""
    command = [*PROGRAM, "receive"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(20)


def _accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve, args=(connection,), daemon=True).start()


def _serve(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(1 << 20))
    answer = wire.store_rsp(1)
    have = rest = 0  # bytes at the start of the buffer; bytes of a PDU still to be skipped
    last = False
    try:
        while count := connection.recv_into(buffer[have:]):
            position, end = 0, have + count
            while True:
                step = min(rest, end - position)
                rest -= step
                position += step
                if not rest and last:
                    connection.sendall(answer)
                    last = False
                if rest or end - position < 12:
                    break
                kind, length = _HEADER.unpack_from(buffer, position)
                if kind == 4 and _is_echo(buffer[position : position + 200]):
                    connection.sendall(wire.echo_rsp(1))
                    rest = length + 6
                    continue
                if kind == 4:
                    last, rest = buffer[position + 11] == 2, length + 6
                    continue
                if end - position < length + 6:
                    break
                whole = bytes(buffer[position : position + length + 6])
                position += length + 6
                if kind == 1:
                    connection.sendall(wire.associate_ac(whole, max_length=PDU))
                elif kind == 5:
                    connection.sendall(wire.release_rp())
            if end - position >= 10 and buffer[position] == 5 and not rest:
                connection.sendall(wire.release_rp())  # A-RELEASE-RQ is shorter than the headers looked for above
                position += 10
            have = end - position
            buffer[:have] = bytes(buffer[position:end])
    except OSError:
        pass
    finally:
        connection.close()


def _is_echo(start: memoryview) -> bool:
    """Whether a P-DATA-TF is a C-ECHO-RQ: a command PDV with Command Field 0030H."""
    return start[11] == 3 and b"\0\0\0\1\2\0\0\0\x30\0" in bytes(start)


# --- sender ---------------------------------------------------------------------------------------------------------------


class Sender:
    """One association that sends one image."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        raw = socket.create_connection((host, port), timeout=120)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._associate(context.wrap_socket(raw, server_hostname="localhost"))

    @classmethod
    def over(cls, connection: socket.socket) -> Self:
        """Associate over a connection that stands, without TLS."""
        sender = cls.__new__(cls)
        sender._associate(connection)
        return sender

    def _associate(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.sendall(wire.associate_rq(classes=[wire.CT], syntaxes=[IMPLICIT_VR_LITTLE_ENDIAN], max_length=PDU))
        answer = self._read_pdu()
        if answer[0] != 2:
            raise SystemExit(f"the association was not accepted: PDU type {answer[0]}")

    def send(self, size: int) -> None:
        """Send `size` bytes of pixel data and wait for the answer."""
        command, head = _opening(size)
        batch = _batch()
        full, rest = divmod(size, BATCH_PDUS * (PDU - 6))
        self._socket.sendall(command + head)
        for _ in range(full):
            self._socket.sendall(batch)
        self._socket.sendall(_closing(rest))
        self._read_pdu()

    def release(self) -> None:
        self._socket.sendall(wire.release_rq())
        self._read_pdu()
        self._socket.close()

    def _read_pdu(self) -> bytes:
        data = b""
        while len(data) < 6 or len(data) < 6 + _HEADER.unpack_from(data)[1]:
            more = self._socket.recv(65536)
            if not more:
                raise SystemExit("the connection was closed")
            data += more
        return data


def send(host: str, port: int, context: ssl.SSLContext, associations: int, megabytes: int) -> float:
    """Send `megabytes` of pixel data in all over so many associations at once; return the seconds it took."""
    senders = [Sender(host, port, context) for _ in range(associations)]
    size = megabytes * 1_000_000 // associations
    size -= size % 2
    threads = [threading.Thread(target=sender.send, args=(size,)) for sender in senders]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    for sender in senders:
        sender.release()
    return seconds


def _opening(size: int) -> tuple[bytes, bytes]:
    """The C-STORE-RQ command, and a first data PDU that ends where the pixels begin."""
    pixels = b"\0\0"
    command = wire.split_pdus(wire.store_rq(1, max_pdu=PDU, pixels=pixels))[0]
    head = wire.encode(wire.image(pixels=pixels))[: -4 - len(pixels)] + struct.pack("<I", size)
    return command, wire.pdv_pdu((CONTEXT, 0, head))


def _batch() -> bytes:
    """Several full data PDUs in one write."""
    return wire.pdv_pdu((CONTEXT, 0, bytes(PDU - 6))) * BATCH_PDUS


def _closing(size: int) -> bytes:
    """What is left of the pixels; the last PDU says so."""
    pdus = []
    while size > PDU - 6:
        pdus.append(wire.pdv_pdu((CONTEXT, 0, bytes(PDU - 6))))
        size -= PDU - 6
    return b"".join([*pdus, wire.pdv_pdu((CONTEXT, 2, bytes(size)))])


if __name__ == "__main__":
    main()

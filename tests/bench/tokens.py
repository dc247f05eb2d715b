"""TLS 1.3 client handshakes with a key in a token (SoftHSM) beside the same kind of key in a file, in one run; and signatures.

.venv/bin/python tests/bench/tokens.py [--rounds 7] [--seconds 1]

Both clients run in this process, in turns, against one server in a process of its own. Each handshake is a new TCP connection with
both certificates verified. The columns are medians of the rounds; the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proxy")]

from cryptography.hazmat.primitives import hashes  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, padding  # noqa: E402

from securepacs.pki import CertificateProfile  # noqa: E402
from securepacs.tokens.credential import Credential  # noqa: E402
from securepacs.tokens.tls_key import client_context  # noqa: E402
from tests.support.softhsm import KINDS, enrolled_token, token_credential  # noqa: E402

WANTED = {"rsa-2048": 0.5, "p256": 0.85}


def serve(ready: socket.socket, certificate: str, key: str, trust: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(trust)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    ready.sendall(listener.getsockname()[1].to_bytes(2, "big"))
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with context.wrap_socket(connection, server_side=True) as tls:
                tls.sendall(b"!")
                tls.recv(1)
        except OSError:
            continue


def handshakes(context: ssl.SSLContext, port: int, seconds: float) -> float:
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(plain, server_hostname="localhost") as tls:
                if tls.recv(1) != b"!":
                    raise SystemExit("the server refused the handshake")
        done += 1
    return done / (time.perf_counter() - started)


def signatures(credential: Credential, threads: int, seconds: float) -> float:
    key, counts = credential.private_key, [0] * threads
    deadline = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < deadline:
            if isinstance(key, ec.EllipticCurvePrivateKey):
                key.sign(b"x", ec.ECDSA(hashes.SHA256()))
            else:
                key.sign(b"x", padding.PKCS1v15(), hashes.SHA256())
            counts[number] += 1

    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts) / seconds


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--seconds", type=float, default=1.0)
    options = arguments.parse_args()
    _, pki = enrolled_token()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        server = pki.credential(CertificateProfile.GATEWAY_SERVER, "server", key_kind="p256", dns=["localhost"])
        key, certificate = pki.write_pem(server, place)
        trust = pki.write_trust(place)
        ours, theirs = socket.socketpair()
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(theirs, str(certificate), str(key), str(trust)), daemon=True
        )
        process.start()
        port = int.from_bytes(ours.recv(2), "big")
        print(f"{'key':10}{'file/s':>10}{'token/s':>10}{'ratio':>8}{'wanted':>8}{'signatures/s, 1 and 8 threads':>32}")
        for kind in KINDS:
            file = client_context(pki.credential(CertificateProfile.MODALITY, f"file {kind}", key_kind=kind), trust=[pki.ca.root])
            with token_credential(kind) as credential:
                token = client_context(credential, trust=[pki.ca.root])
                rows = []
                for number in range(options.rounds):
                    pair = (file, token) if number % 2 else (token, file)
                    rates = {id(context): handshakes(context, port, options.seconds) for context in pair}
                    rows.append((rates[id(file)], rates[id(token)]))
                one, eight = (signatures(credential, threads, options.seconds) for threads in (1, 8))
            file_rate, token_rate = (statistics.median(column) for column in zip(*rows, strict=True))
            ratio = statistics.median(after / before for before, after in rows)
            wanted = f">={WANTED[kind]}" if kind in WANTED else ""
            print(f"{kind:10}{file_rate:10.0f}{token_rate:10.0f}{ratio:8.2f}{wanted:>8}{one:20.0f}{eight:12.0f}")
        process.terminate()
        process.join()


if __name__ == "__main__":
    main()

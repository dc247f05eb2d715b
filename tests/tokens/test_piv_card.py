"""Tokens on a PIV card that counts: one try for one wrong PIN, lock, unblock, per-signature PIN, pulling and inserting."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from securepacs.pki import CertificateProfile
from tests.support.piv_card import PIN, PUK, PivCard, piv_card, run_with_card, spy_module, start_with_card
from tests.support.pki import make_pki, pem_of

pytestmark = pytest.mark.interop

WRONG = "000000"
CLI = [sys.executable, "-c", "from securepacs.cli.main import main; main()"]
HEAD = """
import json, sys
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from securepacs.errors import SecurePacsError, PinIncorrect
from securepacs.tokens.pkcs11 import Pkcs11Token, list_tokens, open_credential
pins = []
def pin():
    pins.append(1)
    return PIN
def sign(key):
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(b"x", ec.ECDSA(hashes.SHA256()))
        key.public_key().verify(signature, b"x", ec.ECDSA(hashes.SHA256()))
    else:
        signature = key.sign(b"x", padding.PKCS1v15(), hashes.SHA256())
        key.public_key().verify(signature, b"x", padding.PKCS1v15(), hashes.SHA256())
    return "signed"
def attempt(work):
    try:
        return work()
    except SecurePacsError as error:
        return [type(error).__name__, getattr(error, "tries_left", None)]
def tell(value):
    print(json.dumps(value), flush=True)
URI, PIN = sys.argv[1:3]
"""


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pki = make_pki(tmp_path_factory.mktemp("pki"))
    kinds = {"9a": "rsa-2048", "9c": "p256", "9d": "rsa-2048"}
    return {
        slot: pki.credential(CertificateProfile.RADIOLOGIST, f"Dr {slot}", key_kind=kind)  # type: ignore[arg-type]
        for slot, kind in kinds.items()
    }


@pytest.fixture
def card(tmp_path: Path, credentials: dict[str, Any]) -> Iterator[PivCard]:
    with piv_card(tmp_path / "card", credentials) as inserted:
        yield inserted


def run(card: PivCard, script: str, *, uri: str = "", pin: str = PIN, **environment: str) -> list[Any]:
    """Run the script with the card; return what it told."""
    done = run_with_card(card, [sys.executable, "-c", HEAD + script, uri or card.uri(), pin], **environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_is_on_the_card(card: PivCard) -> None:
    (found,) = run(
        card,
        """
with Pkcs11Token.open(URI, pin=pin) as token:
    tell({c.certificate.subject.rfc4514_string()[3:8]: [c.login_only, sign(c.private_key)] for c in token.credentials()})
""",
    )
    assert found == {"Dr 9a": [True, "signed"], "Dr 9c": [False, "signed"], "Dr 9d": [False, "signed"]}
    assert card.state["wrong"] == 0


@pytest.mark.parametrize(("pin", "outcome"), [(PIN, "open"), (WRONG, ["PinIncorrect", 2])])
def test_one_open_costs_one_login_and_at_most_one_try(card: PivCard, tmp_path: Path, pin: str, outcome: Any) -> None:
    log = tmp_path / "spy.log"
    script = """
def work():
    with Pkcs11Token.open(URI, pin=pin) as token:
        token.credentials()
        return "open"
tell(attempt(work))
"""
    (said,) = run(card, script, uri=card.uri(module=spy_module()), pin=pin, PKCS11SPY=str(card.module), PKCS11SPY_OUTPUT=str(log))
    assert said == outcome
    assert log.read_text(errors="replace").count("C_Login\n") == 1
    assert (card.state["verify"], card.state["wrong"]) == (1, 0 if pin == PIN else 1)


def test_wrong_pins_lock_the_card_and_a_locked_card_is_not_asked(card: PivCard) -> None:
    said = run(
        card,
        """
from pathlib import Path
module = Path(URI.partition("module-path=")[2])
for _ in range(4):
    tell(attempt(lambda: Pkcs11Token.open(URI, pin=pin)))
    (info,) = list_tokens(module)
    tell([info.pin, info.tries_left])
""",
        pin=WRONG,
    )
    assert said[0::2] == [["PinIncorrect", 2], ["PinIncorrect", 1], ["PinLocked", None], ["PinLocked", None]]
    assert said[1::2] == [["count-low", 2], ["final-try", 1], ["locked", 0], ["locked", 0]]
    assert (card.state["tries"], card.state["wrong"], card.state["verify"]) == (0, 3, 3)


def test_unblock_in_the_process_that_saw_it_locked(card: PivCard) -> None:
    said = run(
        card,
        f"""
for _ in range(3):
    attempt(lambda: Pkcs11Token.open(URI, pin=lambda: "{WRONG}"))
with Pkcs11Token.open(URI) as token:
    tell(attempt(lambda: token.unblock(puk=lambda: "99999999", new=lambda: "654321")))
    tell(attempt(lambda: token.unblock(puk=lambda: "{PUK}", new=lambda: "654321")))
tell(attempt(lambda: Pkcs11Token.open(URI, pin=lambda: "654321").info().pin))
tell(attempt(lambda: Pkcs11Token.open(URI, pin=pin)))
""",
    )
    assert said == [["PinIncorrect", 2], None, "ok", ["PinIncorrect", 2]]
    assert card.state["puk_tries"] == 3


def test_a_wrong_puk_costs_one_try_and_the_last_one_is_told(card: PivCard) -> None:
    said = run(
        card,
        """
with Pkcs11Token.open(URI) as token:
    for _ in range(4):
        tell(attempt(lambda: token.unblock(puk=lambda: "99999999", new=lambda: "654321")))
    tell(attempt(lambda: token.unblock(puk=lambda: "1" * 9, new=lambda: "654321")))
""",
    )
    assert said == [["PinIncorrect", 2], ["PinIncorrect", 1], ["PinLocked", None], ["PinLocked", None], ["TokenError", None]]


def test_change_pin(card: PivCard) -> None:
    said = run(
        card,
        f"""
with Pkcs11Token.open(URI) as token:
    tell(attempt(lambda: token.change_pin(old=lambda: "{WRONG}", new=lambda: "654321")))
    tell(attempt(lambda: token.change_pin(old=pin, new=lambda: "1" * 12)))
    tell(attempt(lambda: token.change_pin(old=pin, new=lambda: "654321")))
tell(attempt(lambda: Pkcs11Token.open(URI, pin=lambda: "654321").info().pin))
""",
    )
    assert said[0] == ["PinIncorrect", 2]
    assert said[1] == ["TokenError", None]
    assert said[2:] == [None, "ok"]
    assert card.state["wrong"] == 1


def test_the_signature_key_wants_the_pin_every_time(card: PivCard) -> None:
    said = run(
        card,
        """
with open_credential(URI, pin=pin) as credential:
    tell(len(pins))
    for _ in range(3):
        sign(credential.private_key)
        tell(len(pins))
""",
        uri=card.uri("9c"),
    )
    assert said == [1, 2, 3, 4]
    assert card.state["signed"] == 3


def test_the_login_key_wants_the_pin_once(card: PivCard) -> None:
    script = """
with open_credential(URI, pin=pin) as credential:
    for _ in range(3):
        sign(credential.private_key)
    tell(len(pins))
"""
    assert run(card, script, uri=card.uri("9a")) == [1]


def test_a_wrong_pin_for_one_signature_costs_one_try_and_the_right_one_signs(card: PivCard) -> None:
    said = run(
        card,
        f"""
given = iter([PIN, "{WRONG}", PIN])
with open_credential(URI, pin=lambda: next(given)) as credential:
    tell(attempt(lambda: sign(credential.private_key)))
with open_credential(URI, pin=pin) as credential:
    tell(attempt(lambda: sign(credential.private_key)))
""",
        uri=card.uri("9c"),
    )
    assert said == [["PinIncorrect", 2], "signed"]
    assert card.state["wrong"] == 1


@pytest.mark.parametrize(("slot", "allowed"), [("9a", False), ("9c", True)])
def test_the_login_key_signs_no_documents(card: PivCard, tmp_path: Path, slot: str, allowed: bool) -> None:
    from pydicom.data import get_testdata_file

    source = get_testdata_file("CT_small.dcm", download=False)
    target = tmp_path / "signed.dcm"
    arguments = ["sign", str(source), "--token", card.uri(slot), "--pin-env", "CARD_PIN", "--profile", "none", "-o", str(target)]
    done = run_with_card(card, [*CLI, *arguments], CARD_PIN=PIN)
    assert target.exists() == allowed, done.stderr
    assert done.returncode == (0 if allowed else 2), done.stderr
    assert card.state["signed"] == (1 if allowed else 0)
    if not allowed:
        assert "9C" in done.stderr


def test_a_pulled_card_is_told_and_works_again_when_it_is_back(card: PivCard) -> None:
    script = """
with open_credential(URI, pin=pin) as credential:
    for line in sys.stdin:
        tell([attempt(lambda: sign(credential.private_key)), len(pins)])
"""
    process = start_with_card(card, [sys.executable, "-c", HEAD + script, card.uri("9a"), PIN])
    assert process.stdin is not None
    assert process.stdout is not None
    with process:

        def answer() -> list[Any]:
            process.stdin.write("\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            return list(json.loads(process.stdout.readline()))  # type: ignore[union-attr]

        try:
            assert answer() == ["signed", 1]
            card.pull()
            assert answer() == [["TokenNotPresent", None], 1]
            card.insert()
            assert answer() == ["signed", 2]  # a card that was out wants its PIN again
            assert answer() == ["signed", 2]
            process.stdin.close()
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0


def test_cli_change_and_unblock(card: PivCard) -> None:
    changed = run_with_card(
        card,
        [*CLI, "token", "change-pin", card.uri(), "--pin-env", "OLD", "--new-pin-env", "NEW"],
        OLD=PIN,
        NEW="112233",
    )
    assert changed.returncode == 0, changed.stderr
    for _ in range(3):
        wrong = run_with_card(card, [*CLI, "token", "test", card.uri("9a"), "--pin-env", "OLD"], OLD=WRONG)
        assert wrong.returncode == 4
        assert WRONG not in wrong.stderr + wrong.stdout
    listed = run_with_card(card, [*CLI, "token", "list", "--json"])
    assert (json.loads(listed.stdout)["pin"], json.loads(listed.stdout)["tries_left"]) == ("locked", 0)
    unblocked = run_with_card(
        card,
        [*CLI, "token", "unblock", card.uri(), "--puk-env", "PUK", "--new-pin-env", "NEW"],
        PUK=PUK,
        NEW="332211",
    )
    assert unblocked.returncode == 0, unblocked.stderr
    tested = run_with_card(card, [*CLI, "token", "test", card.uri(), "--pin-env", "P", "--json"], P="332211")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    secrets = (PIN, "112233", "332211", PUK)
    assert not any(
        secret in text for secret in secrets for one in (changed, unblocked, tested) for text in (one.stdout, one.stderr)
    )


def test_the_key_management_key_decrypts(card: PivCard) -> None:
    """PKCS #1 v1.5 always; OAEP with any hash, because a PIV card does the bare operation and OpenSC the padding, if it can."""
    script = """
def oaep(digest):
    return padding.OAEP(padding.MGF1(digest()), digest(), None)
with open_credential(URI, pin=pin) as credential:
    key = credential.private_key
    for scheme in (padding.PKCS1v15(), oaep(hashes.SHA1), oaep(hashes.SHA256)):
        tell(attempt(lambda: key.decrypt(key.public_key().encrypt(b"secret", scheme), scheme).decode()))
"""
    first, *others = run(card, script, uri=card.uri("9d"))
    assert first == "secret"
    assert all(answer in ("secret", ["TokenError", None]) for answer in others)


TLS = """
import socket, ssl, threading
from pathlib import Path
from cryptography import x509
from securepacs.tokens.tls_key import client_context
folder, version = Path(sys.argv[3]), getattr(ssl.TLSVersion, sys.argv[4])
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain(folder / "server.pem")
server.load_verify_locations(folder / "root.pem")
server.verify_mode = ssl.CERT_REQUIRED
listener = socket.create_server(("127.0.0.1", 0))
def serve():
    with server.wrap_socket(listener.accept()[0], server_side=True) as tls:
        tls.sendall(tls.getpeercert(binary_form=True))
threading.Thread(target=serve, daemon=True).start()
chain = x509.load_pem_x509_certificates((folder / "chain.pem").read_bytes())
with open_credential(URI, pin=pin) as credential:
    from dataclasses import replace
    root = x509.load_pem_x509_certificate((folder / "root.pem").read_bytes())
    context = client_context(replace(credential, chain=tuple(chain)), trust=[root], maximum_version=version)
    with context.wrap_socket(socket.create_connection(listener.getsockname()), server_hostname="localhost") as tls:
        negotiated, received = tls.version(), b""
        while data := tls.recv(65536):
            received += data
        tell([negotiated, received == credential.certificate.public_bytes(serialization.Encoding.DER)])
"""


@pytest.mark.parametrize("kind", ["rsa-2048", "rsa-3072", "p256"])
@pytest.mark.parametrize(("version", "name"), [("TLSv1_2", "TLSv1.2"), ("TLSv1_3", "TLSv1.3")])
def test_tls_with_the_key_in_the_card(tmp_path: Path, kind: Any, version: str, name: str) -> None:
    pki = make_pki(tmp_path)
    server = pki.credential(CertificateProfile.GATEWAY_SERVER, "server", key_kind="p256", dns=["localhost"])
    key, certificate = pki.write_pem(server, tmp_path)
    (tmp_path / "server.pem").write_bytes(key.read_bytes() + certificate.read_bytes())
    pki.write_trust(tmp_path)
    (tmp_path / "chain.pem").write_bytes(pem_of(*pki.ca.chain))
    with piv_card(tmp_path / "card", {"9a": pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Kim", key_kind=kind)}) as card:
        done = run_with_card(card, [sys.executable, "-c", HEAD + TLS, card.uri("9a"), PIN, str(tmp_path), version])
        assert done.returncode == 0, done.stderr[-2000:]
        assert json.loads(done.stdout) == [name, True]
        assert card.state["verify"] == 1

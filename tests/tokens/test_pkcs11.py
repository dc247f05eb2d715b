"""Tokens: finding, login, PIN tries, lost sessions, threads, forks, generating and writing; on SoftHSM."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from securepacs.errors import ConfigError, PinIncorrect, PinLocked, TokenError, TokenNotPresent, UsageError
from securepacs.pki import CertificateProfile
from securepacs.tokens import login, p11kit
from securepacs.tokens.credential import Assurance
from securepacs.tokens.openssl_queue import shielded
from securepacs.tokens.pkcs11 import Pkcs11Token, list_tokens, open_credential
from tests.support.cms_samples import holder
from tests.support.pki import make_pki
from tests.support.programs import require
from tests.support.softhsm import KINDS, enrolled_token, see_new_objects, softhsm_token

pytestmark = pytest.mark.usefixtures("clean_queue")

WRONG = "not-the-pin-0987"
SPY = "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so"


@pytest.fixture
def clean_queue() -> Iterator[None]:
    """Tests here also use python-pkcs11 directly: what that leaves in OpenSSL's queue must not reach other tests."""
    with shielded():
        yield


def sign(key: Any) -> bytes:
    signature = key.sign(b"x", padding.PKCS1v15(), hashes.SHA256())
    key.public_key().verify(signature, b"x", padding.PKCS1v15(), hashes.SHA256())
    return bytes(signature)


def rsa_key(token: Pkcs11Token) -> Any:
    return next(one for one in token.credentials() if one.label == "rsa-2048").private_key


def run_script(script: str, *arguments: str, **environment: str) -> str:
    """Run Python code in a process of its own, which sees this process's SoftHSM."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_list_and_info() -> None:
    token = softhsm_token()
    info = next(one for one in list_tokens(token.module) if one.label == token.label)
    assert (info.pin, info.login_required, info.manufacturer) == ("ok", True, "SoftHSM project")
    with Pkcs11Token.open(info.uri) as opened:
        assert opened.info().serial == info.serial


def test_credentials() -> None:
    token, pki = enrolled_token()
    with Pkcs11Token.open(token.uri, pin=token.pin_source) as opened:
        found = {one.label: one for one in opened.credentials()}
        assert set(found) == set(KINDS)
        for one in found.values():
            assert one.assurance is Assurance.HARDWARE
            assert one.certificate.issuer == pki.ca.issuing.subject
            assert one.private_key.public_key() == one.certificate.public_key()


def test_certificates_need_no_pin_and_keys_do() -> None:
    token, _ = enrolled_token()
    with Pkcs11Token.open(token.uri) as opened:
        assert {label for label, _, _ in opened.certificates()} == set(KINDS)
        assert opened.credentials() == []
        with pytest.raises(TokenError, match="needs a PIN"):
            opened.ask_pin()


def test_open_credential_needs_exactly_one() -> None:
    token, _ = enrolled_token()
    with pytest.raises(TokenError, match="several keys fit"), open_credential(token.uri, pin=token.pin_source):
        pass
    by_label = token.uri.replace("?", ";object=p256?")
    with open_credential(by_label, pin=token.pin_source) as credential:
        assert credential.label == "p256"
    by_usage = open_credential(by_label, pin=token.pin_source, key_usage="key_encipherment")
    with pytest.raises(TokenError, match="no certificate with its private key"), by_usage:
        pass
    with pytest.raises(TokenError, match="no certificate"), open_credential(token.uri, pin=None):
        pass


def test_no_or_several_tokens_fit() -> None:
    token = softhsm_token()
    with pytest.raises(TokenNotPresent):
        Pkcs11Token.open(token.uri.replace(token.label, "no-such-token"), pin=token.pin_source)
    softhsm_token(label="twins")
    twin = softhsm_token(label="twins")
    with pytest.raises(TokenError, match="several tokens"):
        Pkcs11Token.open(twin.uri, pin=twin.pin_source)
    for info in list_tokens(twin.module):
        if info.label == "twins":
            with Pkcs11Token.open(info.uri, pin=twin.pin_source) as opened:
                assert opened.info().serial == info.serial


def test_a_wrong_pin_is_typed_and_told_nowhere() -> None:
    token = softhsm_token()
    with pytest.raises(PinIncorrect) as caught:
        Pkcs11Token.open(token.uri, pin=lambda: WRONG)
    assert caught.value.tries_left is None  # SoftHSM does not count
    assert WRONG not in "".join(traceback.format_exception(caught.value))
    assert next(one.pin for one in list_tokens(token.module) if one.label == token.label) == "count-low"
    with Pkcs11Token.open(token.uri, pin=token.pin_source) as opened:
        assert opened.info().pin == "ok"


@pytest.mark.parametrize("pin", ["", "1", "x" * 300])
def test_a_pin_of_impossible_length_is_a_wrong_pin(pin: str) -> None:
    token, _ = enrolled_token()
    with pytest.raises(PinIncorrect):
        Pkcs11Token.open(token.uri, pin=lambda: pin)


@pytest.mark.parametrize(
    ("flags", "state", "error", "tries"),
    [
        (0x00008, "ok", PinIncorrect, None),
        (0x10008, "count-low", PinIncorrect, None),
        (0x30008, "final-try", PinIncorrect, 1),
        (0x70008, "locked", PinLocked, None),
        (0x00000, "not-set", PinIncorrect, None),
    ],
)
def test_what_flags_say_about_tries(flags: int, state: str, error: type[TokenError], tries: int | None) -> None:
    assert login._pin_state(flags) == state
    refusal = login.refusal(SimpleNamespace(flags=flags, manufacturer_id="SoftHSM project"))
    assert type(refusal) is error
    assert getattr(refusal, "tries_left", None) == tries


def test_a_wrong_pin_is_checked_although_somebody_is_logged_in() -> None:
    token, _ = enrolled_token()
    with Pkcs11Token.open(token.uri, pin=token.pin_source) as opened:
        key = rsa_key(opened)
        sign(key)
        with pytest.raises(PinIncorrect):
            Pkcs11Token.open(token.uri, pin=lambda: WRONG)
        with pytest.raises(TokenError, match="refused before"):  # no retry spends another try by itself
            sign(key)
        with Pkcs11Token.open(token.uri, pin=token.pin_source):
            sign(key)
        sign(key)


def test_the_pin_is_asked_once_for_many_signatures() -> None:
    token, _ = enrolled_token()
    asked = []

    def pin() -> str:
        asked.append(1)
        return token.pin

    with Pkcs11Token.open(token.uri, pin=pin) as opened:
        for credential in opened.credentials():
            if credential.label != "p256":
                for _ in range(3):
                    sign(credential.private_key)
    assert asked == [1]


def test_a_lost_session_is_replaced() -> None:
    token, _ = enrolled_token()
    with Pkcs11Token.open(token.uri, pin=token.pin_source) as opened:
        key = rsa_key(opened)
        sign(key)
        key.token_key._session.close()
        sign(key)


def test_a_restarted_module_is_logged_in_again() -> None:
    """What a pulled and reinserted card looks like: every session and the login are gone."""
    token, _ = enrolled_token()
    asked = []

    def pin() -> str:
        asked.append(1)
        return token.pin

    with Pkcs11Token.open(token.uri, pin=pin) as opened:
        key = rsa_key(opened)
        sign(key)
        p11kit.library(token.module).reinitialize()
        sign(key)
        sign(key)
    assert asked == [1, 1]


def test_a_key_removed_from_the_token_is_told() -> None:
    import pkcs11

    token = softhsm_token()
    with Pkcs11Token.open(token.uri, pin=token.pin_source) as opened:
        key = opened.generate(label="k", kind="rsa-2048")
        session = opened.open_session(rw=True)
        for stored in list(session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY})):
            stored.destroy()
        session.close()
        with pytest.raises(TokenError, match="not on the token"):
            sign(key)


def test_a_closed_token_is_closed() -> None:
    token, _ = enrolled_token()
    with Pkcs11Token.open(token.uri, pin=token.pin_source) as opened:
        key = rsa_key(opened)
        sign(key)
    opened.close()
    with pytest.raises(TokenError, match="closed"):
        sign(key)


def sign_in_threads(*, threads: int, signatures: int) -> None:
    token, _ = enrolled_token()
    failures: list[BaseException] = []
    with Pkcs11Token.open(token.uri, pin=token.pin_source) as opened:
        keys = [rsa_key(opened) for _ in range(threads)]

        def work(number: int) -> None:
            try:
                for turn in range(signatures):
                    data = f"{number}/{turn}".encode()
                    signature = keys[number].sign(data, padding.PKCS1v15(), hashes.SHA256())
                    keys[number].public_key().verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
            except BaseException as error:
                failures.append(error)

        running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    assert failures == []


def test_threads_sign_at_once() -> None:
    sign_in_threads(threads=8, signatures=50)


@pytest.mark.full
def test_many_threads_sign_much() -> None:
    sign_in_threads(threads=8, signatures=1_000)


def test_two_threads_share_one_key_while_another_logs_in() -> None:
    token, _ = enrolled_token()
    failures: list[BaseException] = []
    with Pkcs11Token.open(token.uri, pin=token.pin_source) as opened:
        key = rsa_key(opened)

        def work() -> None:
            try:
                for _ in range(100):
                    sign(key)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            with Pkcs11Token.open(token.uri, pin=token.pin_source) as other:
                sign(rsa_key(other))
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_forked_child_signs() -> None:
    token, _ = enrolled_token()
    script = """
import os, sys
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from securepacs.tokens.openssl_queue import shielded
from securepacs.tokens.pkcs11 import open_credential
with open_credential(sys.argv[1], pin=lambda: sys.argv[2]) as credential:
    def sign():
        return credential.private_key.sign(b"x", padding.PKCS1v15(), hashes.SHA256())
    expected = sign()
    child = os.fork()
    if not child:
        os._exit(0 if sign() == sign() == expected else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), sign() == expected)
"""
    assert run_script(script, token.uri.replace("?", ";object=rsa-2048?"), token.pin) == "0 True\n"


@pytest.mark.interop
@pytest.mark.skipif(not Path(SPY).exists(), reason="pkcs11-spy is not installed")
@pytest.mark.parametrize(("pin", "outcome"), [("123456", "opened"), (WRONG, "PinIncorrect")])
def test_one_open_is_one_login(tmp_path: Path, pin: str, outcome: str) -> None:
    token, _ = enrolled_token()
    log = tmp_path / "spy.log"
    script = """
import sys
from securepacs.errors import SecurePacsError
from securepacs.tokens.openssl_queue import shielded
from securepacs.tokens.pkcs11 import Pkcs11Token
try:
    with Pkcs11Token.open(sys.argv[1], pin=lambda: sys.argv[2]) as token:
        token.credentials()
        print("opened")
except SecurePacsError as error:
    print(type(error).__name__)
"""
    uri = f"pkcs11:token={token.label}?module-path={SPY}"
    said = run_script(script, uri, pin, PKCS11SPY=str(token.module), PKCS11SPY_OUTPUT=str(log))
    assert said == f"{outcome}\n"
    assert log.read_text(errors="replace").count("C_Login\n") == 1


def test_change_pin_and_unblock() -> None:
    token = softhsm_token()
    with Pkcs11Token.open(token.uri) as opened:
        with pytest.raises(PinIncorrect):
            opened.change_pin(old=lambda: WRONG, new=lambda: "654321")
        with pytest.raises(TokenError, match="length"):
            opened.change_pin(old=token.pin_source, new=lambda: "1")
        opened.change_pin(old=token.pin_source, new=lambda: "654321")
        with pytest.raises(PinIncorrect):
            Pkcs11Token.open(token.uri, pin=token.pin_source)
        with pytest.raises(PinIncorrect, match="security officer"):
            opened.unblock(puk=lambda: WRONG, new=lambda: "111111")
        opened.unblock(puk=lambda: token.so_pin, new=lambda: "111111")
    with Pkcs11Token.open(token.uri, pin=lambda: "111111") as opened:
        opened.generate(label="k", kind="p256")


def test_log_out_and_in() -> None:
    token, _ = enrolled_token()
    asked = []

    def pin() -> str:
        asked.append(1)
        return token.pin

    with Pkcs11Token.open(token.uri, pin=pin) as opened:
        key = rsa_key(opened)
        sign(key)
        assert opened.present()
        assert opened.logged_in()
        opened.log_out()
        assert not opened.logged_in()
        sign(key)
        assert asked == [1, 1]
        opened.log_in()
        assert asked == [1, 1, 1]
        sign(key)


PIN_PAD = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <p11-kit/pkcs11.h>
static CK_FUNCTION_LIST mine, *real;
static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_BYTE *pin, CK_ULONG size) {
    FILE *log = fopen(getenv("PIN_PAD_LOG"), "a");
    fprintf(log, "%s\\n", pin ? "from the program" : "at the reader");
    fclose(log);
    if (pin) return CKR_PIN_INCORRECT;
    return real->C_Login(session, user, (CK_BYTE *)"123456", 6);
}
static CK_RV token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info) {
    CK_RV result = real->C_GetTokenInfo(slot, info);
    if (result == CKR_OK) info->flags |= CKF_PROTECTED_AUTHENTICATION_PATH;
    return result;
}
CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list) {
    if (!real) {
        void *module = dlopen(getenv("PIN_PAD_MODULE"), RTLD_NOW);
        CK_RV (*get)(CK_FUNCTION_LIST **) = dlsym(module, "C_GetFunctionList");
        CK_RV result = get(&real);
        if (result) return result;
        mine = *real;
        mine.C_Login = login;
        mine.C_GetTokenInfo = token_info;
    }
    *list = &mine;
    return CKR_OK;
}
"""


@pytest.mark.skipif(
    not shutil.which("cc") or not Path("/usr/include/p11-kit-1").exists(), reason="cc or libp11-kit-dev is not installed"
)
def test_with_a_pin_pad_no_pin_is_asked_for(tmp_path: Path) -> None:
    """SoftHSM behind a small module that takes the PIN itself, as a reader with keys or a fingerprint does."""
    token, _ = enrolled_token()
    source, module, log = tmp_path / "pad.c", tmp_path / "pad.so", tmp_path / "pad.log"
    source.write_text(PIN_PAD)
    subprocess.run(["cc", "-shared", "-fPIC", "-I/usr/include/p11-kit-1", "-o", module, source, "-ldl"], check=True, timeout=60)
    module.chmod(0o755)
    script = """
import sys
from securepacs.errors import TokenError
from securepacs.tokens.pkcs11 import Pkcs11Token, open_credential
def nobody():
    raise SystemExit("a PIN was asked for")
with open_credential(sys.argv[1], pin=nobody) as credential:
    from securepacs.tokens.probe import proves_possession
    print(proves_possession(credential.private_key))
with Pkcs11Token.open(sys.argv[1]) as token:
    print(token.info().pin_pad)
    try:
        token.change_pin(old=nobody, new=nobody)
    except TokenError as error:
        print(error)
"""
    uri = f"pkcs11:token={token.label};object=p256?module-path={module}"
    said = run_script(script, uri, PIN_PAD_MODULE=str(token.module), PIN_PAD_LOG=str(log))
    assert said == "True\nTrue\nthe PIN of this token is changed at its reader\n"
    assert log.read_text() == "at the reader\n"


def test_generate_and_write() -> None:
    token = softhsm_token()
    pki = make_pki(Path())
    with Pkcs11Token.open(token.uri, pin=token.pin_source) as opened:
        key = opened.generate(label="new", kind="rsa-2048", id=b"\x42")
        with pytest.raises(UsageError, match="already"):
            opened.generate(label="again", kind="rsa-2048", id=b"\x42")
        with pytest.raises(UsageError, match="not one of"):
            opened.generate(label="new", kind="dsa")  # type: ignore[arg-type]
        certificate = pki.ca.issue(CertificateProfile.MODALITY, common_name="ct1", public_key=key.public_key(), at=pki.now)
        opened.write_certificate(certificate, label="new")
        with pytest.raises(UsageError, match="not on the token"):
            opened.write_certificate(holder("stranger").certificate, label="x")
        ((label, key_id, stored),) = opened.certificates()
        assert (label, key_id, stored) == ("new", b"\x42", certificate)
        (credential,) = opened.credentials()
        sign(credential.private_key)
        session = opened.open_session()
        import pkcs11

        (private,) = session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY})
        assert private[pkcs11.Attribute.SENSITIVE] is True
        assert private[pkcs11.Attribute.EXTRACTABLE] is False
        session.close()


def test_a_key_that_was_put_into_the_token_is_software(tmp_path: Path) -> None:
    """It may have copies elsewhere, and still never comes out of the token again."""
    token = softhsm_token()
    pki = make_pki(tmp_path)
    outside = pki.credential(CertificateProfile.MODALITY, "imported", key_kind="rsa-2048")
    key_file = tmp_path / "key.pem"
    key_file.write_bytes(outside.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    arguments = ["--import", str(key_file), "--token", token.label, "--label", "imported", "--id", "42", "--pin", token.pin]
    subprocess.run([require("softhsm2-util"), *arguments], check=True, capture_output=True, timeout=60)
    see_new_objects(token)
    with Pkcs11Token.open(token.uri, pin=token.pin_source) as opened:
        opened.write_certificate(outside.certificate, label="imported", id=b"\x42")
        (credential,) = opened.credentials()
        assert credential.assurance is Assurance.SOFTWARE
        assert credential.in_token
        assert not outside.in_token
        sign(credential.private_key)


def test_writing_without_a_pin_is_refused() -> None:
    token, _ = enrolled_token()
    with Pkcs11Token.open(token.uri) as opened, pytest.raises(TokenError):
        opened.generate(label="x", kind="p256")


def test_another_module_in_the_same_process_is_refused(tmp_path: Path) -> None:
    token, _ = enrolled_token()
    list_tokens(token.module)
    other = next((path for path in (Path(SPY), Path("/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so")) if path.exists()), None)
    if other is None:
        pytest.skip("no second PKCS #11 module is installed")
    with pytest.raises(TokenError, match="another PKCS #11 module"):
        list_tokens(other)


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_module_that_others_may_change_is_refused(tmp_path: Path, mode: int) -> None:
    module = tmp_path / "module.so"
    module.write_bytes(b"")
    module.chmod(mode)
    with pytest.raises(ConfigError, match="does not belong to root alone"):
        p11kit.check_module(module)
    with pytest.raises(ConfigError, match="does not belong to root alone"):
        p11kit.check_module(tmp_path)
    with pytest.raises(ConfigError, match="cannot use"):
        p11kit.check_module(tmp_path / "none.so")


def test_what_is_not_a_module_is_told() -> None:
    said = run_script(
        """
import sys
from pathlib import Path
from securepacs.errors import SecurePacsError
from securepacs.tokens import p11kit
p11kit.check_module = lambda module: module
try:
    print(p11kit.library(Path(sys.executable)).get_slots())
except SecurePacsError as error:
    print(type(error).__name__)
"""
    )
    assert said == "TokenError\n"


def test_only_the_named_module_is_loaded_and_nothing_is_left_behind(tmp_path: Path) -> None:
    token, _ = enrolled_token()
    said = run_script(
        """
import sys
from pathlib import Path
from securepacs.tokens.openssl_queue import shielded
from securepacs.tokens.pkcs11 import list_tokens
list_tokens(Path(sys.argv[1]))
print(any("opensc" in line for line in open("/proc/self/maps")), list(Path(sys.argv[2]).iterdir()))
""",
        str(token.module),
        str(tmp_path),
        TMPDIR=str(tmp_path),
    )
    assert said == "False []\n"


def test_a_p11kit_that_was_configured_before_is_refused() -> None:
    token, _ = enrolled_token()
    said = run_script(
        """
import ctypes, sys
from pathlib import Path
from securepacs.errors import TokenError
from securepacs.tokens import p11kit
kit = ctypes.CDLL(next(path for path in p11kit.PROXY_PATHS if Path(path).exists()))
kit.p11_kit_modules_load_and_initialize.restype = ctypes.c_void_p
kit.p11_kit_modules_load_and_initialize(0)
try:
    p11kit.library(Path(sys.argv[1]))
except TokenError as error:
    print(error)
""",
        str(token.module),
    )
    assert said == "p11-kit was already configured by another part of this process\n"

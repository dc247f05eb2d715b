"""Password recipients: RFC 3211's own vectors, strength, wrong passwords, and iteration counts made to keep a reader busy."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from asn1crypto import algos, cms

from securepacs.cms.ciphers import CIPHERS
from securepacs.cms.enveloped import Keys, decrypt_with, encrypt, inspect
from securepacs.cms.passwords import MAX_ITERATIONS, MINIMUM_ITERATIONS, password_octets, recipient_info, unwrap, wrap
from securepacs.errors import MalformedError, NoMatchingRecipient, PasswordIncorrect, UsageError, VerificationError

PASSWORD = b"K7QX-2M4N-P0RS-8TVW-3YZA"


def with_password(*passwords: bytes) -> Keys:
    return Keys(passwords=passwords)


@pytest.fixture(scope="module")
def message() -> bytes:
    return encrypt(b"kept from others", [], passwords=[PASSWORD])


def changed(message: bytes, change: Any) -> bytes:
    info = cms.ContentInfo.load(message)
    change(info["content"]["recipient_infos"][0].chosen)
    return bytes(info.dump(force=True))


def with_iterations(message: bytes, count: int) -> bytes:
    def change(recipient: Any) -> None:
        parameters = algos.Pbkdf2Params.load(recipient["key_derivation_algorithm"]["parameters"].dump())
        parameters["iteration_count"] = count
        recipient["key_derivation_algorithm"]["parameters"] = parameters

    return changed(message, change)


def test_what_is_written(message: bytes) -> None:
    structure = cms.ContentInfo.load(message)["content"]
    assert structure["version"].native == "v3"
    recipient = structure["recipient_infos"][0].chosen
    parameters = algos.Pbkdf2Params.load(recipient["key_derivation_algorithm"]["parameters"].dump())
    assert parameters["iteration_count"].native == MINIMUM_ITERATIONS
    assert parameters["prf"]["algorithm"].native == "sha256"
    assert len(parameters["salt"].chosen.native) == 16
    assert recipient["key_encryption_algorithm"]["algorithm"].dotted == "1.2.840.113549.1.9.16.3.9"
    assert [each.kind for each in inspect(message).recipients] == ["pwri"]


def test_opens_with_the_password_only(message: bytes) -> None:
    assert decrypt_with(message, with_password(b"another", PASSWORD))[1] == b"kept from others"
    with pytest.raises(PasswordIncorrect):
        decrypt_with(message, with_password(b"another"))
    with pytest.raises(NoMatchingRecipient):
        decrypt_with(message, Keys())


def test_rfc_3211_vector_with_triple_des() -> None:
    """RFC 3211 section 3: "All n-entities must communicate ...", 500 iterations, a content key of 24 octets is given whole."""
    password = b"All n-entities must communicate with other n-entities via n-1 entiteeheehees"
    key = hashlib.pbkdf2_hmac("sha1", password, bytes.fromhex("1234567878563412"), 500, 24)
    assert key.hex() == "6a8970bf68c92caea84a8df28510858607126380cc47ab2d"
    encrypted = bytes.fromhex("c03c514abdb9e2c5aac038572b5e24553876b377aafb82eca5a9d73f8ab143d9ec74e6cad7db260c")
    content_key = unwrap(CIPHERS["des-ede3-cbc"], key, bytes.fromhex("baf1ca7931213c4e"), encrypted)
    assert content_key is not None
    assert content_key.hex() == "8c637d887223a2f965b566eb014b0fa5d52300a3f7ea40fffc577203c71baf3b"


@pytest.mark.parametrize("size", [3, 16, 24, 32, 60])
@pytest.mark.parametrize("name", ["aes256-cbc", "aes128-cbc", "des-ede3-cbc"])
def test_wrapped_keys_come_back(size: int, name: str) -> None:
    cipher = CIPHERS[name]
    key, vector, content_key = bytes(range(cipher.key_size)), bytes(cipher.block), bytes(range(100, 100 + size))
    wrapped = wrap(cipher, key, vector, content_key)
    assert len(wrapped) >= 2 * cipher.block
    assert unwrap(cipher, key, vector, wrapped) == content_key
    assert unwrap(cipher, bytes(cipher.key_size), vector, wrapped) is None
    for cut in (1, len(wrapped) - cipher.block, len(wrapped)):
        assert unwrap(cipher, key, vector, wrapped[:-cut]) is None


@pytest.mark.parametrize("count", [MAX_ITERATIONS + 1, 1 << 40])
def test_iteration_bombs_are_refused(message: bytes, count: int) -> None:
    bomb = with_iterations(message, count)
    with pytest.raises(MalformedError, match="iterations"):
        decrypt_with(bomb, with_password(PASSWORD))


def test_many_bombs_share_one_limit(message: bytes) -> None:
    info = cms.ContentInfo.load(with_iterations(message, 4_000_000))
    info["content"]["recipient_infos"] = [info["content"]["recipient_infos"][0]] * 50
    with pytest.raises(MalformedError, match="iterations"):
        decrypt_with(info.dump(force=True), with_password(b"another"))


@pytest.mark.parametrize("count", [0, -1])
def test_impossible_iterations(message: bytes, count: int) -> None:
    with pytest.raises(MalformedError):
        decrypt_with(with_iterations(message, count), with_password(PASSWORD))


def test_other_derivations_are_named(message: bytes) -> None:
    def rename(recipient: Any) -> None:
        recipient["key_derivation_algorithm"] = {"algorithm": "1.2.3.4"}

    def no_wrap(recipient: Any) -> None:
        recipient["key_encryption_algorithm"] = {"algorithm": "1.2.3.4"}

    for change, named in ((rename, "PBKDF2"), (no_wrap, "PWRI-KEK")):
        with pytest.raises(VerificationError, match=named):
            decrypt_with(changed(message, change), with_password(PASSWORD))


@pytest.mark.parametrize("password", ["", "pass\nword", "Schlüssel", "비밀번호", "tab\t"])
def test_only_graphic_characters_of_ascii(password: str) -> None:
    with pytest.raises(UsageError, match="ASCII") as caught:
        password_octets(password)
    assert not password or password not in str(caught.value)


def test_few_iterations_are_not_written() -> None:
    with pytest.raises(UsageError, match="600000"):
        recipient_info(PASSWORD, bytes(32), iterations=1000)

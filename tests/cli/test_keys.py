"""The shared key options: exactly one kind of key, the chain added, PINs from where they were said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from securepacs.cli.keys import credential_from, needs_tokens_extra
from securepacs.errors import ConfigError, PinIncorrect, TokenError, UsageError
from securepacs.pki import CertificateProfile
from securepacs.tokens.credential import Assurance
from tests.support.pki import TestPki, make_pki, pem_of
from tests.support.softhsm import enrolled_token


@pytest.fixture
def pki(tmp_path: Path) -> TestPki:
    return make_pki(tmp_path)


def test_key_and_certificate(pki: TestPki) -> None:
    mine = pki.credential(CertificateProfile.RADIOLOGIST, "Dr. Kim")
    key, certificate = pki.write_pem(mine)
    with credential_from(key=key, cert=certificate) as credential:
        assert credential.certificate == mine.certificate
        assert credential.chain == mine.chain


@pytest.mark.parametrize("given", [{}, {"key": Path("k")}, {"cert": Path("c")}, {"p12": Path("p"), "token": "pkcs11:"}])
def test_exactly_one_kind(given: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="exactly one of"), credential_from(**given):  # type: ignore[arg-type]
        pytest.fail("a credential came out")


def test_a_token_with_its_chain_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, pki = enrolled_token()
    chain = tmp_path / "chain.pem"
    chain.write_bytes(pem_of(pki.ca.issuing))
    monkeypatch.setenv("SECUREPACS_TEST_PIN", token.pin)
    uri = token.uri.replace("?", ";object=p256?")
    with credential_from(token=uri, chain=chain, pin_env="SECUREPACS_TEST_PIN") as credential:
        assert credential.chain == (pki.ca.issuing,)
        assert credential.assurance is Assurance.HARDWARE
    monkeypatch.setenv("SECUREPACS_TEST_PIN", "wrong-pin")
    with pytest.raises(PinIncorrect), credential_from(token=uri, pin_env="SECUREPACS_TEST_PIN"):
        pytest.fail("a credential came out")


def test_the_missing_extra_is_explained() -> None:
    with pytest.raises(ConfigError) as caught, needs_tokens_extra():
        raise ModuleNotFoundError(name="pkcs11")
    assert "pip install" in caught.value.hint
    with pytest.raises(ModuleNotFoundError), needs_tokens_extra():
        raise ModuleNotFoundError(name="something.else")


def test_a_needed_pin_without_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    token, _ = enrolled_token()
    with Path("/dev/null").open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        with pytest.raises(TokenError, match="none was given"), credential_from(token=token.uri):
            pytest.fail("a credential came out")

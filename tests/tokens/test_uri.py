"""PKCS #11 URIs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.errors import UsageError
from securepacs.tokens.uri import TokenUri

MODULE = "?module-path=/usr/lib/x.so"
TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)


def test_parts() -> None:
    uri = TokenUri.parse("pkcs11:token=My%20Card;serial=00ff;object=sign;id=%01%FE;type=private" + MODULE)
    assert uri == TokenUri(Path("/usr/lib/x.so"), token="My Card", serial="00ff", object="sign", id=b"\x01\xfe")


@given(TEXT, TEXT, TEXT, st.binary(max_size=8))
def test_round_trip(token: str, serial: str, label: str, key_id: bytes) -> None:
    uri = TokenUri(Path("/usr/lib/a b;c.so"), token=token, serial=serial, object=label, id=key_id)
    assert TokenUri.parse(str(uri)) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "token=x" + MODULE,
        "pkcs11:token=x",
        "pkcs11:token=x?module-path=relative.so",
        "pkcs11:token=x?module-name=softhsm",
        "pkcs11:token" + MODULE,
        "pkcs11:token=x;token=y" + MODULE,
        "pkcs11:colour=red" + MODULE,
        "pkcs11:token=%FF" + MODULE,
        "pkcs11:token=x" + MODULE + "&x=y",
    ],
)
def test_refused(uri: str) -> None:
    with pytest.raises(UsageError):
        TokenUri.parse(uri)


@pytest.mark.parametrize("name", ["pin-value", "pin-source"])
def test_a_pin_in_the_uri_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(UsageError, match="PIN") as caught:
        TokenUri.parse(f"pkcs11:token=x{MODULE}&{name}=987654")
    assert "987654" not in str(caught.value)

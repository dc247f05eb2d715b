"""Passwords of media: generated ones are strong and different, chosen ones must be as strong."""

from __future__ import annotations

import re

import pytest

from securepacs.errors import UsageError
from securepacs.media.passphrase import MINIMUM_BITS, generate, require_strong, strength

STRONG = [
    "x7#Kq9!vR2$mZ8&pL4^w",
    "correct-horse-battery-staple-violet-anchor-museum-bottle",
    "90317-46528-17093-85264-19735-28046",
]
WEAK = [
    "a", "secret", "hospital2026", "Passw0rd!Passw0rd!", "correct horse battery staple", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "12345678901234567890", "AAAA-AAAA-AAAA-AAAA-AAAA", "19700101-1234567", "hospital hospital hospital hospital hospital hospital",
]  # fmt: skip


def test_generated_ones() -> None:
    made = {generate() for _ in range(200)}
    assert len(made) == 200
    assert all(re.fullmatch(r"(?:[0-9A-HJKMNP-TV-Z]{4}-){4}[0-9A-HJKMNP-TV-Z]{4}", each) for each in made)
    assert min(map(strength, made)) >= MINIMUM_BITS
    assert len(set("".join(made))) == 33


@pytest.mark.parametrize("password", STRONG)
def test_strong_ones_are_taken(password: str) -> None:
    assert require_strong(password) == password.encode()


@pytest.mark.parametrize("password", WEAK)
def test_weak_ones_need_to_be_called_unsafe(password: str) -> None:
    with pytest.raises(UsageError, match="weaker than 80 bits") as caught:
        require_strong(password)
    assert password not in str(caught.value) or password == "a"
    assert require_strong(password, unsafe_weak=True) == password.encode()

"""Passwords of protected media (PS3.15 D.1): whoever holds a copy may try as many as it likes, so only strong ones protect it."""

from __future__ import annotations

import itertools
import math
import os
import re

from securepacs.cms.passwords import Password, password_octets
from securepacs.errors import UsageError

MINIMUM_BITS = 80

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: nothing that looks like something else
_GROUPS, _GROUP = 5, 4
_GENERATED = re.compile(rf"[{_ALPHABET}]{{{_GROUP}}}(?:-[{_ALPHABET}]{{{_GROUP}}}){{{_GROUPS - 1},}}")
_MINIMUM_DISTINCT = 8
_WORD = re.compile(r"[A-Za-z]{3,}")
_WORD_BITS = 11.0  # a word that people choose: one of some two thousand


def generate() -> str:
    """Return a passphrase of 100 random bits, in groups that can be read out and typed."""
    characters = [_ALPHABET[octet & 31] for octet in os.urandom(_GROUPS * _GROUP)]
    groups = ["".join(characters[start : start + _GROUP]) for start in range(0, len(characters), _GROUP)]
    return "-".join(groups)


def strength(password: str) -> float:
    """Return a cautious estimate in bits: words count as picked from a short list, repeats and sequences hardly at all."""
    if _GENERATED.fullmatch(password) and len(set(password)) > _MINIMUM_DISTINCT:
        return 5.0 * len(password.replace("-", ""))
    words = _WORD.findall(password)
    rest = _WORD.sub("", password)
    steps = [1.0, *(_novelty(before, after) for before, after in itertools.pairwise(rest))][: len(rest)]
    return _WORD_BITS * len(set(map(str.lower, words))) + math.log2(_pool(rest)) * sum(steps)


def _novelty(before: str, after: str) -> float:
    return 0.1 if abs(ord(after) - ord(before)) <= 1 else 1.0


def _pool(text: str) -> int:
    kinds = (str.isdigit, 10), (str.islower, 26), (str.isupper, 26)
    size = sum(count for test, count in kinds if any(map(test, text)))
    return max(1, size + (33 if any(not character.isalnum() for character in text) else 0))


def require_strong(password: str, *, unsafe_weak: bool = False) -> bytes:
    """Return the password's octets; UsageError when it holds other than ISO IR 6 characters or, unless `unsafe_weak`, is weak."""
    octets = password_octets(password)
    if not unsafe_weak and strength(password) < MINIMUM_BITS:
        raise UsageError(
            f"the password is weaker than {MINIMUM_BITS} bits: whoever finds the medium could try until it opens",
            hint="use a generated passphrase",
            standard="PS3.15 D.1",
        )
    return octets


def shared(password: str, *, unsafe_weak: bool = False) -> Password:
    """Return a password for all files of one medium: PBKDF2 runs once for all of them. Errors as `require_strong`."""
    return Password(require_strong(password, unsafe_weak=unsafe_weak))


def entered(password: str) -> Password:
    """Return a password that somebody typed to open all files of a medium; UsageError when it cannot be one."""
    return Password(password_octets(password))

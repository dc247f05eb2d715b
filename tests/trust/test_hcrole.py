"""hcRole of ISO 17090-2 in certificates."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from asn1crypto import core
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from securepacs.errors import MalformedError, UsageError
from securepacs.trust.hcrole import ROLE_SCHEME_OID, SUBJECT_DIRECTORY_ATTRIBUTES, HCActor, actors_of, hcrole_extension, roles_of
from tests.support.pki import make_party

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
KEY = make_party("key", now=NOW).key
ROLES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=64).filter(str.isprintable)

# An HPKI-style attribute as other software writes it: scheme 1.2.392.200250.1.6.1 with numeric code and text.
FOREIGN = bytes.fromhex("303230300606288185420001312631243022a020311ea00b06092a83088c9b1a010601a103120131a20a0c084d442d4a6170616e")


def certificate_with(extension: x509.ExtensionType) -> x509.Certificate:
    return make_party("Doctor", now=NOW, key=KEY, extensions=((extension, False),)).certificate


@settings(max_examples=60, deadline=None)
@given(st.lists(ROLES, min_size=1, max_size=5))
def test_round_trip(roles: list[str]) -> None:
    certificate = certificate_with(hcrole_extension(roles))
    assert roles_of(certificate) == frozenset(roles)
    assert {actor.scheme for actor in actors_of(certificate)} == {ROLE_SCHEME_OID}


def test_no_extension_no_roles() -> None:
    certificate = make_party("Nobody", now=NOW, key=KEY).certificate
    assert roles_of(certificate) == frozenset()
    assert actors_of(certificate) == ()


def test_foreign_coding_scheme_is_readable_and_gives_no_role() -> None:
    certificate = certificate_with(x509.UnrecognizedExtension(SUBJECT_DIRECTORY_ATTRIBUTES, FOREIGN))
    assert actors_of(certificate) == (HCActor("1.2.392.200090.1.6.1", "1", "MD-Japan"),)
    assert roles_of(certificate) == frozenset()


def test_other_attributes_beside_hcrole_are_skipped() -> None:
    gender = core.Sequence.load(bytes.fromhex("300f06082b06010505070903310313014d"))
    own = core.SequenceOf.load(hcrole_extension(["radiologist"]).value, spec=core.Sequence)
    both = core.SequenceOf([gender, *own], spec=core.Sequence)
    certificate = certificate_with(x509.UnrecognizedExtension(SUBJECT_DIRECTORY_ATTRIBUTES, both.dump()))
    assert roles_of(certificate) == {"radiologist"}


@pytest.mark.parametrize("raw", [b"", b"\x30", b"\x05\x00", FOREIGN[:-4], FOREIGN + b"\x00", b"\x30\x84\x7f\xff\xff\xff"])
def test_broken_extension(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        roles_of(certificate_with(x509.UnrecognizedExtension(SUBJECT_DIRECTORY_ATTRIBUTES, raw)))


def test_oversized_extension_is_not_parsed() -> None:
    with pytest.raises(MalformedError, match="bytes"):
        roles_of(certificate_with(x509.UnrecognizedExtension(SUBJECT_DIRECTORY_ATTRIBUTES, b"\x30\x82\x4f\xfc" + bytes(20476))))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_garbage_is_answered_with_a_typed_error_or_nothing(raw: bytes) -> None:
    with contextlib.suppress(MalformedError):
        actors_of(certificate_with(x509.UnrecognizedExtension(SUBJECT_DIRECTORY_ATTRIBUTES, raw)))


@pytest.mark.parametrize("roles", [[], [""], ["x" * 65], ["line\nbreak"], ["radiologist", "\x00"]])
def test_names_that_are_not_roles(roles: list[str]) -> None:
    with pytest.raises(UsageError):
        hcrole_extension(roles)

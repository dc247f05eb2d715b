"""CRLs: the plain ones and those with scopes, deltas and foreign signers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from securepacs.trust.crl import crl_status, weightiest
from securepacs.trust.status import NOT_CONCERNED, Outcome, RevocationStatus
from tests.support.pki import Party, make_crl, make_party, usage

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
CA_USAGE = usage(key_cert_sign=True, crl_sign=True)
ROOT = make_party("Root", now=NOW, ca=True, key_usage=CA_USAGE)
ISSUING = make_party("Issuing", now=NOW, issuer=ROOT, ca=True, key_usage=CA_USAGE)
LEAF = make_party("Leaf", now=NOW, issuer=ISSUING, key_usage=usage(digital_signature=True))
SERIAL = LEAF.certificate.serial_number
REVOKED_AT = NOW - timedelta(days=1)


def status(
    *crls: x509.CertificateRevocationList, at: datetime = NOW, others: tuple[Party, ...] = (ISSUING,), issuing: Party = ISSUING
) -> RevocationStatus:
    chain = (LEAF.certificate, issuing.certificate, ROOT.certificate)
    return crl_status(chain, 0, crls=crls, others=tuple(party.certificate for party in others), at=at, minimum_rsa_bits=2048)


def scope(**changes: bool | frozenset[x509.ReasonFlags] | None) -> tuple[x509.ExtensionType, bool]:
    values = {
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
        "only_some_reasons": None,
        **changes,
    }
    return x509.IssuingDistributionPoint(full_name=None, relative_name=None, **values), True  # type: ignore[arg-type]


def test_no_crl_and_foreign_crl_do_not_concern() -> None:
    stranger = make_party("Stranger", now=NOW, ca=True, key_usage=CA_USAGE)
    assert status() == NOT_CONCERNED
    assert status(make_crl(stranger, now=NOW, revoked={SERIAL: (REVOKED_AT, None)})) == NOT_CONCERNED


def test_good_and_revoked_with_and_without_reason() -> None:
    assert status(make_crl(ISSUING, now=NOW)).outcome is Outcome.GOOD
    found = status(make_crl(ISSUING, now=NOW, revoked={SERIAL: (REVOKED_AT, x509.ReasonFlags.superseded)}))
    assert (found.outcome, found.revocation_time, found.reason) == (Outcome.REVOKED, REVOKED_AT, "superseded")
    assert status(make_crl(ISSUING, now=NOW, revoked={SERIAL: (REVOKED_AT, None)})).reason == "unspecified"


def test_newer_data_than_the_moment_is_welcome() -> None:
    assert status(make_crl(ISSUING, now=NOW), at=NOW - timedelta(days=30)).outcome is Outcome.GOOD


@pytest.mark.parametrize(
    "crl",
    [
        make_crl(ISSUING, now=NOW, revoked={SERIAL: (REVOKED_AT, None)}, key=ec.generate_private_key(ec.SECP256R1())),
        make_crl(ISSUING, now=NOW, revoked={SERIAL: (REVOKED_AT, None)}, key=ROOT.key),
    ],
)
def test_forged_crl_neither_revokes_nor_clears(crl: x509.CertificateRevocationList) -> None:
    assert status(crl).outcome is Outcome.UNUSABLE


def test_issuer_without_crl_sign_cannot_answer() -> None:
    issuer = make_party("Issuing", now=NOW, issuer=ROOT, key=ISSUING.key, ca=True, key_usage=usage(key_cert_sign=True))
    assert status(make_crl(ISSUING, now=NOW), issuing=issuer, others=(issuer,)).outcome is Outcome.UNUSABLE


def test_one_good_crl_is_enough_beside_a_stale_one() -> None:
    stale = make_crl(ISSUING, now=NOW - timedelta(days=9), next_update=NOW - timedelta(days=2))
    assert status(stale, make_crl(ISSUING, now=NOW)).outcome is Outcome.GOOD


def test_least_stale_answer_counts() -> None:
    days = (5, 2, 3)
    crls = [make_crl(ISSUING, now=NOW - timedelta(days=9), next_update=NOW - timedelta(days=day)) for day in days]
    assert status(*crls).stale_by == timedelta(days=2)


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"only_contains_user_certs": True}, Outcome.GOOD),
        ({"only_contains_ca_certs": True}, Outcome.UNUSABLE),
        ({"only_contains_attribute_certs": True}, Outcome.UNUSABLE),
        ({"only_some_reasons": frozenset({x509.ReasonFlags.key_compromise})}, Outcome.UNUSABLE),
    ],
)
def test_scope_of_the_crl(changes: dict[str, bool], outcome: Outcome) -> None:
    assert status(make_crl(ISSUING, now=NOW, extensions=(scope(**changes),))).outcome is outcome


def test_revoked_in_a_scoped_crl_even_when_it_is_stale() -> None:
    for next_update in (NOW + timedelta(days=1), NOW - timedelta(days=1)):
        crl = make_crl(
            ISSUING,
            now=NOW - timedelta(days=2),
            next_update=next_update,
            revoked={SERIAL: (NOW - timedelta(days=3), x509.ReasonFlags.key_compromise)},
            extensions=(scope(only_contains_user_certs=True),),
        )
        found = status(crl)
        assert (found.outcome, found.reason) == (Outcome.REVOKED, "keyCompromise")


def test_stale_scoped_crl_says_by_how_much() -> None:
    crl = make_crl(
        ISSUING,
        now=NOW - timedelta(days=2),
        next_update=NOW - timedelta(days=1),
        extensions=(scope(only_contains_user_certs=True),),
    )
    found = status(crl)
    assert found.outcome is Outcome.UNUSABLE
    assert found.stale_by is not None
    assert abs(found.stale_by - timedelta(days=1)) < timedelta(minutes=1)


def test_unknown_critical_extension_makes_a_crl_unusable() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert status(make_crl(ISSUING, now=NOW, extensions=((unknown, True),))).outcome is Outcome.UNUSABLE


def test_delta_crl_alone_is_no_answer_but_revokes_with_its_base() -> None:
    point = x509.DistributionPoint([x509.UniformResourceIdentifier("http://pki.example/delta.crl")], None, None, None)
    base = make_crl(ISSUING, now=NOW, extensions=((x509.CRLNumber(7), False), (x509.FreshestCRL([point]), False)))
    delta = make_crl(
        ISSUING,
        now=NOW,
        revoked={SERIAL: (REVOKED_AT, x509.ReasonFlags.key_compromise)},
        extensions=((x509.DeltaCRLIndicator(7), True), (x509.CRLNumber(8), False)),
    )
    assert status(delta).outcome is Outcome.UNUSABLE
    assert status(base).outcome is Outcome.GOOD
    assert status(base, delta).outcome is Outcome.REVOKED


def test_crl_signed_with_sha1_is_no_answer() -> None:
    from asn1crypto import crl as asn1_crl
    from cryptography.hazmat.primitives.serialization import Encoding

    parsed = asn1_crl.CertificateList.load(make_crl(ISSUING, now=NOW).public_bytes(Encoding.DER))
    parsed["tbs_cert_list"]["signature"] = parsed["signature_algorithm"] = {"algorithm": "sha1_ecdsa"}
    parsed["signature"] = ISSUING.key.sign(parsed["tbs_cert_list"].dump(force=True), ec.ECDSA(hashes.SHA1()))
    assert status(x509.load_der_x509_crl(parsed.dump(force=True))).outcome is Outcome.UNUSABLE


def test_crl_of_an_earlier_key_of_the_same_ca_does_not_count_as_forged() -> None:
    """After a key roll-over two CRLs of one name exist; the authority key identifier tells them apart."""
    earlier = make_party("Issuing", now=NOW, issuer=ROOT, ca=True, key_usage=CA_USAGE)
    identifier = earlier.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    aki = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    crl = make_crl(earlier, now=NOW, extensions=((aki, False),))
    assert status(crl, make_crl(ISSUING, now=NOW), others=(ISSUING, earlier)).outcome is Outcome.GOOD


def test_weightiest_prefers_the_earliest_revocation() -> None:
    early = RevocationStatus(Outcome.REVOKED, revocation_time=NOW)
    late = RevocationStatus(Outcome.REVOKED, revocation_time=NOW + timedelta(days=1))
    good = RevocationStatus(Outcome.GOOD)
    assert weightiest([late, good, early]) is early
    assert weightiest([NOT_CONCERNED, good]) is good
    assert weightiest([]) == NOT_CONCERNED

"""The verdict about a certificate, row by row: each row breaks exactly one thing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from securepacs.errors import UsageError
from securepacs.trust import Indication, PathResult, Purpose, SubIndication, TrustPolicy, validate
from securepacs.trust.path import recorded
from securepacs.trust.policy import WARNING_REVOCATION_STALE, WARNING_REVOCATION_UNCHECKED, CertificatePolicies
from tests.support.pki import Party, cached_key, make_crl, make_ocsp, make_party, usage, weakly_signed

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
CA_USAGE = usage(key_cert_sign=True, crl_sign=True)
SIGN = usage(digital_signature=True)


@dataclass
class Hierarchy:
    root: Party
    issuing: Party
    leaf: Party

    def policy(self, **changes: object) -> TrustPolicy:
        return TrustPolicy(**{"anchors": (self.root.certificate,), "intermediates": (self.issuing.certificate,), **changes})  # type: ignore[arg-type]

    def validate(self, *, at: datetime = NOW, purpose: Purpose = Purpose.SIGNER, **changes: object) -> PathResult:
        return validate(self.leaf.certificate, policy=self.policy(**changes), at=at, purpose=purpose)


def hierarchy(
    *, root: dict[str, object] | None = None, issuing: dict[str, object] | None = None, leaf: dict[str, object] | None = None
) -> Hierarchy:
    """Make a sound hierarchy of three, with changes to one of them."""
    top = make_party("Root", now=NOW, **{"ca": True, "key_usage": CA_USAGE, **(root or {})})  # type: ignore[arg-type]
    middle = make_party("Issuing", now=NOW, **{"issuer": top, "ca": True, "key_usage": CA_USAGE, **(issuing or {})})  # type: ignore[arg-type]
    end = make_party("Leaf", now=NOW, **{"issuer": middle, "key_usage": SIGN, **(leaf or {})})  # type: ignore[arg-type]
    return Hierarchy(top, middle, end)


@pytest.fixture(scope="module")
def sound() -> Hierarchy:
    return hierarchy()


def weak_rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 1024)


def test_sound_chain_passes_with_warning_that_nothing_was_revocation_checked(sound: Hierarchy) -> None:
    result = sound.validate()
    assert result.indication is Indication.TOTAL_PASSED
    assert result.passed
    assert (result.sub_indication, result.detail) == ("", "")
    assert result.chain == (sound.leaf.certificate, sound.issuing.certificate, sound.root.certificate)
    assert result.warnings == (WARNING_REVOCATION_UNCHECKED,)


def test_result_is_no_truth_value(sound: Hierarchy) -> None:
    with pytest.raises(TypeError, match="truth value"):
        bool(sound.validate())


BROKEN: dict[str, tuple[Callable[[], Hierarchy], SubIndication, str]] = {
    "expired": (lambda: hierarchy(leaf={"end": NOW - timedelta(hours=1)}), SubIndication.OUT_OF_BOUNDS_NO_POE, "expired"),
    "not yet valid": (
        lambda: hierarchy(leaf={"start": NOW + timedelta(hours=1)}),
        SubIndication.OUT_OF_BOUNDS_NO_POE,
        "not valid until",
    ),
    "issuing CA expired": (
        lambda: hierarchy(issuing={"end": NOW - timedelta(hours=1)}),
        SubIndication.OUT_OF_BOUNDS_NO_POE,
        "expired",
    ),
    "anchor expired": (lambda: hierarchy(root={"end": NOW - timedelta(hours=1)}), SubIndication.OUT_OF_BOUNDS_NO_POE, "expired"),
    "no usage for signing": (
        lambda: hierarchy(leaf={"key_usage": usage(key_encipherment=True)}),
        SubIndication.CHAIN_CONSTRAINTS_FAILURE,
        "key usage",
    ),
    "TLS server only": (
        lambda: hierarchy(leaf={"extended_key_usage": (ExtendedKeyUsageOID.SERVER_AUTH,)}),
        SubIndication.CHAIN_CONSTRAINTS_FAILURE,
        "TLS servers",
    ),
    "issuer is no CA": (lambda: hierarchy(issuing={"ca": False}), SubIndication.CHAIN_CONSTRAINTS_FAILURE, "not a CA"),
    "issuer without keyCertSign": (
        lambda: hierarchy(issuing={"key_usage": SIGN}),
        SubIndication.CHAIN_CONSTRAINTS_FAILURE,
        "not allowed to sign certificates",
    ),
    "path length of the anchor": (
        lambda: hierarchy(root={"path_length": 0}),
        SubIndication.CHAIN_CONSTRAINTS_FAILURE,
        "path length",
    ),
    "name constraints": (
        lambda: hierarchy(
            issuing={
                "extensions": ((x509.NameConstraints([x509.DNSName("hospital.example")], None), True),),
            },
            leaf={"extensions": ((x509.SubjectAlternativeName([x509.DNSName("evil.example")]), False),)},
        ),
        SubIndication.CHAIN_CONSTRAINTS_FAILURE,
        "permitted",
    ),
    "name constraints of the anchor": (
        lambda: hierarchy(
            root={"extensions": ((x509.NameConstraints([x509.DNSName("hospital.example")], None), True),)},
            leaf={"extensions": ((x509.SubjectAlternativeName([x509.DNSName("evil.example")]), False),)},
        ),
        SubIndication.CHAIN_CONSTRAINTS_FAILURE,
        "permitted",
    ),
    "unknown critical extension": (
        lambda: hierarchy(
            leaf={"extensions": ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),)}
        ),
        SubIndication.CHAIN_CONSTRAINTS_FAILURE,
        "critical",
    ),
    "leaf RSA 1024": (lambda: hierarchy(leaf={"key": weak_rsa()}), SubIndication.CRYPTO_CONSTRAINTS_FAILURE, "1024"),
    "issuing CA RSA 1024": (lambda: hierarchy(issuing={"key": weak_rsa()}), SubIndication.CRYPTO_CONSTRAINTS_FAILURE, "1024"),
    "leaf on a small curve": (
        lambda: hierarchy(leaf={"key": ec.generate_private_key(ec.SECP224R1())}),
        SubIndication.CRYPTO_CONSTRAINTS_FAILURE,
        "secp224r1",
    ),
}


@pytest.mark.parametrize("row", BROKEN)
def test_one_broken_thing_is_undecided_for_its_own_reason(row: str) -> None:
    make, sub_indication, words = BROKEN[row]
    result = make().validate()
    assert (result.indication, result.sub_indication) == (Indication.INDETERMINATE, sub_indication), result.detail
    assert words in result.detail


@pytest.mark.parametrize("weak", ["leaf", "issuing"])
def test_sha1_signature_in_the_chain(sound: Hierarchy, weak: str) -> None:
    sha1 = hashes.SHA1()
    chain = replace(sound, leaf=weakly_signed(sound.leaf, sound.issuing, sha1))
    if weak == "issuing":
        chain = replace(sound, issuing=weakly_signed(sound.issuing, sound.root, sha1))
    result = chain.validate()
    assert result.sub_indication == SubIndication.CRYPTO_CONSTRAINTS_FAILURE, result.detail


def test_path_length_zero_of_issuing_ca_forbids_another_ca_below() -> None:
    top = hierarchy(issuing={"path_length": 0})
    below = make_party("Rogue CA", now=NOW, issuer=top.issuing, ca=True, key_usage=CA_USAGE)
    leaf = make_party("Leaf", now=NOW, issuer=below, key_usage=SIGN)
    result = validate(leaf.certificate, policy=top.policy(), at=NOW, purpose=Purpose.SIGNER, extra=[below.certificate])
    assert result.sub_indication == SubIndication.CHAIN_CONSTRAINTS_FAILURE
    assert "path length" in result.detail


def test_unknown_anchor(sound: Hierarchy) -> None:
    stranger = make_party("Stranger", now=NOW, ca=True, key_usage=CA_USAGE)
    result = sound.validate(anchors=(stranger.certificate,))
    assert (result.indication, result.sub_indication) == (Indication.INDETERMINATE, SubIndication.NO_CERTIFICATE_CHAIN_FOUND)


def test_missing_intermediate(sound: Hierarchy) -> None:
    assert sound.validate(intermediates=()).sub_indication == SubIndication.NO_CERTIFICATE_CHAIN_FOUND


def test_anchor_of_the_same_name_with_another_key_signs_nothing(sound: Hierarchy) -> None:
    impostor = make_party("Root", now=NOW, ca=True, key_usage=CA_USAGE)
    assert sound.validate(anchors=(impostor.certificate,)).sub_indication == SubIndication.NO_CERTIFICATE_CHAIN_FOUND


def test_second_path_is_tried_when_the_first_fails(sound: Hierarchy) -> None:
    """The issuing CA is cross-certified under an expired root as well; the other path must still be found."""
    old_root = make_party("Old Root", now=NOW, ca=True, key_usage=CA_USAGE, end=NOW - timedelta(hours=1))
    cross = make_party("Issuing", now=NOW, issuer=old_root, key=sound.issuing.key, ca=True, key_usage=CA_USAGE)
    for anchors in ((old_root, sound.root), (sound.root, old_root)):
        result = sound.validate(
            anchors=tuple(anchor.certificate for anchor in anchors),
            intermediates=(cross.certificate, sound.issuing.certificate),
        )
        assert result.passed
        assert result.chain[-1] == sound.root.certificate


def test_minimum_rsa_bits_of_the_policy() -> None:
    chain = hierarchy(leaf={"key": cached_key("rsa-2048", "minimum")})
    assert chain.validate().passed
    result = chain.validate(minimum_rsa_bits=3072)
    assert result.sub_indication == SubIndication.CRYPTO_CONSTRAINTS_FAILURE


PURPOSES: list[tuple[Purpose, dict[str, object], bool]] = [
    (Purpose.SIGNER, {"key_usage": usage(content_commitment=True)}, True),
    (Purpose.SIGNER, {"key_usage": None}, True),
    (Purpose.SIGNER, {"extended_key_usage": (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)}, True),
    (Purpose.SIGNER, {"extended_key_usage": (ExtendedKeyUsageOID.TIME_STAMPING,)}, False),
    (Purpose.TLS_CLIENT, {"extended_key_usage": (ExtendedKeyUsageOID.CLIENT_AUTH,)}, True),
    (Purpose.TLS_CLIENT, {"extended_key_usage": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)}, True),
    (Purpose.TLS_CLIENT, {"extended_key_usage": (ExtendedKeyUsageOID.SERVER_AUTH,)}, False),
    (Purpose.TLS_CLIENT, {"key_usage": usage(key_encipherment=True)}, False),
    (Purpose.TLS_SERVER, {"key_usage": usage(key_encipherment=True)}, True),
    (Purpose.TLS_SERVER, {"extended_key_usage": (ExtendedKeyUsageOID.CLIENT_AUTH,)}, False),
    (Purpose.TLS_SERVER, {"key_usage": usage(content_commitment=True)}, False),
    (Purpose.TIMESTAMPING, {"extended_key_usage": (ExtendedKeyUsageOID.TIME_STAMPING,), "extended_critical": True}, True),
    (Purpose.TIMESTAMPING, {"extended_key_usage": (ExtendedKeyUsageOID.TIME_STAMPING,)}, False),
    (
        Purpose.TIMESTAMPING,
        {"extended_key_usage": (ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CLIENT_AUTH), "extended_critical": True},
        False,
    ),
    (Purpose.TIMESTAMPING, {}, False),
    (Purpose.OCSP, {"extended_key_usage": (ExtendedKeyUsageOID.OCSP_SIGNING,)}, True),
    (Purpose.OCSP, {}, False),
    (Purpose.ANY, {"key_usage": usage(key_encipherment=True)}, True),
]


@pytest.mark.parametrize(("purpose", "leaf", "passes"), PURPOSES)
def test_purpose(purpose: Purpose, leaf: dict[str, object], passes: bool) -> None:
    result = hierarchy(leaf=leaf).validate(purpose=purpose)
    assert result.passed is passes
    assert result.sub_indication == ("" if passes else SubIndication.CHAIN_CONSTRAINTS_FAILURE)


def test_revoked_by_given_crl_although_the_certificate_names_no_distribution_point(sound: Hierarchy) -> None:
    moment = NOW - timedelta(days=2)
    crl = make_crl(
        sound.issuing, now=NOW, revoked={sound.leaf.certificate.serial_number: (moment, x509.ReasonFlags.key_compromise)}
    )
    result = sound.validate(crls=(crl,))
    assert (result.indication, result.sub_indication) == (Indication.TOTAL_FAILED, SubIndication.REVOKED)
    assert result.revocation_time == moment
    assert "keyCompromise" in result.detail


def test_revoked_ca_certificate(sound: Hierarchy) -> None:
    crl = make_crl(sound.root, now=NOW, revoked={sound.issuing.certificate.serial_number: (NOW - timedelta(hours=2), None)})
    result = sound.validate(crls=(crl,))
    assert result.sub_indication == SubIndication.REVOKED
    assert "CN=Issuing" in result.detail


def test_revocation_after_the_moment_is_told_but_does_not_fail(sound: Hierarchy) -> None:
    revoked_at = NOW - timedelta(hours=3)
    crl = make_crl(sound.issuing, now=NOW, revoked={sound.leaf.certificate.serial_number: (revoked_at, None)})
    result = sound.validate(crls=(crl,), at=revoked_at - timedelta(seconds=1))
    assert result.passed
    assert result.revocation_time == revoked_at
    assert sound.validate(crls=(crl,), at=revoked_at).sub_indication == SubIndication.REVOKED


def test_revoked_weighs_more_than_expired() -> None:
    chain = hierarchy(leaf={"end": NOW - timedelta(hours=1)})
    crl = make_crl(chain.issuing, now=NOW, revoked={chain.leaf.certificate.serial_number: (NOW - timedelta(hours=9), None)})
    assert chain.validate(crls=(crl,)).sub_indication == SubIndication.REVOKED


def test_all_certificates_covered_by_crls_gives_no_warning(sound: Hierarchy) -> None:
    result = sound.validate(crls=(make_crl(sound.issuing, now=NOW), make_crl(sound.root, now=NOW)))
    assert result.passed
    assert result.warnings == ()


def test_crl_of_the_leafs_issuer_alone_leaves_the_ca_unchecked(sound: Hierarchy) -> None:
    assert sound.validate(crls=(make_crl(sound.issuing, now=NOW),)).warnings == (WARNING_REVOCATION_UNCHECKED,)


def test_stale_crl_is_no_answer(sound: Hierarchy) -> None:
    stale = make_crl(sound.issuing, now=NOW - timedelta(days=3), next_update=NOW - timedelta(days=1))
    result = sound.validate(crls=(stale,))
    assert (result.indication, result.sub_indication) == (Indication.INDETERMINATE, SubIndication.TRY_LATER)
    assert "expired" in result.detail


def test_stale_crl_within_the_grace_of_the_policy_is_warned_about(sound: Hierarchy) -> None:
    stale = make_crl(sound.issuing, now=NOW - timedelta(days=3), next_update=NOW - timedelta(hours=23))
    result = sound.validate(crls=(stale,), revocation_grace=timedelta(days=1))
    assert result.passed
    assert WARNING_REVOCATION_STALE in result.warnings


def test_what_a_stale_crl_calls_revoked_stays_revoked(sound: Hierarchy) -> None:
    serial = sound.leaf.certificate.serial_number
    stale = make_crl(
        sound.issuing,
        now=NOW - timedelta(days=3),
        next_update=NOW - timedelta(days=1),
        revoked={serial: (NOW - timedelta(days=4), None)},
    )
    assert sound.validate(crls=(stale,)).sub_indication == SubIndication.REVOKED


def test_directly_installed_self_signed_certificate_is_trusted_for_itself() -> None:
    node = make_party("node", now=NOW, key_usage=SIGN)
    policy = TrustPolicy(anchors=(node.certificate,))
    result = validate(node.certificate, policy=policy, at=NOW, purpose=Purpose.TLS_CLIENT)
    assert result.passed
    assert result.chain == (node.certificate,)
    assert result.warnings == ()


@pytest.mark.parametrize(
    ("changes", "sub_indication"),
    [
        ({"end": NOW - timedelta(hours=1)}, SubIndication.OUT_OF_BOUNDS_NO_POE),
        ({"start": NOW + timedelta(hours=1)}, SubIndication.OUT_OF_BOUNDS_NO_POE),
        ({"key_usage": usage(key_encipherment=True)}, SubIndication.CHAIN_CONSTRAINTS_FAILURE),
        ({"key": weak_rsa()}, SubIndication.CRYPTO_CONSTRAINTS_FAILURE),
    ],
)
def test_directly_installed_certificate_still_has_to_fit(changes: dict[str, object], sub_indication: SubIndication) -> None:
    node = make_party("node", now=NOW, **{"key_usage": SIGN, **changes})  # type: ignore[arg-type]
    result = validate(node.certificate, policy=TrustPolicy(anchors=(node.certificate,)), at=NOW, purpose=Purpose.SIGNER)
    assert result.sub_indication == sub_indication


@pytest.mark.parametrize("changes", [{"ca": False}, {"ca": False, "basic_constraints": False}, {"ca": True, "key_usage": SIGN}])
def test_directly_installed_end_entity_vouches_for_nobody_else(changes: dict[str, object]) -> None:
    node = make_party("node", now=NOW, **{"key_usage": None, **changes})  # type: ignore[arg-type]
    forged = make_party("forged", now=NOW, issuer=node, key_usage=SIGN)
    result = validate(forged.certificate, policy=TrustPolicy(anchors=(node.certificate,)), at=NOW, purpose=Purpose.SIGNER)
    assert result.sub_indication == SubIndication.NO_CERTIFICATE_CHAIN_FOUND


def test_directly_installed_certificate_of_a_ca_is_marked_unchecked(sound: Hierarchy) -> None:
    result = sound.validate(anchors=(sound.leaf.certificate,))
    assert result.passed
    assert result.warnings == (WARNING_REVOCATION_UNCHECKED,)


def test_unreadable_certificates_are_undecided_and_do_not_raise(sound: Hierarchy) -> None:
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x03\x82\x05a")
    leaf = make_party("Leaf", now=NOW, issuer=sound.issuing, key_usage=SIGN, extensions=((broken, False),))
    result = validate(leaf.certificate, policy=sound.policy(), at=NOW, purpose=Purpose.SIGNER)
    assert result.sub_indication == SubIndication.NO_CERTIFICATE_CHAIN_FOUND
    assert "cannot be read" in result.detail
    assert validate(sound.leaf.certificate, policy=sound.policy(), at=NOW, purpose=Purpose.SIGNER, extra=[leaf.certificate]).passed


def test_moment_without_time_zone_is_a_programming_error(sound: Hierarchy) -> None:
    with pytest.raises(UsageError, match="time zone"):
        sound.validate(at=NOW.replace(tzinfo=None))


def test_policy_without_anchors_is_refused() -> None:
    with pytest.raises(UsageError, match="anchors"):
        TrustPolicy(anchors=())


def test_timestamp_anchors_take_the_place_of_the_anchors(sound: Hierarchy) -> None:
    other = make_party("TSA Root", now=NOW, ca=True, key_usage=CA_USAGE)
    policy = sound.policy(timestamp_anchors=(other.certificate,))
    assert policy.for_timestamps().anchors == (other.certificate,)
    assert replace(policy, timestamp_anchors=None).for_timestamps().anchors == policy.anchors


def test_works_inside_a_running_event_loop(sound: Hierarchy) -> None:
    async def inside() -> PathResult:
        return sound.validate()

    assert asyncio.run(inside()).passed


def test_works_from_many_threads_at_once(sound: Hierarchy) -> None:
    crls = (make_crl(sound.issuing, now=NOW), make_crl(sound.root, now=NOW))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: sound.validate(crls=crls), range(40)))
    assert all(result.passed for result in results)


def test_works_after_fork(sound: Hierarchy) -> None:
    assert sound.validate().passed
    child = os.fork()
    if child == 0:
        os._exit(0 if sound.validate().passed else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_revoked_by_given_ocsp_bytes_although_the_certificate_names_no_responder(sound: Hierarchy) -> None:
    moment = NOW - timedelta(days=2)
    for revoked_at, expected in ((moment, SubIndication.REVOKED), (None, "")):
        raw = make_ocsp(sound.leaf.certificate, sound.issuing, now=NOW, revoked_at=revoked_at)
        result = sound.validate(ocsp_responses=(raw,))
        assert (result.sub_indication, result.revocation_time) == (expected, revoked_at), result.detail


def test_required_revocation_data_that_nobody_has(sound: Hierarchy) -> None:
    result = sound.validate(require_revocation=True)
    assert (result.indication, result.sub_indication) == (Indication.INDETERMINATE, SubIndication.TRY_LATER)
    assert "no revocation data about the certificate" in result.detail
    crls = (make_crl(sound.issuing, now=NOW), make_crl(sound.root, now=NOW))
    assert sound.validate(require_revocation=True, crls=crls).passed
    assert "CN=Issuing" in sound.validate(require_revocation=True, crls=crls[:1]).detail


def test_certificate_policies_that_nobody_accepts_are_a_programming_error() -> None:
    with pytest.raises(UsageError, match="no certificate policy"):
        CertificatePolicies(acceptable=frozenset())


def test_results_tell_what_they_rest_on_and_can_be_recorded(sound: Hierarchy) -> None:
    crls = (make_crl(sound.issuing, now=NOW), make_crl(sound.root, now=NOW))
    with recorded() as outer:
        with recorded() as inner:
            first = sound.validate(crls=crls)
        raw = make_ocsp(sound.leaf.certificate, sound.issuing, now=NOW)
        second = sound.validate(ocsp_responses=(raw,))
    sound.validate()
    assert first.revocation_data == crls
    assert second.revocation_data == (raw,)
    assert ([id(result) for result in inner], len(outer)) == ([id(first)], 2)

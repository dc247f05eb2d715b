"""What a CRL says about a certificate (RFC 5280 5 and 6.3).

The plain case (a complete CRL that the issuer itself signed, without scope restrictions) is read with pyca/cryptography: 20,000
entries in 22 ms, signature included, where pyhanko-certvalidator takes 160. Every other case (issuing distribution points, delta
and indirect CRLs, CRL signers with a key of their own) goes to that library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from securepacs.trust.status import NOT_CONCERNED, Outcome, RevocationStatus, aged

_SPECIAL = (x509.IssuingDistributionPoint, x509.DeltaCRLIndicator)
ON_HOLD = x509.ReasonFlags.certificate_hold.value  # the only reason that can be taken back (RFC 5280 5.3.1)
_UNDATED_LIFETIME = timedelta(minutes=30)


def crl_status(
    chain: Sequence[x509.Certificate],
    position: int,
    *,
    crls: Sequence[x509.CertificateRevocationList],
    others: Sequence[x509.Certificate],
    at: datetime,
    minimum_rsa_bits: int,
) -> RevocationStatus:
    """Say what `crls` know about `chain[position]`, whose issuer is the next in the chain; data newer than `at` is welcome.

    The weightiest answer counts: REVOKED by any, also by one that is out of date, then GOOD, then UNUSABLE.
    """
    certificate, issuer = chain[position], chain[position + 1]
    crls = [crl for crl in crls if _is_readable(crl)]
    plain = [crl for crl in crls if _is_plain_for(crl, issuer)]
    answers = [replace(_plain_status(crl, certificate, issuer, at), data=(crl,)) for crl in plain]
    best = weightiest(answers)
    special = [crl for crl in crls if crl not in plain and _may_concern(crl, issuer)]
    on_hold = best.outcome is Outcome.REVOKED and best.reason == ON_HOLD
    if not special or (best.outcome is Outcome.REVOKED and not on_hold):
        return best
    from securepacs.trust.chains import special_crl_status

    signers = [other for other in others if not _is_revoked_signer(other, [*special, *plain], crls, (*chain, *others), at)]
    answer = special_crl_status(chain, position, crls=[*special, *plain], others=signers, at=at, minimum_rsa_bits=minimum_rsa_bits)
    if on_hold and answer.outcome is Outcome.GOOD and any(_is_delta(crl) for crl in special):
        return answer  # a delta CRL took the certificate off hold (removeFromCRL, RFC 5280 5.2.4)
    answer = replace(answer, data=(*special, *plain))
    if answer.outcome is Outcome.NOT_CONCERNED and any(crl.issuer == issuer.subject for crl in special):
        answer = RevocationStatus(Outcome.UNUSABLE, "no CRL at hand that the issuer's present key signed is complete")
    return weightiest([best, answer])


def weightiest(answers: Sequence[RevocationStatus]) -> RevocationStatus:
    """Return the answer that counts: REVOKED before GOOD before UNUSABLE (the least stale) before NOT_CONCERNED."""
    for outcome in (Outcome.REVOKED, Outcome.GOOD):
        found = [answer for answer in answers if answer.outcome is outcome]
        if found:
            return min(found, key=lambda answer: answer.revocation_time or datetime.max.replace(tzinfo=UTC))
    unusable = [answer for answer in answers if answer.outcome is Outcome.UNUSABLE]
    if unusable:
        return min(unusable, key=lambda answer: answer.stale_by if answer.stale_by is not None else timedelta.max)
    return NOT_CONCERNED


def _is_readable(crl: x509.CertificateRevocationList) -> bool:
    """Whether the names on the CRL can be read; they are parsed when asked for, long after loading succeeded."""
    try:
        return crl.issuer is not None
    except ValueError:
        return False


def _is_plain_for(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    if crl.issuer != issuer.subject:
        return False
    try:
        if any(isinstance(extension.value, _SPECIAL) for extension in crl.extensions):
            return False
        if not _same_key(crl, issuer):
            return False
        return not any(extension.critical for extension in crl.extensions)
    except ValueError:
        return False


def _same_key(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """Whether the CRL's authority key identifier, if any, names the key of `issuer` (a CA may have had several)."""
    try:
        signer = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        subject = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return True
    return signer is None or signer == subject


def _may_concern(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    if crl.issuer == issuer.subject:
        return True
    try:
        return crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value.indirect_crl
    except (x509.ExtensionNotFound, ValueError):
        return False


def _is_delta(crl: x509.CertificateRevocationList) -> bool:
    try:
        crl.extensions.get_extension_for_class(x509.DeltaCRLIndicator)
    except (x509.ExtensionNotFound, ValueError):
        return False
    return True


def _is_revoked_signer(
    other: x509.Certificate,
    concerned: Sequence[x509.CertificateRevocationList],
    crls: Sequence[x509.CertificateRevocationList],
    known: Sequence[x509.Certificate],
    at: datetime,
) -> bool:
    """Whether `other` might sign one of the CRLs `concerned`, but is revoked itself: validate_path is not asked that."""
    if not any(crl.issuer == other.subject for crl in concerned):
        return False
    return any(
        _plain_status(crl, other, issuer, at).outcome is Outcome.REVOKED
        for issuer in known
        if issuer.subject == other.issuer
        for crl in crls
        if _is_plain_for(crl, issuer)
    )


def _entry(crl: x509.CertificateRevocationList, serial_number: int) -> x509.RevokedCertificate | None:
    """Find a serial number on the CRL; pyca's own search raises for negative ones, which exist although RFC 5280 forbids them."""
    if serial_number >= 0:
        return crl.get_revoked_certificate_by_serial_number(serial_number)
    return next((entry for entry in crl if entry.serial_number == serial_number), None)


def _plain_status(
    crl: x509.CertificateRevocationList, certificate: x509.Certificate, issuer: x509.Certificate, at: datetime
) -> RevocationStatus:
    if not _signed_by(crl, issuer):
        return RevocationStatus(Outcome.UNUSABLE, "the signature of the CRL is wrong or too weak, or its issuer may not sign CRLs")
    entry = _entry(crl, certificate.serial_number)
    if entry is not None:
        try:
            reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
        except (x509.ExtensionNotFound, ValueError):  # revoked it is, for whatever reason
            reason = x509.ReasonFlags.unspecified.value
        return RevocationStatus(Outcome.REVOKED, "on the CRL", entry.revocation_date_utc, reason)
    next_update = crl.next_update_utc or crl.last_update_utc + _UNDATED_LIFETIME
    return aged(RevocationStatus(Outcome.GOOD), next_update=next_update, at=at, what="CRL")


def _signed_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """Whether `issuer` signed the CRL and may do so (keyUsage cRLSign, RFC 5280 6.3.3 f), with SHA-2."""
    try:
        if not issuer.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign:
            return False
    except x509.ExtensionNotFound:
        pass
    try:
        if isinstance(crl.signature_hash_algorithm, hashes.MD5 | hashes.SHA1):
            return False
        key = issuer.public_key()
        supported = (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)
        return isinstance(key, supported) and crl.is_signature_valid(key)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False

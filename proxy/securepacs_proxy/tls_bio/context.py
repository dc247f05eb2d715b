"""The TLS context of a listener, made from a profile of PS3.15 Annex B."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from cryptography import x509
from OpenSSL import SSL, crypto

from securepacs.errors import ConfigError
from securepacs.tls import TlsProfile
from securepacs.tokens.credential import Credential
from securepacs_proxy.tls_bio.native import limit_groups
from securepacs_proxy.tls_bio.reasons import Verdict, reason_of
from securepacs_proxy.tls_bio.strength import Judge, also_strong, cipher_string, needs_level_0, weakness

_ALPN: Final = (b"securepacs-reverse", b"dicom")  # an agent that waits for deliveries; DCMTK. Others go on without ALPN
_VERIFY_DEPTH: Final = 8
_V: Final = SSL.X509VerificationCodes
_OPEN: Final = frozenset({_V.ERR_UNABLE_TO_GET_CRL, _V.ERR_CRL_HAS_EXPIRED, _V.ERR_UNABLE_TO_GET_CRL_ISSUER})


def server_context(
    profile: TlsProfile,
    *,
    credential: Credential,
    trust: Sequence[x509.Certificate],
    crls: Iterable[x509.CertificateRevocationList] = (),
    revocation_elsewhere: bool = False,
) -> SSL.Context:
    """Build the context of a listener that requires client certificates (PS3.15 B.12 with mutual authentication).

    Any CRL turns on revocation checking of the whole path: then every CA of the path, the root too, needs one. With
    `revocation_elsewhere` a list refuses what is on it, and one that is missing or has run out is left to who asks after the
    handshake. Raises ConfigError.
    """
    if not trust:
        raise ConfigError("a listener without trust anchors would refuse everybody", key="listener.trust")
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    try:
        _limit_protocol(context, profile)
        if needs_level_0(profile):
            _refuse_weak(profile, credential)
        _present(context, credential)
        judge = _record_verdict_but_age if revocation_elsewhere else _record_verdict
        _require_client_certificate(context, trust, tuple(crls), judge, profile)
    except (SSL.Error, crypto.Error) as error:
        raise ConfigError(f"OpenSSL refuses the TLS settings: {reason_of(error)}", key="listener") from None
    return context


def _limit_protocol(context: SSL.Context, profile: TlsProfile) -> None:
    context.set_min_proto_version(min(profile.server_versions))
    context.set_max_proto_version(max(profile.server_versions))
    context.set_cipher_list(cipher_string(profile).encode())
    context.set_tls13_ciphersuites(":".join(profile.tls13_suites).encode())
    limit_groups(context, profile)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"securepacs")  # never used for resumption; OpenSSL asks for one when clients are verified
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_alpn_select_callback(_select_alpn)


def _refuse_weak(profile: TlsProfile, credential: Credential) -> None:
    """Raise ConfigError for a weak certificate of our own, which OpenSSL refuses at its usual level."""
    for certificate in (credential.certificate, *credential.chain):
        weak = weakness(certificate, profile, signed=certificate.subject != certificate.issuer)
        if weak:
            name = certificate.subject.rfc4514_string()
            raise ConfigError(f"{name} is too weak for {profile.clause}: {weak}", key="listener.certificate")


def _present(context: SSL.Context, credential: Credential) -> None:
    context.use_certificate(credential.certificate)
    for certificate in credential.chain:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(credential.private_key)
    context.check_privatekey()


def _require_client_certificate(
    context: SSL.Context,
    trust: Sequence[x509.Certificate],
    crls: Sequence[x509.CertificateRevocationList],
    judge: Callable[..., bool],
    profile: TlsProfile,
) -> None:
    store = context.get_cert_store()
    if store is None:
        raise ConfigError("OpenSSL gave no certificate store", key="listener.trust")
    flags = crypto.X509StoreFlags.PARTIAL_CHAIN  # an anchor need not be self-signed: IHE ITI-19 trusts installed certificates
    for certificate in trust:
        store.add_cert(crypto.X509.from_cryptography(certificate))
        context.add_client_ca(certificate)
    for crl in crls:
        store.add_crl(crl)
    if crls:
        flags |= crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL
    store.set_flags(flags)
    installed = frozenset(certificate for certificate in trust if not _is_ca(certificate))
    verdict: Judge = functools.partial(judge, installed)
    context.set_verify(
        SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
        also_strong(verdict, profile) if needs_level_0(profile) else verdict,
    )
    context.set_verify_depth(_VERIFY_DEPTH)


def _select_alpn(_connection: SSL.Connection, offered: list[bytes]) -> Any:
    return next((name for name in _ALPN if name in offered), SSL.NO_OVERLAPPING_PROTOCOLS)


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _record_verdict(
    installed: frozenset[x509.Certificate], connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int
) -> bool:
    """Keep OpenSSL's verdict as it is: a refusal of our own would give the peer the alert internal_error.

    One exception: a peer's own certificate that is `installed` here (direct trust, IHE ITI-19) has nobody who could revoke it but
    the operator, who takes it out of `trust`; no list is asked for it.
    """
    if error == _V.ERR_UNABLE_TO_GET_CRL and depth == 0 and certificate.to_cryptography() in installed:
        return True
    if not ok:
        connection.get_app_data().append(Verdict(certificate, error, depth))
    return bool(ok)


def _record_verdict_but_age(
    installed: frozenset[x509.Certificate], connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int
) -> bool:
    """Do the same, but go on when revocation data are missing or old."""
    return error in _OPEN or _record_verdict(installed, connection, certificate, error, depth, ok)

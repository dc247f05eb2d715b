"""Everything that can be known about a configuration before a gateway starts with it, as a list of findings.

Order: the configuration itself; per listener its certificate, trust and revocation lists; policies; audit spool and repositories;
and, only when asked to connect, whether archives and repositories answer. Changes nothing; a missing spool folder is not created.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from securepacs.errors import ConfigError
from securepacs_proxy.config.files import read_certificates, read_crl
from securepacs_proxy.config.loading import examine
from securepacs_proxy.config.model import AuditSection, GatewayConfig, ListenerSection
from securepacs_proxy.config.policies import policy_of
from securepacs_proxy.config.rules import calls_of
from securepacs_proxy.config.values import HostPort

_EXPIRES_SOON = timedelta(days=30)
_CONNECT_SECONDS = 3.0


class State(StrEnum):
    """How a finding counts; only FAILED keeps a gateway from serving."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: the dotted key of its setting, the verdict, what was found, what to do."""

    key: str
    state: State
    detail: str
    hint: str = ""


def check_gateway(path: Path, *, at: datetime, connect: bool = False) -> list[Finding]:
    """Return all findings about the configuration in `path` as of `at`; never raises for a bad one."""
    config, problems = examine(path)
    failed = [Finding(problem.key, State.FAILED, str(problem), problem.hint) for problem in problems]
    if config is None or failed:
        return failed
    findings = [Finding("gateway", State.OK, f"{config.gateway.name} calls itself {config.gateway.ae_title}")]
    for index, listener in enumerate(config.listeners):
        findings += _listener(f"listener[{index}]", listener, at)
    for key, call in calls_of(config):
        findings += _trust(f"{key}.trust", _certificates(call.trust, key), at)
        if call.certificate is not None:
            findings.append(_validity(f"{key}.certificate", read_certificates(call.certificate, key=key)[0], at))
    findings += _plain_ways_out(config)
    findings += _policy(config)
    findings += _spool(config.audit)
    for index, destination in enumerate(config.audit.destinations):
        key = f"audit.destination[{index}]"
        if destination.transport != "tls":
            findings.append(
                Finding(key, State.WARNING, f"{destination.transport}: anybody on the way reads and alters records", "use TLS")
            )
            continue
        findings += _trust(f"{key}.trust", _certificates(destination.trust, key), at)
        if destination.certificate is not None:
            findings.append(_validity(f"{key}.certificate", read_certificates(destination.certificate, key=key)[0], at))
    if not config.audit.destinations:
        findings.append(
            Finding("audit.destination", State.WARNING, "records stay in the spool until it is full", "name an audit repository")
        )
    return [*findings, *_reachable(config)] if connect else findings


def _listener(key: str, listener: ListenerSection, at: datetime) -> Iterator[Finding]:
    own = read_certificates(listener.certificate, key=f"{key}.certificate")
    yield _validity(f"{key}.certificate", own[0], at)
    if not _may_serve(own[0]):
        yield Finding(
            f"{key}.certificate",
            State.FAILED,
            "its extended key usage lacks serverAuth: peers will refuse it",
            "have it issued anew",
        )
    trust = _certificates(listener.trust, f"{key}.trust")
    yield from _trust(f"{key}.trust", trust, at)
    crls = [read_crl(path, key=f"{key}.crls") for path in listener.crls]
    yield from _revocation(f"{key}.crls", crls, _authorities(trust, own[1:]), trust, at)
    for crl in crls:
        if crl.issuer == own[0].issuer and crl.get_revoked_certificate_by_serial_number(own[0].serial_number) is not None:
            yield Finding(f"{key}.certificate", State.FAILED, f"{_name(own[0].subject)} is revoked", "have a new one issued")


def _certificates(paths: Iterable[Path], key: str) -> list[x509.Certificate]:
    return [certificate for path in paths for certificate in read_certificates(path, key=key)]


def _authorities(trust: Sequence[x509.Certificate], chain: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Return the trusted CAs and those of the chain that they issued."""
    known = list(trust)
    for candidate in reversed(chain):
        if any(_issued(candidate, by) for by in known):
            known.append(candidate)
    return known


def _issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _may_serve(certificate: x509.Certificate) -> bool:
    try:
        return ExtendedKeyUsageOID.SERVER_AUTH in certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True


def _validity(key: str, certificate: x509.Certificate, at: datetime) -> Finding:
    name, end = _name(certificate.subject), certificate.not_valid_after_utc
    if at < certificate.not_valid_before_utc:
        return Finding(
            key,
            State.FAILED,
            f"{name} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
            "check the clock",
        )
    if at > end:
        return Finding(key, State.FAILED, f"{name} expired on {end:%Y-%m-%d}", "renew it")
    if end - at < _EXPIRES_SOON:
        return Finding(key, State.WARNING, f"{name} expires on {end:%Y-%m-%d}", "renew it now")
    return Finding(key, State.OK, f"{name}, valid until {end:%Y-%m-%d}")


def _trust(key: str, certificates: Sequence[x509.Certificate], at: datetime) -> Iterator[Finding]:
    for certificate in certificates:
        yield _validity(key, certificate, at)


def _revocation(
    key: str,
    crls: Iterable[x509.CertificateRevocationList],
    issuers: Sequence[x509.Certificate],
    trust: Sequence[x509.Certificate],
    at: datetime,
) -> Iterator[Finding]:
    covered: set[x509.Name] = set()
    for crl in crls:
        covered.add(crl.issuer)
        yield _crl(key, crl, [certificate for certificate in issuers if certificate.subject == crl.issuer], at)
    for certificate in trust:
        if certificate.subject not in covered:
            detail = f"no list of {_name(certificate.subject)}: what it revoked is still accepted"
            yield Finding(key, State.WARNING, detail, "add the CRL of every CA that issues to peers")


def _crl(key: str, crl: x509.CertificateRevocationList, issuers: Sequence[x509.Certificate], at: datetime) -> Finding:
    name = _name(crl.issuer)
    if not issuers:
        detail = f"the issuer {name} is in neither `trust` nor the chain of the gateway: the list cannot be verified"
        return Finding(key, State.WARNING, detail, "add the certificate of the issuing CA to `trust` or to the chain")
    if not any(_signed(crl, certificate.public_key()) for certificate in issuers):
        return Finding(key, State.FAILED, f"the list of {name} is not signed by it", "fetch it again from the CA")
    if at < crl.last_update_utc:
        return Finding(
            key, State.FAILED, f"the list of {name} is from the future: {crl.last_update_utc:%Y-%m-%d %H:%M} UTC", "check the clock"
        )
    if crl.next_update_utc is None:
        return Finding(
            key, State.WARNING, f"the list of {name} does not say when the next one comes", "RFC 5280 5.1.2.5 requires nextUpdate"
        )
    if at > crl.next_update_utc:
        return Finding(
            key, State.FAILED, f"the list of {name} ended on {crl.next_update_utc:%Y-%m-%d %H:%M} UTC", "fetch the current one"
        )
    return Finding(key, State.OK, f"list of {name}, {len(crl)} revoked, valid until {crl.next_update_utc:%Y-%m-%d %H:%M} UTC")


def _signed(crl: x509.CertificateRevocationList, key: object) -> bool:
    return isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) and crl.is_signature_valid(key)


def _plain_ways_out(config: GatewayConfig) -> Iterator[Finding]:
    for index, egress in enumerate(config.egress):
        for number, way in enumerate(egress.routes):
            if way.unsafe_plain:
                detail = f"{way.called_ae_title} is called without TLS: images leave in clear"
                yield Finding(f"egress[{index}].route[{number}].unsafe_plain", State.WARNING, detail, "use TLS")


def _policy(config: GatewayConfig) -> Iterator[Finding]:
    try:
        policy = policy_of(config.policy)
    except ConfigError as error:
        yield Finding(error.key, State.FAILED, str(error), error.hint)
        return
    origin = "shipped policies" if config.policy.folder is None else str(config.policy.folder)
    hardware = "" if config.policy.persons_need_hardware else "; people may hold keys in software"
    held = "; heads of stored objects are held" if policy.reads_study else ""
    yield Finding(
        "policy.folder", State.OK, f"{origin}: {len(policy.policy_ids)} policies, version {policy.version[:12]}{hardware}{held}"
    )
    sections = [(f"device[{index}].roles", device.roles) for index, device in enumerate(config.devices)]
    sections += [(f"egress[{index}].roles", egress.roles) for index, egress in enumerate(config.egress)]
    sections += [
        (f"egress[{index}].route[{number}].roles", way.roles)
        for index, egress in enumerate(config.egress)
        for number, way in enumerate(egress.routes)
    ]
    sections += [(f"person[{index}].roles", person.roles) for index, person in enumerate(config.persons)]
    for key, roles in sections:
        for role in sorted(set(roles) - policy.roles):
            yield Finding(key, State.WARNING, f"no policy knows the role {role}", f"known: {', '.join(sorted(policy.roles))}")


def _spool(audit: AuditSection) -> Iterator[Finding]:
    folder = next(parent for parent in (audit.spool, *audit.spool.parents) if parent.exists())
    try:
        if folder == audit.spool:
            with tempfile.TemporaryFile(dir=folder):
                pass
        elif not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError
        free = shutil.disk_usage(folder).free
    except OSError:
        yield Finding(
            "audit.spool", State.FAILED, f"{folder} is not writable: nothing could be recorded", "let the user of the gateway write"
        )
        return
    if free < audit.quota_mb * 1024 * 1024:
        detail = f"{free // (1024 * 1024)} MiB are free in {folder}, the quota is {audit.quota_mb} MiB"
        yield Finding("audit.quota_mb", State.WARNING, detail, "free space, or lower the quota")
    yield Finding(
        "audit.spool", State.OK, f"{audit.spool} is writable" if folder == audit.spool else f"{audit.spool} will be created"
    )


def _reachable(config: GatewayConfig) -> Iterator[Finding]:
    for index, route in enumerate(config.routes):
        for position, address in enumerate(route.destinations):
            yield _connects(f"route[{index}].destinations[{position}]", address)
    for index, egress in enumerate(config.egress):
        for number, way in enumerate(egress.routes):
            for position, address in enumerate(way.destinations):
                yield _connects(f"egress[{index}].route[{number}].destinations[{position}]", address)
    for index, destination in enumerate(config.audit.destinations):
        if destination.transport != "unsafe-udp":  # nobody answers a datagram
            yield _connects(f"audit.destination[{index}]", HostPort(destination.host, destination.port))


def _connects(key: str, address: HostPort) -> Finding:
    try:
        socket.create_connection(address, timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        return Finding(
            key, State.FAILED, f"{address} does not answer: {error.strerror or error}", "start it, or correct the address"
        )
    return Finding(key, State.OK, f"{address} accepts connections")


def _name(name: x509.Name) -> str:
    return name.rfc4514_string()

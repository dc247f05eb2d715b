"""The settings of a gateway as immutable objects; every description here is the text of docs/reference/settings.md.

Rules: a value has exactly the type it says (no coercion), an unknown key is refused, a secret appears only as the name of a file.
Paths are absolute after loading. What spans several settings (duplicates, overlaps) is checked in `rules.py`, what needs the
content of files in `files.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from securepacs_proxy.config.values import (
    AETitle,
    AETitles,
    Assurance,
    DatabaseUrl,
    Endpoint,
    Endpoints,
    FilePath,
    FilePaths,
    Fingerprint,
    Host,
    Name,
    Networks,
    Oids,
    Patterns,
    Port,
    Roles,
    Seconds,
    UserNames,
    as_tuple,
)


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)


class GatewaySection(_Section):
    """Who this gateway is."""

    name: Name = Field(description="Name of this gateway in audit records (AuditSourceID) and in its log.")
    ae_title: AETitle = Field(description="AE title of the gateway itself, used in the audit trail beside those of the peers.")
    workers: int = Field(default=2, ge=1, le=256, description="Number of worker processes; one per processor core serves best.")


class ListenerSection(_Section):
    """One port on which peers connect with mutual TLS."""

    host: Host = Field(default="0.0.0.0", description="Address to listen on; `0.0.0.0` is every IPv4, `::` every address.")  # noqa: S104 - a gateway serves its network
    port: Port = Field(default=2762, description="TCP port; 2762 is dicom-tls (PS3.8 9.1.1), 0 lets the system choose.")
    tls_profile: str = Field(default="B.12", description="TLS profile of PS3.15 Annex B by its section: B.12 or B.13.")
    certificate: FilePath = Field(description="PEM file with the certificate of the gateway, followed by its chain.")
    key: FilePath = Field(description="PEM file with the private key of `certificate`; only its owner may read it (mode 0600).")
    trust: FilePaths = Field(description="PEM files with the CA certificates that peers are accepted from; at least one.")
    crls: FilePaths = Field(default=(), description="Revocation lists (PEM or DER), one a file, of every CA that issues to peers.")


class CallSection(_Section):
    """TLS toward a destination; without this section it is called in clear."""

    tls_profile: str = Field(default="B.12", description="TLS profile of PS3.15 Annex B by its section: B.12 or B.13.")
    trust: FilePaths = Field(description="PEM files with the CA certificates that the destination is accepted from; at least one.")
    crls: FilePaths = Field(default=(), description="Revocation lists (PEM or DER), one a file, of every CA that issues to it.")
    certificate: FilePath | None = Field(
        default=None, description="PEM file with the certificate shown to the destination, then its chain."
    )
    key: FilePath | None = Field(default=None, description="PEM file with the private key of `certificate` (mode 0600).")
    server_name: str = Field(
        default="", max_length=253, description="Name its certificate must carry; the host of the destination when left out."
    )
    certificate_sha256: Fingerprint = Field(
        default="", description="SHA-256 fingerprint its certificate must have, instead of a name; it needs a path to `trust` too."
    )


class RouteSection(_Section):
    """Which archive a called AE title leads to."""

    called_ae_title: AETitle = Field(description="AE title by which peers call the archive; it is passed on unchanged.")
    destinations: Endpoints = Field(
        description="`host:port` of the archive; further entries are tried in order when one does not answer."
    )
    tls: CallSection | None = Field(default=None, description="TLS toward the archive.")


class EgressRouteSection(_Section):
    """Where a called AE title leads that an archive sends to."""

    called_ae_title: AETitle = Field(description="AE title by which the archive calls the destination; it is passed on unchanged.")
    destinations: Endpoints = Field(
        default=(), description="`host:port` of the destination; further entries are tried in order when one does not answer."
    )
    reverse: bool = Field(
        default=False,
        description="Instead of destinations: deliver over connections that agents of viewers keep open.",
    )
    roles: Roles = Field(default=(), description="With `reverse`: the roles of those who may receive, one at least.")
    unsafe_plain: bool = Field(default=False, description="Call the destination without TLS: anybody on the way reads and alters.")
    tls: CallSection | None = Field(default=None, description="TLS toward the destination.")


class EgressSection(_Section):
    """One inner port, without TLS, on which an archive calls out: the objects of a C-MOVE, what it routes, its reports."""

    name: Name = Field(description="User name of the archive in audit records.")
    host: Host = Field(default="127.0.0.1", description="Address to listen on, inside.")
    port: Port = Field(default=11113, description="TCP port; 0 lets the system choose.")
    addresses: Networks = Field(
        description="IP addresses or networks (`10.0.0.0/28`) of the archive, which prove who calls; others are refused."
    )
    ae_titles: AETitles = Field(description="The calling AE titles that the archive may use; every other one is refused.")
    roles: Roles = Field(default=("archive",), description="Roles of the archive; shipped policies know `archive`.")
    routes: Annotated[tuple[EgressRouteSection, ...], BeforeValidator(as_tuple)] = Field(
        alias="route", description="Where the archive may send to."
    )


class DeviceSection(_Section):
    """One machine and what it is bound to. A machine without such an entry is refused."""

    certificate_common_name: str = Field(
        default="", max_length=64, description="Common name (CN) of the certificate of the device."
    )
    certificate_sha256: Fingerprint = Field(
        default="", description="SHA-256 fingerprint of the certificate, instead of the common name."
    )
    ae_titles: AETitles = Field(description="The calling AE titles that the device may use; every other one is refused.")
    roles: Roles = Field(description="Roles of the device; shipped policies know `modality` and `gateway_peer`.")
    user_names: UserNames = Field(
        default=(),
        description="Names that a user identity (58H) may give, beside those of the certificate.",
    )
    assurance: Assurance = Field(
        default="", description="How the key is held: `hardware`, `software` or `network`; empty: as the certificate policy says."
    )


class AnchorSection(_Section):
    """What one trust anchor may say. With one such section every certificate in `trust` needs one; with none each may say all."""

    certificate: FilePath = Field(description="File with the anchor, one of those in `trust`; several in a file share the scope.")
    roles: Patterns = Field(
        description='Roles that its certificates may bring, with `*` and `?`; `["*"]` is every role, `[]` none.'
    )
    organizations: Patterns = Field(default=("*",), description="Organisations (O) that its certificates may name.")
    ae_titles: Patterns = Field(default=("*",), description="Calling AE titles that may be used with its certificates.")
    routes: Patterns = Field(default=("*",), description="Called AE titles that may be reached with its certificates.")
    public: bool = Field(
        default=False, description="A public CA: it identifies people, who have no right until a [[person]] section gives one."
    )
    hardware_policies: Oids = Field(
        default=(), description="Certificate policies by which this CA promises that the key is held in hardware."
    )


class PersonSection(_Section):
    """Roles of one person whose certificate names none (no hcRole attribute), or other ones."""

    certificate_common_name: str = Field(
        default="", max_length=64, description="Common name (CN) of the certificate of the person."
    )
    certificate_sha256: Fingerprint = Field(
        default="", description="SHA-256 fingerprint of the certificate, instead of the common name."
    )
    email: str = Field(
        default="", max_length=254, description="E-mail address (subject alternative name) in the certificate of the person."
    )
    roles: Roles = Field(description="Roles of the person; they replace those in the certificate.")
    user_names: UserNames = Field(
        default=(),
        description="Names that a user identity (58H) may give, beside those of the certificate.",
    )
    assurance: Assurance = Field(
        default="", description="How the key is held: `hardware`, `software` or `network`; empty: as the certificate policy says."
    )


class IssuerSection(_Section):
    """Who may vouch for a user with a token or an assertion."""

    kind: Literal["jwt", "saml"] = Field(description="`jwt` for tokens (type 5), `saml` for assertions (type 4).")
    name: Annotated[str, Field(min_length=1, max_length=1024)] = Field(description="Issuer, exactly as `iss` or `Issuer` gives it.")
    keys: FilePaths = Field(description="PEM files with the public keys or certificates of the issuer; at least one.")
    audience: str = Field(default="", max_length=1024, description="Audience that must be named; none means one without audience.")
    claim: Name = Field(default="sub", description="Claim of a token that names the user; of an assertion it is the NameID.")


class UserIdentitySection(_Section):
    """What a user identity in an association request (58H, PS3.7 D.3.3.7) must be: it may only agree with the certificate."""

    unsafe_ignore: bool = Field(
        default=False, description="Take the item off without a look at it, for viewers that send the user name of another system."
    )
    issuers: Annotated[tuple[IssuerSection, ...], BeforeValidator(as_tuple)] = Field(
        default=(), alias="issuer", description="Issuers of tokens and assertions; without one these are refused."
    )


class PolicySection(_Section):
    """Who may do what."""

    folder: FilePath | None = Field(
        default=None,
        description="Folder of `*.cedar` policies that replaces the shipped ones.",
    )
    persons_need_hardware: bool = Field(
        default=False, description="Refuse every person whose key is not held in hardware, whatever the policies permit."
    )
    history_versions: int = Field(
        default=10_000, ge=10, le=1_000_000, description="How many versions of policy and configuration the history keeps."
    )
    hardware_policies: Oids = Field(
        default=(), description="Certificate policies of any anchor that promise a key held in hardware (RFC 5280 4.2.1.4)."
    )


class RevocationSection(_Section):
    """How the gateway learns of revocations while it runs; without it only the files in `crls` count, as of the last reload."""

    online: bool = Field(default=True, description="Fetch what certificates name: CRL distribution points and OCSP responders.")
    ocsp: bool = Field(
        default=True,
        description="Ask OCSP responders before CRLs are fetched; `false`: no responder learns who connects.",
    )
    allowed_hosts: Annotated[tuple[Host, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="Hosts in private networks that may be asked; a certificate alone can only lead to public ones."
    )
    crl_folder: FilePath | None = Field(
        default=None, description="Folder of revocation lists (`*.crl`, `*.pem`, `*.der`), read at every refresh without a reload."
    )
    refresh_seconds: float = Field(
        default=900.0, ge=1, le=86_400, allow_inf_nan=False, description="Time between two looks at every certificate in use."
    )
    person_grace_hours: float = Field(
        default=24.0, ge=0, le=168, description="How long past its nextUpdate the last answer about a known person still counts."
    )
    device_grace_hours: float = Field(
        default=168.0, ge=0, le=720, description="How long past its nextUpdate the last answer about a known machine still counts."
    )
    unsafe_accept_unchecked: bool = Field(
        default=False, description="Accept certificates for which there is no list and that name neither list nor responder."
    )


class MetricsSection(_Section):
    """Where `/metrics` (Prometheus), `/health` and `/ready` are served; off without this section. Name one of the two."""

    listen: Endpoint | None = Field(default=None, description="`host:port` on a loopback address, such as `127.0.0.1:9464`.")
    socket: FilePath | None = Field(default=None, description="Unix socket instead; readable for its owner and group.")


class SharedSection(_Section):
    """A PostgreSQL database through which gateways share their blocks by hand; without it each has its own."""

    url: DatabaseUrl = Field(description="`postgresql://USER@HOST:PORT/DATABASE`, without a password.")
    password_file: FilePath | None = Field(default=None, description="File with the password; only its owner may read it.")
    trust: FilePath | None = Field(
        default=None, description="PEM file with the CA certificate of a server on another host; those of the system when left out."
    )


class AuditDestinationSection(_Section):
    """One audit repository, reached with syslog over TLS (RFC 5425), or unprotected when that is asked for by name."""

    host: Host = Field(description="Host name or address of the audit repository; its certificate must carry this name.")
    port: Port = Field(default=6514, description="Port; 6514 is syslog-tls (RFC 5425), without TLS it is usually 514.")
    transport: Literal["tls", "unsafe-tcp", "unsafe-udp"] = Field(
        default="tls",
        description="`tls`; or `unsafe-tcp` (RFC 6587) and `unsafe-udp` (RFC 5426), where anybody on the way reads and alters "
        "records, and datagrams get lost unnoticed.",
    )
    tls_profile: str = Field(default="B.12", description="TLS profile of PS3.15 Annex B by its section: B.12 or B.13.")
    trust: FilePaths = Field(
        default=(), description="PEM files with the CA certificates that the repository is accepted from; with TLS at least one."
    )
    certificate: FilePath | None = Field(default=None, description="PEM file with the certificate shown to the repository.")
    key: FilePath | None = Field(default=None, description="PEM file with the private key of `certificate` (mode 0600).")


class AuditSection(_Section):
    """Where audit records wait and where they go."""

    spool: FilePath = Field(description="Folder in which every record is made durable before the action it describes takes place.")
    quota_mb: int = Field(
        default=1024, ge=8, le=1_048_576, description="Size of the spool in MiB; nearly full, disclosures stop first."
    )
    enterprise_site: str = Field(
        default="", max_length=128, description="AuditEnterpriseSiteID of every record, empty to leave it out."
    )
    destinations: Annotated[tuple[AuditDestinationSection, ...], BeforeValidator(as_tuple)] = Field(
        default=(), alias="destination", description="Audit repositories; each receives every record."
    )


class LimitsSection(_Section):
    """What one connection may take. The defaults suit stock modalities and archives."""

    handshake_seconds: Seconds = Field(default=10.0, description="Time for the TLS handshake.")
    association_seconds: Seconds = Field(
        default=30.0, description="Time for an association request after the handshake (ARTIM, PS3.8 9.1.5)."
    )
    idle_seconds: Seconds = Field(default=600.0, description="Time after which an idle association is ended.")
    max_pdu_length: int = Field(default=131_072, ge=4096, le=1_048_576, description="Longest P-DATA-TF PDU accepted, in bytes.")
    max_connections: int = Field(default=1000, ge=1, le=100_000, description="Connections at the same time, over all workers.")
    max_connections_per_peer: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Connections of one address at the same time, inner ports aside; 0: no limit of its own.",
    )
    connections_per_minute_per_peer: int = Field(
        default=0, ge=0, le=1_000_000, description="New connections of one address within a minute, inner ports aside; 0: no limit."
    )
    max_associations_per_subject: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Associations of one person or machine at the same time, inner ports aside; 0: no limit of its own.",
    )
    head_bytes: int = Field(
        default=65_536, ge=4096, le=1_048_576, description="Longest head of a data set read for audit, in bytes."
    )
    command_bytes: int = Field(default=65_536, ge=4096, le=1_048_576, description="Longest DIMSE command set accepted, in bytes.")


class GatewayConfig(_Section):
    """Everything a gateway needs to know."""

    gateway: GatewaySection = Field(description="Who this gateway is.")
    listeners: Annotated[tuple[ListenerSection, ...], BeforeValidator(as_tuple)] = Field(
        alias="listener", description="Ports for peers."
    )
    routes: Annotated[tuple[RouteSection, ...], BeforeValidator(as_tuple)] = Field(
        alias="route", description="Archives behind the gateway."
    )
    devices: Annotated[tuple[DeviceSection, ...], BeforeValidator(as_tuple)] = Field(
        default=(), alias="device", description="Machines."
    )
    persons: Annotated[tuple[PersonSection, ...], BeforeValidator(as_tuple)] = Field(
        default=(), alias="person", description="People."
    )
    egress: Annotated[tuple[EgressSection, ...], BeforeValidator(as_tuple)] = Field(
        default=(), description="Inner ports on which archives call out."
    )
    user_identity: UserIdentitySection = Field(default_factory=UserIdentitySection, description="User identities.")
    anchors: Annotated[tuple[AnchorSection, ...], BeforeValidator(as_tuple)] = Field(
        default=(), alias="anchor", description="What trust anchors may say."
    )
    policy: PolicySection = Field(default_factory=PolicySection, description="Who may do what.")
    metrics: MetricsSection | None = Field(default=None, description="Metrics and health.")
    revocation: RevocationSection | None = Field(default=None, description="How revocations become known.")
    shared: SharedSection | None = Field(default=None, description="What gateways share.")
    audit: AuditSection = Field(description="Where audit records go.")
    limits: LimitsSection = Field(default_factory=LimitsSection, description="What one connection may take.")

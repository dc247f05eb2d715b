"""gateway.toml: the strict model, its loader, and the rules between settings. Secrets appear only as names of files."""

from securepacs_proxy.config.files import read_certificates, read_crl, read_private_key, read_public_key
from securepacs_proxy.config.loading import dotted, examine, load
from securepacs_proxy.config.model import (
    AuditDestinationSection,
    AuditSection,
    CallSection,
    DeviceSection,
    EgressRouteSection,
    EgressSection,
    GatewayConfig,
    GatewaySection,
    HostPort,
    IssuerSection,
    LimitsSection,
    ListenerSection,
    PersonSection,
    PolicySection,
    RouteSection,
    UserIdentitySection,
)
from securepacs_proxy.config.sections import settings_markdown

__all__ = [
    "load",
    "examine",
    "dotted",
    "settings_markdown",
    "read_certificates",
    "read_crl",
    "read_private_key",
    "read_public_key",
    "GatewayConfig",
    "GatewaySection",
    "ListenerSection",
    "RouteSection",
    "IssuerSection",
    "UserIdentitySection",
    "CallSection",
    "EgressSection",
    "EgressRouteSection",
    "DeviceSection",
    "PersonSection",
    "PolicySection",
    "AuditSection",
    "AuditDestinationSection",
    "LimitsSection",
    "HostPort",
]

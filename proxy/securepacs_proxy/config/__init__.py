"""gateway.toml: the strict model, its loader, and the rules between settings. Secrets appear only as names of files."""

from securepacs_proxy.config.files import read_certificates, read_crl, read_private_key, read_public_key
from securepacs_proxy.config.loading import dotted, examine, load
from securepacs_proxy.config.model import (
    AnchorSection,
    AuditDestinationSection,
    AuditSection,
    CallSection,
    DeviceSection,
    EgressRouteSection,
    EgressSection,
    GatewayConfig,
    GatewaySection,
    IssuerSection,
    LimitsSection,
    ListenerSection,
    MetricsSection,
    PersonSection,
    PolicySection,
    RevocationSection,
    RouteSection,
    SharedSection,
    UserIdentitySection,
)
from securepacs_proxy.config.policies import policy_of
from securepacs_proxy.config.rules import is_loopback
from securepacs_proxy.config.sections import settings_markdown
from securepacs_proxy.config.values import HostPort

__all__ = [
    "load",
    "examine",
    "dotted",
    "settings_markdown",
    "policy_of",
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
    "AnchorSection",
    "DeviceSection",
    "PersonSection",
    "MetricsSection",
    "SharedSection",
    "PolicySection",
    "RevocationSection",
    "AuditSection",
    "AuditDestinationSection",
    "LimitsSection",
    "HostPort",
    "is_loopback",
]

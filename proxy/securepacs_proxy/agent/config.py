"""agent.toml: the settings of the agent as immutable objects, and reading them."""

from __future__ import annotations

import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from securepacs.errors import ConfigError, UsageError
from securepacs.tokens.uri import TokenUri
from securepacs_proxy.config.loading import dotted
from securepacs_proxy.config.model import AuditDestinationSection
from securepacs_proxy.config.rules import destination_rules
from securepacs_proxy.config.values import AETitle, Endpoint, FilePath, FilePaths, Name, Port, Seconds


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)


class AgentSection(_Section):
    """Where the viewer connects, and where the gateway is."""

    name: Name = Field(default="agent", description="Name of this workstation's agent in audit records (AuditSourceID).")
    host: Literal["127.0.0.1", "::1"] = Field(default="127.0.0.1", description="Loopback address for the viewer.")
    port: Port = Field(default=11112, description="TCP port for the viewer; 0 lets the system choose.")
    gateway: Endpoint = Field(description="`host:port` of the gateway.")
    server_name: str = Field(default="", description="Name in the gateway's certificate, when it is not the host of `gateway`.")
    trust: FilePaths = Field(description="PEM files with the CA certificates that the gateway is accepted from; at least one.")
    connect_seconds: Seconds = Field(default=10.0, description="Time for TCP connection and TLS handshake with the gateway.")
    login_seconds: Seconds = Field(default=20.0, description="Time that an association waits for somebody to log in.")
    state: FilePath = Field(description="Folder (made with mode 0700) for the status file and the audit spool.")


class TokenSection(_Section):
    """The person's card."""

    uri: str = Field(description="PKCS #11 URI (RFC 7512) of the card, and of the key on it when it has several.")
    chain: FilePaths = Field(
        default=(), description="PEM files with the CA certificates above the person's: cards rarely hold them."
    )
    prompt: Literal["terminal", "pinentry"] = Field(default="terminal", description="Who asks for the PIN.")
    idle_seconds: Seconds = Field(
        default=900.0, description="Time without any association after which the card is logged out and the PIN asked again."
    )


class ViewerSection(_Section):
    """A viewer that receives: what is sent to its AE title comes over connections that the agent keeps open at the gateway."""

    ae_title: AETitle = Field(description="AE title of the viewer, as move destination for example.")
    host: Literal["127.0.0.1", "::1"] = Field(default="127.0.0.1", description="Loopback address on which the viewer listens.")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(description="TCP port on which the viewer listens.")
    connections: int = Field(
        default=2, ge=1, le=16, description="Connections that wait; as many associations may begin at the same time."
    )


class AuditSection(_Section):
    """Where the records of logins go."""

    quota_mb: int = Field(default=64, ge=8, le=65_536, description="Size of the spool in MiB.")
    destinations: Annotated[tuple[AuditDestinationSection, ...], BeforeValidator(lambda value: _tuple(value))] = Field(
        default=(), alias="destination", description="Audit repositories; each receives every record."
    )


class AgentConfig(_Section):
    """Everything an agent needs to know."""

    agent: AgentSection = Field(description="Where the viewer connects, and where the gateway is.")
    token: TokenSection = Field(description="The person's card.")
    viewers: Annotated[tuple[ViewerSection, ...], BeforeValidator(lambda value: _tuple(value))] = Field(
        default=(), alias="viewer", description="Viewers that receive."
    )
    audit: AuditSection = Field(default_factory=AuditSection, description="Where the records of logins go.")


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def load_agent(path: Path) -> AgentConfig:
    """Read agent.toml. Raises ConfigError that names the key and the cure. NOT checked: that files and token are there."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        config = AgentConfig.model_validate(raw, context={"base": path.absolute().parent}, by_alias=True, by_name=False)
        TokenUri.parse(config.token.uri)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="name the configuration with -c agent.toml") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise ConfigError(f"{path} is not TOML", hint="text values stand in quotes, sections in [brackets]") from None
    except UsageError as error:
        raise ConfigError(error.message, key="token.uri", hint=error.hint, standard=error.standard) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        hint = "every setting is described in docs/reference/agent-settings.md"
        raise ConfigError(str(first["msg"]), key=dotted(first["loc"]), hint=hint) from None
    if not config.agent.trust:
        raise ConfigError("at least one file is needed", key="agent.trust", hint="name the CA certificate of the gateway")
    titles = [viewer.ae_title for viewer in config.viewers]
    if len(set(titles)) < len(titles):
        raise ConfigError("an AE title has two viewers", key="viewer.ae_title", hint="give each viewer an AE title of its own")
    for index, destination in enumerate(config.audit.destinations):
        for problem in destination_rules(f"audit.destination[{index}]", destination):
            raise problem
    assert_loopback(config.agent.host)
    return config


def assert_loopback(host: str) -> None:
    """Raise ConfigError for an address that other computers could reach."""
    if not ip_address(host).is_loopback:
        raise ConfigError(f"{host} is not a loopback address", key="agent.host", hint="127.0.0.1")

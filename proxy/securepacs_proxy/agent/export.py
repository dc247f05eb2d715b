"""A stunnel configuration that does what the agent does, less well, for places where the agent does not run."""

from __future__ import annotations

from dataclasses import replace

from securepacs.tokens.uri import TokenUri
from securepacs_proxy.agent.config import AgentConfig

_LIMITS = (
    "; What the agent does and stunnel does not: one login on record, only programs of the same user, ending associations when the",
    "; card is pulled, locking after idle time. Whoever reaches the port below acts as the person on the card.",
)


def stunnel(config: AgentConfig, *, capi: bool = False) -> str:
    """Return stunnel.conf for the PKCS #11 engine, or for Windows' certificate store (CAPI; not tested by us)."""
    agent, uri = config.agent, TokenUri.parse(config.token.uri)
    head = ["; written by: securepacs-proxy agent export --stunnel", *_LIMITS, "foreground = yes", ""]
    if capi:
        head += [
            "; for a Windows workstation; not tested. The person's certificate is chosen from the Windows store.",
            "engine = capi",
        ]
        key = ["engineId = capi"]
    else:
        head += ["engine = pkcs11", f"engineCtrl = MODULE_PATH:{uri.module_path}", "; stunnel asks for the PIN at the terminal"]
        name = str(replace(uri)).partition("?")[0]
        key = ["engineId = pkcs11", f"cert = {name};type=cert", f"key = {name};type=private"]
    host = f"[{agent.host}]" if ":" in agent.host else agent.host
    service = [
        "",
        "[dicom]",
        "client = yes",
        f"accept = {host}:{agent.port}",
        f"connect = {agent.gateway}",
        *key,
        f"CAfile = {agent.trust[0]}",
        "verifyChain = yes",
        f"checkHost = {agent.server_name or agent.gateway.host}",
        "sslVersionMin = TLSv1.2",
    ]
    return "\n".join([*head, *service]) + "\n"

"""A version of the history as objects that can be asked, exactly as the gateway asked them then."""

from __future__ import annotations

import tomllib
from pathlib import Path

from cryptography import x509
from pydantic import ValidationError

from securepacs.errors import ConfigError
from securepacs.policy.cedar import CedarPolicy
from securepacs.trust.files import parse_certificates
from securepacs_proxy.config import GatewayConfig
from securepacs_proxy.history.store import History, Version


class Past:
    """The configuration, the policy and the certificates of one version."""

    def __init__(self, history: History, version: Version) -> None:
        """Raises ConfigError when a text is damaged, or the configuration is of a product that knew other settings."""
        self._history = history
        self.version = version
        text = history.text(version.configuration).decode()
        try:
            context = {"base": Path(version.path).parent}
            self.config = GatewayConfig.model_validate(tomllib.loads(text), context=context, by_alias=True, by_name=False)
        except (ValidationError, tomllib.TOMLDecodeError):
            raise ConfigError(
                f"the configuration of that time is not one of this product: securepacs {version.product} wrote it",
                hint=f"ask with securepacs {version.product}",
            ) from None
        texts = {name: history.text(digest).decode() for name, digest in version.policies.items()}
        self.policy = CedarPolicy(texts, schema=history.text(version.schema).decode())

    def read_certificates(self, path: Path, *, key: str) -> tuple[x509.Certificate, ...]:
        """Return the certificates that a file held then. Raises ConfigError for a file that the version does not name."""
        digest = self.version.certificates.get(str(path))
        if digest is None:
            raise ConfigError(f"the history does not hold {path}", key=key)
        return parse_certificates(self._history.text(digest), str(path), key)

"""From gateway.toml to a GatewayConfig, or to errors that name the dotted key and the cure."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from securepacs.errors import ConfigError
from securepacs_proxy.config.files import unusable_files
from securepacs_proxy.config.model import GatewayConfig
from securepacs_proxy.config.rules import broken_rules
from securepacs_proxy.config.sections import sections_of

_TYPES = {
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "tuple_type": "a list in brackets",
    "is_instance_of": "text in quotes",
    "model_type": "a section",
    "literal_error": "one of those listed",
    "path_type": "text in quotes",
}


def load(path: Path | str) -> GatewayConfig:
    """Read a gateway configuration and every file it names.

    Raises ConfigError with `key` and `hint` for the first problem in the order of the file. Validity dates, revocation lists,
    policies and destinations are not looked at; `check` does that.
    """
    config, problems = examine(path)
    if config is None or problems:
        raise problems[0]
    return config


def examine(path: Path | str) -> tuple[GatewayConfig | None, list[ConfigError]]:
    """Return the configuration, None when it cannot be read as one, and all problems found."""
    file = Path(path)
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        return None, [ConfigError(f"{file} cannot be read: {error.strerror}", hint="name the configuration with -c gateway.toml")]
    except UnicodeDecodeError:
        return None, [ConfigError(f"{file} is not UTF-8 text", hint="save it as UTF-8")]
    except tomllib.TOMLDecodeError as error:
        return None, [ConfigError(f"{file} is not TOML: {error}", hint="text values stand in quotes, sections in [brackets]")]
    try:
        config = GatewayConfig.model_validate(raw, context={"base": file.absolute().parent}, by_alias=True, by_name=False)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        found.sort(key=lambda details: details["type"] != "extra_forbidden")  # a mistyped key explains the missing one
        return None, [_config_error(details) for details in found]
    return config, [*broken_rules(config), *unusable_files(config)]


def dotted(location: Iterable[int | str]) -> str:
    """Write a location as an operator reads it: `listener[0].certificate`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _config_error(details: ErrorDetails) -> ConfigError:
    kind, location, context = details["type"], details["loc"], details.get("ctx", {})
    key = dotted(location)
    if kind == "setting":
        return ConfigError(context["message"], key=key, hint=context["hint"])
    if kind == "extra_forbidden":
        return ConfigError("there is no such setting", key=key, hint=_did_you_mean(location))
    if kind == "missing":
        return ConfigError("the setting is missing", key=key, hint=_description(location))
    if kind in _TYPES:
        return ConfigError(f"the value must be {_TYPES[kind]}", key=key, hint=_description(location))
    return ConfigError(_sentence(details["msg"]), key=key, hint=_description(location))


def _sentence(message: str) -> str:
    return f"the value is out of range: {message[:1].lower()}{message[1:]}"


def _model_at(location: Sequence[int | str]) -> type[BaseModel] | None:
    prefix = ".".join(part for part in location if isinstance(part, str))
    return next((section.model for section in sections_of(GatewayConfig) if section.name == prefix), None)


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _did_you_mean(location: Sequence[int | str]) -> str:
    wrong, model = str(location[-1]), _model_at(location[:-1])
    known = _fields(model) if model else {}
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    if near:
        return f'did you mean "{near[0]}"?'
    return f"known here: {', '.join(known)}"


def _description(location: Sequence[int | str]) -> str:
    names = [part for part in location if isinstance(part, str)]
    model = _model_at(names[:-1])
    field = _fields(model).get(names[-1]) if model and names else None
    return str(field.description) if field is not None and field.description else ""

"""The sections of a configuration in order, read from the model; the reference page of the settings is written from them."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_TYPE_NAMES = {bool: "true or false", str: "text", int: "whole number", float: "number"}


@dataclass(frozen=True, slots=True)
class Section:
    """One TOML table: its dotted name (empty for the whole file), whether it may be repeated, and the model of its keys."""

    name: str
    repeated: bool
    model: type[BaseModel]

    @property
    def header(self) -> str:
        """The line that begins the section in the file."""
        return f"[[{self.name}]]" if self.repeated else f"[{self.name}]"


def sections_of(model: type[BaseModel], name: str = "", *, repeated: bool = False) -> Iterator[Section]:
    """Yield the section of `model` and then those inside it, depth first."""
    yield Section(name, repeated, model)
    for field_name, field in model.model_fields.items():
        inner, many = _inner_model(field.annotation)
        if inner is not None:
            yield from sections_of(inner, f"{name}.{_key(field_name, field)}".lstrip("."), repeated=many)


def settings_markdown(model: type[BaseModel]) -> str:
    """Return the reference page of all settings: one table a section, every text from the model."""
    lines = [
        "# Settings of the gateway",
        "",
        "Written by `securepacs-proxy gateway check --print-settings` from the descriptions in the model.",
        "Paths are relative to the folder of the file. A key that is not listed here is refused, as is a value of another type.",
        "Secrets appear only as names of files.",
    ]
    for section in sections_of(model):
        if section.name:
            lines += ["", f"## `{section.header}`", "", (section.model.__doc__ or "").strip(), ""]
            lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
            lines += [
                _row(name, field) for name, field in section.model.model_fields.items() if _inner_model(field.annotation)[0] is None
            ]
    return "\n".join(lines) + "\n"


def _row(name: str, field: FieldInfo) -> str:
    return f"| `{_key(name, field)}` | {_type_name(field.annotation)} | {_default(field)} | {field.description} |"


def _key(name: str, field: FieldInfo) -> str:
    return field.alias or name


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default in ((), "", None):
        return "none"
    if isinstance(field.default, tuple):
        values = ", ".join(f'"{value}"' for value in field.default)
        return f"`[{values}]`"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f'`"{field.default}"`' if isinstance(field.default, str) else f"`{field.default}`"


def _type_name(annotation: Any) -> str:
    arguments = [argument for argument in typing.get_args(annotation) if argument not in (type(None), ...)]
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated or (arguments and origin is not tuple):
        return _type_name(arguments[0])
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}"
    return _TYPE_NAMES.get(annotation, {"Path": "path", "HostPort": "host:port"}.get(getattr(annotation, "__name__", ""), "text"))


def _inner_model(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the section model inside an annotation, and whether it is a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if typing.get_origin(annotation) is tuple:
        return _inner_model(typing.get_args(annotation)[0])[0], True
    if typing.get_origin(annotation) is types.UnionType:  # a section that may be left out
        return _inner_model(typing.get_args(annotation)[0])[0], False
    return None, False

"""Describes the settings of a configuration file from their types: name, default and docstring of each."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from textwrap import dedent, fill, indent
from typing import Any

import msgspec

from one_provider_mad.domain import Value
from one_provider_mad.monitor.settings import CapacitySettings, MonitorSettings
from one_provider_mad.settings import Settings


class Key(Value, frozen=True, kw_only=True):
    """One setting.

    Attributes:
        table: the table that contains it, "" for the file itself.
        name: its name.
        default: its default in TOML; None if TOML cannot express it, or if the key is required.
        is_required: True if it has no default.
        text: the setting's docstring.
    """

    table: str
    name: str
    default: str | None
    is_required: bool
    text: str


def tables() -> dict[str, type[msgspec.Struct]]:
    """Return the tables that every provider's file may hold, by name."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    nested = {name: type(default) for name, default in defaults.items() if isinstance(default, msgspec.Struct)}
    return {"capacity": CapacitySettings, "monitor": MonitorSettings, **nested}


def keys_of(settings_type: type[msgspec.Struct], *, table: str = "") -> Iterator[Key]:
    """Yield every key of a table, and of the tables inside it, in the order of the source."""
    texts = _texts(settings_type)
    for field in msgspec.structs.fields(settings_type):
        default = field.default if field.default is not msgspec.NODEFAULT else _made(field)
        if isinstance(default, msgspec.Struct):
            yield from keys_of(type(default), table=f"{table}.{field.name}" if table else field.name)
            continue
        yield Key(
            table=table,
            name=field.name,
            default=_toml(default),
            is_required=field.required,
            text=texts.get(field.name, ""),
        )


def _made(field: msgspec.structs.FieldInfo) -> Any:
    return None if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _toml(value: Any) -> str | None:
    """Return a default as TOML writes it, None if TOML cannot express it; texts, numbers and lists look as in JSON."""
    plain = msgspec.to_builtins(value)
    if plain is None:
        return None
    if isinstance(plain, dict):
        return "{}" if not plain else None
    return json.dumps(plain)


def _texts(settings_type: type) -> dict[str, str]:
    """Return the docstring of each field of a class and of its bases."""
    texts: dict[str, str] = {}
    for each in reversed(settings_type.__mro__):
        if not issubclass(each, msgspec.Struct) or each is msgspec.Struct:
            continue
        (definition,) = ast.parse(dedent(inspect.getsource(each))).body
        assert isinstance(definition, ast.ClassDef)  # noqa: S101 - it is the source of a class
        for field, below in zip(definition.body, definition.body[1:], strict=False):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
                texts[field.target.id] = " ".join(inspect.cleandoc(str(below.value.value)).split())  # type: ignore[attr-defined]
    return texts


def commented(keys: Iterator[Key], *, given: dict[str, str]) -> Iterator[str]:
    """Yield the lines of a configuration file with every key; keys without a given value are comments.

    Args:
        keys: of one table.
        given: values to set, as TOML writes them, by name.
    """
    for key in keys:
        text = f"{key.text} Required." if key.is_required and key.name not in given else key.text
        if text:
            yield indent(fill(text, 115), "# ")
        if key.name in given:
            yield f"{key.name} = {given[key.name]}"
        else:
            yield f"# {key.name} = {key.default if key.default is not None else ''}".rstrip()
        yield ""

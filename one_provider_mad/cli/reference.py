"""The settings as their types tell of them: name, default, and the sentence below each in the source."""

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
        table: the table that it stands in, "" for the file itself.
        name: its name.
        default: what is usual, as TOML writes it; None where there is nothing that TOML can write, or it must be set.
        is_required: it has no default.
        text: what it means.
    """

    table: str
    name: str
    default: str | None
    is_required: bool
    text: str


def tables() -> dict[str, type[msgspec.Struct]]:
    """Every table that a file may hold whatever its provider is, by name."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    nested = {name: type(default) for name, default in defaults.items() if isinstance(default, msgspec.Struct)}
    return {"capacity": CapacitySettings, "monitor": MonitorSettings, **nested}


def keys_of(settings_type: type[msgspec.Struct], *, table: str = "") -> Iterator[Key]:
    """Every key of a table, and of the tables in it, in the order of the source."""
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
    """As TOML writes it; JSON writes texts, numbers and lists in the same way."""
    plain = msgspec.to_builtins(value)
    if plain is None:
        return None
    if isinstance(plain, dict):
        return "{}" if not plain else None
    return json.dumps(plain)


def _texts(settings_type: type) -> dict[str, str]:
    """The sentences that stand below the fields of a class, those of its bases included."""
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
    """Lines of a configuration file in which every key stands, those that are not given as a comment.

    Args:
        keys: of one table.
        given: values to set, as TOML writes them, by name.
    """
    for key in keys:
        text = f"{key.text} Has to be set." if key.is_required and key.name not in given else key.text
        if text:
            yield indent(fill(text, 115), "# ")
        if key.name in given:
            yield f"{key.name} = {given[key.name]}"
        else:
            yield f"# {key.name} = {key.default if key.default is not None else ''}".rstrip()
        yield ""

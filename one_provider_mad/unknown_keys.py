"""Finds keys in a configuration file's tables that their types do not have: misspelt, or of a later release."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect

KeyPath = tuple[str | int, ...]
"""The keys, and the places in arrays, that lead to a value."""


def unknown_keys(table: Mapping[str, Any], settings_type: type[msgspec.Struct]) -> list[KeyPath]:
    """Return the paths of all keys in a table that its type does not have, in the table's order."""
    return list(_unknown(table, inspect.type_info(settings_type), ()))


def without_keys(table: Mapping[str, Any], paths: Sequence[KeyPath]) -> dict[str, Any]:
    """Return a copy of a table without the values at these paths."""
    return {key: _without(value, paths, (key,)) for key, value in table.items() if (key,) not in paths}


def dotted(path: KeyPath) -> str:
    """Return a path as an operator knows it: `simulated.instance_types.tiny.disk`."""
    return ".".join(map(str, path))


def _unknown(value: Any, kind: inspect.Type, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(kind, inspect.Metadata):
        yield from _unknown(value, kind.type, path)
    elif isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from _unknown(value, each, path)
    elif isinstance(kind, inspect.StructType) and isinstance(value, Mapping):
        fields = {field.encode_name: field.type for field in kind.fields}
        for key, part in value.items():
            if key not in fields:
                yield (*path, key)
            else:
                yield from _unknown(part, fields[key], (*path, key))
    elif isinstance(kind, inspect.DictType) and isinstance(value, Mapping):
        for key, part in value.items():
            yield from _unknown(part, kind.value_type, (*path, key))
    elif isinstance(kind, inspect.CollectionType) and isinstance(value, Sequence) and not isinstance(value, str):
        for place, part in enumerate(value):
            yield from _unknown(part, kind.item_type, (*path, place))


def _without(value: Any, paths: Sequence[KeyPath], path: KeyPath) -> Any:
    if isinstance(value, Mapping):
        return {key: _without(part, paths, (*path, key)) for key, part in value.items() if (*path, key) not in paths}
    if isinstance(value, list):
        return [_without(part, paths, (*path, place)) for place, part in enumerate(value)]
    return value

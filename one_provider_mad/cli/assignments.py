"""Settings on the command line, `--set KEY=VALUE`: parsed as TOML, and merged into a configuration."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from one_provider_mad.errors import SettingsError

Tree = dict[str, "str | Tree"]
"""Values as TOML writes them, or further tables, by key."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def tree_of(texts: Sequence[str]) -> Tree:
    """Return the assignments `KEY=VALUE` as tables.

    KEY is a dotted key of TOML. VALUE is a value of TOML (number, true, text in quotes, list, table), or else a text,
    so that a shell's quotes suffice.

    Raises:
        SettingsError: no such assignment, or two for one key.
    """
    tree: Tree = {}
    for text in texts:
        key, equals, value = text.partition("=")
        path = _path_of(key) if equals else ()
        if not path:
            raise SettingsError(f"--set expects KEY=VALUE with a key such as ec2.region, got {text!r}")
        table = tree
        for part in path[:-1]:
            inner = table.setdefault(part, {})
            if isinstance(inner, str):
                raise SettingsError(f"--set gives {key.strip()} two values")
            table = inner
        if path[-1] in table:
            raise SettingsError(f"--set gives {key.strip()} two values")
        table[path[-1]] = value.strip() if _is_value(value) else _quoted(value)
    return tree


def written(value: str | Tree) -> str:
    """Return a value as TOML writes it on one line, a table in braces."""
    if isinstance(value, str):
        return value
    pairs = (f"{key if _BARE.fullmatch(key) else _quoted(key)} = {written(inner)}" for key, inner in value.items())
    return f"{{ {', '.join(pairs)} }}"


def merged(data: Mapping[str, Any], tree: Tree) -> dict[str, Any]:
    """Return the content of a configuration file with the values of the tree in it."""
    result = dict(data)
    for key, value in tree.items():
        if isinstance(value, str):
            result[key] = tomllib.loads(f"value = {value}")["value"]
        else:
            inner = result.get(key)
            result[key] = merged(inner if isinstance(inner, dict) else {}, value)
    return result


def single(tree: Tree) -> Iterator[tuple[str, Tree]]:
    """Yield each dotted key that has a value, and a tree with this key alone."""
    for key, value in tree.items():
        if isinstance(value, str):
            yield key, {key: value}
        else:
            for inner, alone in single(value):
                yield f"{key}.{inner}", {key: alone}


def _path_of(key: str) -> tuple[str, ...]:
    """Return the parts of a dotted key, () for a text that is none."""
    try:
        found: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    path = []
    while isinstance(found, dict) and len(found) == 1:
        ((part, found),) = found.items()
        path.append(part)
    return tuple(path) if found == 0 else ()


def _is_value(text: str) -> bool:
    try:
        return list(tomllib.loads(f"value = {text}")) == ["value"]
    except tomllib.TOMLDecodeError:
        return False


def _quoted(text: str) -> str:
    """Return a text as TOML writes it: JSON's escapes, and one for DEL, which TOML forbids."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

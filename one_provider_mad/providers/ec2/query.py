"""Writes lists, filters and tags as the Query API does: flat, numbered from 1; no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def numbered(name: str, values: Sequence[str]) -> dict[str, str]:
    """Return a list as the Query API writes it: `InstanceId.1`, `InstanceId.2`..."""
    return {f"{name}.{number}": value for number, value in enumerate(values, 1)}


def filtered(filters: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return filters as the Query API writes them; EC2 lists the resources that pass all of them."""
    written = {}
    for number, (name, values) in enumerate(filters.items(), 1):
        written[f"Filter.{number}.Name"] = name
        written |= numbered(f"Filter.{number}.Value", values)
    return written


def tagged(prefix: str, resource: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Return a `TagSpecification`: the tags for new resources of the kind `resource`."""
    return {f"{prefix}.ResourceType": resource, **pairs(f"{prefix}.Tag", tags)}


def pairs(prefix: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags as the Query API writes them."""
    keys, values = numbered(prefix, list(tags)), numbered(prefix, list(tags.values()))
    return {**{f"{at}.Key": key for at, key in keys.items()}, **{f"{at}.Value": value for at, value in values.items()}}

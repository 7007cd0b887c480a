"""`one-provider config`: every setting of a NAME as it is in force, and where it came from."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import click
import msgspec

from one_provider_mad.cli.tables import show_table
from one_provider_mad.monitor.settings import read_tables
from one_provider_mad.providers.registry import settings_of
from one_provider_mad.settings import Configuration, Places, is_secret, load

_MASK = "********"

Entry = Mapping[str, Any]


@click.command("config", short_help="Show every setting, and where it comes from.")
@click.argument("name")
@click.option("--json", "is_json", is_flag=True, help="One JSON array.")
def command(name: str, is_json: bool) -> None:
    """Show every setting of NAME as it is in force: what its file says, and what is usual otherwise.

    Secrets are masked.
    """
    entries = collect(name, os.environ)
    if is_json:
        click.echo(json.dumps(entries, indent=2, default=str))
        return
    rows = [(each["key"], _shown(each["value"]), each["source"]) for each in entries]
    show_table(("SETTING", "VALUE", "FROM"), rows)


def collect(name: str, environ: Mapping[str, str]) -> list[Entry]:
    """Every setting: `key` (dotted), `value`, and `source`, the path of the file or `default`.

    Raises:
        MadError: the configuration cannot be used; the sentence says why.
    """
    configuration = load(name, Places.from_environment(environ))
    settings = configuration.settings
    monitor, capacity = read_tables(configuration)
    written = _written(configuration)
    tables: dict[str, msgspec.Struct] = {
        settings.provider: settings_of(configuration),
        "capacity": capacity,
        "monitor": monitor,
        "policy": settings.policy,
        "orphans": settings.orphans,
    }
    path = str(configuration.path)
    plain = [entry for entry in _entries(settings, "", written, path) if entry["key"].split(".")[0] not in tables]
    return [
        *plain,
        *(
            entry
            for name, table in tables.items()
            for entry in _entries(table, f"{name}.", written.get(name, {}), path)
        ),
    ]


def _written(configuration: Configuration) -> Mapping[str, Any]:
    """What the file itself says."""
    if configuration.path is None:
        return {}
    return tomllib.loads(configuration.path.read_text())


def _entries(table: msgspec.Struct, prefix: str, written: Mapping[str, Any], path: str) -> Iterator[Entry]:
    """Each key of a table, and of the tables in it."""
    for key in table.__struct_fields__:
        value, own = getattr(table, key), written.get(key)
        if isinstance(value, msgspec.Struct):
            yield from _entries(value, f"{prefix}{key}.", own if isinstance(own, dict) else {}, path)
            continue
        plain = msgspec.to_builtins(value, str_keys=True)
        yield {
            "key": f"{prefix}{key}",
            "value": _MASK if is_secret(key) and plain else plain,
            "source": path if own is not None else "default",
        }


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) and value else json.dumps(value)

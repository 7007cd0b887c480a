"""`one-provider config`: shows every setting of a NAME as it is in force, and its source."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import click
import msgspec

from one_provider_mad.cli.names import complete_name
from one_provider_mad.cli.tables import show_table
from one_provider_mad.monitor.settings import read_tables
from one_provider_mad.providers.registry import costs_money, settings_of
from one_provider_mad.settings import Configuration, Places, is_secret, load

_DEFAULT = "default"
_MASK = "********"

_URL_LOGIN = re.compile(r"(\w+://)[^/@\s]+@")

Entry = Mapping[str, Any]


@click.command("config", short_help="Show every setting, and where it comes from.")
@click.argument("name", shell_complete=complete_name)
@click.option("--json", "is_json", is_flag=True, help="One JSON array.")
def command(name: str, is_json: bool) -> None:
    """Show every setting of NAME as it is in force: the values of its file, else the defaults.

    Secrets are masked.
    """
    entries = collect(name, os.environ)
    if is_json:
        click.echo(json.dumps(entries, indent=2, default=str))
        return
    rows = [(each["key"], _shown(each["value"]), each["source"]) for each in entries]
    show_table(("SETTING", "VALUE", "FROM"), rows)


def collect(name: str, environ: Mapping[str, str]) -> list[Entry]:
    """Return every setting: `key` (dotted), `value`, and `source` (the file's path, or the default's origin).

    Raises:
        MadError: the configuration cannot be used; the sentence says why.
    """
    places = Places.from_environment(environ)
    configuration = load(name, places)
    settings, written = configuration.settings, _written(configuration)
    monitor, capacity = read_tables(configuration)
    tables: dict[str, msgspec.Struct] = {
        settings.provider: settings_of(configuration),
        "capacity": capacity,
        "monitor": monitor,
        "policy": settings.policy,
        "orphans": settings.orphans,
        "spot": settings.spot,
        "metrics": settings.metrics,
    }
    path = str(configuration.path)
    filled = _filled_in(configuration, places)
    plain = (entry for entry in _entries(settings, "", written, path) if entry["key"].split(".")[0] not in tables)
    typed = (
        entry for name, table in tables.items() for entry in _entries(table, f"{name}.", _table(written, name), path)
    )
    return [
        {**entry, **filled.get(entry["key"], {})} if entry["source"] == _DEFAULT else entry
        for entry in (*plain, *typed)
    ]


def _filled_in(configuration: Configuration, places: Places) -> Mapping[str, Entry]:
    """Return values and sources of the defaults that depend on NAME, on the provider or on OpenNebula's directories."""
    name, kind = configuration.name, configuration.settings.provider
    unwritten = f"{places.scripts(name)}" if kind == "scripts" else f"there is no {places.conf / name}.toml"
    return {
        "provider": {"source": unwritten},
        "owner": {"source": "the provider's name"},
        "hypervisor": {"source": "NAME"},
        "journal": {"value": str(places.journal(configuration)), "source": "OpenNebula's var directory, and NAME"},
        **({} if kind == "scripts" else {"policy.without_section": _without_section(configuration)}),
    }


def _without_section(configuration: Configuration) -> Entry:
    is_priced = costs_money(configuration)
    value = "refuse" if configuration.settings.policy.needs_section(costs_money=is_priced) else "allow"
    return {
        "value": value,
        "source": f"instances of {configuration.settings.provider} cost {'' if is_priced else 'no '}money",
    }


def _table(written: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = written.get(name)
    return table if isinstance(table, dict) else {}


def _written(configuration: Configuration) -> Mapping[str, Any]:
    """Return the content of the configuration file, {} without one."""
    if configuration.path is None:
        return {}
    return tomllib.loads(configuration.path.read_text())


def _entries(table: msgspec.Struct, prefix: str, written: Mapping[str, Any], path: str) -> Iterator[Entry]:
    """Yield an entry for each key of a table, and of the tables inside it."""
    marked = _marked(type(table))
    for key in table.__struct_fields__:
        value, own = getattr(table, key), written.get(key)
        if isinstance(value, msgspec.Struct):
            yield from _entries(value, f"{prefix}{key}.", own if isinstance(own, dict) else {}, path)
            continue
        plain = msgspec.to_builtins(value, str_keys=True)
        yield {
            "key": f"{prefix}{key}",
            "value": _MASK if plain and (key in marked or _is_hidden(key)) else _masked(plain),
            "source": path if own is not None else _DEFAULT,
        }


def _marked(table: type[msgspec.Struct]) -> set[str]:
    """Return the keys whose type marks them as secret, `Meta(extra={"secret": True})`."""
    kinds = {field.name: msgspec.inspect.type_info(field.type) for field in msgspec.structs.fields(table)}
    return {
        name
        for name, kind in kinds.items()
        if isinstance(kind, msgspec.inspect.Metadata) and (kind.extra or {}).get("secret")
    }


def _is_hidden(key: str) -> bool:
    """Return True for a key whose value may be secret by its name; user data, start scripts and logins included."""
    word = key.lower().replace("_", "")
    if key.endswith(("_file", "_from_host")):
        return False
    return is_secret(key) or "userdata" in word or "startscript" in word or word.startswith("login")


def _masked(value: Any) -> Any:
    """Return a value with masks in place of secrets: values of secret keys in tables, and credentials in URLs."""
    if isinstance(value, dict):
        return {key: _MASK if _is_hidden(key) and part else _masked(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_masked(part) for part in value]
    return _URL_LOGIN.sub(rf"\g<1>{_MASK}@", value) if isinstance(value, str) else value


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)

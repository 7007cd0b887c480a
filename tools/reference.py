"""Writes docs/configuration.md: every setting, from the types that check them.

`python tools/reference.py` writes the page; tests/cli/test_reference.py holds that it is up to date.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec import inspect as kinds

from one_provider_mad.cli.reference import Key, keys_of, tables
from one_provider_mad.providers.registry import BUILT_IN, settings_type_of
from one_provider_mad.settings import Configuration, Settings

_Table = type[msgspec.Struct]

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"

HEAD = """\
# Configuration

Each NAME has one file, `<NAME>.toml`, in `$ONE_PROVIDER_MAD_CONF`, else `$ONE_LOCATION/etc/one_provider_mad`, else
`/etc/one/one_provider_mad`. `one-provider install NAME --provider KIND` writes a first one, with every setting in it
as a comment; `one-provider config NAME` shows the settings in force and the source of each value; `one-provider check
NAME` tests them.

`--set` gives settings of a new file a value: `one-provider install aws --provider ec2 --set ec2.region=eu-west-1
--set orphans.interval=600`. A value is TOML, or else a text; a text that looks like a number needs TOML's own quotes,
`--set 'simulated.account="42"'`. The file is written only if the drivers could use it. An existing file is never
changed: the command succeeds if the file has these values, and else names those that differ. Other users of the
machine can read a command line, so write secrets into the file instead.

An edit takes effect without a restart: from the next action on, and within five seconds for periodic work
(monitoring, orphans, metrics). After an edit the driver asks the cloud for the account of the credentials; if that
takes longer than five seconds, actions go on with the previous settings until the cloud has answered. A wrong edit
changes nothing: the previous settings stay in force, and the log names the mistake. Only `provider`, `owner`, and the
settings that identify the cloud (account, region, endpoint, database) need a restart. A file that holds a secret must
not be readable by all users, and no file may be writable by all users.

`tools/reference.py` generates this page from the types that check the settings.
"""


def page() -> str:
    """The whole page."""
    every = {kind: _settings_type(kind) for kind in BUILT_IN} | tables()
    places: dict[_Table, list[str]] = {}
    for name, settings_type in every.items():
        for place, each in _places(name, settings_type):
            places.setdefault(each, []).append(place)
    sections = [
        _section(", ".join(f"`{place}`" for place in where), _sentence(each), _keys(each, ""), each)
        for each, where in places.items()
    ]
    plain = [key for key in _keys(Settings, "") if key.name not in every]
    return "\n".join([HEAD, _section("The file itself", "", plain, Settings), *sections])


def _keys(settings_type: _Table, table: str) -> list[Key]:
    return [key for key in keys_of(settings_type, table=table) if key.table == table]


def _settings_type(kind: str) -> _Table:
    return settings_type_of(Configuration(name=kind, path=None, settings=Settings(provider=kind), table={}))


def _places(name: str, settings_type: _Table, form: str = "[{}]") -> Iterator[tuple[str, _Table]]:
    """Where a table stands, as TOML writes it, and each that may stand in it."""
    yield form.format(name), settings_type
    for field in msgspec.structs.fields(settings_type):
        for inner, inner_form in _inner(field.type):
            yield from _places(f"{name}.{field.encode_name}", inner, inner_form)


def _inner(kind: Any) -> Iterator[tuple[_Table, str]]:
    """Tables that a value holds, and how TOML writes their headings."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind, "[{}]"
    elif get_origin(kind) is dict:
        yield from ((inner, "[{}.<name>]") for inner, _ in _inner(get_args(kind)[1]))
    elif get_origin(kind) in (tuple, list):
        yield from ((inner, "[[{}]]") for inner, _ in _inner(get_args(kind)[0]))
    elif get_origin(kind) in (Union, types.UnionType):
        for part in get_args(kind):
            yield from _inner(part)


def _section(title: str, sentence: str, keys: list[Key], settings_type: _Table) -> str:
    fields = {field.name: field for field in msgspec.structs.fields(settings_type)}
    rows = [_row(key, fields[key.name]) for key in keys]
    told = f"{sentence}\n\n" if sentence else ""
    return f"## {title}\n\n{told}| setting | value | default | meaning |\n| --- | --- | --- | --- |\n" + "".join(rows)


def _row(key: Key, field: msgspec.structs.FieldInfo) -> str:
    default = "required" if key.is_required else "–" if key.default is None else f"`{key.default}`"
    cells = (f"`{field.encode_name}`", _value(kinds.type_info(field.type)), default, key.text)
    written = " | ".join(cell.replace("|", r"\|") for cell in cells)
    return f"| {written} |\n"


def _sentence(settings_type: _Table) -> str:
    """What a table is, without the name that the heading has."""
    text = " ".join(inspect.cleandoc(settings_type.__doc__ or "").split())
    if text.startswith("The table `["):
        text = text.partition("]`")[2].lstrip(".:; ")
    elif text.startswith("As `"):
        text = ""
    return text[:1].upper() + text[1:]


def _value(kind: kinds.Type) -> str:
    """What may stand there, in a few words."""
    if isinstance(kind, kinds.Metadata):
        return _value(kind.type)
    if isinstance(kind, kinds.UnionType):
        known = [each for each in kind.types if not isinstance(each, kinds.NoneType)]
        return " or ".join(_value(each) for each in known)
    if isinstance(kind, kinds.LiteralType):
        return ", ".join(f"`{json_text}`" for json_text in map(_quoted, kind.values))
    if isinstance(kind, kinds.IntType | kinds.FloatType):
        return ("whole number" if isinstance(kind, kinds.IntType) else "number") + _bounds(kind)
    if isinstance(kind, kinds.DictType):
        return f"table, by name: {_value(kind.value_type)}"
    if isinstance(kind, kinds.ListType | kinds.VarTupleType):
        return f"list: {_value(kind.item_type)}"
    words = {kinds.StrType: "text", kinds.BoolType: "true, false", kinds.TimeType: "time", kinds.StructType: "table"}
    return words.get(type(kind), "any")


def _quoted(value: object) -> str:
    return f'"{value}"'


def _bounds(kind: kinds.IntType | kinds.FloatType) -> str:
    bounds = {"above": kind.gt, "from": kind.ge, "below": kind.lt, "to": kind.le}
    told = [f"{word} {bound:,}" for word, bound in bounds.items() if bound is not None]
    return f", {' '.join(told)}" if told else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""docs/configuration.md and the commented configuration, which are generated from the types of the settings."""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path

import msgspec
import pytest

from one_provider_mad.cli.reference import keys_of, tables
from one_provider_mad.providers.registry import BUILT_IN, settings_type_of
from one_provider_mad.settings import Configuration, Settings

ROOT = Path(__file__).parents[2]
TABLES: dict[str, type[msgspec.Struct]] = {
    **{
        kind: settings_type_of(Configuration(name=kind, path=None, settings=Settings(provider=kind), table={}))
        for kind in BUILT_IN
    },
    **tables(),
}


def test_configuration_page_is_generated_from_the_settings_types() -> None:
    page: str = runpy.run_path(str(ROOT / "tools" / "reference.py"))["page"]()
    written = (ROOT / "docs" / "configuration.md").read_text()
    assert written == page, "run .venv/bin/python tools/reference.py"


def test_every_setting_has_a_description() -> None:
    keys = [*keys_of(Settings), *(key for name, table in TABLES.items() for key in keys_of(table, table=name))]
    assert len(keys) > 100
    assert not [f"{key.table}.{key.name}" for key in keys if not key.text]


def test_every_setting_is_on_the_configuration_page() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for name, table in TABLES.items():
        section = page.partition(f"\n## `[{name}]`")[2].partition("\n## ")[0]
        for field in table.__struct_encode_fields__:
            kind = {each.encode_name: each for each in msgspec.structs.fields(table)}[field].type
            is_table = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
            assert f"| `{field}` |" in section or is_table, f"{name}.{field}"


class Inner(msgspec.Struct):
    """A table in a table."""

    depth: int = 3
    """How deep."""


class Outer(msgspec.Struct):
    """A table."""

    must: str
    """Has no default,
    and more than one line."""

    silent: int = 1
    inner: Inner = msgspec.field(default_factory=Inner)
    """Not listed itself, but its keys are."""

    names: tuple[str, ...] = ("a", "b")
    """Some names."""

    nothing: int | None = None
    """Nothing TOML has a word for."""


def test_keys_of_the_configuration_page_keep_the_order_of_the_settings_type() -> None:
    found = [(key.table, key.name, key.default, key.is_required, key.text) for key in keys_of(Outer, table="outer")]
    assert found == [
        ("outer", "must", None, True, "Has no default, and more than one line."),
        ("outer", "silent", "1", False, ""),
        ("outer.inner", "depth", "3", False, "How deep."),
        ("outer", "names", '["a", "b"]', False, "Some names."),
        ("outer", "nothing", None, False, "Nothing TOML has a word for."),
    ]


@pytest.mark.parametrize("name", list(TABLES))
def test_printed_defaults_are_valid_toml(name: str) -> None:
    for key in keys_of(TABLES[name], table=name):
        if key.default is not None:
            tomllib.loads(f"{key.name} = {key.default}")

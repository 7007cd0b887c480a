"""Keys of a table that its type does not have: found in tables inside tables, in values of maps and in arrays."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest

from one_provider_mad.unknown_keys import KeyPath, dotted, unknown_keys, without_keys


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: Annotated[int, msgspec.Meta(ge=0)] = 0


class Whole(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"begin": "from"}):
    part: Part = Part()
    maybe: Annotated[Part | None, msgspec.Meta(description="a part")] = None
    named: dict[str, Part] = {}
    listed: tuple[Part, ...] = ()
    begin: str = ""
    plain: dict[str, int] = {}


CASES = [
    pytest.param({}, [], id="empty"),
    pytest.param({"x": 1, "part": {"size": 1}}, [("x",)], id="top"),
    pytest.param({"part": {"x": 1, "y": 2}}, [("part", "x"), ("part", "y")], id="table"),
    pytest.param({"maybe": {"x": 1}}, [("maybe", "x")], id="optional"),
    pytest.param({"named": {"a": {"x": 1}}}, [("named", "a", "x")], id="value-of-a-map"),
    pytest.param({"listed": [{"size": 1}, {"x": 1}]}, [("listed", 1, "x")], id="array"),
    pytest.param({"from": "a", "begin": "b"}, [("begin",)], id="renamed"),
    pytest.param({"plain": {"any": 1}}, [], id="any-key"),
    pytest.param({"part": 7, "named": 7, "listed": "seven"}, [], id="wrong-kinds-are-no-unknown-keys"),
]


@pytest.mark.parametrize(("table", "paths"), CASES)
def test_each_unknown_key_is_found_with_its_path(table: dict[str, object], paths: list[KeyPath]) -> None:
    assert unknown_keys(table, Whole) == paths
    assert unknown_keys(without_keys(table, paths), Whole) == []


def test_all_other_values_stay() -> None:
    table = {"x": 1, "part": {"size": 2, "x": 3}, "listed": [{"size": 4}, {"x": 5}], "from": "a"}
    assert without_keys(table, unknown_keys(table, Whole)) == {
        "part": {"size": 2},
        "listed": [{"size": 4}, {}],
        "from": "a",
    }


def test_a_path_is_written_with_dots() -> None:
    assert dotted(("listed", 1, "x")) == "listed.1.x"

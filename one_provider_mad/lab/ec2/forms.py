"""Reads parameters of the Query API: flat, lists numbered from 1; no I/O.

From docs.aws.amazon.com, "Query requests for Amazon EC2", "Filter EC2 resources" and "Paginate API results".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple, TypeVar

from one_provider_mad.lab.ec2.refusals import Refusal, invalid, needed

Form = Mapping[str, str]
Filters = Mapping[str, Sequence[str]]

_Item = TypeVar("_Item")

MOST_FILTER_VALUES = 200
MOST_TAGS = 50
SMALLEST_PAGE, LARGEST_PAGE = 5, 1000


def value(form: Form, name: str) -> str:
    """Return a required parameter. Raises Refusal."""
    try:
        return form[name]
    except KeyError:
        raise needed(name) from None


def number(form: Form, name: str, default: int) -> int:
    """Return a whole number. Raises Refusal."""
    text = form.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise invalid(name, text)
    return int(text)


def is_true(form: Form, name: str) -> bool:
    """Return a flag; a missing one is False."""
    return form.get(name, "").lower() == "true"


def listed(form: Form, name: str) -> list[str]:
    """Return `Name.1`, `Name.2`... in order."""
    found: list[str] = []
    while (text := form.get(f"{name}.{len(found) + 1}")) is not None:
        found.append(text)
    return found


def structures(form: Form, name: str) -> list[dict[str, str]]:
    """Return the members of `Name.1`, `Name.2`... in order, each as a form of its own."""
    found: list[dict[str, str]] = []
    while True:
        prefix = f"{name}.{len(found) + 1}."
        members = {key.removeprefix(prefix): text for key, text in form.items() if key.startswith(prefix)}
        if not members:
            return found
        found.append(members)


def needed_list(form: Form, name: str) -> list[str]:
    """Return `Name.1`, `Name.2`... in order, at least one. Raises Refusal."""
    found = listed(form, name)
    if not found:
        raise needed(name)
    return found


def pairs(form: Form, name: str) -> dict[str, str]:
    """Return tags: `Name.1.Key`, `Name.1.Value`... Raises Refusal."""
    found: dict[str, str] = {}
    at = 1
    while (key := form.get(f"{name}.{at}.Key")) is not None:
        if key.lower().startswith("aws:"):
            raise Refusal("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
        if not key or len(key) > 127 or len(form.get(f"{name}.{at}.Value", "")) > 256:
            raise Refusal("InvalidParameterValue", f"Tag '{key[:80]}' is not of the length that is allowed")
        found[key] = form.get(f"{name}.{at}.Value", "")
        at += 1
    return found


def specified(form: Form, resource: str) -> dict[str, str]:
    """Return the tags for new resources of a kind. Raises Refusal."""
    for name in form:
        if (match := re.fullmatch(r"TagSpecification\.([0-9]+)\.ResourceType", name)) and form[name] == resource:
            return checked(pairs(form, f"TagSpecification.{match[1]}.Tag"))
    return {}


def checked(tags: dict[str, str]) -> dict[str, str]:
    """Return the tags of one resource unchanged. Raises Refusal when there are too many."""
    if len(tags) > MOST_TAGS:
        raise Refusal("TagLimitExceeded", f"More than {MOST_TAGS} tags")
    return tags


def filters(form: Form) -> dict[str, list[str]]:
    """Return `Filter.1.Name`, `Filter.1.Value.1`... Raises Refusal."""
    found: dict[str, list[str]] = {}
    at = 1
    while (name := form.get(f"Filter.{at}.Name")) is not None:
        found[name] = listed(form, f"Filter.{at}.Value")
        at += 1
    if sum(map(len, found.values())) > MOST_FILTER_VALUES:
        text = f"The maximum number of filter values specified on a single call is {MOST_FILTER_VALUES}."
        raise Refusal("FilterLimitExceeded", text)
    return found


def matching(
    items: Iterable[_Item],
    wanted: Filters,
    *,
    tags: Callable[[_Item], Mapping[str, str]],
    fields: Mapping[str, Callable[[_Item], str]],
) -> list[_Item]:
    """Return the items that pass every filter; a value may have `*` and `?` in it.

    Raises:
        Refusal: a filter is not known.
    """
    passing = list(items)
    for name, values in wanted.items():
        accepts = _accepts(tuple(values))
        if name.startswith("tag:"):
            key = name.removeprefix("tag:")
            passing = [item for item in passing if key in tags(item) and accepts(tags(item)[key])]
        elif name == "tag-key":
            passing = [item for item in passing if any(accepts(key) for key in tags(item))]
        elif name in fields:
            passing = [item for item in passing if accepts(fields[name](item))]
        else:
            raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
    return passing


@cache
def _pattern(text: str) -> re.Pattern[str]:
    parts = (".*" if each == "*" else "." if each == "?" else re.escape(each) for each in text)
    return re.compile("".join(parts), re.DOTALL)


def _accepts(values: tuple[str, ...]) -> Callable[[str], bool]:
    plain = {value for value in values if not {"*", "?"} & set(value)}
    patterns = [_pattern(value) for value in values if value not in plain]
    return lambda text: text in plain or any(pattern.fullmatch(text) for pattern in patterns)


def zone_of(form: Form, first: str) -> str:
    """Return the zone in a call's parameters, or that of its subnet: `subnet-1-b` is in zone b, else the first zone."""
    if zone := form.get("Placement.AvailabilityZone"):
        return zone
    letter = (form.get("SubnetId") or form.get("NetworkInterface.1.SubnetId", "")).rpartition("-")[2]
    return first[:-1] + letter if letter in ("a", "b", "c") else first


class Page(NamedTuple):
    """The start and the size of a page of a listing.

    Attributes:
        after: number of the last item of the page before.
        size: number of items.
    """

    after: int
    size: int

    @classmethod
    def of(cls, form: Form, *, named: str = "") -> Page:
        """Return the requested page.

        Args:
            form: the call.
            named: name of the list of ids that excludes a size.

        Raises:
            Refusal: the page is not valid.
        """
        token = form.get("NextToken", "")
        if token and not re.fullmatch(r"page-[0-9]{1,18}", token):
            raise Refusal("InvalidNextToken", "The specified token is not valid")
        if "MaxResults" not in form:
            return cls(after=_number_in(token), size=LARGEST_PAGE if token else 10**9)
        size = number(form, "MaxResults", LARGEST_PAGE)
        if not SMALLEST_PAGE <= size <= LARGEST_PAGE:
            text = f"Value ( {size} ) for parameter maxResults is invalid. Expecting a value of 5 to 1000."
            raise Refusal("InvalidParameterValue", text)
        if named and listed(form, named):
            text = f"The parameter {named} cannot be used with the parameter maxResults"
            raise Refusal("InvalidParameterCombination", text)
        return cls(after=_number_in(token), size=size)

    def cut(self, items: Sequence[_Item], number_of: Callable[[_Item], int]) -> tuple[list[_Item], dict[str, str]]:
        """Return this page of items in the order of their numbers, and the answer's part about the next page."""
        rest = [item for item in items if number_of(item) > self.after]
        page = rest[: self.size]
        return page, {"nextToken": f"page-{number_of(page[-1])}"} if len(rest) > len(page) else {}


def _number_in(token: str) -> int:
    return int(token.removeprefix("page-")) if token else 0

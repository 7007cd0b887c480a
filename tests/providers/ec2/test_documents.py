"""The pages about EC2 name every setting and attribute, and the policy allows exactly the actions that are called."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from one_provider_mad.providers.ec2.attributes import KNOWN_ATTRIBUTES
from one_provider_mad.providers.ec2.refusals import CODES, kind_of
from one_provider_mad.providers.ec2.settings import Ec2Settings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "ec2.md").read_text()
EXAMPLE = (ROOT / "etc" / "ec2.toml").read_text()
SOURCES = [path.read_text() for path in (ROOT / "one_provider_mad" / "providers" / "ec2").glob("*.py")]


def test_the_example_configuration_has_every_setting() -> None:
    keys = set(re.findall(r"^(?:# )?(\w+) = ", EXAMPLE, re.MULTILINE))
    tables = set(re.findall(r"^\[ec2\.(\w+)\]", EXAMPLE, re.MULTILINE))
    assert set(Ec2Settings.__struct_fields__) <= keys | tables


def test_the_example_configuration_has_the_default_values() -> None:
    table = EXAMPLE.partition("[ec2]\n")[2].partition("\n[")[0]
    defaults = {field.name: field.default for field in msgspec.structs.fields(Ec2Settings)}
    for key, value in re.findall(r"^(\w+) = (.+)$", table, re.MULTILINE):
        if key != "region":
            assert json.loads(value) == defaults[key], key


def test_the_ec2_page_names_every_attribute_of_the_section() -> None:
    table = PAGE.partition("## Attributes of PUBLIC_CLOUD")[2].partition("## ")[0]
    assert {name for name in KNOWN_ATTRIBUTES if not re.search(rf"\b{name}\b", table)} - {"CLOUD"} == set()


def policy() -> list[dict[str, object]]:
    """The statements of the policy, and the optional ones."""
    blocks = re.findall(r"```json\n(.+?)```", PAGE, re.DOTALL)
    return [statement for block in blocks for statement in json.loads(block)["Statement"]]


def called() -> set[str]:
    """The actions that the sources call."""
    verbs = "Run|Describe|Start|Stop|Reboot|Terminate|Create|Delete|Attach|Detach|Modify|Associate|Get|Authorize|Revoke"
    quoted = {word for source in SOURCES for word in re.findall(rf'"((?:{verbs})[A-Z]\w+)"', source)}
    return quoted - {"DeleteOnTermination", "StartTime"}


def test_the_iam_policy_allows_exactly_the_actions_that_are_called() -> None:
    allowed = {action.partition(":")[2] for one in policy() for action in listed(one["Action"])}
    further = PAGE.partition("Add the rights for optional features:")[2].partition("\n\n")[0]
    extra = set(re.findall(r"`(?:ec2|sts|cloudwatch):(\w+)`", further))
    assert called() == allowed | extra


def listed(value: object) -> list[str]:
    return [value] if isinstance(value, str) else list(map(str, value if isinstance(value, list) else []))


@pytest.mark.parametrize("statement", policy(), ids=lambda one: str(one["Sid"]))
def test_the_iam_policy_is_limited_to_one_account_and_region(statement: dict[str, object]) -> None:
    for resource in listed(statement["Resource"]):
        assert re.fullmatch(r"\*|arn:aws:ec2:eu-west-1:(123456789012)?:[a-z*-]+/\*", resource)
    assert statement["Effect"] == "Allow"


def test_the_ec2_page_names_every_error_code_with_its_error_class() -> None:
    table = PAGE.partition("## Error codes")[2].partition("\nThe kind of any other code")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE)
    documented = {code: kind for kind, codes in rows for code in re.findall(r"`([\w.]+)`", codes)}
    assert documented == {code: kind.__name__ for code, kind in CODES.items()}


OTHER_CODES = {
    ("FancyLimitExceeded", 400): "QuotaExceeded",
    ("InsufficientFancyCapacity", 500): "NoCapacity",
    ("FancyThrottling", 400): "Throttled",
    ("IncorrectFancyState", 400): "WrongState",
    ("Fancy.InUse", 400): "WrongState",
    ("InvalidFancy", 500): "BadParameter",
    ("FancyNotFound", 400): "BadParameter",
    ("", 429): "Throttled",
    ("", 401): "AuthenticationRefused",
    ("Fancy", 403): "PermissionDenied",
    ("Fancy", 404): "BadParameter",
    ("Fancy", 408): "ProviderUnavailable",
    ("Fancy", 500): "ProviderUnavailable",
}


def test_the_ec2_page_names_the_error_classes_of_undocumented_codes() -> None:
    assert {(code, status): kind_of(code, status=status).__name__ for code, status in OTHER_CODES} == OTHER_CODES
    rest = PAGE.partition("The kind of any other code")[2]
    assert all(f"`{kind}`" in rest for kind in set(OTHER_CODES.values()))

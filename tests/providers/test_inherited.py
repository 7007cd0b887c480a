"""Values of inherited attributes for all clouds and for some."""

from __future__ import annotations

import pytest

from one_provider_mad.providers.inherited import inherited
from tests.providers.contexts import a_context


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("ami-1", "ami-1", id="for-all"),
        pytest.param("Debian 12", "Debian 12", id="for-all-with-a-blank"),
        pytest.param("aws-east=ami-1 aws-west=ami-2", "ami-1", id="by-name"),
        pytest.param("ec2=ami-3 aws-west=ami-2", "ami-3", id="by-host-type"),
        pytest.param("ec2=ami-3 aws-east=ami-1", "ami-1", id="the-name-before-the-type"),
        pytest.param("AWS-East=ami-1", "ami-1", id="in-another-case"),
        pytest.param("aws-west=ami-2", "", id="for-another-cloud"),
        pytest.param("aws-east=sg-1,sg-2", "sg-1,sg-2", id="a-list"),
        pytest.param("name=x y", "name=x y", id="not-all-are-pairs"),
        pytest.param("  ", "", id="blank"),
    ],
)
def test_a_value_counts_for_all_clouds_or_for_the_named_one(text: str, expected: str) -> None:
    assert inherited({"PROVIDER_IMAGE": text}, "PROVIDER_IMAGE", a_context()) == expected


def test_a_missing_attribute_is_empty() -> None:
    assert inherited({}, "PROVIDER_IMAGE", a_context()) == ""

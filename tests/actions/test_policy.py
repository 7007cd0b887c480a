"""Recognise templates that request this cloud, in the notation of each release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from one_provider_mad.actions.policy import check_section
from one_provider_mad.domain import Template
from one_provider_mad.errors import RequestRefused
from tests.actions.fakes import request_of


def a_template(name: str, *sections: Mapping[str, str]) -> Template:
    return Template(values={name: sections})


OURS = {"TYPE": "aws", "AMI": "ami-1"}
OTHERS = {"TYPE": "azure"}

REFUSED = (
    'the template has no PUBLIC_CLOUD section with TYPE="aws": add one, or place the VM on another'
    " host (policy.without_section)"
)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"user_template": a_template("PUBLIC_CLOUD", OURS)}, id="in-the-user-template"),
        pytest.param({"template": a_template("PUBLIC_CLOUD", OURS)}, id="in-the-template-as-4.x"),
        pytest.param({"user_template": a_template("PUBLIC_CLOUD", {"TYPE": " AWS "})}, id="in-another-case"),
        pytest.param({"user_template": a_template("PUBLIC_CLOUD", OTHERS, OURS)}, id="among-others"),
        pytest.param({"user_template": a_template("EC2", OURS)}, id="as-the-section-of-4.x"),
        pytest.param({"user_template": a_template("EC2", {"AMI": "ami-1"})}, id="without-type-as-4.x"),
    ],
)
def test_a_section_of_the_clouds_type_is_accepted(fields: dict[str, Any]) -> None:
    check_section("aws", request_of(**fields), cloud="ec2")


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="no-section"),
        pytest.param({"user_template": a_template("PUBLIC_CLOUD", OTHERS)}, id="another-type"),
        pytest.param({"user_template": a_template("PUBLIC_CLOUD", {"AMI": "ami-1"})}, id="no-type"),
        pytest.param({"user_template": a_template("EC2", OTHERS)}, id="another-type-as-4.x"),
        pytest.param({"user_template": Template(values={"PUBLIC_CLOUD": ("aws",)})}, id="a-plain-value"),
    ],
)
def test_a_template_without_a_section_of_the_clouds_type_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused) as caught:
        check_section("aws", request_of(**fields), cloud="ec2")
    assert str(caught.value) == REFUSED


def test_the_ec2_section_of_4_x_is_refused_for_other_clouds() -> None:
    with pytest.raises(RequestRefused):
        check_section("partner", request_of(user_template=a_template("EC2", {"AMI": "ami-1"})), cloud="opennebula")


def test_any_template_is_accepted_if_no_section_is_required() -> None:
    check_section("", request_of(), cloud="ec2")

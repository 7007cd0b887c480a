"""Recognise templates that request this cloud, in the notation of each release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pytest

from one_provider_mad.actions.policy import check_attributes, check_change, check_section
from one_provider_mad.domain import Template
from one_provider_mad.errors import RequestRefused
from one_provider_mad.mappings import ImageMapping, Mappings
from one_provider_mad.protocol.messages import Action
from one_provider_mad.settings import Policy
from tests.actions.fakes import request_of


def a_template(name: str, *sections: Mapping[str, str]) -> Template:
    return Template(values={name: sections})


NO_MAPPINGS = Mappings()

EC2_4_X = a_template("EC2", {"AMI": "ami-1"})
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
    check_section("aws", request_of(**fields), cloud="ec2", mappings=NO_MAPPINGS)


def test_the_refusal_of_a_vm_with_an_image_says_how_it_needs_no_section() -> None:
    disk = {"DISK_ID": "0", "IMAGE": "debian-12", "IMAGE_ID": "3", "DATASTORE": "default"}
    with pytest.raises(RequestRefused) as caught:
        check_section("aws", request_of(template=a_template("DISK", disk)), cloud="ec2", mappings=NO_MAPPINGS)
    instead = ". VMs with image debian-12 need none where [images] has it with its datastore"
    assert str(caught.value) == REFUSED + instead


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
        check_section("aws", request_of(**fields), cloud="ec2", mappings=NO_MAPPINGS)
    assert str(caught.value) == REFUSED


def test_the_ec2_section_of_4_x_is_refused_for_other_clouds() -> None:
    with pytest.raises(RequestRefused):
        check_section(
            "partner",
            request_of(user_template=a_template("EC2", {"AMI": "ami-1"})),
            cloud="opennebula",
            mappings=NO_MAPPINGS,
        )


def test_any_template_is_accepted_if_no_section_is_required() -> None:
    check_section("", request_of(), cloud="ec2", mappings=NO_MAPPINGS)


DEBIAN = {"DISK_ID": "0", "IMAGE": "debian-12", "IMAGE_ID": "7", "DATASTORE": "burst", "DATASTORE_ID": "104"}


@pytest.mark.parametrize("datastore", ["burst", "104"])
def test_a_first_image_mapped_in_a_datastore_of_its_own_asks_for_the_cloud(datastore: str) -> None:
    mappings = Mappings(images={"debian-12": ImageMapping(image="ami-1", datastore=datastore)})
    request = request_of(template=a_template("DISK", DEBIAN))
    check_section("aws", request, cloud="ec2", mappings=mappings)


@pytest.mark.parametrize(
    ("disks", "entry"),
    [
        pytest.param((DEBIAN,), ImageMapping(image="ami-1"), id="mapped-in-any-datastore"),
        pytest.param((DEBIAN,), ImageMapping(image="ami-1", datastore="default"), id="in-another-datastore"),
        pytest.param(
            ({"DISK_ID": "0", "TYPE": "fs"}, DEBIAN), ImageMapping(image="ami-1", datastore="burst"), id="second-disk"
        ),
        pytest.param(
            ({**DEBIAN, "TYPE": "fs"},), ImageMapping(image="ami-1", datastore="burst"), id="claimed-by-a-volatile-disk"
        ),
        pytest.param(
            ({**DEBIAN, "IMAGE": "other", "PROVIDER_IMAGE": "ami-1"},),
            ImageMapping(image="ami-1", datastore="burst"),
            id="by-an-inherited-attribute-only",
        ),
    ],
)
def test_no_other_disk_asks_for_the_cloud(disks: tuple[Mapping[str, str], ...], entry: ImageMapping) -> None:
    request = request_of(template=a_template("DISK", *disks))
    with pytest.raises(RequestRefused):
        check_section("aws", request, cloud="ec2", mappings=Mappings(images={"debian-12": entry}))


@pytest.mark.parametrize(
    ("forbidden", "template", "sentence"),
    [
        pytest.param(
            "DISK/SIZE",
            a_template("DISK", {"SIZE": "4096", "ORIGINAL_SIZE": "2048"}),
            "DISK may not set SIZE here: remove it from the template",
            id="a-larger-disk",
        ),
        pytest.param(
            "disk/cache",
            a_template("DISK", {"SIZE": "1"}, {"CACHE": "none"}),
            "DISK may not set CACHE here: remove it from the template",
            id="a-second-disk-in-lower-case",
        ),
        pytest.param(
            "NIC/SUBNETID",
            a_template("NIC", {"SUBNETID": "subnet-1"}),
            "NIC may not set SUBNETID here: remove it from the template",
            id="nic",
        ),
        pytest.param(
            "DISK/SIZE",
            a_template("DISK", {"TYPE": "fs", "SIZE": "4096", "ORIGINAL_SIZE": "4096"}),
            "DISK may not set SIZE here: remove it from the template",
            id="a-volatile-disk-with-an-original-size-by-its-user",
        ),
        pytest.param(
            "CONTEXT/USER_DATA",
            a_template("CONTEXT", {"user_data": "x"}),
            "CONTEXT may not set USER_DATA here: remove it from the template",
            id="context",
        ),
    ],
)
def test_an_attribute_with_its_vectors_name_is_forbidden_there(
    forbidden: str, template: Template, sentence: str
) -> None:
    with pytest.raises(RequestRefused) as caught:
        check_attributes(Policy(forbidden_attributes=(forbidden,)), request_of(template=template))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("forbidden", "template"),
    [
        pytest.param("SIZE", a_template("DISK", {"SIZE": "1"}), id="a-bare-name-means-the-section"),
        pytest.param("DISK/SIZE", a_template("PUBLIC_CLOUD", {"SIZE": "1"}), id="a-disks-attribute-in-the-section"),
        pytest.param(
            "DISK/SIZE", a_template("DISK", {"SIZE": "2048", "ORIGINAL_SIZE": "2048"}), id="the-images-own-size"
        ),
        pytest.param("NIC/IP", a_template("NIC", {"NETWORK": "private"}), id="not-set"),
    ],
)
def test_an_attribute_elsewhere_is_not_forbidden(forbidden: str, template: Template) -> None:
    check_attributes(Policy(forbidden_attributes=(forbidden,)), request_of(template=template))


@pytest.mark.parametrize(
    ("forbidden", "kind", "name", "place"),
    [
        ("AMI", "DISK", "PROVIDER_IMAGE", "the template or the image"),
        ("TEMPLATE_ID", "DISK", "PROVIDER_IMAGE", "the template or the image"),
        ("volumesize", "DISK", "PROVIDER_SMALLEST_DISK", "the template or the image"),
        ("GUEST", "DISK", "PROVIDER_GUEST", "the template or the image"),
        ("SUBNETID", "NIC", "PROVIDER_SUBNET", "the template or the network"),
        ("NETWORKS", "NIC", "PROVIDER_SUBNET", "the template or the network"),
        ("SECURITYGROUPS", "NIC", "PROVIDER_SECURITY_GROUPS", "the template or the network"),
        ("PRIVATEIP", "NIC", "PROVIDER_ADDRESSES", "the template or the network"),
    ],
)
def test_an_attribute_forbidden_in_the_section_is_not_set_by_disk_or_nic_instead(
    forbidden: str, kind: str, name: str, place: str
) -> None:
    request = request_of(template=a_template(kind, {name: "x"}))
    with pytest.raises(RequestRefused) as caught:
        check_attributes(Policy(forbidden_attributes=(forbidden,)), request)
    assert str(caught.value) == f"{kind} may not set {name} here: remove it from {place}"
    check_attributes(Policy(forbidden_attributes=(forbidden,), inherited_attributes="allow"), request)


@pytest.mark.parametrize("inherited", ["as-section", "allow"])
def test_what_no_image_or_network_hands_on_is_forbidden_with_the_sections(
    inherited: Literal["as-section", "allow"],
) -> None:
    policy = Policy(forbidden_attributes=("SUBNETID", "GUEST"), inherited_attributes=inherited)
    with pytest.raises(RequestRefused, match=r"NIC may not set SUBNETID here: remove it from the template$"):
        check_attributes(policy, request_of(template=a_template("NIC", {"SUBNETID": "subnet-1"})))
    with pytest.raises(RequestRefused, match="USER_TEMPLATE may not set PROVIDER_GUEST here"):
        check_attributes(policy, request_of(user_template=Template(values={"PROVIDER_GUEST": ("one-context",)})))


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        (Action.ATTACHDISK, {"operand": {"CACHE": "none"}}),
        (Action.ATTACHNIC, {"operand": {"CACHE": "none"}}),
        (Action.UPDATECONF, {"template": a_template("CONTEXT", {"CACHE": "none"})}),
    ],
    ids=["disk", "nic", "context"],
)
def test_a_change_of_a_running_vm_is_checked_like_a_template(action: Action, fields: dict[str, Any]) -> None:
    policy = Policy(forbidden_attributes=("DISK/CACHE", "NIC/CACHE", "CONTEXT/CACHE"))
    with pytest.raises(RequestRefused, match="may not set CACHE here"):
        check_change(policy, action, request_of(**fields))
    check_change(policy, Action.DETACHDISK, request_of(**fields))

"""Which image of the cloud stands for the image of a DISK."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from one_provider_mad.domain import Template
from one_provider_mad.errors import BadParameter
from one_provider_mad.mappings import ImageMapping
from one_provider_mad.providers.mapped_images import MappedImage, further_disks, image_name, mapped_image, root_disk
from tests.actions.fakes import request_of
from tests.providers.contexts import a_context

DEBIAN = {"DISK_ID": "0", "IMAGE": "debian-12", "IMAGE_ID": "7", "DATASTORE": "burst", "DATASTORE_ID": "104"}
VOLATILE = {"DISK_ID": "1", "TYPE": "fs", "SIZE": "1024"}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        pytest.param({"debian-12": ImageMapping(image="ami-1")}, "ami-1", id="by-name"),
        pytest.param({"7": ImageMapping(image="ami-1")}, "ami-1", id="by-number"),
        pytest.param(
            {"debian-12": ImageMapping(image="ami-2"), "7": ImageMapping(image="ami-1")}, "ami-1", id="number-first"
        ),
        pytest.param({"debian-12": ImageMapping(image="ami-1", datastore="burst")}, "ami-1", id="in-its-datastore"),
        pytest.param({"debian-12": ImageMapping(image="ami-1", datastore="104")}, "ami-1", id="by-datastore-number"),
        pytest.param({"debian-12": ImageMapping(image="ami-1", datastore="default")}, "", id="in-another-datastore"),
        pytest.param(
            {"7": ImageMapping(image="ami-2", datastore="1"), "debian-12": ImageMapping(image="ami-1")},
            "ami-1",
            id="the-name-where-the-number-lies-elsewhere",
        ),
        pytest.param({"alma-9": ImageMapping(image="ami-1")}, "", id="another-image"),
    ],
)
def test_an_image_is_found_by_name_or_number_in_its_datastore(table: Mapping[str, ImageMapping], expected: str) -> None:
    assert mapped_image(DEBIAN, a_context(table)).image == expected


def test_an_image_named_like_a_number_is_not_the_image_with_that_number() -> None:
    disk = {"IMAGE": "7", "IMAGE_ID": "9"}
    assert mapped_image(disk, a_context({"7": ImageMapping(image="ami-1")})) == MappedImage()


def test_the_table_comes_before_the_images_own_attributes_one_by_one() -> None:
    disk = {
        **DEBIAN,
        "PROVIDER_IMAGE": "ami-2",
        "PROVIDER_GUEST": "one-context",
        "PROVIDER_USER": "debian",
        "PROVIDER_SMALLEST_DISK": "12",
    }
    assert mapped_image(disk, a_context({"7": ImageMapping(image="ami-1", user="admin")})) == MappedImage(
        image="ami-1", guest="one-context", user="admin", smallest_disk=12
    )
    assert mapped_image(disk, a_context()) == MappedImage(
        image="ami-2", guest="one-context", user="debian", smallest_disk=12
    )


def test_a_volatile_disk_has_no_image_even_if_its_template_names_one() -> None:
    disk = {**VOLATILE, "IMAGE_ID": "7", "IMAGE": "debian-12", "PROVIDER_IMAGE": "ami-2"}
    context = a_context({"7": ImageMapping(image="ami-1", datastore="burst")})
    assert mapped_image(disk, context) == MappedImage()
    assert not context.mappings.asks_for_cloud({**disk, "DATASTORE": "burst"})


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        (
            {"PROVIDER_GUEST": "sysprep"},
            (
                "PROVIDER_GUEST=sysprep of image debian-12 (7) is none of auto, cloud-init, one-context,"
                " cloudbase-init, none: correct the image"
            ),
        ),
        (
            {"PROVIDER_SMALLEST_DISK": "10G"},
            "PROVIDER_SMALLEST_DISK=10G of image debian-12 (7) is not a number of GiB: correct the image",
        ),
    ],
    ids=["guest", "size"],
)
def test_an_unreadable_attribute_of_an_image_is_named(attributes: Mapping[str, str], sentence: str) -> None:
    with pytest.raises(BadParameter) as caught:
        mapped_image({**DEBIAN, **attributes}, a_context())
    assert str(caught.value) == sentence


def test_the_first_disk_boots_if_it_has_an_image() -> None:
    request = request_of(template=Template(values={"DISK": (DEBIAN, VOLATILE)}))
    assert root_disk(request) == DEBIAN
    assert list(further_disks(request)) == [VOLATILE]


@pytest.mark.parametrize("first", [VOLATILE, {**DEBIAN, "TYPE": "CDROM"}], ids=["volatile", "cdrom"])
def test_without_an_image_to_boot_from_in_front_every_disk_is_a_further_one(first: Mapping[str, str]) -> None:
    request = request_of(template=Template(values={"DISK": (first, DEBIAN)}))
    assert root_disk(request) == {}
    assert list(further_disks(request)) == [first, DEBIAN]


@pytest.mark.parametrize(
    ("disk", "expected"),
    [(DEBIAN, "debian-12 (7)"), ({"IMAGE": "debian-12"}, "debian-12"), ({"IMAGE_ID": "7"}, "7")],
    ids=["both", "name", "number"],
)
def test_messages_name_an_image_by_name_and_number(disk: Mapping[str, str], expected: str) -> None:
    assert image_name(disk) == expected

"""The tag PROVIDER_GUEST of an image says which program in it reads the context."""

from __future__ import annotations

import base64

import pytest

from one_provider_mad.domain import Template, VmId, VmRequest
from one_provider_mad.mappings import ContextSettings, Guest, ImageMapping, Mappings
from tests.providers.ec2.conftest import make
from tests.providers.ec2.scripted_server import Form, Scripted

SECTION = {"TYPE": "ec2", "AMI": "ami-1", "INSTANCETYPE": "t3.small"}


def tagged(form: Form) -> str:
    tags = "<item><key>PROVIDER_GUEST</key><value>one-context</value></item>" if form["ImageId.1"] == "ami-1" else ""
    return f"<imagesSet><item><imageId>{form['ImageId.1']}</imageId><tagSet>{tags}</tagSet></item></imagesSet>"


def refused(_form: Form) -> str:
    raise PermissionError


def a_vm(context: dict[str, str] | None = None, **section: str) -> VmRequest:
    values = {"CONTEXT": ({"SET_HOSTNAME": "web"} if context is None else context,)} if context != {} else {}
    return VmRequest(
        vm_id=VmId(7),
        template=Template(values={**values, "DISK": ({"DISK_ID": "0", "IMAGE": "debian"},)}),
        user_template=Template(values={"PUBLIC_CLOUD": ({**SECTION, **section},)}),
    )


async def user_data(scripted: Scripted, request: VmRequest, *, guest: Guest | None, images: Guest = "auto") -> str:
    """The user data of a plan that was made after the image was read; "" for none."""
    mappings = Mappings(
        images={"debian": ImageMapping(image="ami-1", guest=images)}, context=ContextSettings(guest=guest)
    )
    async with scripted.served() as cloud:
        provider = make(cloud.url, mappings=mappings)
        await provider.open()
        try:
            await provider.read_image(request)
            await provider.read_image(request)
        finally:
            await provider.close()
        (alternative,) = provider.plan(request).alternatives
        return base64.b64decode(alternative["parameters"].get("UserData", "")).decode()


async def test_the_tag_says_which_program_reads_the_context_and_is_read_once_a_minute() -> None:
    scripted = Scripted(answers={"DescribeImages": tagged})
    assert 'SET_HOSTNAME="web"\n' in await user_data(scripted, a_vm(), guest="auto")
    assert len(scripted.asked("DescribeImages")) == 1


async def test_an_image_without_the_tag_has_the_guest_of_the_configuration() -> None:
    scripted = Scripted(answers={"DescribeImages": tagged})
    assert "#cloud-config" in await user_data(scripted, a_vm(AMI="ami-2"), guest="auto")


@pytest.mark.parametrize(
    ("request_", "guest", "images"),
    [
        pytest.param(a_vm(GUEST="cloud-init"), "auto", "auto", id="template"),
        pytest.param(a_vm(CLOUD_INIT="YES"), "auto", "auto", id="upstream's attribute"),
        pytest.param(a_vm(), "auto", "cloud-init", id="images"),
        pytest.param(a_vm(), None, "auto", id="no [context]"),
        pytest.param(a_vm({}), "auto", "auto", id="no CONTEXT"),
    ],
)
async def test_the_image_is_not_read_where_the_tag_would_not_count(
    request_: VmRequest, guest: Guest | None, images: Guest
) -> None:
    scripted = Scripted(answers={"DescribeImages": tagged})
    await user_data(scripted, request_, guest=guest, images=images)
    assert scripted.asked("DescribeImages") == []


async def test_an_image_that_may_not_be_read_has_the_guest_of_the_configuration() -> None:
    scripted = Scripted(answers={"DescribeImages": refused})
    assert "#cloud-config" in await user_data(scripted, a_vm(), guest="auto")


async def test_the_tag_counts_in_upper_and_lower_case_as_one_provider_images_shows_it() -> None:
    def capital(form: Form) -> str:
        return tagged(form).replace("one-context", "One-Context")

    assert 'SET_HOSTNAME="web"\n' in await user_data(
        Scripted(answers={"DescribeImages": capital}), a_vm(), guest="auto"
    )

"""Planning a VM at a partner, and writing the plan as an OpenNebula template."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.domain import Identity, VmId, VmRequest
from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.opennebula.launch import Launch, merged_context, plan_launch, write_extra, write_whole
from one_provider_mad.providers.opennebula.settings import OpenNebulaSettings
from one_provider_mad.providers.public_cloud import read_section
from one_provider_mad.settings import convert
from one_provider_mad.template_text.exact_writer import UnwritableError, attribute, is_writable, vector
from one_provider_mad.template_text.strict_reader import read_template
from tests.providers.contexts import a_context
from tests.providers.opennebula.partner_provider import a_vm

WHO = Identity(owner="one-prod", vm_id=VmId(23), stime=5, seq=1, host_id=3)


def planned(request: VmRequest, **settings: Any) -> Launch:
    table = msgspec.convert(settings, OpenNebulaSettings)
    return plan_launch(request, read_section(request, hypervisor="opennebula"), table, a_context())[0]


def extra(request: VmRequest, **settings: Any) -> dict[str, Any]:
    launch = planned(request, **settings)
    values = read_template(write_extra(launch, WHO, launch.context)).values
    return {name: several[0] if len(several) == 1 else list(several) for name, several in values.items()}


def test_the_remote_template_is_named_by_id_by_name_or_by_the_configuration() -> None:
    assert planned(a_vm(TEMPLATE_ID="12")).template == "12"
    assert planned(a_vm(TEMPLATE_ID="", TEMPLATE_NAME="ubuntu server")).template == "ubuntu server"
    assert planned(a_vm(TEMPLATE_ID=""), template="default").template == "default"


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"TEMPLATE_ID": ""}, "names no remote template: set TEMPLATE_ID or TEMPLATE_NAME"),
        ({"TEMPLATE_ID": "ubuntu"}, "TEMPLATE_ID=ubuntu is no number of a remote template: use TEMPLATE_NAME"),
        ({"CPU": "many"}, "CPU=many of the template is not a number"),
        ({"MEMORY": "-1"}, "MEMORY=-1 of the template is not a number"),
        ({"TEMPLATE_TEXT": "CPU=1"}, "TEMPLATE_TEXT in PUBLIC_CLOUD is allowed only with allow_template_text"),
        ({"TAGS": "dir=C:\\"}, "TAG_DIR ends in a backslash"),
        ({"NETWORKS": "a]]>b"}, "NETWORK holds ]]>"),
        ({"NAME": "x", "TAGS": "ONE_PROVIDER_OWNER=me"}, "ONE_PROVIDER_OWNER"),
    ],
)
def test_an_impossible_section_is_refused_when_the_launch_is_planned(section: dict[str, str], sentence: str) -> None:
    with pytest.raises(BadParameter) as caught:
        planned(a_vm(asking=section))
    assert sentence in str(caught.value)


def test_the_extra_template_has_size_tags_and_upstreams_attributes() -> None:
    text = extra(a_vm(23))
    assert text == {
        "CPU": "1",
        "MEMORY": "256",
        "REMOTE_OPENNEBULA": "YES",
        "REMOTE_OPENNEBULA_VM_ID": "23",
        **WHO.tags(),
    }
    assert planned(a_vm(23)).name == "remote-opennebula-23"
    assert planned(a_vm(23, NAME="web")).name == "web"


def test_size_is_taken_from_the_section_then_the_vm_or_from_the_remote_template() -> None:
    assert extra(a_vm(CPU="0.5", VCPU="2", MEMORY="512"))["MEMORY"] == "512"
    assert extra(a_vm(CPU="0.5", VCPU="2"))["VCPU"] == "2"
    assert "CPU" not in extra(a_vm(), capacity_from="template")
    assert extra(a_vm(CPU="4"), capacity_from="template")["CPU"] == "4"


def test_networks_are_named_by_id_by_name_or_by_owner_and_name() -> None:
    assert extra(a_vm(NETWORKS="7, public ,oneadmin/private"))["NIC"] == [
        {"NETWORK_ID": "7"},
        {"NETWORK": "public"},
        {"NETWORK": "private", "NETWORK_UNAME": "oneadmin"},
    ]


def test_tags_are_written_with_a_prefix_so_that_they_cannot_be_other_attributes() -> None:
    text = extra(a_vm(TAGS="role=web,DISK=x,café-2=ja"))
    assert {name: value for name, value in text.items() if name.startswith("TAG_")} == {
        "TAG_ROLE": "web",
        "TAG_DISK": "x",
        "TAG_CAF__2": "ja",
    }
    assert "DISK" not in text


def test_hold_group_and_further_attributes_are_taken_from_section_or_settings() -> None:
    assert not planned(a_vm()).hold
    assert planned(a_vm(HOLD="yes")).hold
    assert planned(a_vm(), hold=True).hold
    assert planned(a_vm(GROUP="users"), group="partners").group == "users"
    requirements = 'CLUSTER_ID="100" & !(HYPERVISOR="lxc")'
    assert extra(a_vm(), attributes={"SCHED_REQUIREMENTS": requirements})["SCHED_REQUIREMENTS"] == requirements


def test_context_is_passed_on_without_attributes_of_the_local_opennebula() -> None:
    given_context = {"SSH_PUBLIC_KEY": "ssh-rsa AAAA", "HOSTNAME": "web", "EMPTY": ""}
    local = {
        "ETH0_IP": "10.0.0.5",
        "TARGET": "hda",
        "DISK_ID": "1",
        "VMID": "4",
        "ONEGATE_ENDPOINT": "http://x",
        "TOKEN": "YES",
        "FILES": "/etc/shadow",
        "FILES_DS": "/var/lib/one/datastores/2/x:'init.sh'",
    }
    assert extra(a_vm(context=given_context | local))["CONTEXT"] == {
        "SSH_PUBLIC_KEY": "ssh-rsa AAAA",
        "HOSTNAME": "web",
    }
    assert "CONTEXT" not in extra(a_vm(context=given_context), context="none")


def test_a_token_for_the_local_onegate_is_passed_on_with_what_belongs_to_it() -> None:
    onegate = {"ONEGATE_TOKEN": "dG9rZW4=", "ONEGATE_ENDPOINT": "http://192.0.2.1:5030", "VMID": "4"}
    given = {"TOKEN": "YES", "ETH0_IP": "10.0.0.5", "REPORT_READY": "YES", **onegate}
    ours = extra(a_vm(context=given))["CONTEXT"]
    assert ours == {"REPORT_READY": "YES", **onegate}
    remote = {"NETWORK": "YES", "TOKEN": "YES", "VMID": "9"}
    assert merged_context(remote, ours) == {"NETWORK": "YES", **ours}, "TOKEN would replace VMID and endpoint"
    assert merged_context(remote, {"USERNAME": "ada"}) == {**remote, "USERNAME": "ada"}


@pytest.mark.parametrize("script", ["echo $HOME", "a]]>b", "path\\"])
@pytest.mark.parametrize("name", ["START_SCRIPT", "PASSWORD", "CRYPTED_PASSWORD"])
def test_scripts_and_passwords_that_the_partner_would_expand_are_sent_in_base64(name: str, script: str) -> None:
    context = extra(a_vm(context={name: script}))["CONTEXT"]
    assert list(context) == [f"{name}_BASE64"]
    assert base64.b64decode(context[f"{name}_BASE64"]).decode() == script


@pytest.mark.parametrize(
    "value", ["costs $5", "$USER[TOKEN_PASSWORD]", "\\$x", "$$USER[SSH_PRIVATE_KEY]", "a]]>b", "C:\\"]
)
def test_a_context_value_that_the_partner_would_expand_is_left_out_with_a_warning(value: str) -> None:
    request = a_vm(context={"GREETING": value, "PLAIN": "x"})
    launch, warnings = plan_launch(
        request, read_section(request, hypervisor="opennebula"), OpenNebulaSettings(), a_context()
    )
    assert launch.context == {"PLAIN": "x"}
    assert [warning.split(" is left out")[0] for warning in warnings] == ["CONTEXT attribute GREETING"]


def test_what_of_the_context_no_partner_gets_is_told() -> None:
    def sentences(context: str, **attributes: str) -> list[str]:
        request = a_vm(context=attributes)
        settings = convert({"context": context}, OpenNebulaSettings, path=None)
        return list(plan_launch(request, read_section(request, hypervisor="opennebula"), settings, a_context())[1])

    (sentence,) = sentences("merge", FILES_DS="/x:'a'", INIT_SCRIPTS="a", PLAIN="x")
    assert "FILES_DS and INIT_SCRIPTS of CONTEXT do nothing at a partner: files of the context disk stay" in sentence
    (sentence,) = sentences("none", PLAIN="x")
    assert sentence.startswith("CONTEXT is not sent")
    assert not sentences("none", TARGET="hda")


def test_our_start_script_in_base64_replaces_the_templates_plain_one() -> None:
    remote = {"NETWORK": "YES", "START_SCRIPT": "theirs", "USERNAME": "root"}
    assert merged_context(remote, {"START_SCRIPT_BASE64": "b3Vycw=="}) == {
        "NETWORK": "YES",
        "USERNAME": "root",
        "START_SCRIPT_BASE64": "b3Vycw==",
    }
    assert merged_context(remote, {"USERNAME": "us"}) == {**remote, "USERNAME": "us"}


def test_template_text_is_appended_to_our_attributes_and_may_not_name_our_tags() -> None:
    request = a_vm(TEMPLATE_ID="", TEMPLATE_TEXT='CPU=2\nOS=[ ARCH="x86_64" ]', NAME="mine")
    launch = planned(request, allow_template_text=True)
    whole = read_template(write_whole(launch, WHO)).values
    assert whole["NAME"] == ("mine",)
    assert whole["CPU"] == ("1", "2")
    assert whole["ONE_PROVIDER_VM_ID"] == ("23",)
    with pytest.raises(BadParameter, match="TEMPLATE_TEXT names ONE_PROVIDER_"):
        planned(a_vm(TEMPLATE_TEXT='CPU=1\none_provider_owner="me"'), allow_template_text=True)


@given(st.text(max_size=40))
def test_any_writable_value_is_read_back_unchanged(value: str) -> None:
    if not is_writable(value):
        with pytest.raises(UnwritableError):
            attribute("A", value)
        return
    text = f"{attribute('A', value)}\n{vector('B', {'C': value, 'D': 'after'})}\n{attribute('E', 'last')}"
    if "\r" in value:
        return  # the reader makes one line end of \r\n
    values = read_template(text).values
    assert values["A"] == (value,)
    assert values["B"] == ({"C": value, "D": "after"} if value else {"D": "after"},)
    assert values["E"] == ("last",)


@pytest.mark.parametrize("name", ["", "A B", "1A", "A=1\nB", "Ä"])
def test_an_invalid_attribute_name_is_refused(name: str) -> None:
    with pytest.raises(UnwritableError, match="is no name of an attribute"):
        attribute(name, "x")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"endpoints": []}, "name at least one"),
        ({"endpoints": ["one.example.org"]}, "is no URL"),
        ({"attributes": {"A B": "x"}}, "is no name of an attribute"),
        ({"visibility_grace": 1}, ">= 5"),
        ({"visible": "everything"}, "Invalid enum value"),
        ({"endpoint": "http://one:2633/RPC2"}, "unknown field `endpoint`"),
    ],
)
def test_invalid_settings_of_a_partner_are_refused(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(table, OpenNebulaSettings)
    assert sentence in str(caught.value)


def test_the_example_configuration_has_every_setting() -> None:
    example = (Path(__file__).parents[3] / "etc" / "opennebula.toml").read_text()
    keys = set(re.findall(r"^(?:# )?(\w+) = ", example, re.MULTILINE))
    tables = set(re.findall(r"^\[opennebula\.(\w+)\]", example, re.MULTILINE))
    assert set(OpenNebulaSettings.__struct_fields__) <= keys | tables

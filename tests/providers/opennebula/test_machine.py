"""Reading remote VMs: usage, addresses, reasons, and documents of any release."""

from __future__ import annotations

import pytest
from lxml import etree

from one_provider_mad.domain import DeployId, Identity, InstanceState, Usage, VmId
from one_provider_mad.providers.interface import Capacity, Size
from one_provider_mad.providers.opennebula import capacity
from one_provider_mad.providers.opennebula.machine import number_of, read_listed_vm, read_machine

TAGS = Identity(owner="one-prod", vm_id=VmId(23), stime=5, seq=1, host_id=3).tags()


def vm(
    state: int = 3,
    lcm_state: int = 3,
    *,
    monitoring: str = "",
    template: str = "",
    user: str = "",
    history: str = "",
) -> etree._Element:
    tags = "".join(f"<{name}><![CDATA[{value}]]></{name}>" for name, value in TAGS.items())
    return etree.fromstring(
        f"<VM><ID>2</ID><NAME>one</NAME><STATE>{state}</STATE><LCM_STATE>{lcm_state}</LCM_STATE><STIME>1795349829</STIME>"
        f"<MONITORING>{monitoring}</MONITORING><TEMPLATE>{template}</TEMPLATE>"
        f"<USER_TEMPLATE>{tags}{user}</USER_TEMPLATE>{history}</VM>"
    )


def test_a_remote_vm_is_read_with_its_identity_and_state() -> None:
    instance = read_listed_vm(vm()).instance
    assert instance.deploy_id == "opennebula-hybrid-2"
    assert instance.identity == Identity.from_tags(TAGS)
    assert (instance.state, instance.raw_state, instance.name) == (InstanceState.RUNNING, "RUNNING", "one")
    assert instance.created_at == 1795349829
    assert (instance.usage, instance.reason) == (None, "")


HISTORY = (
    "<ETIME>60</ETIME><HISTORY_RECORDS><HISTORY><SEQ>0</SEQ><RSTIME>10</RSTIME><RETIME>20</RETIME></HISTORY>"
    "<HISTORY><SEQ>1</SEQ><STIME>29</STIME><RSTIME>30</RSTIME><RETIME>40</RETIME></HISTORY></HISTORY_RECORDS>"
)
SHORT = "<HISTORY_RECORDS><HISTORY><SEQ>1</SEQ></HISTORY></HISTORY_RECORDS>"


@pytest.mark.parametrize(
    ("state", "lcm_state", "since"),
    [
        pytest.param(3, 3, 30, id="running"),
        pytest.param(3, 25, 30, id="running while a NIC is attached"),
        pytest.param(8, 0, 40, id="powered off"),
        pytest.param(9, 0, 40, id="undeployed"),
        pytest.param(5, 0, 40, id="suspended"),
        pytest.param(6, 0, 60, id="done"),
        pytest.param(1, 0, 0, id="pending"),
        pytest.param(3, 18, 0, id="powering off"),
    ],
)
def test_the_time_of_a_state_is_read_from_the_latest_history_record(state: int, lcm_state: int, since: float) -> None:
    assert read_listed_vm(vm(state, lcm_state, history=HISTORY)).instance.state_since == since
    if state != 6:
        for history in ("", "<HISTORY_RECORDS/>", SHORT):
            assert read_listed_vm(vm(state, lcm_state, history=history)).instance.state_since == 0


def test_usage_and_other_monitored_attributes_of_a_remote_vm_are_read() -> None:
    figures = "<CPU>12.5</CPU><MEMORY>262144</MEMORY><NETRX>10</NETRX><NETTX>20</NETTX><STATE>a</STATE>"
    others = (
        "<GUEST_IP>192.0.2.7</GUEST_IP><DISKRDBYTES>77</DISKRDBYTES><DISK_SIZE><ID>0</ID><SIZE>3</SIZE></DISK_SIZE>"
    )
    instance = read_listed_vm(vm(monitoring=figures + others)).instance
    assert instance.usage == Usage(cpu=12.5, memory=262144, net_rx=10, net_tx=20)
    assert instance.attributes == {
        "GUEST_IP": "192.0.2.7",
        "DISKRDBYTES": "77",
        "REMOTE_OPENNEBULA": "YES",
        "REMOTE_OPENNEBULA_VM_ID": "23",
        "REMOTE_OPENNEBULA_DEPLOY_ID": "opennebula-hybrid-2",
    }


def test_addresses_are_read_from_the_nics_if_the_guest_reports_none() -> None:
    template = (
        "<CPU>2</CPU><MEMORY>512</MEMORY><TEMPLATE_ID>7</TEMPLATE_ID>"
        "<NIC><IP>10.0.0.5</IP><IP6_GLOBAL>2001:db8::5</IP6_GLOBAL></NIC><NIC_ALIAS><IP>10.0.0.6</IP></NIC_ALIAS>"
    )
    instance = read_listed_vm(vm(template=template)).instance
    assert instance.attributes["GUEST_IP"] == "10.0.0.5"
    assert instance.attributes["GUEST_IP_ADDRESSES"] == "10.0.0.5,2001:db8::5,10.0.0.6"
    hints = capacity.import_hints(instance)
    assert (hints.size.cpu, hints.size.memory, hints.public_cloud) == (2, 512, {"TEMPLATE_ID": "7"})


def test_only_a_failed_vm_has_the_partners_error_as_its_reason() -> None:
    error = "<ERROR><![CDATA[Sun Nov 22: Error executing image\ntransfer script]]></ERROR>"
    assert read_listed_vm(vm(3, 39, user=error)).instance.reason == "Sun Nov 22: Error executing image transfer script"
    assert read_listed_vm(vm(3, 36)).instance.reason == "the partner's OpenNebula gives no reason"
    assert read_listed_vm(vm(3, 3, user=error)).instance.reason == ""
    assert read_listed_vm(vm(3, 16, user=error)).instance.reason == ""


def test_a_pending_vm_has_the_schedulers_message_as_its_reason() -> None:
    said = "<SCHED_MESSAGE><![CDATA[Sun Nov 22: No hosts enabled to run VMs]]></SCHED_MESSAGE>"
    waiting = read_listed_vm(vm(1, 0, user=said)).instance
    assert (waiting.state, waiting.reason) == (InstanceState.PENDING, "Sun Nov 22: No hosts enabled to run VMs")
    assert read_listed_vm(vm(1, 0)).instance.reason == ""
    assert read_listed_vm(vm(3, 2, user=said)).instance.reason == ""


def test_owner_and_vm_id_are_read_even_if_another_tag_is_damaged() -> None:
    element = vm()
    damaged = element.find("USER_TEMPLATE/ONE_PROVIDER_SEQ")
    assert damaged is not None
    damaged.text = "first"
    seen = read_listed_vm(element)
    assert (seen.instance.identity, seen.owner, seen.vm_id) == (None, "one-prod", "23")


@pytest.mark.parametrize(
    "document",
    [
        pytest.param("<VM/>", id="empty"),
        pytest.param("<VM><ID>x</ID><STATE>y</STATE><MONITORING/></VM>", id="no-numbers"),
        pytest.param(
            "<VM><ID>4</ID><MONITORING><CPU>nan</CPU><MEMORY>1e999</MEMORY></MONITORING></VM>", id="no-figures"
        ),
        pytest.param(
            "<VM><ID>4</ID><USER_TEMPLATE><A><B/></A></USER_TEMPLATE><TEMPLATE><NIC/></TEMPLATE></VM>", id="odd"
        ),
    ],
)
def test_a_document_that_lacks_fields_is_read_as_an_instance_of_unknown_state(document: str) -> None:
    instance = read_listed_vm(etree.fromstring(document)).instance
    assert instance.identity is None
    assert instance.state is InstanceState.UNKNOWN
    read_machine(etree.fromstring(document))


@pytest.mark.parametrize(
    ("deploy_id", "number"),
    [
        ("opennebula-hybrid-0", 0),
        ("opennebula-hybrid-77", 77),
        ("opennebula-hybrid-077", None),
        ("opennebula-hybrid-2147483648", None),
        ("opennebula-hybrid--1", None),
        ("opennebula-hybrid-", None),
        ("one-7", None),
        ("7", None),
        ("i-0abc", None),
    ],
)
def test_only_deploy_ids_that_this_provider_writes_are_parsed(deploy_id: str, number: int | None) -> None:
    assert number_of(DeployId(deploy_id)) == number


def quotas(
    cpu: str = "", memory: str = "", *, default: str = "", kind: str = "USER", running: str = "", number: int = 2
) -> etree._Element:
    own = f"<VM><CPU>{cpu}</CPU><MEMORY>{memory}</MEMORY></VM>" if cpu or memory else ""
    if running:
        limit = f"<RUNNING_CPU>{running}</RUNNING_CPU><RUNNING_MEMORY>{running}</RUNNING_MEMORY>"
        own = f"{own.removesuffix('</VM>') or '<VM>'}{limit}</VM>"
    others = f"<VM><CPU>{default}</CPU><MEMORY>{default}</MEMORY></VM>" if default else ""
    return etree.fromstring(
        f"<{kind}><ID>{number}</ID><VM_QUOTA>{own}</VM_QUOTA>"
        f"<DEFAULT_{kind}_QUOTAS><VM_QUOTA>{others}</VM_QUOTA></DEFAULT_{kind}_QUOTAS></{kind}>"
    )


@pytest.mark.parametrize(
    ("user", "group", "size"),
    [
        pytest.param(quotas("8", "4096"), quotas(kind="GROUP"), (8, 4096), id="user"),
        pytest.param(quotas("8", "4096"), quotas("4", "9000", kind="GROUP"), (4, 4096), id="the-lower-limit"),
        pytest.param(quotas("-1", "-1", default="16"), quotas(kind="GROUP"), (16, 16), id="the-default"),
        pytest.param(quotas(default="16"), None, (16, 16), id="the-default-where-none-is-set"),
        pytest.param(quotas("-2", "-2", default="16"), quotas("3", "3", kind="GROUP"), (3, 3), id="unlimited-user"),
        pytest.param(quotas("8", "-2"), quotas(kind="GROUP"), (8, None), id="limit-of-cpu-only"),
        pytest.param(quotas(), quotas(kind="GROUP"), None, id="no-limit"),
        pytest.param(quotas("8", "64", running="4"), quotas(kind="GROUP"), (4, 4), id="limit-of-running-vms"),
        pytest.param(quotas(), quotas(kind="GROUP", running="2"), (2, 2), id="only-a-limit-of-running-vms"),
        pytest.param(quotas(default="2", number=0), quotas("9", "9", kind="GROUP"), (9, 9), id="oneadmin-has-none"),
    ],
)
def test_capacity_is_the_lowest_limit_of_user_and_group_quotas(
    user: etree._Element, group: etree._Element | None, size: tuple[float, int | None] | None
) -> None:
    found = capacity.free_capacity(user, group, None)
    assert (None if found is None else (found.cpu, found.memory)) == size


def test_a_resource_without_a_quota_has_the_capacity_and_usage_of_the_hosts() -> None:
    share = "<MAX_CPU>800</MAX_CPU><CPU_USAGE>250</CPU_USAGE><MAX_MEM>4096000</MAX_MEM><MEM_USAGE>1024000</MEM_USAGE>"
    host = f"<HOST><STATE>2</STATE><HOST_SHARE>{share}</HOST_SHARE></HOST>"
    pool = etree.fromstring(f"<HOST_POOL>{host}{host}{host.replace('>2<', '>3<')}</HOST_POOL>")
    user = etree.fromstring(
        "<USER><ID>2</ID><VM_QUOTA><VM><CPU>4</CPU><CPU_USED>3</CPU_USED><VMS>5</VMS><VMS_USED>3</VMS_USED>"
        "<RUNNING_VMS>4</RUNNING_VMS><RUNNING_VMS_USED>3</RUNNING_VMS_USED></VM></VM_QUOTA></USER>"
    )
    assert capacity.free_capacity(user, None, capacity.hosts_share(pool)) == Capacity(
        cpu=4, memory=8000, used=Size(cpu=3, memory=2000), left=1
    )


def test_a_quota_below_its_usage_leaves_zero_vms() -> None:
    user = etree.fromstring(
        "<USER><ID>2</ID><VM_QUOTA><VM><CPU>2</CPU><CPU_USED>3</CPU_USED><VMS>2</VMS><VMS_USED>3</VMS_USED></VM>"
        "</VM_QUOTA></USER>"
    )
    assert capacity.free_capacity(user, None, None) == Capacity(cpu=2, used=Size(cpu=3, memory=0), left=0)

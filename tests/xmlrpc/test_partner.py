"""The tests' OpenNebula answers as 5.10.5 and 7.4.0 were recorded to answer: one VM's life, element for element.

Each exchange is a recorded call and its answer: a refusal or a value word for word, and a document by its elements in
their order.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from lxml import etree

from one_provider_mad.safe_xml import Element
from one_provider_mad.xmlrpc.envelope import Failure, Success, decode_answer, encode_call
from tests.waiting import HANG, until
from tests.xmlrpc.partner import RELEASES, Partner, Release
from tests.xmlrpc.partner_vms import Vm

SESSION = "oneadmin:secret"


@dataclass(frozen=True)
class Exchange:
    """A call and its answer.

    Attributes:
        method: its name.
        arguments: the arguments after the session.
        answer: a value, a failure, or the elements of a document.
        session: credentials of the caller.
        word: state that the VM reaches before the next call.
    """

    method: str
    arguments: tuple[Any, ...]
    answer: Success | Failure | str
    session: str = SESSION
    word: str = ""


def refused(code: int, text: str) -> Failure:
    return Failure(code=code, text=text)


def exchanges(release: Release) -> Iterator[Exchange]:
    """The life of VM 2, from its template to its end."""
    is_7 = release == "7.4.0"
    kind = "JSON query" if is_7 else "Full text"
    yield Exchange("one.system.version", (), Success(result=release))
    yield Exchange("one.zone.raftstatus", (), RAFT)
    yield Exchange("one.user.info", (-1, False), USER)
    refusal = refused(256, "[one.vm.info] User couldn't be authenticated, aborting call.")
    yield Exchange("one.vm.info", (2,), refusal, session="oneadmin:wrong")
    yield Exchange("one.nosuch.method", (1,), refused(-506, "Method 'one.nosuch.method' not defined"))
    yield Exchange("one.vm.info", ("abc",), refused(-501, "Parameter that is supposed to be integer is not"))
    nothing = "[one.template.instantiate] Error getting virtual machine template [99999]."
    yield Exchange("one.template.instantiate", (99999, "x", False, "", False), refused(1024, nothing))
    nothing = "[one.vm.action] Error getting virtual machine [99999]."
    yield Exchange("one.vm.action", ("terminate", 99999), refused(1024, nothing))
    extra = 'MEMORY=256\nONE_PROVIDER_OWNER="one-prod"\nONE_PROVIDER_VM_ID="23"'
    yield Exchange("one.template.instantiate", (0, "remote-vm", True, extra, False), Success(result=2))
    yield Exchange("one.vm.info", (2,), vm(release, is_placed=False))
    yield Exchange("one.vm.action", ("release", 2), Success(result=2))
    yield Exchange("one.vm.deploy", (2, 0, False, -1, ""), Success(result=2), word="RUNNING")
    yield Exchange("one.vm.info", (2,), vm(release))
    resume = '[one.vm.action] Error performing action "resume": This action is not available for state RUNNING'
    yield Exchange("one.vm.action", ("resume", 2), refused(2048, resume))
    unknown = '[one.vm.action] Action "frobnicate" is not supported'
    yield Exchange("one.vm.action", ("frobnicate", 2), refused(2048, unknown))
    yield Exchange("one.host.info", (0, False), host(release, vms="(ID)", is_whole=True))
    yield Exchange(
        "one.hostpool.info",
        (),
        f"HOST_POOL({host(release, more=True)} {host(release, more=True)} {host(release, vms='(ID)')})",
    )
    yield Exchange("one.clusterpool.info", (), CLUSTERS)
    yield Exchange("one.vm.action", ("poweroff", 2), Success(result=2), word="POWEROFF")
    yield Exchange("one.vm.info", (2,), vm(release, is_monitored=True))
    snapshot = "[one.vm.snapshotcreate] Could not create a new snapshot for VM 2, wrong state POWEROFF."
    yield Exchange("one.vm.snapshotcreate", (2, "s1"), refused(2048, snapshot))
    yield Exchange("one.vmpool.info", (-2, -1, -1, -1), BRIEF_7 if is_7 else BRIEF_5)
    query = f"[one.vmpool.info] {kind} search is not supported by the SQL backend"
    yield Exchange("one.vmpool.info", (-2, -1, -1, -1, "ONE_PROVIDER_OWNER=one-prod"), refused(8192, query))
    yield Exchange("one.vmpool.infoextended", (-2, -1, -1, -1, ""), f"VM_POOL({vm(release, is_monitored=True)})")
    yield Exchange("one.vm.update", (2, 'A="b"', 1), Success(result=2))
    yield Exchange("one.vm.action", ("terminate", 2), Success(result=2), word="DONE")
    yield Exchange("one.vm.info", (2,), vm(release, is_monitored=True, tags="A ONE_PROVIDER_OWNER ONE_PROVIDER_VM_ID"))


CLUSTERS = "CLUSTER_POOL(CLUSTER(ID NAME HOSTS(ID ID ID) DATASTORES(ID ID) VNETS TEMPLATE(RESERVED_CPU RESERVED_MEM)))"
RAFT = "RAFT(SERVER_ID STATE TERM VOTEDFOR COMMIT LOG_INDEX LOG_TERM FEDLOG_INDEX)"
USER = (
    "USER(ID GID GROUPS(ID) GNAME NAME PASSWORD AUTH_DRIVER ENABLED TEMPLATE(TOKEN_PASSWORD) DATASTORE_QUOTA"
    " NETWORK_QUOTA VM_QUOTA IMAGE_QUOTA DEFAULT_USER_QUOTAS(DATASTORE_QUOTA NETWORK_QUOTA VM_QUOTA IMAGE_QUOTA))"
)
PERMISSIONS = "PERMISSIONS(OWNER_U OWNER_M OWNER_A GROUP_U GROUP_M GROUP_A OTHER_U OTHER_M OTHER_A)"
BRIEF = "VM_POOL(VM(ID UID GID UNAME GNAME NAME LAST_POLL STATE LCM_STATE RESCHED STIME ETIME DEPLOY_ID"
BRIEF_5 = (
    f"{BRIEF} TEMPLATE(CPU MEMORY) MONITORING(CPU MEMORY STATE) USER_TEMPLATE"
    " HISTORY_RECORDS(HISTORY(OID SEQ HOSTNAME HID CID DS_ID ACTION))))"
)
BRIEF_7 = (
    f"{BRIEF} TEMPLATE(CPU MEMORY VCPU) MONITORING USER_TEMPLATE"
    " HISTORY_RECORDS(HISTORY(OID SEQ HOSTNAME HID CID DS_ID VM_MAD TM_MAD ACTION))))"
)


def vm(
    release: Release,
    *,
    is_placed: bool = True,
    is_monitored: bool = False,
    tags: str = "ONE_PROVIDER_OWNER ONE_PROVIDER_VM_ID",
) -> str:
    is_7 = release == "7.4.0"
    plan = " PLAN_ID ACTION_ID" if is_7 else ""
    history = (
        f"HISTORY_RECORDS(HISTORY(OID SEQ HOSTNAME HID CID STIME ETIME VM_MAD TM_MAD DS_ID{plan} PSTIME PETIME RSTIME"
        " RETIME ESTIME EETIME ACTION UID GID REQUEST_ID))"
    )
    parts = [
        f"ID UID GID UNAME GNAME NAME {PERMISSIONS} LAST_POLL STATE LCM_STATE PREV_STATE PREV_LCM_STATE RESCHED STIME",
        "ETIME DEPLOY_ID",
        "MONITORING(CPU MEMORY)" if is_monitored and not is_7 else "MONITORING",
        "SCHED_ACTIONS" if is_7 else "",
        "TEMPLATE(AUTOMATIC_REQUIREMENTS CONTEXT(DISK_ID NETWORK TARGET) CPU MEMORY",
        "OS(UUID)" if is_7 else "",
        "SUBMIT_ON_HOLD TEMPLATE_ID",
        "TM_MAD_SYSTEM" if is_placed else "",
        f"VMID) USER_TEMPLATE({tags})",
        history if is_placed else "HISTORY_RECORDS",
        "BACKUPS(BACKUP_CONFIG BACKUP_IDS)" if is_7 else "",
    ]
    return f"VM({' '.join(filter(None, parts))})"


def host(release: Release, *, vms: str = "", is_whole: bool = False, more: bool = False) -> str:
    head = "ID NAME STATE PREV_STATE IM_MAD VM_MAD"
    if release == "5.10.5":
        return (
            f"HOST({head} LAST_MON_TIME CLUSTER_ID CLUSTER HOST_SHARE(DISK_USAGE MEM_USAGE CPU_USAGE TOTAL_MEM"
            " TOTAL_CPU MAX_DISK MAX_MEM MAX_CPU FREE_DISK FREE_MEM FREE_CPU USED_DISK USED_MEM USED_CPU RUNNING_VMS"
            f" VMS_THREAD DATASTORES PCI_DEVICES NUMA_NODES) VMS{vms}"
            " TEMPLATE(HYPERVISOR IM_MAD PUBLIC_CLOUD RESERVED_CPU RESERVED_MEM VM_MAD))"
        )
    figures = "(TIMESTAMP ID CAPACITY(FREE_CPU FREE_MEMORY USED_CPU USED_MEMORY) SYSTEM)" if is_whole else ""
    last = "TOTAL_ZOMBIES VM_MAD ZOMBIES" if more else "VM_MAD"
    return (
        f"HOST({head} CLUSTER_ID CLUSTER HOST_SHARE(MEM_USAGE CPU_USAGE TOTAL_MEM TOTAL_CPU MAX_MEM MAX_CPU RUNNING_VMS"
        f" VMS_THREAD DATASTORES(DISK_USAGE FREE_DISK MAX_DISK USED_DISK) PCI_DEVICES NUMA_NODES) VMS{vms}"
        " TEMPLATE(HYPERVISOR IM_MAD PUBLIC_CLOUD RESERVED_CPU RESERVED_MEM TOTALCPU TOTALMEMORY"
        f" {last}) MONITORING{figures})"
    )


def elements(element: Element) -> str:
    children = " ".join(elements(child) for child in element)
    return f"{element.tag}({children})" if children else str(element.tag)


def post(url: str, body: bytes) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=HANG) as response:
        assert response.headers["Content-Type"] == "text/xml; charset=utf-8"
        data: bytes = response.read()
        return data


def reach(vm: Vm, word: str) -> None:
    def is_there() -> bool:
        vm.catch_up()
        return vm.word == word

    until(is_there)


@pytest.mark.parametrize("release", RELEASES)
def test_each_recorded_call_gets_its_recorded_answer(release: Release) -> None:
    with Partner(release, delay=0) as partner:
        partner.next_number = 2
        for exchange in exchanges(release):
            call = encode_call(exchange.method, exchange.session, exchange.arguments)
            answer = decode_answer(exchange.method, post(partner.urls[0], call))
            if isinstance(exchange.answer, str):
                assert isinstance(answer, Success), exchange
                assert elements(etree.fromstring(str(answer.result))) == exchange.answer
            else:
                assert answer == exchange.answer
            if exchange.word:
                reach(partner.vms[2], exchange.word)


@pytest.mark.parametrize("release", RELEASES)
def test_each_call_is_encoded_as_it_was_recorded(release: Release) -> None:
    for exchange in exchanges(release):
        params = "".join(
            f"<param>\n<value>{_value(value)}</value>\n</param>\n" for value in (exchange.session, *exchange.arguments)
        )
        expected = (
            f"<?xml version='1.0'?>\n<methodCall>\n<methodName>{exchange.method}</methodName>\n"
            f"<params>\n{params}</params>\n</methodCall>\n"
        )
        assert encode_call(exchange.method, exchange.session, exchange.arguments).decode() == expected


def _value(value: object) -> str:
    if isinstance(value, bool):
        return f"<boolean>{int(value)}</boolean>"
    return f"<int>{value}</int>" if isinstance(value, int) else f"<string>{value}</string>"


def test_an_answer_has_the_same_lines_as_one_of_xmlrpc_c() -> None:
    with Partner() as partner:
        answer = post(partner.urls[0], encode_call("one.vm.info", SESSION, (9,))).decode()
    assert answer == (
        '<?xml version="1.0" encoding="UTF-8"?>\n<methodResponse>\n<params>\n<param><value><array><data>\n'
        "<value><boolean>0</boolean></value>\n"
        "<value><string>[one.vm.info] Error getting virtual machine [9].</string></value>\n"
        "<value><i4>1024</i4></value>\n<value><i4>9</i4></value>\n<value><i8>-1</i8></value>\n"
        "</data></array></value></param>\n</params>\n</methodResponse>\n"
    )

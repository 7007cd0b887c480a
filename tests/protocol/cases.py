"""Shared by the tests of the protocol: tables of lines and their values, and messages as three releases write them."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from one_provider_mad.domain import VmId
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.protocol.messages import Action, Control, LogLine, Reply, Request, Severity

# A busy machine may halt any test for a while, which proves nothing about the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

HELLO = b"PFZNTV9EUklWRVJfQUNUSU9OX0RBVEE+PEhPU1Q+aDwvSE9TVD48L1ZNTV9EUklWRVJfQUNUSU9OX0RBVEE+"
"""`<VMM_DRIVER_ACTION_DATA><HOST>h</HOST></VMM_DRIVER_ACTION_DATA>`"""


def request(
    action: Action = Action.DEPLOY, vm_id: int = 42, payload: bytes = b"", *, dialect: Dialect = Dialect.UP_TO_5_12
) -> Request:
    return Request(action=action, vm_id=VmId(vm_id), payload=payload, dialect=dialect)


def success(word: str, vm_id: int, info: str = "-") -> Reply:
    return Reply(word=word, vm_id=VmId(vm_id), is_success=True, info=info)


def failure(word: str, vm_id: int, info: str) -> Reply:
    return Reply(word=word, vm_id=VmId(vm_id), is_success=False, info=info)


def log(severity: Severity, text: str, vm_id: int | None = None) -> LogLine:
    return LogLine(severity=severity, text=text, vm_id=None if vm_id is None else VmId(vm_id))


def oned_line(request: Request) -> bytes:
    """The line oned writes for a request: `write_drv` up to 5.12, `Message::write_to` from 6.0 on."""
    is_new = request.dialect is Dialect.SINCE_6_0
    start = f"{request.action.value} {' ' if is_new else ''}{request.vm_id}".encode()
    if not request.payload and not is_new:
        return start + b"\n"
    return b"%b %b\n" % (start, request.payload)


FROM_ONED = [
    pytest.param(Control.INIT, b"INIT\n", id="init"),
    pytest.param(Control.FINALIZE, b"FINALIZE\n", id="finalize"),
    pytest.param(request(payload=HELLO), b"DEPLOY 42 " + HELLO + b"\n", id="deploy-5.10"),
    pytest.param(request(payload=HELLO, dialect=Dialect.SINCE_6_0), b"DEPLOY  42 " + HELLO + b"\n", id="deploy-7.4"),
    pytest.param(request(Action.POLL, 0, HELLO), b"POLL 0 " + HELLO + b"\n", id="poll-of-vm-0"),
    pytest.param(request(Action.DRIVER_CANCEL, 35), b"DRIVER_CANCEL 35\n", id="cancel-5.10"),
    pytest.param(
        request(Action.DRIVER_CANCEL, 56, dialect=Dialect.SINCE_6_0),
        b"DRIVER_CANCEL  56 \n",
        id="cancel-7.4-blank-at-end",
    ),
    pytest.param(
        request(Action.EXEC_CANCEL, 2147483647, b"QQ==", dialect=Dialect.SINCE_6_0),
        b"EXEC_CANCEL  2147483647 QQ==\n",
        id="largest-id",
    ),
]
"""Values and the lines oned writes for them."""

FROM_DRIVER = [
    pytest.param(Control.INIT, b"INIT SUCCESS\n", id="init"),
    pytest.param(log(Severity.INFO, "Creating instance", 42), b"LOG I 42 Creating instance\n", id="log"),
    pytest.param(log(Severity.WARNING, "two  blanks stay", 0), b"LOG W 0 two  blanks stay\n", id="log-of-vm-0"),
    pytest.param(log(Severity.ERROR, "grüße 東京", 7), "LOG E 7 grüße 東京\n".encode(), id="log-beyond-ascii"),
    pytest.param(log(Severity.DEBUG, "cloud is slow"), b"LOG D -1 cloud is slow\n", id="log-general"),
    pytest.param(success("DEPLOY", 42, "i-0f3a"), b"DEPLOY SUCCESS 42 i-0f3a\n", id="deploy-ok"),
    pytest.param(success("REBOOT", 42), b"REBOOT SUCCESS 42 -\n", id="no-text"),
    pytest.param(
        success("POLL", 42, "STATE=a CPU=1.5 MEMORY=1048576"),
        b"POLL SUCCESS 42 STATE=a CPU=1.5 MEMORY=1048576\n",
        id="poll-ok",
    ),
    pytest.param(
        failure("SHUTDOWN", 42, "API error: UnauthorizedOperation"),
        b"SHUTDOWN FAILURE 42 API error: UnauthorizedOperation\n",
        id="shutdown-failed",
    ),
    pytest.param(
        failure("FROBNICATE", 42, "Action FROBNICATE not supported"),
        b"FROBNICATE FAILURE 42 Action FROBNICATE not supported\n",
        id="unknown-action",
    ),
    pytest.param(failure("DEPLOY", 1, "a < b & c > d"), b"DEPLOY FAILURE 1 a < b & c > d\n", id="markup-is-fine"),
    pytest.param(success("UPDATESG", 9, "100"), b"UPDATESG SUCCESS 9 100\n", id="security-group"),
]
"""Values and the lines a driver writes for them."""

any_text = st.text(alphabet=st.characters(exclude_categories=()), max_size=200)
"""Text of any kind, lone surrogates and control characters included."""

awkward_text = st.lists(
    st.sampled_from(["]", "]]", ">", "]]>", " ", "\n", "\r\n", "\x00", "\x85", "\u2028", "\ud800", "\ufffe"])
    | any_text,
    max_size=12,
).map("".join)
"""Text that is rich in characters that must not reach the wire."""

any_reply = st.builds(
    Reply,
    word=st.sampled_from([action.value for action in Action]),
    vm_id=st.integers(0, 2147483647).map(VmId),
    is_success=st.booleans(),
    info=awkward_text | st.sampled_from(["-", "", "- ", "--", "-1 is no size"]),
)


def legacy_message(vm_id: int = 42, *, lcm_state: int = 3, deploy_id: str = "i-44", template: str = "") -> bytes:
    """A message in the form of 4.4: figures are children of the VM, the history says VMMMAD."""
    return (
        f"<VMM_DRIVER_ACTION_DATA><HOST>harbour</HOST><NET_DRV>dummy</NET_DRV><MIGR_HOST/><MIGR_NET_DRV/>"
        f"<DEPLOY_ID>{deploy_id}</DEPLOY_ID><LOCAL_DEPLOYMENT_FILE/><REMOTE_DEPLOYMENT_FILE/><CHECKPOINT_FILE/>"
        f"<TM_COMMAND/><TM_COMMAND_ROLLBACK/><DISK_TARGET_PATH/>"
        f"<VM><ID>{vm_id}</ID><UID>2</UID><GID>1</GID><UNAME>ada</UNAME><GNAME>users</GNAME><NAME>tide-table</NAME>"
        f"<PERMISSIONS><OWNER_U>1</OWNER_U><GROUP_U>0</GROUP_U></PERMISSIONS><LAST_POLL>1400000600</LAST_POLL>"
        f"<STATE>3</STATE><LCM_STATE>{lcm_state}</LCM_STATE><RESCHED>0</RESCHED><STIME>1400000000</STIME>"
        f"<ETIME>0</ETIME><DEPLOY_ID>{deploy_id}</DEPLOY_ID><MEMORY>524288</MEMORY><CPU>4</CPU><NET_TX>9</NET_TX>"
        f"<NET_RX>8</NET_RX>"
        f"<TEMPLATE><CPU><![CDATA[0.5]]></CPU><MEMORY><![CDATA[512]]></MEMORY>{template}</TEMPLATE>"
        f"<USER_TEMPLATE><EC2><AMI><![CDATA[ami-7]]></AMI></EC2></USER_TEMPLATE>"
        f"<HISTORY_RECORDS><HISTORY><OID>{vm_id}</OID><SEQ>1</SEQ><HOSTNAME>harbour</HOSTNAME><HID>5</HID>"
        f"<CID>-1</CID><STIME>1400000100</STIME><VMMMAD>sea</VMMMAD><VNMMAD>dummy</VNMMAD><TMMAD></TMMAD>"
        f"<REASON>0</REASON></HISTORY></HISTORY_RECORDS></VM></VMM_DRIVER_ACTION_DATA>"
    ).encode()


def middle_message(vm_id: int = 42, *, lcm_state: int = 18, deploy_id: str = "i-510", template: str = "") -> bytes:
    """A message in the form of 5.10: figures in MONITORING, the history says VM_MAD."""
    return (
        f"<VMM_DRIVER_ACTION_DATA><HOST>harbour</HOST><MIGR_HOST/><DEPLOY_ID>{deploy_id}</DEPLOY_ID>"
        f"<LOCAL_DEPLOYMENT_FILE/><REMOTE_DEPLOYMENT_FILE/><CHECKPOINT_FILE/><TM_COMMAND/><TM_COMMAND_ROLLBACK/>"
        f"<DISK_TARGET_PATH/><SECURITY_GROUP_ID>100</SECURITY_GROUP_ID>"
        f"<VM><ID>{vm_id}</ID><UID>2</UID><GID>1</GID><UNAME>ada</UNAME><GNAME>users</GNAME><NAME>tide-table</NAME>"
        f"<LAST_POLL>1580000600</LAST_POLL><STATE>3</STATE><LCM_STATE>{lcm_state}</LCM_STATE>"
        f"<PREV_STATE>3</PREV_STATE><PREV_LCM_STATE>3</PREV_LCM_STATE><RESCHED>0</RESCHED>"
        f"<STIME>1580000000</STIME><ETIME>0</ETIME><DEPLOY_ID>{deploy_id}</DEPLOY_ID><LOCK><LOCKED>1</LOCKED></LOCK>"
        f"<MONITORING><CPU><![CDATA[1.5]]></CPU><STATE><![CDATA[a]]></STATE></MONITORING>"
        f"<TEMPLATE><CONTEXT><NETWORK><![CDATA[YES]]></NETWORK></CONTEXT><CPU><![CDATA[1]]></CPU>{template}</TEMPLATE>"
        f"<USER_TEMPLATE><PUBLIC_CLOUD><TYPE><![CDATA[sea]]></TYPE></PUBLIC_CLOUD></USER_TEMPLATE>"
        f"<HISTORY_RECORDS><HISTORY><OID>{vm_id}</OID><SEQ>2</SEQ><HOSTNAME>harbour</HOSTNAME><HID>6</HID><CID>0</CID>"
        f"<STIME>1580000100</STIME><VM_MAD><![CDATA[sea]]></VM_MAD><TM_MAD><![CDATA[]]></TM_MAD><DS_ID>-1</DS_ID>"
        f"<ACTION>21</ACTION><REQUEST_ID>8192</REQUEST_ID></HISTORY></HISTORY_RECORDS></VM></VMM_DRIVER_ACTION_DATA>"
    ).encode()


def modern_message(vm_id: int = 42, *, lcm_state: int = 2, deploy_id: str = "", template: str = "") -> bytes:
    """A message in the form of 7.4: a DEPLOY, whose top-level DEPLOY_ID is always empty, with a datastore."""
    return (
        f"<VMM_DRIVER_ACTION_DATA><HOST>harbour</HOST><MIGR_HOST/><DEPLOY_ID/>"
        f"<LOCAL_DEPLOYMENT_FILE>/srv/vms/{vm_id}/deployment.3</LOCAL_DEPLOYMENT_FILE><REMOTE_DEPLOYMENT_FILE/>"
        f"<CHECKPOINT_FILE/><TM_COMMAND><![CDATA[CONTEXT dummy /srv/context.sh\n]]></TM_COMMAND><TM_COMMAND_ROLLBACK/>"
        f"<DISK_TARGET_PATH>/srv/disk.0</DISK_TARGET_PATH><VIRTUAL_NETWORK_ID>4</VIRTUAL_NETWORK_ID>"
        f"<VM><ID>{vm_id}</ID><UID>2</UID><GID>1</GID><UNAME>ada</UNAME><GNAME>users</GNAME><NAME>tide-table</NAME>"
        f"<LAST_POLL>0</LAST_POLL><STATE>3</STATE><LCM_STATE>{lcm_state}</LCM_STATE><PREV_STATE>3</PREV_STATE>"
        f"<RESCHED>0</RESCHED><STIME>1760000000</STIME><ETIME>0</ETIME><DEPLOY_ID>{deploy_id}</DEPLOY_ID>"
        f"<MONITORING/><SCHED_ACTIONS/>"
        f"<TEMPLATE><CPU><![CDATA[2]]></CPU><NIC><IP><![CDATA[10.0.0.5]]></IP><NIC_ID><![CDATA[0]]></NIC_ID></NIC>"
        f"{template}</TEMPLATE>"
        f"<USER_TEMPLATE><PUBLIC_CLOUD><TYPE><![CDATA[sea]]></TYPE></PUBLIC_CLOUD>"
        f"<PUBLIC_CLOUD><TYPE><![CDATA[lake]]></TYPE></PUBLIC_CLOUD></USER_TEMPLATE>"
        f"<HISTORY_RECORDS><HISTORY><OID>{vm_id}</OID><SEQ>3</SEQ><HOSTNAME>harbour</HOSTNAME><HID>7</HID><CID>0</CID>"
        f"<STIME>1760000030</STIME><VM_MAD><![CDATA[sea]]></VM_MAD><TM_MAD><![CDATA[dummy]]></TM_MAD><DS_ID>100</DS_ID>"
        f"<PLAN_ID>-1</PLAN_ID><ACTION_ID>-1</ACTION_ID></HISTORY></HISTORY_RECORDS>"
        f"<BACKUPS><BACKUP_CONFIG/><BACKUP_IDS/></BACKUPS></VM>"
        f"<DATASTORE><ID>100</ID><NAME>system</NAME></DATASTORE></VMM_DRIVER_ACTION_DATA>"
    ).encode()


def with_document(document: bytes, action: Action = Action.POLL, **fields: Any) -> Request:
    """A request that carries this document."""
    return request(action, payload=base64.b64encode(document), **fields)

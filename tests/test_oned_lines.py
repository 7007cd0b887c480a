"""The lines of the tests against lines that were recorded between OpenNebula's daemons and their drivers."""

from __future__ import annotations

import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping

import pytest

from one_provider_mad.domain import Template
from tests.monitor.decoder import packed
from tests.oned_lines import RELEASES, Details, Release, document, line

SECTION = {
    "TYPE": "provider_name",
    "PROVIDER_IMAGE_ID": "id-141234",
    "PROVIDER_INSTANCE_TYPE": "small_256mb",
}
ATTRIBUTES: dict[str, tuple[str | Mapping[str, str], ...]] = {
    "NAME": ("bursty",),
    "CPU": ("1",),
    "MEMORY": ("256",),
    "CONTEXT": ({"NETWORK": "YES", "SSH_PUBLIC_KEY": "ssh-rsa AAA", "START_SCRIPT": "echo hi"},),
    "SUBMIT_ON_HOLD": ("YES",),
    "HYPERVISOR": ("provider_name",),
    "PUBLIC_CLOUD": (SECTION,),
}
UUID = {"OS": ({"UUID": "47873b21-2b9a-4e27-af25-2a2b43953d9c"},)}
"""The VM of the recordings: a user's template, and what 7.4.0 adds to it."""

POWER_OFF_OF_5_10_5 = (
    "<VMM_DRIVER_ACTION_DATA><HOST>remote_provider</HOST><MIGR_HOST/><DEPLOY_ID>prov-0</DEPLOY_ID>"
    "<LOCAL_DEPLOYMENT_FILE/><REMOTE_DEPLOYMENT_FILE/><CHECKPOINT_FILE/><TM_COMMAND/><TM_COMMAND_ROLLBACK/>"
    "<DISK_TARGET_PATH/><VM><ID>0</ID><UID>0</UID><GID>0</GID><UNAME>oneadmin</UNAME><GNAME>oneadmin</GNAME>"
    "<NAME>bursty</NAME><PERMISSIONS><OWNER_U>1</OWNER_U><OWNER_M>1</OWNER_M><OWNER_A>0</OWNER_A><GROUP_U>0"
    "</GROUP_U><GROUP_M>0</GROUP_M><GROUP_A>0</GROUP_A><OTHER_U>0</OTHER_U><OTHER_M>0</OTHER_M><OTHER_A>0</OTHER_A>"
    "</PERMISSIONS><LAST_POLL>0</LAST_POLL><STATE>3</STATE><LCM_STATE>18</LCM_STATE><PREV_STATE>3</PREV_STATE>"
    "<PREV_LCM_STATE>18</PREV_LCM_STATE><RESCHED>0</RESCHED><STIME>1795346838</STIME><ETIME>0</ETIME>"
    "<DEPLOY_ID>prov-0</DEPLOY_ID><MONITORING></MONITORING><TEMPLATE>"
    "<AUTOMATIC_REQUIREMENTS><![CDATA[!(PUBLIC_CLOUD = YES) & !(PIN_POLICY = PINNED)"
    " | (PUBLIC_CLOUD = YES & (HYPERVISOR = provider_name))]]>"
    "</AUTOMATIC_REQUIREMENTS><CONTEXT><DISK_ID><![CDATA[0]]></DISK_ID><NETWORK><![CDATA[YES]]></NETWORK>"
    "<SSH_PUBLIC_KEY><![CDATA[ssh-rsa AAA]]></SSH_PUBLIC_KEY><START_SCRIPT><![CDATA[echo hi]]></START_SCRIPT>"
    "<TARGET><![CDATA[hda]]></TARGET></CONTEXT><CPU><![CDATA[1]]></CPU><MEMORY><![CDATA[256]]></MEMORY>"
    "<SUBMIT_ON_HOLD><![CDATA[YES]]></SUBMIT_ON_HOLD><TM_MAD_SYSTEM><![CDATA[]]></TM_MAD_SYSTEM><VMID><![CDATA[0]]>"
    "</VMID></TEMPLATE><USER_TEMPLATE><HYPERVISOR><![CDATA[provider_name]]></HYPERVISOR><PUBLIC_CLOUD>"
    "<PROVIDER_IMAGE_ID><![CDATA[id-141234]]></PROVIDER_IMAGE_ID><PROVIDER_INSTANCE_TYPE><![CDATA[small_256mb]]>"
    "</PROVIDER_INSTANCE_TYPE><TYPE><![CDATA[provider_name]]></TYPE></PUBLIC_CLOUD></USER_TEMPLATE>"
    "<HISTORY_RECORDS><HISTORY><OID>0</OID><SEQ>0</SEQ><HOSTNAME>remote_provider</HOSTNAME><HID>0</HID><CID>0</CID>"
    "<STIME>1795346838</STIME><ETIME>0</ETIME><VM_MAD><![CDATA[vmm_provider]]></VM_MAD><TM_MAD><![CDATA[]]>"
    "</TM_MAD><DS_ID>-1</DS_ID><PSTIME>1795346838</PSTIME><PETIME>1795346838</PETIME><RSTIME>1795346838</RSTIME>"
    "<RETIME>0</RETIME><ESTIME>0</ESTIME><EETIME>0</EETIME><ACTION>19</ACTION><UID>0</UID><GID>0</GID>"
    "<REQUEST_ID>7280</REQUEST_ID></HISTORY></HISTORY_RECORDS></VM></VMM_DRIVER_ACTION_DATA>"
)

DEPLOY_OF_7_4_0 = (
    "<VMM_DRIVER_ACTION_DATA><HOST>remote_provider</HOST><MIGR_HOST/><DEPLOY_ID/>"
    "<LOCAL_DEPLOYMENT_FILE>/var/lib/one/vms/0/deployment.0</LOCAL_DEPLOYMENT_FILE>"
    "<REMOTE_DEPLOYMENT_FILE>/var/lib/one/datastores/0/0/deployment.0</REMOTE_DEPLOYMENT_FILE><CHECKPOINT_FILE/>"
    "<TM_COMMAND><![CDATA[CONTEXT dummy /var/lib/one/vms/0/context.sh"
    " remote_provider:/var/lib/one/datastores/0/0/disk.0 0 0\n]]>"
    "</TM_COMMAND><TM_COMMAND_ROLLBACK/><DISK_TARGET_PATH>/var/lib/one/datastores/0/0/disk.0</DISK_TARGET_PATH><VM>"
    "<ID>0</ID><UID>0</UID><GID>0</GID><UNAME>oneadmin</UNAME><GNAME>oneadmin</GNAME><NAME>bursty</NAME>"
    "<PERMISSIONS><OWNER_U>1</OWNER_U><OWNER_M>1</OWNER_M><OWNER_A>0</OWNER_A><GROUP_U>0</GROUP_U><GROUP_M>0"
    "</GROUP_M><GROUP_A>0</GROUP_A><OTHER_U>0</OTHER_U><OTHER_M>0</OTHER_M><OTHER_A>0</OTHER_A></PERMISSIONS>"
    "<LAST_POLL>0</LAST_POLL><STATE>3</STATE><LCM_STATE>2</LCM_STATE><PREV_STATE>3</PREV_STATE><PREV_LCM_STATE>2"
    "</PREV_LCM_STATE><RESCHED>0</RESCHED><STIME>1795346591</STIME><ETIME>0</ETIME><DEPLOY_ID></DEPLOY_ID>"
    "<MONITORING></MONITORING><SCHED_ACTIONS></SCHED_ACTIONS><TEMPLATE>"
    "<AUTOMATIC_REQUIREMENTS><![CDATA[!(PIN_POLICY = PINNED)]]></AUTOMATIC_REQUIREMENTS><CONTEXT>"
    "<DISK_ID><![CDATA[0]]></DISK_ID><NETWORK><![CDATA[YES]]></NETWORK><SSH_PUBLIC_KEY><![CDATA[ssh-rsa AAA]]>"
    "</SSH_PUBLIC_KEY><START_SCRIPT><![CDATA[echo hi]]></START_SCRIPT><TARGET><![CDATA[hda]]></TARGET></CONTEXT>"
    "<CPU><![CDATA[1]]></CPU><MEMORY><![CDATA[256]]></MEMORY><OS>"
    "<UUID><![CDATA[47873b21-2b9a-4e27-af25-2a2b43953d9c]]></UUID></OS><SUBMIT_ON_HOLD><![CDATA[YES]]>"
    "</SUBMIT_ON_HOLD><TM_MAD_SYSTEM><![CDATA[dummy]]></TM_MAD_SYSTEM><VMID><![CDATA[0]]></VMID></TEMPLATE>"
    "<USER_TEMPLATE><HYPERVISOR><![CDATA[provider_name]]></HYPERVISOR><PUBLIC_CLOUD>"
    "<PROVIDER_IMAGE_ID><![CDATA[id-141234]]></PROVIDER_IMAGE_ID><PROVIDER_INSTANCE_TYPE><![CDATA[small_256mb]]>"
    "</PROVIDER_INSTANCE_TYPE><TYPE><![CDATA[provider_name]]></TYPE></PUBLIC_CLOUD></USER_TEMPLATE>"
    "<HISTORY_RECORDS><HISTORY><OID>0</OID><SEQ>0</SEQ><HOSTNAME>remote_provider</HOSTNAME><HID>0</HID><CID>0</CID>"
    "<STIME>1795346591</STIME><ETIME>0</ETIME><VM_MAD><![CDATA[vmm_provider]]></VM_MAD><TM_MAD><![CDATA[dummy]]>"
    "</TM_MAD><DS_ID>0</DS_ID><PLAN_ID>-2</PLAN_ID><ACTION_ID>-1</ACTION_ID><PSTIME>1795346591</PSTIME>"
    "<PETIME>1795346591</PETIME><RSTIME>1795346591</RSTIME><RETIME>0</RETIME><ESTIME>0</ESTIME><EETIME>0</EETIME>"
    "<ACTION>0</ACTION><UID>-1</UID><GID>-1</GID><REQUEST_ID>-1</REQUEST_ID></HISTORY></HISTORY_RECORDS><BACKUPS>"
    "<BACKUP_CONFIG/><BACKUP_IDS></BACKUP_IDS></BACKUPS></VM><DATASTORE><ID>0</ID><UID>0</UID><GID>0</GID>"
    "<UNAME>oneadmin</UNAME><GNAME>oneadmin</GNAME><NAME>system</NAME><PERMISSIONS><OWNER_U>1</OWNER_U><OWNER_M>1"
    "</OWNER_M><OWNER_A>0</OWNER_A><GROUP_U>1</GROUP_U><GROUP_M>0</GROUP_M><GROUP_A>0</GROUP_A><OTHER_U>0</OTHER_U>"
    "<OTHER_M>0</OTHER_M><OTHER_A>0</OTHER_A></PERMISSIONS><DS_MAD><![CDATA[-]]></DS_MAD><TM_MAD><![CDATA[dummy]]>"
    "</TM_MAD><BASE_PATH><![CDATA[/var/lib/one/datastores/0]]></BASE_PATH><TYPE>1</TYPE><DISK_TYPE>0</DISK_TYPE>"
    "<STATE>0</STATE><CLUSTERS><ID>0</ID></CLUSTERS><TOTAL_MB>0</TOTAL_MB><FREE_MB>0</FREE_MB><USED_MB>0</USED_MB>"
    "<IMAGES></IMAGES><TEMPLATE><ALLOW_ORPHANS><![CDATA[NO]]></ALLOW_ORPHANS><DISK_TYPE><![CDATA[FILE]]>"
    "</DISK_TYPE><DS_LIVE_MIGRATE><![CDATA[NO]]></DS_LIVE_MIGRATE><DS_MIGRATE><![CDATA[YES]]></DS_MIGRATE>"
    "<DS_MIGRATE_SNAP><![CDATA[NO]]></DS_MIGRATE_SNAP><PERSISTENT_SNAPSHOTS><![CDATA[YES]]></PERSISTENT_SNAPSHOTS>"
    "<RESTRICTED_DIRS><![CDATA[/]]></RESTRICTED_DIRS><SAFE_DIRS><![CDATA[/var/tmp]]></SAFE_DIRS>"
    "<SHARED><![CDATA[YES]]></SHARED><TM_MAD><![CDATA[dummy]]></TM_MAD><TYPE><![CDATA[SYSTEM_DS]]></TYPE>"
    "</TEMPLATE></DATASTORE></VMM_DRIVER_ACTION_DATA>"
)

START_MONITOR_OF_7_4_0 = (
    b"START_MONITOR - 0 0 "
    b"eJy9Vg1vmzAQ/SvsB2SQj26dhJAMuNQKGGY+lqiqLNYwLVpoNkLS7d/PYAyGpM0qNVMkFO69O9+7O53RPR+jyCfUJiiBhAIrQj429Fs/jAwd2Y"
    b"amq+ypY+BBo8jybZnRn8X2sF5lha7WVj2MQAQrIv+jBwQmtDVKbzryqAdYtHd3lg0icLfO22D39wY7qcGTAe+QD4iCYLlxGLG0eaLSm0CMVfYt"
    b"3W/KFmTOXJsQbvn4BjkxAVx4dV7I7JC6vtXYRBrqIS3Uzfqrun3M1FVaprtyW2S7OqNTfrbJ8vAxhnVRwy7Q+Kr26WFqxa5So01mCDsULgLEM6"
    b"MRqmotIsymE02rg5x1EUUFxIk9iCMpj1GhTJVRqYyvlNGT8klTfhzyOqjEhQtoxREwXel0pp+y3u1232u2TOEjIYgiXjMoMWYlwpD2SfPEq0kD"
    b"OLolENhStlxva26n5TUCf2X5/k0VtgFflPgZevF/07j5/fCmEkW8FxW6C+tiApk2hanUFLED6GOaZ/+qscgeqNB6TupwIV2wS6t9nv+5hIYu8C"
    b"uzd32H7Sxoxg51YQLdzoOvqx4ULtk29TrKDXIhH4AGUOtwHsDAYSu5WkXkaAEOUGmLIcx2dQJcypd163fNk3+eiWH0xSdz1gPbJjCUl+7k43uN"
    b"/ca86AIW98ARP92XW/mwjhH4RMppNp7Mah43BwTN4bKDOdQYg9g8ATbGo0ZdDxrVaguIb8KQBpAgnzXOhIBdJYNSTXmlelg1NDTxho1tzULpoO"
    b"iTXtFp//6Uw037xAqqb/4TZ3b2cIktekwTrR7AfLwGGX7QNGn2GlAdVKn6ZnjVzXrGQX3mC0I9/Un1F2hlvd4="
    b"\n"
)


def without_the_request_id(line: bytes) -> bytes:
    """The line with the number of the user's call as the tests write it: it is another one in each call."""
    document = re.sub(rb"<REQUEST_ID>[0-9]+<", b"<REQUEST_ID>8192<", b64decode(line.split()[2]))
    return line[: line.rindex(b" ") + 1] + b64encode(document) + b"\n"


def recorded(start: bytes, document: str) -> bytes:
    return without_the_request_id(start + b64encode(document.encode()) + b"\n")


def test_power_off_is_written_as_oned_5_10_5_wrote_it() -> None:
    template = Template(values=ATTRIBUTES)
    made = line("SHUTDOWN", 0, release="5.10", template=template, stime=1795346838, deploy_id="prov-0", lcm_state=18)
    assert made == recorded(b"SHUTDOWN 0 ", POWER_OFF_OF_5_10_5)


def test_deploy_is_written_as_oned_7_4_0_wrote_it() -> None:
    made = line("DEPLOY", 0, release="7.4", template=Template(values={**ATTRIBUTES, **UUID}), stime=1795346591)
    assert made == recorded(b"DEPLOY  0 ", DEPLOY_OF_7_4_0)


NO_FILES = "<LOCAL_DEPLOYMENT_FILE/><REMOTE_DEPLOYMENT_FILE/>"
NO_TRANSFER = "<TM_COMMAND/><TM_COMMAND_ROLLBACK/><DISK_TARGET_PATH/><VM>"
CHECKPOINT = "<CHECKPOINT_FILE>/var/lib/one/datastores/0/0/checkpoint</CHECKPOINT_FILE>"
TRANSFER = (
    "<TM_COMMAND><![CDATA[CONTEXT dummy /var/lib/one/vms/0/context.sh "
    "remote_provider:/var/lib/one/datastores/0/0/disk.0 0 0\n]]></TM_COMMAND><TM_COMMAND_ROLLBACK/>"
    "<DISK_TARGET_PATH>/var/lib/one/datastores/0/0/disk.0</DISK_TARGET_PATH><VM>"
)


@pytest.mark.parametrize(
    ("action", "release", "details", "files", "operation"),
    [
        pytest.param(
            "DEPLOY",
            "5.10",
            Details(lcm_state=20, seq=1),
            "<DEPLOY_ID/><LOCAL_DEPLOYMENT_FILE>/var/lib/one/vms/0/deployment.1</LOCAL_DEPLOYMENT_FILE>"
            "<REMOTE_DEPLOYMENT_FILE>/var/lib/one/datastores/-1/0/deployment.1</REMOTE_DEPLOYMENT_FILE>"
            f"<CHECKPOINT_FILE/>{NO_TRANSFER}",
            11,
            id="resume-5.10.5",
        ),
        pytest.param(
            "DEPLOY",
            "7.4",
            Details(lcm_state=20, seq=1),
            "<DEPLOY_ID/><LOCAL_DEPLOYMENT_FILE>/var/lib/one/vms/0/deployment.1</LOCAL_DEPLOYMENT_FILE>"
            "<REMOTE_DEPLOYMENT_FILE>/var/lib/one/datastores/0/0/deployment.1</REMOTE_DEPLOYMENT_FILE>"
            f"<CHECKPOINT_FILE/>{TRANSFER}",
            11,
            id="resume-7.4.0",
        ),
        pytest.param(
            "SAVE",
            "7.4",
            Details(lcm_state=6, seq=2),
            f"<DEPLOY_ID>prov-0</DEPLOY_ID>{NO_FILES}{CHECKPOINT}{NO_TRANSFER}",
            10,
            id="suspend-7.4.0",
        ),
        pytest.param(
            "RESTORE",
            "7.4",
            Details(lcm_state=21, seq=3),
            f"<DEPLOY_ID>prov-0</DEPLOY_ID>{NO_FILES}{CHECKPOINT}{TRANSFER}",
            11,
            id="resume-from-suspend-7.4.0",
        ),
        pytest.param(
            "SHUTDOWN",
            "7.4",
            Details(lcm_state=12, seq=7),
            f"<DEPLOY_ID>prov-0</DEPLOY_ID>{NO_FILES}<CHECKPOINT_FILE/>{NO_TRANSFER}",
            27,
            id="terminate-7.4.0",
        ),
    ],
)
def test_files_and_history_are_written_as_oned_wrote_them(
    action: str, release: Release, details: Details, files: str, operation: int
) -> None:
    details |= Details(template=Template(values=ATTRIBUTES), deploy_id="prov-0")
    made = document(action, 0, release=release, **details).decode()
    assert f"<MIGR_HOST/>{files}" in made
    assert f"<SEQ>{details['seq']}</SEQ><HOSTNAME>remote_provider</HOSTNAME><HID>0</HID><CID>0</CID>" in made
    assert "<PSTIME>0</PSTIME><PETIME>0</PETIME><RSTIME>" in made
    assert f"<RETIME>0</RETIME><ESTIME>0</ESTIME><EETIME>0</EETIME><ACTION>{operation}</ACTION><UID>0</UID>" in made


@pytest.mark.parametrize(("release", "written"), [("5.10", b"DRIVER_CANCEL 35\n"), ("7.4", b"DRIVER_CANCEL  35 \n")])
def test_driver_cancel_is_written_as_oned_wrote_it(release: Release, written: bytes) -> None:
    assert line("DRIVER_CANCEL", 35, release=release) == written


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("word", ["INIT", "FINALIZE"])
def test_a_line_of_one_word_is_the_same_in_every_release(word: str, release: Release) -> None:
    assert line(word, 0, release=release) == f"{word}\n".encode()


def test_start_monitor_is_packed_as_monitord_7_4_0_packed_it() -> None:
    start, payload = START_MONITOR_OF_7_4_0[:20], START_MONITOR_OF_7_4_0[20:]
    assert start + packed(zlib.decompress(b64decode(payload))) + b"\n" == START_MONITOR_OF_7_4_0

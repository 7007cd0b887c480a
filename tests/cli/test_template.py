"""`one-provider template`, with a file and with the OpenNebula here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from one_provider_mad.cli import main as program
from one_provider_mad.lab.ec2.account import Account
from one_provider_mad.lab.ec2.answers import Answer
from one_provider_mad.lab.ec2.forms import Form
from one_provider_mad.lab.ec2.refusals import Refusal
from tests.cli.ec2_here import NAME, Here
from tests.cli.running import json_of, surroundings
from tests.end_to_end.oned import aside
from tests.xmlrpc.local_core import LocalCore, environment, local_core

CONFIGURATION = """
provider = "simulated"
owner = "o"
[images.debian-12]
image = "img-alma-9"
[networks.private]
subnet = "sim-net"
"""

TEMPLATE = """\
# a web server
NAME = web
CPU = 0.5
VCPU = 8
MEMORY = 256
DISK = [ IMAGE = "debian-12" ]
DISK = [ IMAGE = "data" ]
NIC = [ NETWORK = "private" ]
NIC = [ NETWORK = "other" ]
CONTEXT = [ PASSWORD = "correct horse" ]
PCI = [ CLASS = "0300" ]
SCHED_REQUIREMENTS = "HYPERVISOR = kvm & CLUSTER_ID = 0"
"""

CHANGED = TEMPLATE.replace(
    '"HYPERVISOR = kvm & CLUSTER_ID = 0"', r'"(HYPERVISOR = kvm & CLUSTER_ID = 0) | HYPERVISOR = \"sim\""'
)


def host(number: int, name: str, driver: str, cluster: int, *, used: int = 0, state: int = 2, more: str = "") -> str:
    return (
        f"<HOST><ID>{number}</ID><NAME>{name}</NAME><STATE>{state}</STATE><VM_MAD>{driver}</VM_MAD>"
        f"<CLUSTER_ID>{cluster}</CLUSTER_ID><CLUSTER>c{cluster}</CLUSTER><HOST_SHARE><MAX_CPU>400</MAX_CPU>"
        f"<CPU_USAGE>{used}</CPU_USAGE><MAX_MEM>1048576</MAX_MEM><MEM_USAGE>0</MEM_USAGE></HOST_SHARE>"
        f"<TEMPLATE>{more}</TEMPLATE></HOST>"
    )


KVM = "<HYPERVISOR>kvm</HYPERVISOR>"
SIM = "<HYPERVISOR>sim</HYPERVISOR><PUBLIC_CLOUD>YES</PUBLIC_CLOUD>"
IMAGE = (
    "<IMAGE><ID>7</ID><NAME>debian-12</NAME><UNAME>oneadmin</UNAME><TYPE>0</TYPE><SIZE>2048</SIZE>"
    "<DATASTORE_ID>1</DATASTORE_ID><DATASTORE>default</DATASTORE>"
    "<TEMPLATE><PROVIDER_IMAGE>img-of-the-image</PROVIDER_IMAGE></TEMPLATE></IMAGE>"
)
STORE = (
    "<DATASTORE><ID>{}</ID><NAME>{}</NAME><TYPE>{}</TYPE><STATE>0</STATE><CLUSTERS><ID>{}</ID></CLUSTERS>"
    "<TEMPLATE><TM_MAD>{}</TM_MAD></TEMPLATE></DATASTORE>"
)
STORED = (
    "<VMTEMPLATE><ID>3</ID><NAME>web</NAME><TEMPLATE><CPU>1</CPU><MEMORY>64</MEMORY><EMPTY></EMPTY>"
    "<CONTEXT><NOTHING></NOTHING></CONTEXT><DISK><IMAGE_ID>7</IMAGE_ID></DISK>"
    "<SCHED_REQUIREMENTS>ID = 0</SCHED_REQUIREMENTS></TEMPLATE></VMTEMPLATE>"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    conf = tmp_path / "etc" / "one_provider_mad"
    conf.mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (conf / "sim.toml").write_text(CONFIGURATION)
    (tmp_path / "web.txt").write_text(TEMPLATE)
    return tmp_path


@pytest.fixture
def core(root: Path) -> Iterator[LocalCore]:
    with local_core() as served:
        served.answers = {
            "one.system.version": "6.10.0",
            "one.template.info": STORED,
            "one.imagepool.info": f"<IMAGE_POOL>{IMAGE}</IMAGE_POOL>",
            "one.vnpool.info": "<VNET_POOL/>",
            "one.hookpool.info": "<HOOK_POOL/>",
            "one.hostpool.monitoring": "<MONITORING_DATA/>",
            "one.clusterpool.info": "<CLUSTER_POOL><CLUSTER><ID>0</ID><NAME>c0</NAME></CLUSTER></CLUSTER_POOL>",
            "one.datastorepool.info": "<DATASTORE_POOL>"
            f"{STORE.format(1, 'default', 0, 0, 'ssh')}{STORE.format(100, 'sim-system', 1, 5, 'dummy')}"
            "</DATASTORE_POOL>",
            "one.hostpool.info": f"<HOST_POOL>{host(0, 'kvm-1', 'kvm', 0, used=400, more=KVM)}"
            f"{host(1, 'kvm-2', 'kvm', 0, state=4, more=KVM)}{host(2, 'cloud', 'sim', 5, more=SIM)}</HOST_POOL>",
        }
        environment(served, root)
        yield served


def asked(root: Path, core: LocalCore | None, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    more = {} if core is None else {"ONE_XMLRPC": core.url, "ONE_AUTH": str(root / "one_auth")}
    environ = surroundings(root, **more)
    result = aside(lambda: CliRunner().invoke(program.main, ["template", *arguments], env=environ))
    return result.exit_code, result.stdout, result.stderr


def test_the_template_alone_is_on_stdout_and_what_to_know_on_stderr(root: Path) -> None:
    code, template, told = asked(root, None, str(root / "web.txt"), "--for", "sim", "--dry-run")
    assert code == 0, told
    assert template == f'{CHANGED}PUBLIC_CLOUD = [\n  TYPE = "sim",\n  PROVIDER_INSTANCE_TYPE = "auto" ]\n'
    for line in (
        "changed: SCHED_REQUIREMENTS: no host of sim met it;",
        "at home only: PCI: the cloud's host has no PCI devices",
        "sim: disk 0, image debian-12: is img-alma-9 in sim, by [images]",
        'sim: disk 1, image data: has nothing in sim: write [images."data"] into sim.toml, or PROVIDER_IMAGE into',
        "sim: NIC 0, network private: is sim-net in sim, by [networks]",
        "sim: NIC 1, network other: has nothing in sim",
        "sim: DEPLOY: call 1 of 1 to create an instance",
        "scheduler: not asked: ",
    ):
        assert line in told
    assert "correct horse" not in told


def test_a_printed_template_is_not_changed_again(root: Path) -> None:
    printed = root / "printed.txt"
    printed.write_text(asked(root, None, str(root / "web.txt"), "--for", "sim")[1])
    code, again, told = asked(root, None, str(printed), "--for", "sim")
    assert (code, again) == (0, printed.read_text())
    assert told.startswith("nothing to change\n")


def test_a_template_of_opennebula_is_printed_whole_with_what_its_image_hands_on(root: Path, core: LocalCore) -> None:
    (root / "etc" / "one_provider_mad" / "sim.toml").write_text('provider = "simulated"\nowner = "o"\n')
    code, template, told = asked(root, core, "3", "--for", "sim")
    assert code == 0, told
    assert template == (
        'CONTEXT = [\n  NOTHING = "" ]\nCPU = "1"\nDISK = [\n  IMAGE_ID = "7" ]\nEMPTY = ""\nMEMORY = "64"\n'
        'PUBLIC_CLOUD = [\n  TYPE = "sim",\n  PROVIDER_INSTANCE_TYPE = "auto" ]\n'
        'SCHED_REQUIREMENTS = "ID = 0 | HYPERVISOR = \\"sim\\""\n'
    )
    assert "sim: disk 0, image debian-12 (7): is img-of-the-image in sim, by PROVIDER_IMAGE of the image" in told
    assert "note: undeploy: a VM that was undeployed at home may be resumed in the cloud" in told


def test_a_host_that_is_not_monitored_yet_counts_as_its_configuration_says(root: Path, core: LocalCore) -> None:
    core.answers["one.hostpool.info"] = f"<HOST_POOL>{host(2, 'cloud', 'sim', 5)}</HOST_POOL>"
    printed = root / "printed.txt"
    printed.write_text(asked(root, core, "3", "--for", "sim")[1])
    assert '| HYPERVISOR = \\"sim\\"' in printed.read_text()
    assert asked(root, core, str(printed), "--for", "sim")[1] == printed.read_text()


def test_no_system_datastore_of_home_is_opened_to_vms_of_the_template(root: Path, core: LocalCore) -> None:
    core.answers["one.datastorepool.info"] = (
        f"<DATASTORE_POOL>{STORE.format(104, 'home', 1, 5, 'ssh')}</DATASTORE_POOL>"
    )
    file = root / "fast.txt"
    file.write_text('CPU = 1\nMEMORY = 64\nSCHED_DS_REQUIREMENTS = "NAME = fast"\n')
    template = asked(root, core, str(file), "--for", "sim")[1]
    assert 'SCHED_DS_REQUIREMENTS = "NAME = fast | TM_MAD = \\"one_provider\\""\n' in template


@pytest.mark.parametrize(
    ("release", "of_cloud"),
    [
        pytest.param("6.10.0", None, id="up-to-6.10-a-cloud-needs-no-cluster"),
        pytest.param(
            "7.4.0",
            "its cluster c5 lacks datastore default of disk 0: add it there with onecluster adddatastore or addvnet"
            " before the VM is created",
            id="7.x",
        ),
    ],
)
def test_the_dry_run_says_of_each_host_why_the_scheduler_passes_it_over(
    root: Path, core: LocalCore, release: str, of_cloud: str | None
) -> None:
    core.answers["one.system.version"] = release
    found: Any = json.loads(asked(root, core, "3", "--for", "sim", "--dry-run", "--json")[1])
    assert {each["name"]: each["obstacle"] for each in found["placement"]["hosts"]} == {
        "kvm-1": "it has 0 CPU free, and the VM takes 1",
        "kvm-2": "it is disabled",
        "cloud": of_cloud,
    }
    assert found["placement"]["chosen"] == (None if of_cloud else "cloud")
    assert found["clouds"][0]["creates"]


def test_what_the_policy_refuses_a_deploy_is_said(root: Path) -> None:
    file = root / "etc" / "one_provider_mad" / "sim.toml"
    file.write_text(f'{CONFIGURATION}[policy]\nforbidden_attributes = ["CONTEXT/PASSWORD"]\n')
    code, template, told = asked(root, None, str(root / "web.txt"), "--for", "sim")
    assert (code, template.startswith("# a web server")) == (0, True)
    assert "sim: DEPLOY: is refused: CONTEXT may not set PASSWORD here: remove it from the template" in told


def test_hosts_that_an_old_scheduler_cannot_rank_are_named(root: Path, core: LocalCore) -> None:
    core.answers["one.template.info"] = STORED.replace("<CPU>", "<SCHED_RANK>FREE_CPU</SCHED_RANK><CPU>")
    sentence = "note: SCHED_RANK: PRIORITY of kvm-1, kvm-2, cloud is not set, and up to 5.12.0"
    assert sentence not in asked(root, core, "3", "--for", "sim")[2]
    core.answers["one.system.version"] = "5.10.5"
    assert sentence in asked(root, core, "3", "--for", "sim")[2]


def test_the_clouds_own_dry_run_is_asked_and_creates_nothing(here: Here) -> None:
    file = here.root / "vm.txt"
    file.write_text("CPU = 1\nMEMORY = 64\n")
    found = json_of(here.root, "template", str(file), "--for", NAME, "--dry-run")
    assert found["clouds"][0]["refused"].startswith("the PUBLIC_CLOUD section names no AMI")
    section = 'PUBLIC_CLOUD = [ TYPE = aws, AMI = "{}", INSTANCETYPE = t3.small ]\n'
    file.write_text(f"CPU = 1\nMEMORY = 4096\n{section.format('ami-0de0000000000013a')}")
    found = json_of(here.root, "template", str(file), "--for", NAME, "--dry-run")
    assert found["clouds"][0]["dry_run"] == "it would create the instance"
    assert any(
        "instance type t3.small has 2 cores and 2048 MiB, less than MEMORY=4096" in each["text"]
        for each in found["clouds"][0]["notes"]
    )
    assert json_of(here.root, "instances", NAME, "--all") == []


def test_a_refusal_of_the_clouds_own_dry_run_is_shown(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    perform = Account.perform

    async def refusing(account: Account, action: str, form: Form) -> Answer:
        if action == "RunInstances":
            raise Refusal("UnauthorizedOperation", "You are not authorized to perform this operation.", 403)
        return await perform(account, action, form)

    monkeypatch.setattr(Account, "perform", refusing)
    file = here.root / "vm.txt"
    file.write_text("CPU = 1\nMEMORY = 64\nPUBLIC_CLOUD = [ TYPE = aws, AMI = ami-1, INSTANCETYPE = t3.small ]\n")
    found = json_of(here.root, "template", str(file), "--for", NAME, "--dry-run")
    assert found["clouds"][0]["dry_run"].startswith("refused: EC2: You are not authorized")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("CPU", "line 1: CPU has no = after it; a value with blanks needs quotes", id="no-template"),
        pytest.param(
            'SCHED_REQUIREMENTS = "A ="',
            "SCHED_REQUIREMENTS cannot be read: expected a name or a value, got the end",
            id="unreadable-requirements",
        ),
    ],
)
def test_a_template_that_opennebula_would_refuse_is_refused(root: Path, text: str, sentence: str) -> None:
    (root / "web.txt").write_text(text)
    code, template, told = asked(root, None, str(root / "web.txt"), "--for", "sim")
    assert (code != 0, template) == (True, "")
    assert told.endswith(f"{sentence}\n")


def test_a_missing_file_and_an_unknown_number_are_named(root: Path, core: LocalCore) -> None:
    assert "the template gone.txt cannot be read: No such file" in asked(root, core, "gone.txt", "--for", "sim")[2]
    del core.answers["one.template.info"]
    assert "template 9 cannot be read: " in asked(root, core, "9", "--for", "sim")[2]

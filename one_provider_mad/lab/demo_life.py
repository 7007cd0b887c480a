"""The steps of the demonstration: a VM's life in the simulated cloud, and in the EC2 endpoint on it."""

from __future__ import annotations

from collections.abc import Mapping

from one_provider_mad.cli.driver_message import default_template
from one_provider_mad.cli.verbs import Release
from one_provider_mad.domain import Template, Value

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDemo alice"
"""The SSH key of the VM's user."""

CONTEXT = {"SSH_PUBLIC_KEY": KEY, "SET_HOSTNAME": "web"}
"""CONTEXT of the VM, as OpenNebula completes it."""


class Step(Value, frozen=True, kw_only=True):
    """One action on the VM.

    Attributes:
        title: the user's word for the action.
        meaning: its effect, for a person.
        action: the action's word in oned's line.
        lcm_state: the VM's LCM_STATE during the action.
        seq: number of the history record by then.
        release: the release with this form of the line.
        operand: the action's operand, besides the VM.
        reported: state that the information driver reports afterwards, "" for no change.
    """

    title: str
    meaning: str
    action: str
    lcm_state: str
    seq: int
    release: Release = "7.4"
    operand: Mapping[str, str] = {}
    reported: str = ""


class Play(Value, frozen=True, kw_only=True):
    """A demonstration: its steps, its VM and its cloud.

    Attributes:
        name: NAME of the drivers.
        settings: the text of its configuration file.
        life: the steps.
        template: the VM's template.
        key: the SSH key in its CONTEXT.
        environ: added to the drivers' environment.
        stage: a sentence about the cloud's place, "" for none.
        is_lasting: whether a folder kept with --keep holds the whole cloud.
    """

    name: str
    settings: str
    life: tuple[Step, ...]
    template: Template
    key: str = KEY
    environ: Mapping[str, str] = {}
    stage: str = ""
    is_lasting: bool = True

    @property
    def arguments(self) -> str:
        """Return one element of argv, blanks included, as oned passes it."""
        return f"-t 15 -r 0 {self.name}"


_BEGINNING = (
    Step(title="deploy", meaning="create an instance", action="DEPLOY", lcm_state="BOOT", seq=0, reported="RUNNING"),
    Step(title="poll", meaning="report its state", action="POLL", lcm_state="RUNNING", seq=0, release="5.10"),
    Step(
        title="power off",
        meaning="stop it",
        action="SHUTDOWN",
        lcm_state="SHUTDOWN_POWEROFF",
        seq=0,
        reported="POWEROFF",
    ),
    Step(
        title="resume",
        meaning="start it again",
        action="DEPLOY",
        lcm_state="BOOT_POWEROFF",
        seq=1,
        reported="RUNNING",
    ),
    Step(title="reboot", meaning="reboot it", action="REBOOT", lcm_state="RUNNING", seq=1),
)
_END = Step(title="terminate", meaning="destroy it", action="SHUTDOWN", lcm_state="SHUTDOWN", seq=2)

LIFE = (
    *_BEGINNING,
    Step(title="suspend", meaning="suspend it", action="SAVE", lcm_state="SAVE_SUSPEND", seq=1, reported="SUSPENDED"),
    Step(title="resume", meaning="wake it up", action="RESTORE", lcm_state="BOOT_SUSPENDED", seq=2, reported="RUNNING"),
    Step(
        title="snapshot", meaning="take a snapshot of it", action="SNAPSHOTCREATE", lcm_state="HOTPLUG_SNAPSHOT", seq=2
    ),
    _END,
)

_DISK = {"DISK_ID": "1", "SIZE": "1024", "TARGET": "vdf"}

EC2_LIFE = (
    *_BEGINNING,
    Step(
        title="suspend",
        meaning="stop it, for EC2 keeps no memory",
        action="SAVE",
        lcm_state="SAVE_SUSPEND",
        seq=1,
        reported="POWEROFF",
    ),
    Step(title="resume", meaning="start it", action="RESTORE", lcm_state="BOOT_SUSPENDED", seq=2, reported="RUNNING"),
    Step(
        title="attach a disk",
        meaning="make a volume and attach it",
        action="ATTACHDISK",
        lcm_state="HOTPLUG",
        seq=2,
        operand=_DISK,
    ),
    Step(
        title="detach the disk",
        meaning="detach the volume and delete it",
        action="DETACHDISK",
        lcm_state="HOTPLUG",
        seq=2,
        operand=_DISK,
    ),
    _END,
)

SIMULATED = Play(
    name="simulated",
    settings="""\
# Written by `one-provider demo`: a cloud slow enough to watch.
provider = "simulated"
owner = "demo"

[context]
guest = "auto"

[simulated]
latency = 0.02
boot_time = 0.3
stop_time = 0.2
suspend_time = 0.2
destroy_time = 0.1

[monitor]
state_period = 0.1
sync_period = 0.2
min_list_interval = 0.1
""",
    life=LIFE,
    template=Template(values={**default_template().values, "CONTEXT": (CONTEXT,)}),
)

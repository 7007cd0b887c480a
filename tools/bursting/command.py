"""The command line of `tools/burst`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence

import click

from one_provider_mad.cli.names import check_name
from one_provider_mad.cli.tables import show_table
from one_provider_mad.domain import Value
from one_provider_mad.errors import MadError, SettingsError
from one_provider_mad.settings import Places, load
from tools.bursting import burst, stand_in
from tools.bursting.core import Core
from tools.bursting.hosts import Host, Size, rooms
from tools.bursting.result import Result

_FAILED, _INTERRUPTED = 1, 130

_CODES = """\
Exit codes: 0 all was as it should be; 1 something was not, or the burst failed; 2 wrong usage; 130 interrupted."""

_EMBEDDED = ("PROVIDER_IMAGE_ID=img-alma-9", "PROVIDER_INSTANCE_TYPE=small_256mb")
"""For a simulated cloud, which has no images of its own."""


class Wish(Value, frozen=True, kw_only=True):
    """What the command line asks for.

    Attributes:
        name: NAME of the drivers.
        vms: how many VMs are created at once.
        template: a VM template; None: one is made.
        size: of a VM of the template that is made.
        section: attributes of its PUBLIC_CLOUD section, as KEY=VALUE.
        home: hosts at home, all that are no cloud's if empty.
        stand_in: hosts to make; None: none.
        within: seconds within which all VMs should run; None: any.
        wait: seconds after which the rest is given up.
    """

    name: str
    vms: int
    template: int | None
    size: Size
    section: Sequence[str]
    home: Sequence[str]
    stand_in: stand_in.StandIn | None
    within: float | None
    wait: float


@click.command("burst", epilog=_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--name", required=True, help="NAME of the cloud's drivers.")
@click.option("--vms", type=click.IntRange(1, 5000), default=100, show_default=True, help="VMs to create at once.")
@click.option("--template", type=int, help="Id of the VM template to use. Default: one without images is made.")
@click.option("--cpu", type=float, default=1.0, show_default=True, help="CPU of the template that is made.")
@click.option("--memory", type=int, default=128, show_default=True, help="Its MEMORY in MiB.")
@click.option(
    "--cloud", "section", multiple=True, metavar="KEY=VALUE",
    help="An attribute of its PUBLIC_CLOUD section, such as AMI=ami-0123; [ec2.defaults] has others.",
)  # fmt: skip
@click.option("--home", multiple=True, metavar="HOST", help="A host at home. Default: all hosts that are no cloud's.")
@click.option("--stand-in", type=click.IntRange(1, 50), metavar="HOSTS", help="Make so many hosts at home, too.")
@click.option("--room", type=click.IntRange(1), default=2, show_default=True, help="VMs that each of them takes.")
@click.option(
    "--stand-in-drivers", nargs=2, default=("dummy", "dummy"), metavar="IM VM", show_default=True,
    help="NAMEs of their information and action drivers in OpenNebula's configuration.",
)  # fmt: skip
@click.option("--within", type=float, metavar="SECONDS", help="Fail if a VM is RUNNING only later.")
@click.option("--wait", type=float, default=600, show_default=True, metavar="SECONDS", help="Give up after that.")
@click.option("--dry-run", is_flag=True, help="Say what would be made, and where the VMs should go. Make nothing.")
@click.option("--remove", is_flag=True, help="Remove what an earlier run has left, and do nothing else.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def command(
    name: str,
    vms: int,
    template: int | None,
    cpu: float,
    memory: int,
    section: tuple[str, ...],
    home: tuple[str, ...],
    stand_in: int | None,
    room: int,
    stand_in_drivers: tuple[str, str],
    within: float | None,
    wait: float,
    dry_run: bool,
    remove: bool,
    is_json: bool,
) -> None:
    """Measure how this front-end places and starts many VMs at once, at home and in the cloud of NAME.

    Run it on the front-end, as OpenNebula's user. It creates VMs, waits until they are RUNNING, and says where and
    when each was; it counts the instances of each in the cloud, ends one VM at home, looks where the next one goes,
    and removes all that it has made, also after Ctrl-C. Instances in a real cloud cost money.
    """
    check_name(name)
    wish = Wish(
        name=name,
        vms=vms,
        template=template,
        size=Size(cpu=cpu, memory=memory),
        section=section,
        home=home,
        stand_in=_stand_in(stand_in, room, stand_in_drivers),
        within=within,
        wait=wait,
    )
    try:
        core = Core(os.environ)
        if remove:
            sys.exit(_clear(core, name, burst.PREFIX))
        sys.exit(_plan(core, wish) if dry_run else _play(core, wish, is_json=is_json))
    except (MadError, OSError) as error:
        click.echo(f"burst: {' '.join(str(error).split())}", err=True)
        sys.exit(_FAILED)


def _stand_in(count: int | None, room: int, drivers: tuple[str, str]) -> stand_in.StandIn | None:
    if count is None:
        return None
    return stand_in.StandIn(count=count, room=room, im_mad=drivers[0], vm_mad=drivers[1])


def _tell(sentence: str) -> None:
    click.echo(sentence, err=True)


def _plan(core: Core, wish: Wish) -> int:
    """Say what would be made, and where the VMs should go."""
    core.release()
    hosts = core.hosts()
    cloud = burst.cloud_hosts(hosts, wish.name)
    size = _size(core, wish)
    room = dict(rooms(burst.home_hosts(hosts, wish.home, wish.name), size))
    if wish.stand_in is not None:
        room |= {f"{burst.PREFIX}-home{number}": wish.stand_in.room for number in range(wish.stand_in.count)}
    home = min(wish.vms, sum(room.values()))
    shown = ", ".join(f"{host} for {count}" for host, count in room.items()) or "no host at home"
    click.echo(f"{wish.vms} VMs of {size.cpu:g} CPU and {size.memory} MiB would be created. Room at home: {shown}.")
    click.echo(f"{home} should go home, {wish.vms - home} to {' or '.join(host.name for host in cloud)}.")
    if wish.template is None:
        click.echo(f"Their template would be:\n{_template_text(wish, burst.PREFIX, _hypervisor(wish.name))}")
    click.echo("Nothing was made.")
    return 0


def _play(core: Core, wish: Wish, *, is_json: bool) -> int:
    """Play the burst, show what was seen, and remove what was made."""
    prefix = f"{burst.PREFIX}-{os.getpid()}"
    result: Result | None = None
    is_interrupted = False
    try:
        result = _measure(core, wish, prefix)
    except KeyboardInterrupt:
        is_interrupted = True
        _tell("Interrupted: all that was made is being removed.")
    finally:
        left = _removed(core, wish.name, prefix)
        for sentence in left:
            _tell(f"burst: {sentence}")
    if is_interrupted or result is None:
        return _INTERRUPTED
    problems = [*result.problems(wish.within), *left]
    if is_json:
        click.echo(json.dumps({**result.as_json(wish.within), "problems": problems}, indent=2))
        return _FAILED if problems else 0
    show_table(["HOST", "WHERE", "VMS", "FIRST RUNNING", "LAST RUNNING"], list(result.rows()))
    for sentence in (*result.sentences(), *(f"WRONG: {problem}." for problem in problems)):
        click.echo(sentence)
    return _FAILED if problems else 0


def _clear(core: Core, name: str, prefix: str) -> int:
    left = _removed(core, name, prefix)
    for sentence in left:
        _tell(f"burst: {sentence}")
    return _FAILED if left else 0


def _removed(core: Core, name: str, prefix: str) -> list[str]:
    """Remove all that was made; return a sentence for each thing that is left."""
    try:
        return burst.remove_all(core, name, prefix)
    except KeyboardInterrupt:
        return [f"interrupted while it removed what it had made: tools/burst --name {name} --remove does the rest"]
    except MadError as error:
        return [f"not all is removed, tools/burst --name {name} --remove does the rest: {error}"]


def _measure(core: Core, wish: Wish, prefix: str) -> Result:
    release = ".".join(map(str, core.release()))
    size = _size(core, wish)
    cloud = [host.name for host in burst.cloud_hosts(core.hosts(), wish.name)]
    home = _home(core, wish, prefix, size)
    _tell(f"OpenNebula {release}: room at home for {sum(home.values())} VMs, the cloud is {', '.join(cloud)}")
    template = wish.template
    if template is None:
        template = core.make_template(_template_text(wish, prefix, _hypervisor(wish.name)))
    began = time.monotonic()
    core.make_vms(template, [f"{prefix}-vm{number}" for number in range(wish.vms)])
    created_in = time.monotonic() - began
    vms = f"{prefix}-vm"
    seen = burst.watch(core, vms, count=wish.vms, began=began, seconds=wish.wait, tell=_tell)
    instances = burst.instances_of(wish.name, [each.vm for each in seen])
    next_host = None
    if burst.free_one(core, seen, list(home)):
        core.make_vms(template, [f"{prefix}-next"])
        last = burst.watch(
            core, f"{prefix}-next", count=1, began=time.monotonic(), seconds=wish.wait, tell=lambda _: None
        )
        next_host = last[0].vm.host if last else ""
    return Result(
        release=release,
        cloud=cloud,
        rooms=home,
        created_in=created_in,
        seen=seen,
        instances=instances,
        next_host=next_host,
    )


def _home(core: Core, wish: Wish, prefix: str, size: Size) -> dict[str, int]:
    """Return the room of each host at home, by its name; stand-ins are made here."""
    hosts: list[Host] = burst.home_hosts(core.hosts(), wish.home, wish.name)
    if wish.stand_in is not None:
        hosts += stand_in.make(core, wish.stand_in, prefix=prefix, size=size, tell=_tell)
    return dict(rooms(hosts, size))


def _size(core: Core, wish: Wish) -> Size:
    return wish.size if wish.template is None else core.size_of_template(wish.template)


def _hypervisor(name: str) -> str:
    return load(name, Places.from_environment(os.environ)).settings.hypervisor


def _template_text(wish: Wish, prefix: str, hypervisor: str) -> str:
    """Return a VM template without images and networks, which runs at home and in the cloud."""
    is_embedded = load(wish.name, Places.from_environment(os.environ)).settings.provider == "simulated"
    pairs = [*(_EMBEDDED if is_embedded and not wish.section else ()), *wish.section]
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise SettingsError(f"--cloud {wrong[0]} is not KEY=VALUE")
    section = [f'TYPE = "{hypervisor}"', *(f'{key} = "{value}"' for key, _, value in (p.partition("=") for p in pairs))]
    inside = ",\n".join(f"    {each}" for each in section)
    return f'NAME = "{prefix}"\nCPU = {wish.size.cpu:g}\nMEMORY = {wish.size.memory}\nPUBLIC_CLOUD = [\n{inside} ]'

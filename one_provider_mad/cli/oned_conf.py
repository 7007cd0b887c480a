"""`one-provider oned-conf`: prints the sections for OpenNebula's configuration files, and the commands that follow.

IM_MAD moved to monitord.conf with 5.12. Up to 6.10 the core keeps ordinary VMs off a host that reports PUBLIC_CLOUD=YES
(VirtualMachine::automatic_requirements). 7.0 has no public clouds any more: a cloud's host needs a datastore like any
other, and only clusters and VDCs keep ordinary VMs away (OpenNebula src/im, src/vm, src/schedm; docs.opennebula.io,
"Cloud Bursting").
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import dedent, wrap

import click

from one_provider_mad.cli.install_hook import script_path, vm_hooks
from one_provider_mad.cli.names import check_name, complete_name
from one_provider_mad.cli.oned_conf_block import Block, vector
from one_provider_mad.cli.oned_conf_group import fence_step, group_steps, users_step
from one_provider_mad.cli.oned_conf_scheduler import scheduler_steps
from one_provider_mad.cli.oned_conf_showback import Showback, ask_showback, no_showback_step, showback_step
from one_provider_mad.cli.oned_conf_transfer import TRANSFER, image_steps, transfer_steps
from one_provider_mad.cli.releases import Numbers, ReleaseChoice, numbers
from one_provider_mad.errors import MadError
from one_provider_mad.front_end.files import ONED, FrontEnd, read_front_end
from one_provider_mad.front_end.scheduler import SEVEN, THREADS
from one_provider_mad.pricing.selection import AUTO
from one_provider_mad.providers.inherited import IMAGE_ATTRIBUTES, NETWORK_ATTRIBUTES
from one_provider_mad.providers.registry import resizes_live
from one_provider_mad.settings import Places, load

RELEASES = ("7.4", "6.10", "5.12", "5.10", "5.8", "4.14")
"""Releases with an output of their own, the latest first; each output also serves the releases before it, down to the
next one here."""

MONITORD = (5, 12)
"""First release in which monitord starts the information drivers."""

_GROUP_OPERATIONS = (5, 10)
"""First release in which a group can have VM_ADMIN_OPERATIONS of its own."""

_HOOKS = (5, 10)
"""First release in which hooks are objects of the API; up to 5.8 they are sections of oned.conf."""

_SCRIPTS_AT_ONCE = 15
"""-t for `scripts`, which start a process for each action."""

_VAR = Path("/var/lib/one")
"""OpenNebula's state directory on a front-end that was installed from packages."""

_GROUP = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
"""A name of a group that can stand in a command and a file's name as it is."""

_WIDTH = 118
"""Width of the printed comments."""

_ASKED_FOR: Mapping[str, Mapping[str, str]] = {
    "simulated": {"PROVIDER_IMAGE_ID": "img-alma-9", "PROVIDER_INSTANCE_TYPE": AUTO},
    "ec2": {"AMI": "ami-0123456789abcdef0", "INSTANCETYPE": AUTO},
    "opennebula": {"TEMPLATE_ID": "0"},
    "scripts": {"PROVIDER_IMAGE_ID": "your-image", "PROVIDER_INSTANCE_TYPE": "your-size"},
}
"""For each kind of provider, the attributes of the PUBLIC_CLOUD section in the printed VM template."""


def taken_as(release: Numbers) -> str:
    """Return the one of RELEASES with the output for a release: the same, else the next later one, else the latest."""
    later = [each for each in RELEASES if numbers(each) >= release[:2]]
    return later[-1] if later else RELEASES[0]


@click.command("oned-conf", short_help="Print the sections for oned.conf and monitord.conf.")
@click.argument("name", shell_complete=complete_name)
@click.option("--release", type=ReleaseChoice(RELEASES, taken_as), required=True, help="OpenNebula's.")
@click.option("--group", default="", metavar="GROUP", help="A group that may use this cloud, and nothing else.")
@click.option("--type", "type_name", default="", metavar="TYPE", help="Print costs of this type for oneshowback.")
@click.option("--json", "is_json", is_flag=True, help="One JSON array.")
def command(name: str, release: str, group: str, type_name: str, is_json: bool) -> None:
    """Print the configuration and commands that make NAME a host of OpenNebula.

    Nothing is written or run. NAME need not be configured yet, unless --type asks its cloud for a price. On a front-end
    the settings are composed from those in its own files. For a second NAME leave out the steps that begin with "Once".
    """
    check_name(name)
    if group and not _GROUP.fullmatch(group):
        raise click.UsageError(f"{group!r} is no name of a group: letters, digits, _ and - only, a letter first")
    places = Places.from_environment(os.environ)
    kind, hypervisor, is_live = _configured(name, places)
    front_end = _front_end(places)
    blocks = list(
        blocks_of(
            name,
            kind=kind,
            hypervisor=hypervisor,
            release=release,
            resizes_live=is_live,
            front_end=front_end,
            group=group,
            var=places.var if front_end.is_there else _VAR,
            showback=ask_showback(name, os.environ, type_name) if type_name else None,
        )
    )
    if is_json:
        click.echo(json.dumps([each.entry() for each in blocks], indent=2))
        return
    for number, each in enumerate(blocks):
        once = "Once for all clouds. " if each.is_once and not each.what.startswith("Once for all clouds") else ""
        lines = wrap(once + each.what, _WIDTH, initial_indent="# ", subsequent_indent="# ")
        click.echo(("\n" if number else "") + click.style("\n".join(lines), bold=True))
        if each.where:
            click.echo(f"# into {each.where}")
        if each.text:
            click.echo(each.text)


def _front_end(places: Places) -> FrontEnd:
    """Return this front-end's files; none if they cannot be read, which a note says."""
    try:
        return read_front_end(places.etc)
    except MadError as error:
        click.echo(f"note: {error}; the output is for files as shipped", err=True)
        return FrontEnd()


def _configured(name: str, places: Places) -> tuple[str, str, bool]:
    """Return what NAME's configuration says: provider, HYPERVISOR, and whether the cloud can resize running VMs.

    Without a usable configuration these are the simulated cloud's.
    """
    try:
        configuration = load(name, places)
        settings = configuration.settings
        if settings.provider == "scripts":
            return settings.provider, settings.hypervisor, (places.scripts(name) / "resize").is_file()
        return settings.provider, settings.hypervisor, resizes_live(configuration)
    except MadError as error:
        if (places.conf / f"{name}.toml").exists():
            click.echo(f"note: {error}; the output is for a simulated cloud", err=True)
        return "simulated", name, True


def blocks_of(
    name: str,
    *,
    kind: str,
    hypervisor: str,
    release: str,
    resizes_live: bool,
    front_end: FrontEnd | None = None,
    group: str = "",
    var: Path = _VAR,
    showback: Showback | None = None,
) -> Iterator[Block]:
    """Yield the operator's steps, in order.

    Args:
        name: NAME of the drivers, and of their configuration.
        kind: kind of provider, for the example.
        hypervisor: HYPERVISOR that the host reports.
        release: one of RELEASES.
        resizes_live: True if the cloud can resize running VMs; else OpenNebula may resize a VM only while it is off.
        front_end: the files of this front-end; None for those that the release ships.
        group: a group that may use this cloud and nothing else; "" for a group that uses it beside home.
        var: OpenNebula's state directory.
        showback: an instance type whose costs showback shall show; None for none.
    """
    number = numbers(release)
    front_end = front_end or FrontEnd()
    yield from _settings_steps(name, number, front_end, kind=kind, resizes_live=resizes_live, var=var)
    yield Block(what="OpenNebula reads its configuration when it starts", text="systemctl restart opennebula")
    if number >= SEVEN:
        yield from _place_of_7(name, group)
        yield from image_steps(name)
        yield Block(
            what="The cloud as a host, created in its own cluster: in the default one any VM could be placed on it",
            text=f"onehost create {name} -i {name} -v {name} -c {name}",
        )
    else:
        yield from _place_up_to_6(name, number, group)
    if number >= _HOOKS:
        yield _recreate_hook(name)
    yield _kept_back(name, number)
    yield _alike(name)
    if kind != "scripts":
        yield showback_step(name, number, showback) if showback else no_showback_step(name)
    yield Block(
        what="A VM in the cloud. Its user needs SSH_PUBLIC_KEY (oneuser update USER, or Sunstone's settings) to log in",
        where=f"{name}.tmpl, then: onetemplate create {name}.tmpl",
        text=_vm_template(name, kind if kind in _ASKED_FOR else "simulated", hypervisor, is_7=number >= SEVEN),
    )


def _settings_steps(
    name: str, release: Numbers, front_end: FrontEnd, *, kind: str, resizes_live: bool, var: Path
) -> Iterator[Block]:
    """Yield the steps that change OpenNebula's configuration files."""
    threads = _SCRIPTS_AT_ONCE if kind == "scripts" else THREADS
    yield Block(
        what="The action driver. -t: so many actions run at once, and a deploy is one until its instance runs; with 15"
        " the sixteenth VM waits for the first",
        where=ONED,
        text=_vm_mad(name, release, resizes_live=resizes_live, threads=threads),
    )
    where = "monitord.conf" if release >= MONITORD else ONED
    yield Block(what="The information driver", where=where, text=_im_mad(name, release))
    yield from scheduler_steps(release, front_end)
    if release >= SEVEN:
        yield from transfer_steps(front_end)
        yield Block(
            what="The folder of that transfer driver, before OpenNebula starts with it: run this again, if an earlier"
            " release of the drivers was installed",
            text=f"one-provider install {name}",
        )
    yield from _inherited(front_end)
    if release < _HOOKS:
        yield _vm_hooks(name, var)


def _vm_mad(name: str, release: Numbers, *, resizes_live: bool, threads: int) -> str:
    pairs = {
        **_named(name, release),
        "EXECUTABLE": '"one_vmm_provider"',
        "ARGUMENTS": f'"-t {threads} -r 0 {name}"',
        "TYPE": '"xml"',
    }
    if release >= (5, 0):
        pairs["KEEP_SNAPSHOTS"] = '"no"'
    if (5, 0) <= release < (7, 0):
        pairs["IMPORTED_VMS_ACTIONS"] = (
            '"terminate, terminate-hard, poweroff, poweroff-hard, hold, release, suspend, resume, delete, reboot,'
            ' reboot-hard, resched, unresched"'
        )
    if release >= (6, 0):
        live = '"yes"' if resizes_live else '"no"'
        pairs |= {"THREADS": "0", "LIVE_RESIZE": live, "COLD_NIC_ATTACH": '"no"', "SUPPORT_SHAREABLE": '"no"'}
    return vector("VM_MAD", pairs)


def _im_mad(name: str, release: Numbers) -> str:
    pairs = {
        **_named(name, release),
        "EXECUTABLE": '"one_im_provider"',
        "ARGUMENTS": f'"{name}"',
    }
    if release >= MONITORD:
        pairs["THREADS"] = "0"
    return vector("IM_MAD", pairs)


def _named(name: str, release: Numbers) -> dict[str, str]:
    """Return the key NAME of a driver section, and from 5.0 on SUNSTONE_NAME."""
    return {"NAME": f'"{name}"', **({"SUNSTONE_NAME": f'"{name}"'} if release >= (5, 0) else {})}


def _inherited(front_end: FrontEnd) -> Iterator[Block]:
    """Yield the steps that let images and networks say what stands for them in a cloud.

    Every release from 4.4 on takes the lines, each once or more (OpenNebula src/nebula/NebulaTemplate.cc).
    """
    lines = [f'INHERIT_IMAGE_ATTR = "{name}"' for name in IMAGE_ATTRIBUTES]
    lines += [f'INHERIT_VNET_ATTR  = "{name}"' for name in NETWORK_ATTRIBUTES]
    yield from _missing(
        front_end,
        lines,
        what="Once for all clouds, and only if images and networks shall say themselves what stands for them in a"
        " cloud, beside [images] and [networks] of the configuration: the core copies these attributes into DISK and"
        " NIC",
    )
    restricted = [f'VM_RESTRICTED_ATTR = "DISK/{name}"' for name in IMAGE_ATTRIBUTES]
    restricted += [f'VM_RESTRICTED_ATTR = "NIC/{name}"' for name in NETWORK_ATTRIBUTES]
    yield from _missing(
        front_end,
        restricted,
        what="With the lines above, where users may not choose the cloud's image or subnet: only oneadmin's group may"
        " write these attributes into a DISK or NIC. IMAGE_RESTRICTED_ATTR and VNET_RESTRICTED_ATTR restrict them in"
        " images and networks likewise",
    )


def _missing(front_end: FrontEnd, lines: Sequence[str], *, what: str) -> Iterator[Block]:
    """Yield a step for those lines that do not stand in oned.conf already."""
    written = front_end.of(ONED).values
    missing = [line for line in lines if line.split('"')[1] not in written.get(line.split()[0], ())]
    if missing:
        yield Block(what=what, where=ONED, text="\n".join(missing), is_once=True, is_optional=True)


def _place_of_7(name: str, group: str) -> Iterator[Block]:
    """Yield the steps for 7.x that keep the cloud's VMs on its host, and ordinary VMs off it.

    All objects are named after NAME, since two clouds may share a HYPERVISOR. 7.x runs the steps of transfer and
    network drivers on every host; those of `one_provider` do nothing.
    """
    yield fence_step()
    yield Block(
        what="A cluster of its own; it needs neither images nor networks, since the cloud has its own. Its system"
        " datastore is in no other cluster, so the core refuses to move a VM out of it by onevm migrate or resched: it"
        " would ask only the driver at home, and the instance would go on running",
        text=f"onecluster create {name}",
    )
    yield Block(
        what=f"A system datastore, which 7.x requires; with the driver {TRANSFER} it stores nothing. Create it in this"
        " cluster alone: in the default one the scheduler would prefer it for its free space, and ordinary VMs with an"
        " image would wait for ever. One with TM_MAD = dummy, as earlier releases of the drivers printed, goes on"
        " working",
        where=f"{name}.ds, then: onedatastore create {name}.ds -c {name}",
        text=f'NAME = "{name}-system"\nTYPE = "SYSTEM_DS"\nTM_MAD = "{TRANSFER}"',
    )
    yield from group_steps(name, group) if group else (users_step(name),)


def _place_up_to_6(name: str, release: Numbers, group: str) -> Iterator[Block]:
    """Yield the steps up to 6.10 that make the cloud a host."""
    network = " -n dummy" if release < (5, 0) else ""
    create = f"onehost create {name} -i {name} -v {name}{network}"
    if group:
        yield fence_step()
        yield Block(
            what="A cluster of its own, so that a group may use it alone (VDCs came with 4.12). Datastores of images"
            " and networks that a template names must be in it: onecluster adddatastore and addvnet",
            text=f"onecluster create {name}",
        )
        yield from group_steps(name, group)
        create += f" -c {name}"
    yield Block(what="The cloud as a host", text=create)
    yield Block(
        what="No datastore and no network is needed: OpenNebula uses neither on a host that reports"
        " PUBLIC_CLOUD=YES, and places there only VMs with a PUBLIC_CLOUD section of its TYPE"
    )


def _recreate_hook(name: str) -> Block:
    """Return the step by which a VM that its cloud has no room for is tried again elsewhere, by itself."""
    return Block(
        what="Once for all clouds, and only if a VM that its cloud refused for want of room, or took back (spot), shall"
        " be recreated by itself, in the next cloud or at home, up to three times",
        text=f"one-provider install {name} --recreate-hook",
        is_once=True,
        is_optional=True,
    )


def _vm_hooks(name: str, var: Path) -> Block:
    """Return the same step up to 5.8, whose hooks are sections of oned.conf."""
    return Block(
        what="Once for all clouds, and only if a VM that its cloud refused for want of room, or took back (spot), shall"
        " be recreated by itself, in the next cloud or at home, up to three times. First run one-provider install"
        f" {name} --recreate-hook, which installs the program",
        where=ONED,
        text=vm_hooks(script_path(var)),
        is_once=True,
        is_optional=True,
    )


def _alike(name: str) -> Block:
    return Block(
        what="A template of yours that runs at home, printed so that its VMs run in the cloud as well once home is"
        " full, with what was changed and why",
        text=f"one-provider template ID --for {name}",
        is_optional=True,
    )


def _kept_back(name: str, release: Numbers) -> Block:
    """Yield the steps that forbid users actions that oned sends to transfer drivers only (src/tm/TransferManager.cc).

    Groups have operations of their own from 5.10 on (Group::get_vm_auth_op).
    """
    asked = (
        "disk-saveas, and disk-snapshot of a VM that is off, go to the transfer driver only, and a dummy one reports"
        " success: the image or snapshot is empty."
    )
    if release < _GROUP_OPERATIONS:
        return Block(what=f"{asked} This release cannot forbid them: warn your users")
    return Block(
        what=f"{asked} This line forbids both to the users of a group, at home as well, unless they have ADMIN rights"
        " on the VM; only a user's first group counts",
        where=f"{name}.ops, then for such a group: onegroup update GROUP {name}.ops --append",
        is_optional=True,
        text='VM_ADMIN_OPERATIONS = "disk-saveas, disk-snapshot"',
    )


def _vm_template(name: str, kind: str, hypervisor: str, *, is_7: bool) -> str:
    asked = ",\n".join(f'    {key} = "{value}"' for key, value in _ASKED_FOR[kind].items())
    text = dedent(
        """\
        NAME = "in-{name}"
        CPU = 1
        MEMORY = 256
        PUBLIC_CLOUD = [
            TYPE = "{hypervisor}",
        {asked} ]
        CONTEXT = [ SSH_PUBLIC_KEY = "$USER[SSH_PUBLIC_KEY]" ]
        SCHED_REQUIREMENTS = "HYPERVISOR = \\"{hypervisor}\\""
        """
    ).format(name=name, hypervisor=hypervisor, asked=asked)
    return (text + ('SCHED_DS_REQUIREMENTS = "TM_MAD = \\"one_provider\\""' if is_7 else "")).rstrip()

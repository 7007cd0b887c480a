"""`one-provider oned-conf`: what goes into OpenNebula's own files, release by release, and the commands that follow.

IM_MAD moved to monitord.conf with 5.12. Up to 6.10 the core keeps ordinary VMs off a host that reports PUBLIC_CLOUD=YES
(VirtualMachine::automatic_requirements). 7.0 knows no public cloud any more: its hosts want a datastore like any other,
and only clusters and VDCs keep ordinary VMs away (OpenNebula src/im, src/vm, src/schedm; docs.opennebula.io, "Cloud
Bursting").
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from textwrap import dedent, wrap

import click

from one_provider_mad.cli.names import check_name
from one_provider_mad.domain import Value
from one_provider_mad.errors import MadError
from one_provider_mad.providers.registry import resizes_live
from one_provider_mad.settings import Places, load

RELEASES = ("7.4", "6.10", "5.10", "4.14")

MONITORD = (5, 12)
"""From here on monitord starts the information drivers."""

_GROUP_OPERATIONS = (5, 10)
"""From here on a group can have VM_ADMIN_OPERATIONS of its own."""

_WIDTH = 118
"""Of sentences, as a comment of a file has them."""

_ASKED_FOR: Mapping[str, Mapping[str, str]] = {
    "simulated": {"PROVIDER_IMAGE_ID": "img-alma-9", "PROVIDER_INSTANCE_TYPE": "small_256mb"},
    "ec2": {"AMI": "ami-0123456789abcdef0", "INSTANCETYPE": "t3.small"},
    "opennebula": {"TEMPLATE_ID": "0"},
    "scripts": {"PROVIDER_IMAGE_ID": "your-image", "PROVIDER_INSTANCE_TYPE": "your-size"},
}
"""What a VM's PUBLIC_CLOUD section names, by kind of provider."""


class Block(Value, frozen=True, kw_only=True):
    """One thing to do.

    Attributes:
        what: what it is for, as a sentence.
        where: the file it goes into, "" for a command.
        text: what to write, or to run; "" for something to know.
    """

    what: str
    where: str = ""
    text: str = ""


@click.command("oned-conf", short_help="Print what goes into oned.conf and monitord.conf.")
@click.argument("name")
@click.option("--release", type=click.Choice(RELEASES), required=True, help="OpenNebula's, or the next older one.")
@click.option("--json", "is_json", is_flag=True, help="One JSON array.")
def command(name: str, release: str, is_json: bool) -> None:
    """Print what OpenNebula has to be told so that NAME becomes one of its hosts.

    Nothing is written or run. NAME need not be configured yet.
    """
    check_name(name)
    kind, hypervisor, is_live = _configured(name, Places.from_environment(os.environ))
    blocks = list(blocks_of(name, kind=kind, hypervisor=hypervisor, release=release, resizes_live=is_live))
    if is_json:
        click.echo(
            json.dumps([{"what": each.what, "where": each.where, "text": each.text} for each in blocks], indent=2)
        )
        return
    for number, each in enumerate(blocks):
        lines = wrap(each.what, _WIDTH, initial_indent="# ", subsequent_indent="# ")
        click.echo(("\n" if number else "") + click.style("\n".join(lines), bold=True))
        if each.where:
            click.echo(f"# into {each.where}")
        if each.text:
            click.echo(each.text)


def _configured(name: str, places: Places) -> tuple[str, str, bool]:
    """Kind of provider, HYPERVISOR, and whether it resizes running VMs, as far as there is a configuration."""
    try:
        configuration = load(name, places)
        settings = configuration.settings
        if settings.provider == "scripts":
            return settings.provider, settings.hypervisor, (places.scripts(name) / "resize").is_file()
        return settings.provider, settings.hypervisor, resizes_live(configuration)
    except MadError as error:
        if (places.conf / f"{name}.toml").exists():
            click.echo(f"note: {error}; so this is for a simulated cloud", err=True)
        return "simulated", name, True


def blocks_of(name: str, *, kind: str, hypervisor: str, release: str, resizes_live: bool) -> Iterator[Block]:
    """What has to be done, in order.

    Args:
        name: NAME of the drivers, and of their configuration.
        kind: kind of provider, for the example.
        hypervisor: HYPERVISOR reported.
        release: one of RELEASES.
        resizes_live: a VM is resized while it runs; else OpenNebula refuses that, and resizes it while it is off.
    """
    number = tuple(map(int, release.split(".")))
    is_7 = number >= (7, 0)
    yield Block(what="The action driver", where="oned.conf", text=_vm_mad(name, number, resizes_live=resizes_live))
    where = "monitord.conf" if number >= MONITORD else "oned.conf"
    yield Block(what="The information driver", where=where, text=_im_mad(name, number))
    if is_7:
        yield _pace_of_7()
    yield Block(what="All this is read when OpenNebula starts", text="systemctl restart opennebula")
    if is_7:
        yield from _place_of_7(name)
        yield Block(
            what="The cloud as a host, made in its cluster: in the default one any VM could be placed on it meanwhile",
            text=f"onehost create {name} -i {name} -v {name} -c {name}",
        )
    else:
        network = " -n dummy" if number < (5, 0) else ""
        yield Block(what="The cloud as a host", text=f"onehost create {name} -i {name} -v {name}{network}")
        yield Block(
            what="No datastore and no network: OpenNebula leaves both out on a host that reports PUBLIC_CLOUD=YES,"
            " and places there only VMs with a PUBLIC_CLOUD section of its TYPE"
        )
    yield _kept_back(name, number)
    yield Block(
        what="A VM in the cloud",
        where=f"{name}.tmpl, then: onetemplate create {name}.tmpl",
        text=_vm_template(name, kind if kind in _ASKED_FOR else "simulated", hypervisor, is_7=is_7),
    )


def _vm_mad(name: str, release: tuple[int, ...], *, resizes_live: bool) -> str:
    pairs = {
        **_named(name, release),
        "EXECUTABLE": '"one_vmm_provider"',
        "ARGUMENTS": f'"-t 15 -r 0 {name}"',
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
    return _vector("VM_MAD", pairs)


def _im_mad(name: str, release: tuple[int, ...]) -> str:
    pairs = {
        **_named(name, release),
        "EXECUTABLE": '"one_im_provider"',
        "ARGUMENTS": f'"{name}"',
    }
    if release >= MONITORD:
        pairs["THREADS"] = "0"
    return _vector("IM_MAD", pairs)


def _named(name: str, release: tuple[int, ...]) -> dict[str, str]:
    """Sunstone's label came with 5.0."""
    return {"NAME": f'"{name}"', **({"SUNSTONE_NAME": f'"{name}"'} if release >= (5, 0) else {})}


def _vector(name: str, pairs: Mapping[str, str]) -> str:
    width = max(map(len, pairs))
    inside = ",\n".join(f"    {key.ljust(width)} = {value}" for key, value in pairs.items())
    return f"{name} = [\n{inside} ]"


def _pace_of_7() -> Block:
    """How long a slow cloud may hold up others; up to 6.10 each scheduling round starts whatever still deploys."""
    return Block(
        what="Instead of the lines that are there: 7.x places no VM before every deploy of the last placement is over,"
        " for up to five minutes, so that a slow cloud holds up VMs at home. With these it looks again after 15 s",
        where="oned.conf",
        text="ACTION_TIMEOUT   = 10\nSCHED_RETRY_TIME = 15",
    )


def _place_of_7(name: str) -> Iterator[Block]:
    """What keeps the cloud's VMs and ordinary ones apart.

    All of it is called after the NAME: two clouds may share a HYPERVISOR. 7.x runs the steps of transfer and network
    drivers on every host: `dummy` ones do nothing.
    """
    yield Block(
        what="Once for all clouds: ordinary VMs stay at home. The default VDC (0), which holds every group, has ALL"
        " clusters of this zone (0), and gets those at home instead. Before ALL goes, add each further cluster at home"
        " by a line like the first, and what is in no cluster by onevdc adddatastore and addvnet. Other VDCs with ALL"
        " need the same",
        text="onevdc addcluster 0 0 default\nonevdc delcluster 0 0 ALL",
    )
    yield Block(
        what="A cluster of its own; it needs neither images nor networks, which are the cloud's own. Its datastore is"
        " in no other, and so the core refuses to move a VM out of it by onevm migrate or resched: it would ask the"
        " driver at home alone, and the instance would run on",
        text=f"onecluster create {name}",
    )
    yield Block(
        what="A place for VMs that takes no room: 7.x wants a system datastore, and the dummy driver does nothing. It"
        " is made in this cluster alone: in the default one the scheduler would prefer it for its room, and"
        " ordinary VMs with an image would wait for ever",
        where=f"{name}.ds, then: onedatastore create {name}.ds -c {name}",
        text=f'NAME = "{name}-system"\nTYPE = "SYSTEM_DS"\nTM_MAD = "dummy"',
    )
    yield Block(
        what="Who may use the cloud: the users of this group (oneuser addgroup USER GROUP). Their ordinary VMs without"
        " an image or a network may be placed there, too, as may those of oneadmin's group: policy.without_section"
        " says whether an instance is created for them",
        text=f"onegroup create {name}\nonevdc create {name}\n"
        f"onevdc addcluster {name} 0 {name}\nonevdc addgroup {name} {name}",
    )


def _kept_back(name: str, release: tuple[int, ...]) -> Block:
    """What keeps users from actions that only transfer drivers are asked for (src/tm/TransferManager.cc).

    Groups have operations of their own from 5.10 on (Group::get_vm_auth_op).
    """
    asked = (
        "disk-saveas, and disk-snapshot of a VM that is off, are asked of the transfer driver alone, and shown as done"
        " where that is a dummy: the image or snapshot holds nothing."
    )
    if release < _GROUP_OPERATIONS:
        return Block(what=f"{asked} This release cannot forbid them: tell your users")
    return Block(
        what=f"{asked} With this the users of a group may do neither, at home either, unless they have ADMIN rights on"
        " the VM; what counts is a user's first group",
        where=f"{name}.ops, then for such a group: onegroup update GROUP {name}.ops --append",
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
        SCHED_REQUIREMENTS = "HYPERVISOR = \\"{hypervisor}\\""
        """
    ).format(name=name, hypervisor=hypervisor, asked=asked)
    return (text + ('SCHED_DS_REQUIREMENTS = "TM_MAD = \\"dummy\\""' if is_7 else "")).rstrip()

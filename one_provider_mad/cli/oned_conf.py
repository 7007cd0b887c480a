"""`one-provider oned-conf`: prints the sections for OpenNebula's configuration files, and the commands that follow.

IM_MAD moved to monitord.conf with 5.12. Up to 6.10 the core keeps ordinary VMs off a host that reports PUBLIC_CLOUD=YES
(VirtualMachine::automatic_requirements). 7.0 has no public clouds any more: a cloud's host needs a datastore like any
other, and only clusters and VDCs keep ordinary VMs away (OpenNebula src/im, src/vm, src/schedm; docs.opennebula.io,
"Cloud Bursting").
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from textwrap import dedent, wrap

import click

from one_provider_mad.cli.names import check_name, complete_name
from one_provider_mad.cli.releases import Numbers, ReleaseChoice, numbers
from one_provider_mad.domain import Value
from one_provider_mad.errors import MadError
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

_WIDTH = 118
"""Width of the printed comments."""

_ASKED_FOR: Mapping[str, Mapping[str, str]] = {
    "simulated": {"PROVIDER_IMAGE_ID": "img-alma-9", "PROVIDER_INSTANCE_TYPE": "small_256mb"},
    "ec2": {"AMI": "ami-0123456789abcdef0", "INSTANCETYPE": "t3.small"},
    "opennebula": {"TEMPLATE_ID": "0"},
    "scripts": {"PROVIDER_IMAGE_ID": "your-image", "PROVIDER_INSTANCE_TYPE": "your-size"},
}
"""For each kind of provider, the attributes of the PUBLIC_CLOUD section in the printed VM template."""


class Block(Value, frozen=True, kw_only=True):
    """One step for the operator.

    Attributes:
        what: the step's purpose, as a sentence.
        where: the file to change, "" for a command.
        text: the text to write or the command to run; "" for a remark.
    """

    what: str
    where: str = ""
    text: str = ""


def taken_as(release: Numbers) -> str:
    """Return the one of RELEASES with the output for a release: the same, else the next later one, else the latest."""
    later = [each for each in RELEASES if numbers(each) >= release[:2]]
    return later[-1] if later else RELEASES[0]


@click.command("oned-conf", short_help="Print the sections for oned.conf and monitord.conf.")
@click.argument("name", shell_complete=complete_name)
@click.option("--release", type=ReleaseChoice(RELEASES, taken_as), required=True, help="OpenNebula's.")
@click.option("--json", "is_json", is_flag=True, help="One JSON array.")
def command(name: str, release: str, is_json: bool) -> None:
    """Print the configuration and commands that make NAME a host of OpenNebula.

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


def blocks_of(name: str, *, kind: str, hypervisor: str, release: str, resizes_live: bool) -> Iterator[Block]:
    """Yield the operator's steps, in order.

    Args:
        name: NAME of the drivers, and of their configuration.
        kind: kind of provider, for the example.
        hypervisor: HYPERVISOR that the host reports.
        release: one of RELEASES.
        resizes_live: True if the cloud can resize running VMs; else OpenNebula may resize a VM only while it is off.
    """
    number = numbers(release)
    is_7 = number >= (7, 0)
    yield Block(what="The action driver", where="oned.conf", text=_vm_mad(name, number, resizes_live=resizes_live))
    where = "monitord.conf" if number >= MONITORD else "oned.conf"
    yield Block(what="The information driver", where=where, text=_im_mad(name, number))
    if is_7:
        yield _pace_of_7()
    yield from _inherited()
    yield Block(what="OpenNebula reads its configuration when it starts", text="systemctl restart opennebula")
    if is_7:
        yield from _place_of_7(name)
        yield from _images_of_7(name)
        yield Block(
            what="The cloud as a host, created in its own cluster: in the default one any VM could be placed on it",
            text=f"onehost create {name} -i {name} -v {name} -c {name}",
        )
    else:
        network = " -n dummy" if number < (5, 0) else ""
        yield Block(what="The cloud as a host", text=f"onehost create {name} -i {name} -v {name}{network}")
        yield Block(
            what="No datastore and no network is needed: OpenNebula uses neither on a host that reports"
            " PUBLIC_CLOUD=YES, and places there only VMs with a PUBLIC_CLOUD section of its TYPE"
        )
    yield _kept_back(name, number)
    yield Block(
        what="A VM in the cloud. Its user needs SSH_PUBLIC_KEY (oneuser update USER, or Sunstone's settings) to log in",
        where=f"{name}.tmpl, then: onetemplate create {name}.tmpl",
        text=_vm_template(name, kind if kind in _ASKED_FOR else "simulated", hypervisor, is_7=is_7),
    )


def _vm_mad(name: str, release: Numbers, *, resizes_live: bool) -> str:
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


def _im_mad(name: str, release: Numbers) -> str:
    pairs = {
        **_named(name, release),
        "EXECUTABLE": '"one_im_provider"',
        "ARGUMENTS": f'"{name}"',
    }
    if release >= MONITORD:
        pairs["THREADS"] = "0"
    return _vector("IM_MAD", pairs)


def _named(name: str, release: Numbers) -> dict[str, str]:
    """Return the key NAME of a driver section, and from 5.0 on SUNSTONE_NAME."""
    return {"NAME": f'"{name}"', **({"SUNSTONE_NAME": f'"{name}"'} if release >= (5, 0) else {})}


def _vector(name: str, pairs: Mapping[str, str]) -> str:
    width = max(map(len, pairs))
    inside = ",\n".join(f"    {key.ljust(width)} = {value}" for key, value in pairs.items())
    return f"{name} = [\n{inside} ]"


def _inherited() -> Iterator[Block]:
    """Yield the steps that let images and networks say what stands for them in a cloud.

    Every release from 4.4 on takes the lines, each once or more (OpenNebula src/nebula/NebulaTemplate.cc).
    """
    lines = [f'INHERIT_IMAGE_ATTR = "{name}"' for name in IMAGE_ATTRIBUTES]
    lines += [f'INHERIT_VNET_ATTR  = "{name}"' for name in NETWORK_ATTRIBUTES]
    yield Block(
        what="Once for all clouds, and only if images and networks shall say themselves what stands for them in a"
        " cloud, beside [images] and [networks] of the configuration: the core copies these attributes into DISK and"
        " NIC",
        where="oned.conf",
        text="\n".join(lines),
    )
    restricted = [f'VM_RESTRICTED_ATTR = "DISK/{name}"' for name in IMAGE_ATTRIBUTES]
    restricted += [f'VM_RESTRICTED_ATTR = "NIC/{name}"' for name in NETWORK_ATTRIBUTES]
    yield Block(
        what="With the lines above, where users may not choose the cloud's image or subnet: only oneadmin's group may"
        " write these attributes into a DISK or NIC. IMAGE_RESTRICTED_ATTR and VNET_RESTRICTED_ATTR restrict them in"
        " images and networks likewise",
        where="oned.conf",
        text="\n".join(restricted),
    )


def _pace_of_7() -> Block:
    """Return the step that limits how long a slow deploy delays other placements; up to 6.10 it delays none."""
    return Block(
        what="Replace the existing lines: 7.x places no VM until every deploy of the last placement has ended, for up"
        " to five minutes, so a slow cloud holds up VMs at home. With these lines it places VMs again after 15 s",
        where="oned.conf",
        text="ACTION_TIMEOUT   = 10\nSCHED_RETRY_TIME = 15",
    )


def _place_of_7(name: str) -> Iterator[Block]:
    """Yield the steps for 7.x that keep the cloud's VMs on its host, and ordinary VMs off it.

    All objects are named after NAME, since two clouds may share a HYPERVISOR. 7.x runs the steps of transfer and
    network drivers on every host; those of `dummy` do nothing.
    """
    yield Block(
        what="Once for all clouds: ordinary VMs stay at home. The default VDC (0), which holds every group, has ALL"
        " clusters of this zone (0) and gets those at home instead. Before you remove ALL, add each further cluster at"
        " home by a line like the first, and datastores and networks outside any cluster by onevdc adddatastore and"
        " addvnet. Do the same in other VDCs with ALL",
        text="onevdc addcluster 0 0 default\nonevdc delcluster 0 0 ALL",
    )
    yield Block(
        what="A cluster of its own; it needs neither images nor networks, since the cloud has its own. For templates"
        f" with networks that [networks] maps, add these to it: onecluster addvnet {name} NETWORK. Its system datastore"
        " is in no other cluster, so the core refuses to move a VM out of it by onevm migrate or resched: it would ask"
        " only the driver at home, and the instance would go on running",
        text=f"onecluster create {name}",
    )
    yield Block(
        what="A system datastore, which 7.x requires; with the dummy driver it stores nothing. Create it in this"
        " cluster alone: in the default one the scheduler would prefer it for its free space, and ordinary VMs with an"
        " image would wait for ever",
        where=f"{name}.ds, then: onedatastore create {name}.ds -c {name}",
        text=f'NAME = "{name}-system"\nTYPE = "SYSTEM_DS"\nTM_MAD = "dummy"',
    )
    yield Block(
        what="The users of this group may use the cloud (oneuser addgroup USER GROUP). Their ordinary VMs without an"
        " image or a network may be placed there, too, as may those of oneadmin's group: policy.without_section"
        " decides whether an instance is created for them",
        text=f"onegroup create {name}\nonevdc create {name}\n"
        f"onevdc addcluster {name} 0 {name}\nonevdc addgroup {name} {name}",
    )


def _images_of_7(name: str) -> Iterator[Block]:
    """Yield the steps for 7.x with which VMs with an image of a datastore at home can be placed in the cloud.

    The core then asks the datastore's own transfer driver for `clone.dummy` and the like, after the driver of the
    system datastore (OpenNebula VirtualMachineDisks::check_tm_mad, src/tm_mad/one_tm.rb).
    """
    yield Block(
        what="Only for templates with images that [images] maps: the core refuses the cloud's system datastore to a VM"
        " with an image of another transfer driver than dummy, unless the image's datastore has these attributes."
        f" Then add the datastore to the cluster as well: onecluster adddatastore {name} DATASTORE",
        where=f"{name}.images, then for each datastore of such images: onedatastore update DATASTORE {name}.images"
        " --append",
        text='CLONE_TARGET_DUMMY = "SYSTEM"\nLN_TARGET_DUMMY = "SYSTEM"\nDISK_TYPE_DUMMY = "FILE"',
    )
    yield Block(
        what="With the attributes above, on each front-end, as oneadmin, for the transfer driver of each of these"
        " datastores (here local): it copies no image of the cloud's VMs. disk-saveas and snapshots stay without such"
        " a link, so they fail instead of making empty images",
        text="for action in clone delete ln mv mvds resize; do\n"
        "    ln -s ../dummy/$action /var/lib/one/remotes/tm/local/$action.dummy\ndone",
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
    return (text + ('SCHED_DS_REQUIREMENTS = "TM_MAD = \\"dummy\\""' if is_7 else "")).rstrip()

"""`one-provider keep-place`: keeps a VM that is undeployed or stopped where its disk is; OpenNebula's hooks call it."""

from __future__ import annotations

import base64
import binascii
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import click
from lxml import etree

from one_provider_mad.cli.decode import printable
from one_provider_mad.cli.keep_place_hooks import install_hooks, remove_hooks
from one_provider_mad.domain import Template, whole_number
from one_provider_mad.errors import MadError, ProviderUnavailable
from one_provider_mad.front_end.arithmetic import ExpressionError
from one_provider_mad.front_end.expressions import is_met, read_requirements
from one_provider_mad.front_end.keeping import freed, kept
from one_provider_mad.front_end.placement import attributes_of, cluster_of
from one_provider_mad.protocol.payload import read_template
from one_provider_mad.safe_xml import Element, elements_at, parse_document, text_of
from one_provider_mad.settings import EMBEDDED, Places, known_names
from one_provider_mad.template_text.exact_writer import UnwritableError, attribute
from one_provider_mad.xmlrpc.local import LocalCore

_APPEND = 1
"""Kind of one.vm.update that leaves other attributes as they are."""

_EVERYTHING = (-2, -1, -1)
_OFF = (4, 9)
"""VM/STATE of STOPPED and UNDEPLOYED (include/VirtualMachine.h)."""

_PAUSES = (2.0, 8.0)
"""Seconds before a hook asks again. OpenNebula runs ten hooks at a time, so that longer ones would hold up others."""

_LONGEST = 8 * 1024 * 1024
"""Most bytes that a hook hands over."""


@click.command("keep-place", short_help="Keep undeployed VMs where their disks are.")
@click.argument("vm", type=click.IntRange(min=0), required=False)
@click.option("--free", "is_freed", is_flag=True, help="Let the VM go to every host again.")
@click.option("--hook", "is_hook", is_flag=True, help="Read the VM as OpenNebula's hooks hand it over on stdin.")
@click.option("--install", "is_installed", is_flag=True, help="Make the hooks in OpenNebula (5.10 and later).")
@click.option("--remove", "is_removed", is_flag=True, help="Remove them.")
def command(vm: int | None, is_freed: bool, is_hook: bool, is_installed: bool, is_removed: bool) -> None:
    """Keep VM, which is undeployed or stopped, to the hosts of the driver that has its disk.

    VM_MAD = "NAME" is added to its SCHED_REQUIREMENTS, so that a resume brings it to the cloud that has its instance,
    or to a host at home. VMs that could not be placed elsewhere anyhow are left as they are. --install makes the hooks
    that call this for each VM that is undeployed or stopped, and that call --free when one is recreated; it also keeps
    the VMs that are undeployed or stopped now.
    """
    if sum((vm is not None, is_hook, is_installed, is_removed)) != 1:
        raise click.UsageError("name a VM, or one of --hook, --install and --remove")
    core = LocalCore(os.environ)
    if is_installed or is_removed:
        for line in (install_hooks if is_installed else remove_hooks)(core):
            click.echo(line)
        are_kept = [_is_kept(vm_off, core) for vm_off in _off(core)] if is_installed else []
        if not all(are_kept):
            raise SystemExit(1)
        return
    if is_hook:
        handed_over = _handed_over(sys.stdin.buffer.read(_LONGEST))
        click.echo(_asked_again(lambda: keep(handed_over, core, _places(), is_freed=is_freed)))
        return
    click.echo(keep(core.document("one.vm.info", vm or 0), core, _places(), is_freed=is_freed))


def _places() -> Places:
    return Places.from_environment(os.environ, may_create=False)


def _off(core: LocalCore) -> Iterator[Element]:
    """Yield the VMs that are undeployed or stopped already."""
    for state in _OFF:
        for each in elements_at(core.document("one.vmpool.info", *_EVERYTHING, state), "VM"):
            yield core.document("one.vm.info", whole_number(text_of(each.find("ID"))) or 0)


def _asked_again(keep_it: Callable[[], str]) -> str:
    """Call a function, and again after pauses while OpenNebula does not answer; it runs no hook a second time."""
    for pause in _PAUSES:
        with suppress(ProviderUnavailable):
            return keep_it()
        time.sleep(pause)
    return keep_it()


def _is_kept(vm: Element, core: LocalCore) -> bool:
    """Keep one of several VMs, and print what was done; return False if it failed, so that the others come next."""
    try:
        click.echo(keep(vm, core, _places()))
    except (MadError, click.ClickException) as error:
        sentence = error.message if isinstance(error, click.ClickException) else str(error)
        click.echo(printable(f"VM {text_of(vm.find('ID'))}: {sentence}"), err=True)
        return False
    return True


def _handed_over(text: bytes) -> Element:
    """Return the VM of a hook: base64 of its document, in 5.10 within a message."""
    try:
        root = parse_document(base64.b64decode(text, validate=False))
    except (binascii.Error, etree.XMLSyntaxError) as error:
        raise click.ClickException(
            "stdin does not hold a VM as hooks hand it over: ARGUMENTS = $TEMPLATE and ARGUMENTS_STDIN = yes are needed"
        ) from error
    return root if root.tag == "VM" else next(root.iter("VM"), root)


def keep(vm: Element, core: LocalCore, places: Places, *, is_freed: bool = False) -> str:
    """Write into a VM's attributes where it may go, and return what was done, as a sentence. Blocks.

    Args:
        vm: its document, at the moment at which it left its host.
        core: the local OpenNebula.
        places: OpenNebula's directories.
        is_freed: it may go everywhere again.

    Raises:
        MadError: OpenNebula did not answer.
        click.ClickException: the document has no VM, or no host.
    """
    number, vm_mad = whole_number(text_of(vm.find("ID"))), _last_driver(vm)
    if number is None or not (vm_mad or is_freed):
        raise click.ClickException("the VM has never been on a host, so it has no disk there")
    now = core.document("one.vm.info", number)
    template = read_template(now, "USER_TEMPLATE")
    if not is_freed and not _may_go_elsewhere(now, vm_mad, core, {*known_names(places), EMBEDDED}):
        return f"VM {number} is left as it is: it can go to no other kind of host than those of {vm_mad}"
    changes = freed(template) if is_freed else kept(template, vm_mad)
    if not changes:
        return f"VM {number} is left as it is: nothing is to be changed"
    _write(core, number, changes)
    if is_freed:
        return f"VM {number} may go to every host again that its own requirements allow"
    return f"VM {number} is kept to hosts of {vm_mad}, where its disk is"


def _write(core: LocalCore, number: int, changes: Mapping[str, str]) -> None:
    try:
        text = "".join(f"{attribute(name, value)}\n" for name, value in changes.items())
    except UnwritableError as error:
        raise click.ClickException(f"VM {number} is left as it is: {error}") from error
    core.call("one.vm.update", number, text, _APPEND)


def _last_driver(vm: Element) -> str:
    records = [*elements_at(vm, "HISTORY_RECORDS/HISTORY")]
    return text_of(records[-1].find("VM_MAD")) if records else ""


def _may_go_elsewhere(vm: Element, vm_mad: str, core: LocalCore, clouds: set[str]) -> bool:
    """Return whether a VM is in a cloud, or could be placed in one."""
    if vm_mad in clouds:
        return True
    hosts, groups = core.document("one.hostpool.info"), core.document("one.clusterpool.info")
    others = [each for each in elements_at(hosts, "HOST") if text_of(each.find("VM_MAD")) in clouds]
    system, user = read_template(vm, "TEMPLATE"), read_template(vm, "USER_TEMPLATE")
    return any(_meets(host, cluster_of(host, groups), system, user) for host in others)


def _meets(host: Element, cluster: Element | None, system: Template, user: Template) -> bool:
    search = attributes_of(host, cluster, are_lasting=True)
    texts = (system.text("AUTOMATIC_REQUIREMENTS"), user.text("SCHED_REQUIREMENTS"))
    try:
        return all(is_met(read_requirements(text), search) for text in texts)
    except ExpressionError:
        return True  # not known: the addition does no harm

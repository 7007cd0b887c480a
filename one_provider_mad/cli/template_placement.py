"""Asks OpenNebula where its scheduler would place a VM of a template now; makes nothing.

No API call of OpenNebula answers that. Up to 6.10 the scheduler compares hosts with requirements, which is repeated
here. In 7.x oned does so, and `place` of its scheduler chooses among the hosts that are left: a program that reads a
document on stdin and prints a plan (share/doc/xsd/scheduler_driver_action.xsd). It is run on a copy of its settings, so
that it writes no log here.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from lxml import etree

from one_provider_mad.cli.core_user import CoreUser
from one_provider_mad.cli.driver_message import build
from one_provider_mad.cli.system_datastores import EARLIER
from one_provider_mad.cli.transfer_files import DRIVER
from one_provider_mad.domain import Template
from one_provider_mad.errors import MadError, ProviderUnavailable, SettingsError
from one_provider_mad.front_end.arithmetic import Search
from one_provider_mad.front_end.burst_template import CloudHost, datastore_of, host_of
from one_provider_mad.front_end.devices import Pools, used_of
from one_provider_mad.front_end.files import RANK, SCHED, read_front_end
from one_provider_mad.front_end.placement import (
    MONITORED,
    PLANS,
    Candidate,
    Wanted,
    attributes_of,
    candidates,
    cluster_of,
    datastore_attributes,
    system_datastores,
    with_monitoring,
)
from one_provider_mad.front_end.scheduler import policy_in
from one_provider_mad.safe_xml import Element, elements_at, parse_document, text_of
from one_provider_mad.settings import Places
from one_provider_mad.xmlrpc.local import LocalCore
from one_provider_mad.xmlrpc.release import Release, release_of

_PLACE = 'mkdir "$1/etc" "$1/var" && cp -RL "$2" "$1/etc" && ONE_LOCATION=$1 exec "$3"'
"""Runs a program with a copy of OpenNebula's settings. Arguments: an empty folder, etc/schedulers, the program."""

_ENVIRON = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}

_EVERYTHING = (-2, -1, -1)
"""Filter of a pool: all objects, from the first to the last."""

_LAST = 0
"""Period for which one.hostpool.monitoring answers with the last record alone."""

_VM_ID = 2_000_000_000
"""Number of the VM in the document for `place`: no VM has it."""

_PENDING = "1"
"""VM/STATE (include/VirtualMachine.h)."""


class Known(NamedTuple):
    """What OpenNebula has.

    Attributes:
        release: its own.
        pools: images, networks and datastores.
        hosts: the answer to one.hostpool.info, with what was monitored last.
        clusters: the answer to one.clusterpool.info.
    """

    release: Release
    pools: Pools
    hosts: Element
    clusters: Element


class Placement(NamedTuple):
    """Where a VM of the template may go now.

    Attributes:
        hosts: every host.
        chosen: the host that the scheduler takes, "" for none: what its own program says, or up to 6.10, and where it
            was not asked, the one with the highest rank; several with one rank have "or" between them.
        note: why the program was not asked.
    """

    hosts: Sequence[Candidate]
    chosen: str = ""
    note: str = ""


def known_of(core: LocalCore) -> Known:
    """Ask the local OpenNebula. Blocks. Raises MadError when it does not answer."""
    release = release_of(core.call("one.system.version"))
    hosts = core.document("one.hostpool.info")
    if release >= MONITORED:
        hosts = with_monitoring(hosts, core.document("one.hostpool.monitoring", _LAST))
    return Known(
        release=release,
        pools=Pools(
            images=core.document("one.imagepool.info", *_EVERYTHING),
            networks=core.document("one.vnpool.info", *_EVERYTHING),
            datastores=core.document("one.datastorepool.info"),
        ),
        hosts=hosts,
        clusters=core.document("one.clusterpool.info"),
    )


def cloud_host(name: str, hypervisor: str, known: Known | None) -> CloudHost:
    """Return a cloud's hosts and system datastores: OpenNebula's, or what they are by its configuration."""
    configured = host_of(name, hypervisor)
    hosts: list[Search] = []
    stores: list[Search] = []
    for host in _hosts_of(name, known):
        found = attributes_of(host, cluster_of(host, known.clusters) if known else None, are_lasting=True)
        hosts.append(_either(found, configured))
        stores += _stores_of(host, known)
    return CloudHost(
        name=name,
        hypervisor=hypervisor,
        hosts=hosts or [configured],
        datastores=stores or [datastore_of()],
    )


def _either(found: Search, configured: Search) -> Search:
    """Return how an attribute is found that a host sends only once it is monitored."""
    return lambda name: found(name) or configured(name)


def _hosts_of(name: str, known: Known | None) -> list[Element]:
    if known is None:
        return []
    return [each for each in elements_at(known.hosts, "HOST") if text_of(each.find("VM_MAD")) == name]


def _stores_of(host: Element, known: Known | None) -> Iterator[Search]:
    """Yield the system datastores for VMs in the cloud; its cluster may have some of hosts at home, too."""
    number = text_of(host.find("CLUSTER_ID"))
    for each in elements_at(known.pools.datastores, "DATASTORE") if known is not None else ():
        search = datastore_attributes(each)
        is_near = number in [text_of(own) for own in elements_at(each, "CLUSTERS/ID")]
        if text_of(each.find("TYPE")) == "1" and is_near and {DRIVER, EARLIER} & set(search("TM_MAD")):
            yield search


def placement_of(template: Template, known: Known, places: Places) -> Placement:
    """Return where a VM of the template may go now. Blocks while the scheduler's program runs.

    Args:
        template: its DISKs and NICs completed.
        known: what OpenNebula has.
        places: OpenNebula's directories.

    Raises:
        ExpressionError: OpenNebula cannot read the template's requirements.
    """
    wanted = Wanted(
        template=template,
        used=list(used_of(template, known.pools)),
        release=known.release,
        policy=_policy(places.etc, known.release),
    )
    hosts = list(candidates(known.hosts, known.clusters, wanted))
    fit = [each.host_id for each in hosts if not each.obstacle]
    if known.release < PLANS or not fit:
        return Placement(hosts, chosen=_best(hosts))
    stores = system_datastores(known.pools.datastores, wanted)
    program = places.var / "remotes" / "scheduler" / "rank" / "place"
    try:
        plan = run_place(program, places.etc, document_of(template, known, fit, stores), os.environ)
    except MadError as error:
        return Placement(hosts, chosen=_best(hosts), note=f"{program} was not asked: {error}")
    chosen = next((text_of(each) for each in plan.iter("HOST_ID")), "")
    names = {each.host_id: each.name for each in hosts}
    return Placement(hosts, chosen=names.get(chosen, ""))


def _policy(etc: Path, release: Release) -> str:
    """Return the rank of the scheduler's settings, "" where they cannot be read."""
    try:
        return policy_in(read_front_end(etc), RANK if release >= PLANS else SCHED).expression
    except SettingsError:
        return ""


def _best(hosts: Sequence[Candidate]) -> str:
    fit = [each for each in hosts if not each.obstacle]
    highest = max((each.rank for each in fit), default=0)
    return " or ".join(each.name for each in fit if each.rank == highest)


def document_of(template: Template, known: Known, hosts: Sequence[str], datastores: Sequence[str]) -> bytes:
    """Return the document that oned sends to `place` for one VM (SchedulerManagerDriver::scheduler_message)."""
    root = etree.Element("SCHEDULER_DRIVER_ACTION")
    etree.SubElement(root, "VM_POOL").append(_pending_vm(template))
    pool = etree.SubElement(root, "HOST_POOL")
    for host in elements_at(known.hosts, "HOST"):
        if text_of(host.find("ID")) in hosts:
            pool.append(_with_cluster(host, cluster_of(host, known.clusters)))
    root.append(_copy(known.pools.datastores))
    root.append(_copy(known.pools.networks))
    etree.SubElement(root, "VM_GROUP_POOL")
    root.append(_copy(known.clusters))
    vm = etree.SubElement(etree.SubElement(root, "REQUIREMENTS"), "VM")
    etree.SubElement(vm, "ID").text = str(_VM_ID)
    for name, numbers in (("HOSTS", hosts), ("DATASTORES", datastores)):
        part = etree.SubElement(vm, name)
        for number in numbers:
            etree.SubElement(part, "ID").text = number
    return etree.tostring(root)


def _pending_vm(template: Template) -> Element:
    message = parse_document(build("DEPLOY", vm_id=_VM_ID, template=template, name="template"))
    vm = message.find("VM")
    if vm is None:
        raise AssertionError("a DEPLOY has a VM")
    for name, text in (("STATE", _PENDING), ("LCM_STATE", "0")):
        element = vm.find(name)
        if element is not None:
            element.text = text
    history = vm.find("HISTORY_RECORDS")
    if history is not None:
        history.clear()
    return vm


def _with_cluster(host: Element, cluster: Element | None) -> Element:
    copy = _copy(host)
    own = None if cluster is None else cluster.find("TEMPLATE")
    if own is not None:
        part = _copy(own)
        part.tag = "CLUSTER_TEMPLATE"
        copy.append(part)
    return copy


def _copy(element: Element) -> Element:
    return parse_document(etree.tostring(element, with_tail=False))


def run_place(program: Path, etc: Path, document: bytes, environ: Mapping[str, str]) -> Element:
    """Run the scheduler's program and return the plan that it prints. Blocks.

    OpenNebula's user owns the program, and its settings: root runs it, and copies them, as that user.

    Args:
        program: `place`.
        etc: OpenNebula's etc directory, with schedulers/rank.conf.
        document: as `document_of` returns it.
        environ: environment variables, for OpenNebula's directories.

    Raises:
        ProviderUnavailable: it failed, took too long, or printed no plan.
    """
    user = CoreUser.of(environ)
    if user is None:
        raise ProviderUnavailable("OpenNebula's directories are not here")
    if os.geteuid() != 0:
        user = msgspec.structs.replace(user, uid=os.geteuid())
    folder = (user.run(["mktemp", "-d"], environ=_ENVIRON) or (1, "", ""))[1]
    if not folder:
        raise ProviderUnavailable(f"user {user.name} can make no folder for a copy of its settings")
    try:
        command = ["/bin/sh", "-c", _PLACE, "sh", folder, os.fspath(etc / "schedulers"), os.fspath(program)]
        done = user.run(command, environ=_ENVIRON, stdin=base64.b64encode(document).decode())
    finally:
        user.run(["rm", "-rf", folder])
    code, printed, said = done or (1, "", "it cannot be run")
    try:
        return parse_document(printed.encode())
    except etree.XMLSyntaxError as error:
        last = said.splitlines()[-1:] or [f"exit code {code}"]
        raise ProviderUnavailable(f"it printed no plan: {last[0]}") from error

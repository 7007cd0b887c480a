"""`one-provider template`: prints a template that works at home so that its VMs may also run in a cloud."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import click
import msgspec

from one_provider_mad.cli.asked_cloud import ask
from one_provider_mad.cli.decode import printable
from one_provider_mad.cli.keep_place_hooks import HOOKS_SINCE, missing_hooks
from one_provider_mad.cli.names import complete_name
from one_provider_mad.cli.quiet import no_logs
from one_provider_mad.cli.template_file import Source
from one_provider_mad.cli.template_placement import Known, Placement, cloud_host, known_of, placement_of
from one_provider_mad.cli.template_plan import (
    Outlook,
    context_of,
    device_remarks,
    offline_outlook_of,
    outlook_of,
    shown_parameters,
    size_remarks,
)
from one_provider_mad.cli.template_text import source_of
from one_provider_mad.cli.wrapping import wrapped
from one_provider_mad.domain import Template
from one_provider_mad.errors import MadError
from one_provider_mad.front_end.arithmetic import ExpressionError
from one_provider_mad.front_end.burst_template import CloudHost, Edit, Remark, edits_of, lacks_of
from one_provider_mad.front_end.devices import completed
from one_provider_mad.front_end.placement import RANKS_MISSING, unranked
from one_provider_mad.front_end.template_edits import edited, same_values, text_of_template
from one_provider_mad.guest.reading import SECRET
from one_provider_mad.masking import keep_vm_secret, masked
from one_provider_mad.providers.interface import Provider, TypeChooser, VerbatimDriver
from one_provider_mad.providers.registry import build
from one_provider_mad.settings import Configuration, Places, load
from one_provider_mad.template_text.exact_writer import UnwritableError
from one_provider_mad.template_text.strict_reader import read_template
from one_provider_mad.xmlrpc.local import LocalCore

_MOST_CALLS = 4
"""Slow calls to a cloud for which --dry-run waits."""


class Served(NamedTuple):
    """A cloud for which the template is printed.

    Attributes:
        configuration: of its NAME.
        provider: not open.
    """

    configuration: Configuration
    provider: Provider


class Finding(NamedTuple):
    """What becomes of the template's VMs in one cloud.

    Attributes:
        name: NAME.
        remarks: what to know or to do first.
        outlook: what a DEPLOY does.
    """

    name: str
    remarks: Sequence[Remark]
    outlook: Outlook


@click.command("template", short_help="Make a template that works at home fit for a cloud, too.")
@click.argument("template", metavar="ID|FILE")
@click.option(
    "--for",
    "names",
    multiple=True,
    required=True,
    metavar="NAME",
    shell_complete=complete_name,
    help="A cloud; may be repeated.",
)
@click.option("--dry-run", "is_tried", is_flag=True, help="Also say what a DEPLOY does, and where VMs are placed now.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def command(template: str, names: tuple[str, ...], is_tried: bool, is_json: bool) -> None:
    """Print a VM template so that its VMs may run at home and in the cloud of NAME.

    ID is a template of the OpenNebula here, FILE one as onetemplate create takes it; - reads stdin. onetemplate update
    and create take what is printed as it is; what was changed, and why, is on stderr. Nothing is made or changed.
    """
    core, places = LocalCore(os.environ), Places.from_environment(os.environ)
    clouds = [_served(name, places) for name in dict.fromkeys(names)]
    source = source_of(template, core)
    known, unasked = _known(core)
    edits, text = _edited(source, clouds, known)
    result = read_template(text)
    _keep_secrets(result)
    whole = result if known is None else completed(result, known.pools)
    with no_logs():
        findings = [_finding(each, whole, places, is_tried=is_tried, has_devices=known is not None) for each in clouds]
        placement = placement_of(whole, known, places) if is_tried and known is not None else None
    notes = [*lacks_of(result), *_of_rank(result, known), *_of_hooks(core, known)]
    if is_json:
        entry = _entry(text, edits, notes, findings, placement)
        click.echo(json.dumps(_masked(entry), indent=2))
        return
    click.echo(text, nl=False)
    told = [*_told_changes(edits), *_told_notes(notes)]
    told += [line for each in findings for line in _told_finding(each, is_tried=is_tried)]
    told += _told_placement(placement, unasked) if is_tried else []
    for line in told:
        click.echo(masked(line), err=True)


def _served(name: str, places: Places) -> Served:
    configuration = load(name, places)
    provider = build(configuration, places, lambda _: None)
    if isinstance(provider, VerbatimDriver):
        raise click.ClickException(f"{name} is served by {provider.name}, which creates no instances from templates")
    return Served(configuration, provider)


def _keep_secrets(template: Template) -> None:
    """Have the passwords in CONTEXT masked in all that is shown besides the template itself."""
    for context in template.vectors("CONTEXT"):
        for name in SECRET:
            keep_vm_secret(context.get(name, ""))


def _known(core: LocalCore) -> tuple[Known | None, str]:
    """Return what OpenNebula has; None, and why, if it cannot be asked."""
    try:
        return known_of(core), ""
    except MadError as error:
        return None, str(error)


def _of_rank(template: Template, known: Known | None) -> Iterator[Remark]:
    """Yield a remark if an old scheduler cannot compare the ranks of its hosts."""
    if known is None or known.release >= RANKS_MISSING:
        return
    for name, hosts in unranked(known.hosts, known.clusters, template.text("SCHED_RANK")).items():
        yield Remark(
            what="SCHED_RANK",
            text=f"{name} of {', '.join(hosts)} is not set, and up to 5.12.0 the scheduler takes any number for it: set"
            f' {name} = "0" with onehost update, or for all hosts of a cluster with onecluster update',
        )


def _of_hooks(core: LocalCore, known: Known | None) -> Iterator[Remark]:
    """Yield a remark if VMs of the template do not stay where their disks are."""
    with suppress(MadError):  # it does not say to this user
        if known is None or known.release < HOOKS_SINCE or not missing_hooks(core):
            return
        yield Remark(
            what="undeploy",
            text="a VM that was undeployed at home may be resumed in the cloud, and the other way round, where its disk"
            " is not: run one-provider keep-place --install",
        )


def _edited(source: Source, clouds: Sequence[Served], known: Known | None) -> tuple[Sequence[Edit], str]:
    """Return the changes, and the text with them in it."""
    hosts = [_cloud_host(each, known) for each in clouds]
    try:
        edits = list(edits_of(source.template, hosts))
        text = edited(source.text, edits)
        if source.is_stored:
            text = text_of_template(read_template(text))  # in OpenNebula's order
    except (ExpressionError, UnwritableError) as error:
        raise click.ClickException(str(error)) from error
    if not same_values(source.template, read_template(text), edits):
        raise click.ClickException("the changed text would say something else: its attributes stand too close together")
    return edits, text


def _cloud_host(each: Served, known: Known | None) -> CloudHost:
    host = cloud_host(each.configuration.name, each.configuration.settings.hypervisor, known)
    if not isinstance(each.provider, TypeChooser):
        return host
    return msgspec.structs.replace(host, section=each.provider.choice_attributes())


def _finding(each: Served, template: Template, places: Places, *, is_tried: bool, has_devices: bool) -> Finding:
    configuration, provider = each
    name = configuration.name
    if is_tried:
        outlook = ask(name, os.environ, lambda cloud: outlook_of(cloud, template), calls=_MOST_CALLS, is_quiet=True)
    else:
        outlook = offline_outlook_of(provider, configuration, template)
    remarks = list(device_remarks(template, context_of(configuration, places), has_devices=has_devices))
    if outlook.plan is not None:
        remarks += [Remark(what="DEPLOY", text=text) for text in outlook.plan.warnings]
        remarks += size_remarks(template, outlook.plan, provider)
    return Finding(name, remarks, outlook)


# What is shown


def _told_changes(edits: Sequence[Edit]) -> Iterator[str]:
    for edit in edits:
        yield _line("changed", edit.name, edit.why)
    if not edits:
        yield "nothing to change"


def _told_notes(notes: Sequence[Remark]) -> Iterator[str]:
    for remark in notes:
        yield _line("at home only" if remark.keeps_away else "note", remark.what, remark.text)


def _told_finding(finding: Finding, *, is_tried: bool) -> Iterator[str]:
    for remark in finding.remarks:
        yield _line(finding.name, remark.what, remark.text)
    outlook = finding.outlook
    if outlook.refusal:
        yield _line(finding.name, "DEPLOY", f"is refused: {outlook.refusal}")
    if not is_tried or outlook.plan is None:
        return
    for number, parameters in enumerate(outlook.plan.alternatives, 1):
        yield _line(finding.name, "DEPLOY", f"call {number} of {len(outlook.plan.alternatives)} to create an instance")
        yield from (f"    {printable(line)}" for line in shown_parameters(parameters))
    if outlook.answer:
        yield _line(finding.name, "the cloud's dry run", outlook.answer)


def _told_placement(placement: Placement | None, unasked: str) -> Iterator[str]:
    if placement is None:
        yield _line("scheduler", "not asked", unasked)
        return
    for host in placement.hosts:
        answer = f"no: {host.obstacle}" if host.obstacle else f"matches now, its rank is {host.rank}"
        yield _line("scheduler", f"host {host.name} ({host.vm_mad})", answer)
    yield _line("scheduler", "it would take now", placement.chosen or "no host")
    if placement.note:
        yield _line("scheduler", "place", placement.note)


def _line(kind: str, what: str, text: str) -> str:
    return wrapped(printable(f"{kind}: {what}: {text}"), further=4)


def _entry(
    text: str,
    edits: Sequence[Edit],
    notes: Sequence[Remark],
    findings: Sequence[Finding],
    placement: Placement | None,
) -> Mapping[str, Any]:
    return {
        "template": text,
        "changes": [{"what": each.name, "why": each.why} for each in edits],
        "notes": [_remark_entry(each) for each in notes],
        "clouds": [_cloud_entry(each) for each in findings],
        "placement": None if placement is None else _placement_entry(placement),
    }


def _remark_entry(remark: Remark) -> Mapping[str, Any]:
    return {"what": remark.what, "text": remark.text, "keeps_away": remark.keeps_away}


def _cloud_entry(finding: Finding) -> Mapping[str, Any]:
    plan = finding.outlook.plan
    return {
        "name": finding.name,
        "notes": [_remark_entry(each) for each in finding.remarks],
        "refused": finding.outlook.refusal or None,
        "creates": [] if plan is None else list(plan.alternatives),
        "dry_run": finding.outlook.answer or None,
    }


def _placement_entry(placement: Placement) -> Mapping[str, Any]:
    hosts = [{**msgspec.structs.asdict(each), "obstacle": each.obstacle or None} for each in placement.hosts]
    return {"hosts": hosts, "chosen": placement.chosen or None, "note": placement.note or None}


def _masked(value: Any) -> Any:
    """Return a JSON value without secrets, but for the template, which has them already."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {name: each if name == "template" else _masked(each) for name, each in value.items()}
    return [_masked(each) for each in value] if isinstance(value, list) else value

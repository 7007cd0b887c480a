"""The step of `one-provider oned-conf` that makes `oneshowback` show what VMs of one instance type cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import click

from one_provider_mad.cli.asked_cloud import Cloud, ask
from one_provider_mad.cli.oned_conf_block import Block
from one_provider_mad.costs.showback import MB_PER_GB, showback_costs
from one_provider_mad.pricing.values import ON_DEMAND
from one_provider_mad.providers.interface import PriceSource, TypeSource

_CALLS = 10
"""Slow calls for which it waits: types and prices come on several pages."""

_ONLY_RUNNING = (6, 2)
"""First release with SHOWBACK_ONLY_RUNNING (src/onecfg, migrator 6.0.0_to_6.2.0)."""


class Showback(NamedTuple):
    """What the step needs of the cloud.

    Attributes:
        type_name: the instance type.
        cpu: its cores.
        memory: its MiB.
        hour: what a running instance costs an hour, without disks and addresses.
        currency: ISO 4217 code, "" for none.
        disk_hour: what a GiB of an attached disk costs an hour; None when unknown.
    """

    type_name: str
    cpu: float
    memory: int
    hour: float
    currency: str
    disk_hour: float | None


def ask_showback(name: str, environ: Mapping[str, str], type_name: str) -> Showback:
    """Ask the cloud of NAME for an instance type and its price.

    Raises:
        click.ClickException: it has no such type, or no price for it.
        MadError: the configuration cannot be read, or the cloud refused or did not answer.
    """

    async def question(cloud: Cloud) -> Showback:
        provider = cloud.provider
        if not isinstance(provider, TypeSource) or not isinstance(provider, PriceSource):
            raise cloud.lacks("a list of its instance types with prices")
        await provider.read_types()
        await provider.read_prices(())
        if (found := provider.instance_types().get(type_name)) is None:
            raise click.ClickException(
                f"the cloud of {name} has no type {type_name}: one-provider types {name} has all"
            )
        price = provider.price_of_type(type_name, market=ON_DEMAND)
        if price.amount is None:
            raise click.ClickException(
                f"the price of {type_name} is unknown, so showback has no figure for it: write it into [prices] of"
                f" {cloud.configuration.path or name}"
            )
        disk = provider.price_of_disk({"SIZE": str(MB_PER_GB)})
        return Showback(type_name, found.cpu, found.memory, price.amount, price.currency, disk.amount)

    return ask(name, environ, question, calls=_CALLS, is_quiet=True)


def showback_step(name: str, release: tuple[int, ...], found: Showback) -> Block:
    """Return the step with the lines for a template of this type."""
    only = (
        " Set SHOWBACK_ONLY_RUNNING = yes in oned.conf, else powered off hours cost as much as running ones."
        if release >= _ONLY_RUNNING
        else " This release counts powered off hours like running ones."
    )
    lines = {"CPU": f"{found.cpu:g}", "MEMORY": str(found.memory)}
    lines |= showback_costs(found.hour, cpu=found.cpu, disk_hour=found.disk_hour)
    return Block(
        what=f"For oneshowback: with these lines in a template whose only type is {found.type_name} it shows the"
        f" present price of a running VM, {found.hour:g} {found.currency or 'units of currency'} an hour. All of it is"
        " in CPU_COST, which OpenNebula multiplies by CPU. DISK_COST counts DISKs of the template by their MB, so"
        " neither the root volume without a DISK nor a public address is in it; spot prices and later prices are not"
        f" either.{only} Showback's months are of oned's time zone; one-provider cost {name} has the cloud's own",
        where=f"the VM template, beside PUBLIC_CLOUD with {found.type_name}",
        text="\n".join(f"{key} = {value}" for key, value in lines.items()),
        is_optional=True,
    )


def no_showback_step(name: str) -> Block:
    """Return the remark that says why there are no lines for showback."""
    return Block(
        what="Showback: oneshowback multiplies CPU and MEMORY by costs that stand in a VM's template from its creation"
        " on, so it has no figure for a type that the driver chooses (auto). For a template with one type add --type"
        " TYPE to this command, which prints its CPU_COST, MEMORY_COST and DISK_COST; one-provider cost"
        f" {name} shows what each VM really costs",
        is_optional=True,
    )

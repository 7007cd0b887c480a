"""Asks the cloud of a configuration once, for a command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeVar

import click

from one_provider_mad.cli.progress import progress
from one_provider_mad.cli.quiet import no_logs
from one_provider_mad.domain import Instance, VmId
from one_provider_mad.errors import NotSupported, PermissionDenied
from one_provider_mad.listings import by_id
from one_provider_mad.providers import registry
from one_provider_mad.providers.interface import Provider, UpstreamTags, VerbatimDriver
from one_provider_mad.settings import Configuration, Places, load

_Result = TypeVar("_Result")


class NoInstance(click.ClickException):
    """The cloud has no instance of a VM; the message says where to look."""


class Cloud(NamedTuple):
    """An open provider, and its configuration.

    Attributes:
        provider: the provider.
        configuration: its file's settings.
        places: OpenNebula's directories.
    """

    provider: Provider
    configuration: Configuration
    places: Places

    def lacks(self, what: str) -> NotSupported:
        """Return the error for a provider that lacks a capability, such as "a console"."""
        return NotSupported(self.provider.name, what)

    async def instance_of(self, vm_id: int) -> Instance:
        """Return the VM's instance: the newest that is not gone, else the newest.

        Raises:
            NoInstance: the cloud has none.
            ProviderError: the cloud refused, or did not answer.
        """
        provider, owner = self.provider, self.configuration.settings.owner
        found = list(by_id(await provider.find(owner=owner, vm_id=VmId(vm_id))).values())
        if not found and isinstance(provider, UpstreamTags):
            listed = by_id(await provider.list_instances()).values()
            found = [each for each in listed if provider.upstream_vm_id(each) == vm_id]
        if not found:
            raise NoInstance(
                f"the cloud of {self.configuration.name} has no instance of VM {vm_id}:"
                f" one-provider instances {self.configuration.name} lists those that there are, and"
                f" one-provider tail {self.configuration.name} --vm {vm_id} says what became of it"
            )
        return max(found, key=lambda each: (not each.state.is_gone, each.created_at))


def ask(
    name: str,
    environ: Mapping[str, str],
    question: Callable[[Cloud], Awaitable[_Result]],
    *,
    calls: int = 1,
    is_quiet: bool = False,
) -> _Result:
    """Return the answer of the cloud of NAME, within `call_timeout` for opening and for each call.

    Args:
        name: NAME, as in oned's ARGUMENTS.
        environ: environment variables, for OpenNebula's directories.
        question: asks the open provider.
        calls: how many calls, one after the other, the question may take.
        is_quiet: show no progress.

    Raises:
        MadError: the configuration cannot be read, or the cloud refused or did not answer.
        click.ClickException: the cloud took too long, or NAME has no cloud.
    """
    places = Places.from_environment(environ)
    configuration = load(name, places)
    with no_logs(), progress(f"asking the cloud of {name}", is_wanted=not is_quiet):
        provider = registry.build(configuration, places, _warn)
        if isinstance(provider, VerbatimDriver):
            raise click.ClickException(f"{name} is served by {provider.name}, which has no cloud to ask")
        patience = configuration.settings.call_timeout * calls
        try:
            return asyncio.run(_answer(Cloud(provider, configuration, places), question, patience=patience))
        except TimeoutError as error:
            raise click.ClickException(f"the {provider.name} cloud did not answer within {patience:g} s") from error
        except PermissionDenied as error:
            where = "; docs/ec2.md has the statements" if provider.name == "ec2" else ""
            raise click.ClickException(f"{error}{where}") from error


async def _answer(cloud: Cloud, question: Callable[[Cloud], Awaitable[_Result]], *, patience: float) -> _Result:
    async with asyncio.timeout(patience):
        await cloud.provider.open()
    try:
        async with asyncio.timeout(patience):
            return await question(cloud)
    finally:
        await cloud.provider.close()


def _warn(sentence: str) -> None:
    click.echo(f"note: {sentence}", err=True)

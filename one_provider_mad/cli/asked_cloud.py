"""Asks the cloud of a configuration once, for a command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeVar

import click

from one_provider_mad.cli.progress import progress
from one_provider_mad.cli.quiet import no_logs
from one_provider_mad.errors import NotSupported, PermissionDenied
from one_provider_mad.providers import registry
from one_provider_mad.providers.interface import Provider, VerbatimDriver
from one_provider_mad.settings import Configuration, Places, load

_Result = TypeVar("_Result")


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
        """Return the error for a provider without a capability: what its users miss."""
        return NotSupported(self.provider.name, what)


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
            where = "; docs/ec2.md has the optional statements" if provider.name == "ec2" else ""
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

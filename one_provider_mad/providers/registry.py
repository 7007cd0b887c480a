"""Finds the provider of a configuration: built-ins by name, imported on demand, all others by entry point."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from time import monotonic
from typing import cast

import msgspec

from one_provider_mad.errors import SettingsError
from one_provider_mad.providers.interface import (
    Arguments,
    LiveResizing,
    Priced,
    Provider,
    ProviderContext,
    ProviderFactory,
    VerbatimDriver,
)
from one_provider_mad.settings import Configuration, Places, convert

BUILT_IN = {
    "simulated": "one_provider_mad.providers.simulated.provider",
    "scripts": "one_provider_mad.providers.scripts.driver",
    "ec2": "one_provider_mad.providers.ec2.provider",
    "opennebula": "one_provider_mad.providers.opennebula.provider",
}
"""Kind of provider to the module with its `factory`. Listed here since asking for entry points takes 30 ms."""

NO_ARGUMENTS = Arguments()

MOST_WARNINGS = 100
"""Most warnings of a provider in a minute that reach the operator; further ones are only counted."""

_MINUTE = 60.0

ENTRY_POINTS = "one_provider_mad.providers"


def build(
    configuration: Configuration,
    places: Places,
    warn: Callable[[str], None],
    arguments: Arguments = NO_ARGUMENTS,
) -> Provider | VerbatimDriver:
    """Build the provider of a configuration; nothing is opened yet.

    Args:
        configuration: as `settings.load` read it.
        places: OpenNebula's directories.
        warn: sends the operator one sentence.
        arguments: the ARGUMENTS that concern scripts.

    Raises:
        SettingsError: no such provider, or its table is wrong.
    """
    settings = configuration.settings
    if places.is_temporary and settings.provider != "simulated":
        raise SettingsError(
            f"no lasting directory for the state of {configuration.name}: set ONE_LOCATION, or run as OpenNebula's user"
        )
    factory, table = _factory(settings.provider, configuration), settings_of(configuration)
    context = ProviderContext(
        name=configuration.name,
        hypervisor=settings.hypervisor,
        owner=settings.owner,
        state_directory=places.var,
        system_directory=places.etc,
        arguments=arguments,
        mappings=settings.mappings,
        prices=settings.prices,
        tags=settings.tags,
        permitted_types=settings.budget.allowed_types,
        max_spot_price=settings.budget.least_spot_price,
        size_check=settings.policy.size_check,
        warn=_Paced(warn),
    )
    return factory(context, table)


class _Paced:
    """Limits a provider's warnings to so many a minute, and counts the rest: a cloud may cause any number of them.

    Args:
        warn: sends the operator one sentence.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._minute_begun = -_MINUTE
        self._passed_on = self._left_out = 0

    def __call__(self, sentence: str) -> None:
        now = monotonic()
        if now - self._minute_begun >= _MINUTE:
            if self._left_out:
                self._warn(f"{self._left_out} more warnings of the cloud were left out")
            self._minute_begun, self._passed_on, self._left_out = now, 0, 0
        if self._passed_on < MOST_WARNINGS:
            self._passed_on += 1
            self._warn(sentence)
        else:
            self._left_out += 1


def settings_of(configuration: Configuration) -> msgspec.Struct:
    """Return the provider's own table of the configuration, checked.

    Raises:
        SettingsError: no such provider, or its table is wrong.
    """
    settings_type = settings_type_of(configuration)
    prefix = f"{configuration.settings.provider}."
    return convert(configuration.table, settings_type, path=configuration.path, prefix=prefix)


def settings_type_of(configuration: Configuration) -> type[msgspec.Struct]:
    """Return the type of the provider's own table. Raises SettingsError when there is no such provider."""
    return _factory(configuration.settings.provider, configuration).settings_type


def costs_money(configuration: Configuration) -> bool:
    """Return whether instances cost money: yes, unless the provider says otherwise. Raises SettingsError as `build`."""
    factory = _factory(configuration.settings.provider, configuration)
    return factory.costs_money if isinstance(factory, Priced) else True


def resizes_live(configuration: Configuration) -> bool:
    """Return whether running instances can be resized, as the provider says. Raises SettingsError as `build`."""
    factory = _factory(configuration.settings.provider, configuration)
    return isinstance(factory, LiveResizing) and factory.resizes_live


def _factory(kind: str, configuration: Configuration) -> ProviderFactory:
    if kind in BUILT_IN:
        return cast("ProviderFactory", import_module(BUILT_IN[kind]).factory)
    from importlib.metadata import entry_points

    found = list(entry_points(group=ENTRY_POINTS, name=kind))
    if not found:
        known = ", ".join(sorted({*BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINTS))}))
        where = f"{configuration.path.name}: provider" if configuration.path else f"scripts of {configuration.name}"
        raise SettingsError(f"{where}: there is no provider {kind!r} here, only {known}")
    try:
        return cast("ProviderFactory", found[0].load())
    except Exception as error:  # a module from outside the project may fail in any way
        raise SettingsError(f"{configuration.name}.toml: provider: {kind!r} cannot be imported: {error}") from error

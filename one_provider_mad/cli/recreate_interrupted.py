"""Asks a VM's cloud whether it took the VM's instance back, for the command `recreate`."""

from __future__ import annotations

from collections.abc import Mapping

from one_provider_mad.cli.asked_cloud import Cloud, ask
from one_provider_mad.cli.recreate_vm import ShownVm
from one_provider_mad.providers.interface import Interruption, InterruptionSource
from one_provider_mad.settings import Places, Settings, load


def interruption_of(vm: ShownVm, environ: Mapping[str, str]) -> Interruption | str:
    """Return how the cloud took back the VM's instance; a reason why the VM is not to be recreated otherwise.

    Raises:
        MadError: the configuration cannot be read, or the cloud did not answer.
    """
    settings = load(vm.driver, Places.from_environment(environ)).settings
    if not wants_recreation(vm, settings):
        return 'neither [spot] interrupted nor INTERRUPTED of its template is "recreate"'

    async def look(cloud: Cloud) -> Interruption | str:
        if not isinstance(cloud.provider, InterruptionSource):
            return f"the {cloud.provider.name} cloud takes no instances back"
        found = await cloud.provider.describe([vm.deploy_id])
        if (instance := found.get(vm.deploy_id)) is None or not instance.state.is_gone:
            return "its instance is not terminated" if instance else "its cloud does not list its instance any more"
        return cloud.provider.interruption(instance) or "its instance was terminated on request, and not taken back"

    return ask(vm.driver, environ, look, is_quiet=True)


def wants_recreation(vm: ShownVm, settings: Settings) -> bool:
    """True when the VM is to be recreated after an interruption: its template decides, else the configuration."""
    of_ours = [choice for kind, choice in vm.choices if choice and kind in ("", settings.hypervisor.upper())]
    return (of_ours[0] if of_ours else settings.spot.interrupted) == "recreate"

"""Calls to the OpenNebula of this front-end, by which objects are found, made and removed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from one_provider_mad.errors import ProviderError, ProviderUnavailable, SettingsError
from one_provider_mad.safe_xml import Element
from one_provider_mad.xmlrpc.local import LocalCore
from one_provider_mad.xmlrpc.release import Release, release_of
from tools.bursting.hosts import Host, Size, hosts_of
from tools.bursting.vms import DONE, ENDING, Vm, vms_of

_PATIENCE = 30.0
"""Seconds for which a question that is not answered is asked again."""

_ALL, _ANY_ID, _MERGE = -2, -1, 1
_DELETE = 3
"""Operation of `onevm recover --delete`."""

_Answer = TypeVar("_Answer")


class Core:
    """The OpenNebula of this front-end.

    Args:
        environ: ONE_XMLRPC, ONE_AUTH and ONE_LOCATION, as for OpenNebula's own tools.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._api = LocalCore(environ)

    def release(self) -> Release:
        """Return its release; raises ProviderError, or SettingsError for one that is too old."""
        release = release_of(self._api.call("one.system.version"))
        if release < (5, 0):
            raise SettingsError("burst needs OpenNebula 5.0 or later: earlier ones have no terminate-hard")
        return release

    # Asking

    def hosts(self) -> list[Host]:
        """Return all hosts."""
        return list(hosts_of(self._asked("one.hostpool.info")))

    def vms(self, prefix: str) -> list[Vm]:
        """Return the VMs, not yet DONE, whose names begin so."""
        return list(vms_of(self._asked("one.vmpool.info", _ALL, _ANY_ID, _ANY_ID, _ANY_ID), prefix))

    def size_of_template(self, number: int) -> Size:
        """Return CPU and MEMORY of a VM template."""
        template = self._asked("one.template.info", number)
        cpu, memory = template.findtext("TEMPLATE/CPU"), template.findtext("TEMPLATE/MEMORY")
        if not cpu or not memory:
            raise SettingsError(f"template {number} has no CPU or no MEMORY, which the scheduler compares with hosts")
        return Size(cpu=float(cpu), memory=int(memory))

    def templates(self, prefix: str) -> list[int]:
        """Return the VM templates whose names begin so."""
        pool = self._asked("one.templatepool.info", _ALL, _ANY_ID, _ANY_ID)
        return _named(pool, "VMTEMPLATE", prefix)

    def datastores(self, prefix: str) -> list[int]:
        """Return the datastores whose names begin so."""
        return _named(self._asked("one.datastorepool.info"), "DATASTORE", prefix)

    def is_measured(self, datastore: int) -> bool:
        """Return True if OpenNebula knows how much room a datastore has; before, it places nothing there."""
        stores = self._asked("one.datastorepool.info").iterfind("DATASTORE")
        return any(
            each.findtext("ID") == str(datastore) and each.findtext("FREE_MB") not in {None, "0"} for each in stores
        )

    def _asked(self, method: str, *arguments: str | int | bool) -> Element:
        return patiently(lambda: self._api.document(method, *arguments))

    # Making

    def make_template(self, text: str) -> int:
        """Create a VM template, and return its id."""
        return int(self._api.call("one.template.allocate", text))

    def make_host(self, name: str, *, im_mad: str, vm_mad: str, cluster: int) -> int:
        """Create a host, and return its id."""
        return int(self._api.call("one.host.allocate", name, im_mad, vm_mad, cluster))

    def make_datastore(self, text: str, *, cluster: int) -> int:
        """Create a datastore, and return its id."""
        return int(self._api.call("one.datastore.allocate", text, cluster))

    def write_to_host(self, number: int, text: str) -> None:
        """Add attributes to a host's template."""
        self._api.call("one.host.update", number, text, _MERGE)

    def make_vms(self, template: int, names: list[str]) -> None:
        """Create a VM of a template for each name; one whose creation was not answered is looked for before a retry."""
        for name in names:
            try:
                self._instantiate(template, name)
            except ProviderUnavailable:
                if not any(vm.name == name for vm in self.vms(name)):
                    self._instantiate(template, name)

    def _instantiate(self, template: int, name: str) -> None:
        self._api.call("one.template.instantiate", template, name, False, "", False)  # noqa: FBT003 - no names there

    # Removing

    def terminate(self, vm: Vm) -> None:
        """Ask for the end of a VM; one that cannot end in its present state is asked again by the caller."""
        if vm.state[0] != DONE and vm.state[1] not in ENDING:
            _tolerate(lambda: self._api.call("one.vm.action", "terminate-hard", vm.number))

    def delete(self, vm: Vm) -> None:
        """Have OpenNebula give up a VM that does not end."""
        _tolerate(lambda: self._api.call("one.vm.recover", vm.number, _DELETE))

    def remove_template(self, number: int) -> None:
        """Delete a VM template."""
        _tolerate(lambda: self._api.call("one.template.delete", number))

    def remove_host(self, number: int) -> None:
        """Delete a host without VMs."""
        _tolerate(lambda: self._api.call("one.host.delete", number))

    def remove_datastore(self, number: int) -> None:
        """Delete an empty datastore."""
        _tolerate(lambda: self._api.call("one.datastore.delete", number))


def _named(pool: Element, kind: str, prefix: str) -> list[int]:
    return [int(each.findtext("ID") or -1) for each in pool.iterfind(kind) if _begins(each, prefix)]


def _begins(element: Element, prefix: str) -> bool:
    return (element.findtext("NAME") or "").startswith(prefix)


def patiently(ask: Callable[[], _Answer]) -> _Answer:
    """Return the answer to a question that changes nothing; ask again while a busy core does not answer."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return ask()
        except ProviderError as error:
            if not error.retryable or time.monotonic() > deadline:
                raise
            time.sleep(1)


def _tolerate(call: Callable[[], object]) -> None:
    """Make a call that may be refused: what it should have changed is looked at afterwards."""
    with suppress(ProviderError):
        call()

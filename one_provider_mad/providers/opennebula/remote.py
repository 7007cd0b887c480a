"""The partner's VMs by number, and calls that change them, repeated while a VM is busy."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from functools import partial

from one_provider_mad.domain import DeployId, Instance, InstanceState
from one_provider_mad.errors import (
    BadParameter,
    InstanceNotFound,
    NotReached,
    NotSupported,
    ProviderUnavailable,
    Throttled,
    WrongState,
)
from one_provider_mad.providers.opennebula.machine import ListedVm, Machine, number_of, read_listed_vm, read_machine
from one_provider_mad.providers.opennebula.settings import OpenNebulaSettings
from one_provider_mad.xmlrpc.client import Client
from one_provider_mad.xmlrpc.envelope import Argument, Result
from one_provider_mad.xmlrpc.host_login import HostLogin
from one_provider_mad.xmlrpc.release import Release, release_of
from one_provider_mad.xmlrpc.session import check_session

EXTENDED_POOL = (5, 8)
"""From this release on `one.vmpool.info` leaves USER_TEMPLATE out, and `one.vmpool.infoextended` has it."""

TERMINATE = (5, 0)
"""Before this release `terminate` was `shutdown` and `delete`."""

_VERSION_SECONDS = 600.0

LOGIN = ("ONE_USER", "ONE_PASSWORD")
"""Attributes with the login in the host's template, as for upstream's driver."""

_WORD = re.compile(r"[A-Z][A-Z_]+")

_ON_ITS_WAY = frozenset({"INIT", "PENDING", "CLONING"})


class Remote:
    """The connection to one partner.

    Args:
        settings: the table `[opennebula]`.
        clock: seconds of a clock that never goes back.

    Attributes:
        user_id: number of the remote user, -1 until it is known; 0 for every member of the group oneadmin, who may do
            everything.
    """

    def __init__(self, settings: OpenNebulaSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.user_id = -1
        self._clock = clock
        self._version_until = 0.0
        login = HostLogin(settings.login_from_host, LOGIN) if settings.login_from_host else None
        self.client = Client(settings.connection, ask_session=partial(_ask_session, login) if login else None)
        self._version: Release | None = None

    async def open(self) -> None:
        """Open the connection."""
        await self.client.open()

    async def close(self) -> None:
        """Close all connections."""
        await self.client.close()

    async def version(self) -> Release:
        """Return the partner's release, asked for again now and then: a partner may be upgraded."""
        if self._version is None or self._clock() >= self._version_until:
            answer = await self.client.call("one.system.version")
            if not (release := release_of(answer)):
                raise NotSupported("opennebula", f"an OpenNebula that calls its release {str(answer)[:40]!r}")
            self._version = release
            self._version_until = self._clock() + _VERSION_SECONDS
        return self._version

    def forget_version(self) -> None:
        """Ask for the release again at the next call: the partner's answers do not fit the known one."""
        self._version = None

    # Lookups

    async def look_up(self, number: int) -> ListedVm:
        """Return one VM as it is now, terminated ones included. Raises InstanceNotFound."""
        return _of(number, await self.client.read("one.vm.info", number, read=read_listed_vm))

    async def machine(self, number: int) -> Machine:
        """Return one VM with its disks, interfaces and snapshots.

        Raises InstanceNotFound, and WrongState when it is, or is being, terminated.
        """
        machine = await self.client.read("one.vm.info", number, read=read_machine)
        _of(number, machine.seen)
        _refuse_gone(machine.seen.instance)
        return machine

    async def settled(self, number: int) -> Machine:
        """Return the VM once no change of it is under way; without a time limit, since the caller has a deadline."""
        while True:
            machine = await self.machine(number)
            if not machine.seen.state.is_busy:
                return machine
            await asyncio.sleep(self.settings.watch_interval)

    async def outcome(self, number: int) -> Machine:
        """Return the VM once a change that was ordered is over.

        Raises:
            ProviderUnavailable: the VM cannot be looked up, so the change may have been carried out.
        """
        try:
            return await self.settled(number)
        except (NotReached, Throttled) as error:
            raise ProviderUnavailable(f"the outcome of the change is not known: {error}") from error

    # Changes

    async def act(self, number: int, action: str, *, is_done: Callable[[ListedVm], bool]) -> None:
        """Call `one.vm.action` with an action such as `poweroff`; fine when the VM has its result already.

        Raises:
            InstanceNotFound: there is no such VM.
            WrongState: the action has no effect in its state.
            Throttled: it is busy, and will accept the action later.
        """
        await self.order(number, "one.vm.action", action, number, is_done=is_done)

    async def order(
        self,
        number: int,
        method: str,
        *arguments: Argument,
        is_done: Callable[[ListedVm], bool] = lambda _: False,
        is_repeatable: bool = True,
    ) -> Result | None:
        """Call a method that changes a VM, again while the VM is busy.

        Returns:
            The call's result; None when the change was not needed.
        """
        give_up = asyncio.get_running_loop().time() + self.settings.patience
        rested_in = ""
        while True:
            try:
                return await self.client.call(method, *arguments, is_repeatable=is_repeatable)
            except WrongState as error:
                refusal = str(error)
            seen = await self.look_up(number)
            if is_done(seen):
                return None
            _refuse_gone(seen.instance)
            if not (seen.state.is_busy or seen.state.word in _ON_ITS_WAY):
                # It may have come to rest between the refusal, which mostly names the state, and the lookup.
                if seen.state.word in (rested_in, *_WORD.findall(refusal)):
                    raise WrongState(f"{described(seen.instance)}: {refusal}")
                rested_in = seen.state.word
                continue
            if asyncio.get_running_loop().time() >= give_up:
                raise Throttled(
                    f"{described(seen.instance)} and refuses: {refusal}", retry_after=self.settings.watch_interval
                )
            await asyncio.sleep(self.settings.watch_interval)


async def _ask_session(login: HostLogin) -> str:
    user, password = await login.read()
    return check_session(f"{user}:{password}".encode(), where="ONE_USER and ONE_PASSWORD of the host")


def known_number(deploy_id: DeployId) -> int:
    """Return the remote's number in an id. Raises InstanceNotFound for an id of another provider."""
    number = number_of(deploy_id)
    if number is None:
        raise InstanceNotFound(f"instance {deploy_id} does not belong to a partner OpenNebula")
    return number


def described(instance: Instance) -> str:
    """Return the instance, its state and its reason, for the beginning of a sentence."""
    because = f" ({instance.reason})" if instance.reason else ""
    return f"instance {instance.deploy_id} is {instance.raw_state}{because}"


def needed(operand: dict[str, str], name: str) -> str:
    """Return an attribute that is required. Raises BadParameter."""
    value = operand.get(name, "").strip()
    if not value:
        raise BadParameter(f"{name} is missing: nothing was done")
    return value


def _of(number: int, seen: ListedVm) -> ListedVm:
    """Return the VM if its number is the requested one. Raises ProviderUnavailable for another VM."""
    if seen.number != number:
        raise ProviderUnavailable(f"the partner answers with VM {seen.number} when it is asked for VM {number}")
    return seen


def _refuse_gone(instance: Instance) -> None:
    if instance.state in (InstanceState.TERMINATING, InstanceState.TERMINATED):
        raise WrongState(f"{described(instance)}, and nothing more can be done with it")

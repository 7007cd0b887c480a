"""The handler of every action, and groups of actions that are treated alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from one_provider_mad.actions.capabilities import CAPABILITIES
from one_provider_mad.actions.devices import perform_capability
from one_provider_mad.actions.intents import intent_of, migration_refused
from one_provider_mad.actions.lifecycle import perform_intent, reboot
from one_provider_mad.actions.work import Work
from one_provider_mad.domain import VmRequest
from one_provider_mad.errors import NotSupported
from one_provider_mad.protocol.messages import Action

Handler = Callable[[Work], Awaitable[str]]
"""Carries an action out and returns the payload of its SUCCESS."""


def _by_intent(action: Action) -> Handler:
    async def perform(work: Work) -> str:
        request = work.request
        intent = intent_of(action, request.lcm_state, has_deploy_id=bool(request.deploy_id))
        return await perform_intent(work, intent, is_soft=action is Action.SHUTDOWN)

    return perform


def _not_supported(what: str) -> Handler:
    async def perform(work: Work) -> str:
        raise NotSupported(work.cloud.provider.name, what)

    return perform


async def _migrate(_work: Work) -> str:
    raise migration_refused()


HANDLERS: dict[Action, Handler] = {
    **{
        action: _by_intent(action)
        for action in (
            Action.DEPLOY,
            Action.SHUTDOWN,
            Action.CANCEL,
            Action.SAVE,
            Action.RESTORE,
            Action.CLEANUP,
        )
    },
    Action.REBOOT: partial(reboot, is_hard=False),
    Action.RESET: partial(reboot, is_hard=True),
    Action.MIGRATE: _migrate,
    **{action: partial(perform_capability, action=action) for action in CAPABILITIES},
    Action.BACKUP: _not_supported("backups"),
    Action.BACKUPCANCEL: _not_supported("backups"),
    Action.EXEC: _not_supported("commands inside the VM"),
    Action.EXEC_CANCEL: _not_supported("commands inside the VM"),
}
"""The handler by action, for all but POLL (actions/polling.py) and DRIVER_CANCEL (actions/dispatcher.py)."""

NEEDS_ONLY_TAGS = frozenset({Action.REBOOT, Action.RESET})
"""Actions that only need the tags of their instance, so that they share lookups (actions/shared_lookups.py)."""

CREATES_OR_DESTROYS = frozenset(
    {Action.DEPLOY, Action.RESTORE, Action.SHUTDOWN, Action.CANCEL, Action.SAVE, Action.CLEANUP}
)
"""Actions that a new process carries out again after a crash: each leads to a state, so twice does what once does."""

STOPS_OR_DESTROYS = frozenset({Action.SHUTDOWN, Action.CANCEL, Action.SAVE, Action.CLEANUP})
"""Actions that only stop or terminate an instance: their calls may be repeated after every passing error."""

FIRST_WORDS: dict[Action, Callable[[VmRequest], str]] = {
    Action.UPDATESG: lambda request: request.security_group_id,
    Action.UPDATENIC: lambda request: request.virtual_network_id,
}
"""Actions whose reply, a FAILURE too, must begin with a number that oned reads; each with how to get it."""


BESIDE = frozenset(
    {
        Action.POLL,
        Action.DRIVER_CANCEL,
        Action.REBOOT,
        Action.RESET,
        Action.UPDATESG,
        Action.UPDATENIC,
        Action.BACKUPCANCEL,
        Action.EXEC,
        Action.EXEC_CANCEL,
    }
)
"""Actions that oned sends while it awaits another answer: their answers change no VM's state, or name their request by
the first word (src/lcm/LifeCycleManager.cc, trigger_updatesg; src/vm/VirtualMachine.cc)."""


def takes_place_of(new: Action, old: Action) -> bool:
    """True when a newer request replaces an older open one of its VM: the answers of both change the VM's state.

    oned awaits one such answer at a time, since a VM is in one state: it awaits the newer request's alone.
    """
    return new not in BESIDE and old not in BESIDE


def replaces(new: Action, old: Action) -> bool:
    """True when a newer request shows that oned awaits no answer any more to one that an earlier process left.

    oned sends no request after one that changes the VM's state before the VM has left that state.
    """
    if new is Action.POLL:
        return False
    if new is Action.DRIVER_CANCEL or old in CREATES_OR_DESTROYS or takes_place_of(new, old):
        return True
    return new is old and old not in FIRST_WORDS

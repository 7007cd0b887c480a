"""What upstream's drivers do for an action, step by step, and what undoes it (src/vmm_mad/exec/one_vmm_exec.rb)."""

from __future__ import annotations

import base64
import string
from collections.abc import Callable, Iterable, Mapping
from enum import Enum

from one_provider_mad.domain import Value
from one_provider_mad.errors import NotSupported, RequestRefused
from one_provider_mad.providers.scripts.message import Era, Message, Nic

DEPLOYED = "\0the id that deploy has printed"
"""Stands in arguments for what is known only once `deploy` has run; no argument can hold a NUL."""

NAME = "scripts"


LIVE_SNAPSHOT = "tm_snap_create_live"
"""The step that LIVE_DISK_SNAPSHOTS of vmm_execrc has to allow."""


class Kind(Enum):
    """Whose script a step runs; the value is what upstream's log calls it."""

    VIRTUALIZATION = "virtualization driver"
    NETWORK = "network driver"
    TRANSFER = "transfer manager driver"


class Step(Value, frozen=True, kw_only=True):
    """One step of an action.

    Attributes:
        kind: whose script.
        action: upstream's word for the step: `deploy`, `snapshotcreate`, `pre`, `tm_context`.
        arguments: of the script; for a virtualization driver, VM id and host still follow.
        host: the host that follows the arguments; None when neither it nor the VM id does.
        drivers: the network drivers to run, or the one transfer driver.
        stdin: what the script reads; None for what its kind of script reads as a rule.
        undo: steps that follow when this one fails.
        regret: steps that follow when it has succeeded, and what it answered is of no use.
        may_fail: a failure is logged, and the action goes on.
    """

    kind: Kind
    action: str
    arguments: tuple[str, ...] = ()
    host: str | None = None
    drivers: tuple[str, ...] = ()
    stdin: bytes | None = None
    undo: tuple[Step, ...] = ()
    regret: tuple[Step, ...] = ()
    may_fail: bool = False


def sequence(action: str, message: Message) -> tuple[Step, ...]:
    """The steps of an action, in order; the reply is what the one that bears its name prints.

    Raises:
        RequestRefused: the message lacks what the action needs.
        NotSupported: upstream's drivers have no such action.
    """
    steps = _SEQUENCES.get(action)
    if steps is None:
        raise NotSupported(NAME, action)
    return tuple(steps(message))


def main_action(action: str) -> str:
    """The word of the step that bears the action's name."""
    return _MAIN.get(action, action.lower())


# Single steps


def _script(
    message: Message,
    action: str,
    *arguments: str,
    host: str | None = None,
    undo: tuple[Step, ...] = (),
    regret: tuple[Step, ...] = (),
    may_fail: bool = False,
) -> Step:
    where = message.request.host if host is None else host
    return Step(
        kind=Kind.VIRTUALIZATION,
        action=action,
        arguments=arguments,
        host=where,
        undo=undo,
        regret=regret,
        may_fail=may_fail,
    )


def _network(
    message: Message,
    action: str,
    *arguments: str,
    host: str | None = None,
    undo: tuple[Step, ...] = (),
    may_fail: bool = False,
) -> list[Step]:
    """Return the step that runs a script of every network driver; nothing when no interface has one."""
    drivers = message.network_drivers()
    if host is not None and message.era is Era.FOUR:
        name = message.field("MIGR_NET_DRV").strip()
        drivers = (name,) if name else drivers
    if not drivers:
        return []
    step = Step(
        kind=Kind.NETWORK,
        action=action,
        arguments=arguments,
        host=message.request.host if host is None else host,
        drivers=drivers,
        undo=undo,
        may_fail=may_fail,
    )
    return [step]


def _clean(message: Message, *, host: str | None = None, may_fail: bool = False) -> list[Step]:
    return _network(message, "clean", message.request.host, host=host, may_fail=may_fail)


def _transfer(
    words: tuple[str, ...], action: str, prefix: str = "", *, stdin: bytes | None = None, may_fail: bool = False
) -> Step:
    """Return the step for `COMMAND driver argument…`; the script is called like the command."""
    if len(words) < 2:
        raise RequestRefused(f"the transfer command {' '.join(words)!r} names no driver")
    command, driver, *arguments = words
    return Step(
        kind=Kind.TRANSFER,
        action=action,
        arguments=((prefix + command).lower(), *arguments),
        drivers=(driver,),
        stdin=stdin,
        may_fail=may_fail,
    )


def _transfers(message: Message, action: str, *, may_fail: bool = False) -> list[Step]:
    return [_transfer(words, action, may_fail=may_fail) for words in message.transfers()]


def _only_transfer(message: Message, name: str, what: str) -> tuple[str, ...]:
    found = message.transfers(name)
    if not found:
        raise RequestRefused(f"{what}: the message has no {name}, which says how to transfer the disk")
    return found[0]


# Actions


def _deploy(message: Message) -> list[Step]:
    cancel = _script(message, "cancel", DEPLOYED, message.request.host)
    clean = _clean(message) if message.era is Era.SIX else []
    path = message.field("LOCAL_DEPLOYMENT_FILE")
    if not path:
        raise RequestRefused("DEPLOY: the message names no LOCAL_DEPLOYMENT_FILE")
    return [
        *_transfers(message, "tm_context"),
        *_network(message, "pre"),
        _script(message, "deploy", path, message.request.host, undo=tuple(clean), regret=(cancel,)),
        *_network(message, "post", DEPLOYED, message.request.host, undo=(cancel, *clean)),
    ]


def _restore(message: Message) -> list[Step]:
    deploy_id = message.deploy_id
    cancel = () if message.era is Era.FOUR else (_script(message, "cancel", deploy_id, message.request.host),)
    return [
        *_transfers(message, "tm_context"),
        *_network(message, "pre"),
        _script(message, "restore", message.field("CHECKPOINT_FILE"), message.request.host, deploy_id),
        *_network(message, "post", deploy_id, message.request.host, undo=cancel),
    ]


def _ending(action: str) -> Callable[[Message], list[Step]]:
    def steps(message: Message) -> list[Step]:
        return [
            _script(message, action, message.deploy_id, message.request.host),
            *_clean(message),
        ]

    return steps


def _save(message: Message) -> list[Step]:
    arguments = message.deploy_id, message.field("CHECKPOINT_FILE"), message.request.host
    return [_script(message, "save", *arguments), *_clean(message)]


def _on_host(action: str) -> Callable[[Message], list[Step]]:
    """Return what runs one script with deploy id and host."""
    return lambda message: [_script(message, action, message.deploy_id, message.request.host)]


def _migrate(message: Message) -> list[Step]:
    deploy_id, destination = message.deploy_id, message.field("MIGR_HOST")
    vm = message.vm_document()

    def transfer(prefix: str, *, may_fail: bool = False) -> list[Step]:
        action = f"tm_{prefix}migrate"
        found = message.transfers()[:1]
        if message.era is Era.FOUR:  # there the VM is an argument
            found = tuple((*words, base64.b64encode(vm).decode()) for words in found)
        return [_transfer(words, action, prefix, stdin=vm, may_fail=may_fail) for words in found]

    # Once the VM is on the other host, a failure would make oned look for it on the first one.
    return [
        *transfer("pre"),
        *_network(message, "pre", host=destination),
        _script(
            message,
            "migrate",
            deploy_id,
            destination,
            message.request.host,
            undo=tuple(transfer("fail", may_fail=True)),
        ),
        *_clean(message, may_fail=True),
        *_network(message, "post", deploy_id, message.request.host, host=destination, may_fail=True),
        *transfer("post", may_fail=True),
    ]


def _attach_disk(message: Message) -> list[Step]:
    attach = _only_transfer(message, "TM_COMMAND", "ATTACHDISK")
    rollback = message.transfers("TM_COMMAND_ROLLBACK")[:1]
    undo = tuple(_transfer(words, "tm_detach") for words in rollback)
    again = base64.b64encode(message.document).decode()
    return [
        _transfer(attach, "tm_attach"),
        _script(message, "attach_disk", *_disk_place(message), again, undo=undo),
    ]


def _detach_disk(message: Message) -> list[Step]:
    detach = _only_transfer(message, "TM_COMMAND", "DETACHDISK")
    return [_script(message, "detach_disk", *_disk_place(message)), _transfer(detach, "tm_detach")]


def _disk_place(message: Message) -> tuple[str, ...]:
    target = message.request.operand.get("TARGET", "").strip()
    if not target:
        raise RequestRefused("the message marks no disk with ATTACH = YES that has a TARGET")
    index = string.ascii_lowercase.find(target[-1].lower())
    if index < 0:
        raise RequestRefused(f"the disk's TARGET is expected to end with a letter from a to z, got {target[:20]!r}")
    return message.deploy_id, message.field("DISK_TARGET_PATH"), target, str(index)


def _attach_nic(message: Message) -> list[Step]:
    nic, deploy_id = _nic(message), message.deploy_id
    mac, model = nic.attributes["MAC"], nic.attributes.get("MODEL", "") or "-"
    where = [nic.attributes.get("BRIDGE", ""), model]
    where += (
        [message.field("NET_DRV")] if message.era is Era.FOUR else [nic.attributes["VN_MAD"], nic.attributes["TARGET"]]
    )
    detach = _script(message, "detach_nic", deploy_id, mac)
    is_alias = nic.kind == "NIC_ALIAS"
    attach = [] if is_alias else [_script(message, "attach_nic", deploy_id, mac, *where)]
    return [
        *_network(message, "pre"),
        *attach,
        *_network(message, "post", deploy_id, message.request.host, undo=() if is_alias else (detach,)),
        *_reconfigure(message, undo=(detach,) if message.era is Era.SIX else ()),
    ]


def _detach_nic(message: Message) -> list[Step]:
    nic = _nic(message, "MAC")
    is_alias = nic.kind == "NIC_ALIAS"
    detach = [] if is_alias else [_script(message, "detach_nic", message.deploy_id, nic.attributes["MAC"])]
    return [*detach, *_clean(message), *_reconfigure(message)]


def _nic(message: Message, *needed: str) -> Nic:
    nic = next((nic for nic in message.nics if nic.is_being_changed), None)
    if nic is None:
        raise RequestRefused("the message marks no network interface with ATTACH = YES")
    needed = needed or (("MAC", "BRIDGE") if message.era is Era.FOUR else ("MAC", "BRIDGE", "VN_MAD", "TARGET"))
    if missing := ", ".join(name for name in needed if not nic.attributes.get(name, "").strip()):
        raise RequestRefused(f"the {nic.kind} that the message is about has no {missing}")
    return nic


def _reconfigure(message: Message, undo: tuple[Step, ...] = ()) -> list[Step]:
    """Tell the guest of what has changed: since 5.0."""
    if message.era is Era.FOUR:
        return []
    deploy_id, target = message.deploy_id, message.template("CONTEXT/TARGET")
    return [
        _script(message, "prereconfigure", deploy_id, target, undo=undo),
        *_transfers(message, "tm_context"),
        _script(message, "reconfigure", deploy_id, target, message.field("DISK_TARGET_PATH")),
    ]


def _cleanup(message: Message) -> list[Step]:
    deploy_id, before = message.deploy_id, message.field("MIGR_HOST")
    steps: list[Step] = []
    if deploy_id:
        steps.append(_script(message, "cancel", deploy_id, message.request.host, may_fail=True))
    steps += _clean(message, may_fail=True)
    if before:
        if deploy_id:
            steps.append(_script(message, "cancel", deploy_id, before, host=before, may_fail=True))
        steps += _clean(message, host=before, may_fail=True)
    return [*steps, *_transfers(message, "tm_delete", may_fail=True)]


def _snapshot(action: str, name: str) -> Callable[[Message], list[Step]]:
    def steps(message: Message) -> list[Step]:
        snapshot = message.request.operand.get(name, "")
        return [_script(message, action, message.deploy_id, snapshot)]

    return steps


def _snapshot_revert(message: Message) -> list[Step]:
    again = _network(message, "post", message.deploy_id, message.request.host) if message.era is Era.SIX else []
    return [*_snapshot("snapshotrevert", "HYPERVISOR_ID")(message), *again]


def _resize_disk(message: Message) -> list[Step]:
    operand = message.request.operand
    again = base64.b64encode(message.document).decode()
    arguments = (message.deploy_id, operand.get("DISK_ID", ""), operand.get("SIZE", ""), again)
    return [
        _transfer(_only_transfer(message, "TM_COMMAND", "RESIZEDISK"), "tm_resize"),
        _script(message, "resize_disk", *arguments, message.request.host),
    ]


def _disk_snapshot(message: Message) -> list[Step]:
    command, *rest = _only_transfer(message, "TM_COMMAND", "DISKSNAPSHOTCREATE")
    name, dot, system = command.partition(".")
    return [_transfer((f"{name}_LIVE{dot}{system}", *rest), LIVE_SNAPSHOT)]


def _update_sg(message: Message) -> list[Step]:
    return _network(message, "update_sg", message.deploy_id, message.field("SECURITY_GROUP_ID"))


def _update_nic(message: Message) -> list[Step]:
    return _network(message, "update_nic", message.deploy_id, message.field("VIRTUAL_NETWORK_ID"))


def _exec(message: Message) -> list[Step]:
    operand, vm_id = message.request.operand, str(message.request.vm_id)
    arguments = (vm_id, message.request.host, operand.get("COMMAND", ""), operand.get("STDIN", ""))
    return [Step(kind=Kind.VIRTUALIZATION, action="exec", arguments=arguments)]


def _exec_cancel(message: Message) -> list[Step]:
    return [_script(message, "exec_cancel")]


_SEQUENCES: Mapping[str, Callable[[Message], Iterable[Step]]] = {
    "DEPLOY": _deploy,
    "SHUTDOWN": _ending("shutdown"),
    "CANCEL": _ending("cancel"),
    "REBOOT": _on_host("reboot"),
    "RESET": _on_host("reset"),
    "POLL": _on_host("poll"),
    "SAVE": _save,
    "RESTORE": _restore,
    "MIGRATE": _migrate,
    "ATTACHDISK": _attach_disk,
    "DETACHDISK": _detach_disk,
    "ATTACHNIC": _attach_nic,
    "DETACHNIC": _detach_nic,
    "SNAPSHOTCREATE": _snapshot("snapshotcreate", "SNAPSHOT_ID"),
    "SNAPSHOTREVERT": _snapshot_revert,
    "SNAPSHOTDELETE": _snapshot("snapshotdelete", "HYPERVISOR_ID"),
    "RESIZE": lambda message: [_script(message, "resize", message.deploy_id)],
    "RESIZEDISK": _resize_disk,
    "UPDATECONF": _reconfigure,
    "UPDATESG": _update_sg,
    "UPDATENIC": _update_nic,
    "CLEANUP": _cleanup,
    "DISKSNAPSHOTCREATE": _disk_snapshot,
    "BACKUP": lambda message: [_script(message, "backup", message.deploy_id)],
    "BACKUPCANCEL": lambda message: [_script(message, "backup_cancel", message.deploy_id)],
    "EXEC": _exec,
    "EXEC_CANCEL": _exec_cancel,
}

_MAIN = {
    "CLEANUP": "",
    "ATTACHDISK": "attach_disk",
    "DETACHDISK": "detach_disk",
    "ATTACHNIC": "attach_nic",
    "DETACHNIC": "detach_nic",
    "RESIZEDISK": "resize_disk",
    "UPDATECONF": "reconfigure",
    "UPDATESG": "update_sg",
    "UPDATENIC": "update_nic",
}

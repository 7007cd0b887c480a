"""The steps of upstream's drivers for each action, with their undo steps (src/vmm_mad/exec/one_vmm_exec.rb)."""

from __future__ import annotations

import base64
import string
from collections.abc import Callable, Iterable, Mapping
from enum import Enum

from one_provider_mad.domain import Value
from one_provider_mad.errors import NotSupported, RequestRefused
from one_provider_mad.providers.scripts.message import Message, Nic

DEPLOYED = "\0the id that deploy has printed"
"""Stands in arguments for the id, which is known only after `deploy`; no argument can hold a NUL."""

NAME = "scripts"


LIVE_SNAPSHOT = "tm_snap_create_live"
"""The step that LIVE_DISK_SNAPSHOTS of vmm_execrc must allow."""


class Kind(Enum):
    """The driver that a step's script belongs to; the value is its name in upstream's log."""

    VIRTUALIZATION = "virtualization driver"
    NETWORK = "network driver"
    TRANSFER = "transfer manager driver"


class Step(Value, frozen=True, kw_only=True):
    """One step of an action.

    Attributes:
        kind: the driver of the script.
        action: upstream's word for the step: `deploy`, `snapshotcreate`, `pre`, `tm_context`.
        arguments: of the script; for a virtualization driver, VM id and host are added.
        host: the host to add; None to add neither it nor the VM id.
        drivers: the network drivers to run, or the one transfer driver.
        stdin: the script's input; None for the usual input of its kind.
        undo: steps that follow when this one fails.
        regret: steps to run when it succeeded with a useless answer.
        may_fail: a failure is logged, and the action goes on.
        is_logged: whether its success or failure is written to the VM's log.
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
    is_logged: bool = True


def sequence(action: str, message: Message) -> tuple[Step, ...]:
    """Return the steps of an action, in order; the reply is the output of the step with the action's name.

    Raises:
        RequestRefused: the message lacks a value that the action needs.
        NotSupported: upstream's drivers have no such action.
    """
    steps = _SEQUENCES.get(action)
    if steps is None:
        raise NotSupported(NAME, action)
    return tuple(steps(message))


def main_action(action: str) -> str:
    """Return the name of the step with the action's result."""
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
    is_logged: bool = True,
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
        is_logged=is_logged,
    )


def _network(
    message: Message,
    action: str,
    *arguments: str,
    host: str | None = None,
    undo: tuple[Step, ...] = (),
    may_fail: bool = False,
    skipped: tuple[str, ...] = (),
) -> list[Step]:
    """Return the step for a script of every network driver; none without interfaces that have one.

    Up to 5.8 the script gets the VM as its first argument, from 5.10 on as its input (src/vnm_mad/one_vnm.rb).
    """
    drivers = tuple(name for name in message.network_drivers() if name not in skipped)
    if host is not None and not message.since(5):
        name = message.field("MIGR_NET_DRV").strip()
        drivers = (name,) if name else drivers
    if not drivers:
        return []
    step = Step(
        kind=Kind.NETWORK,
        action=action,
        arguments=arguments if message.since(5, 10) else (_encoded(message.network_document()), *arguments),
        drivers=drivers,
        undo=undo,
        may_fail=may_fail,
    )
    return [step]


def _post(
    message: Message,
    deploy_id: str,
    *,
    host: str | None = None,
    undo: tuple[Step, ...] = (),
    may_fail: bool = False,
    skipped: tuple[str, ...] = (),
) -> list[Step]:
    arguments = deploy_id, *_host(message)
    return _network(message, "post", *arguments, host=host, undo=undo, may_fail=may_fail, skipped=skipped)


def _clean(message: Message, *, host: str | None = None, may_fail: bool = False) -> list[Step]:
    return _network(message, "clean", *_host(message), host=host, may_fail=may_fail)


def _host(message: Message) -> tuple[str, ...]:
    """Return the last argument of `post` and `clean`: the host, from 6.0 on; also where they run for another host."""
    return (message.request.host,) if message.since(6) else ()


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _transfer(
    words: tuple[str, ...],
    action: str,
    prefix: str = "",
    *,
    stdin: bytes | None = None,
    undo: tuple[Step, ...] = (),
    may_fail: bool = False,
) -> Step:
    """Return the step for `COMMAND driver argument…`; the script has the command's name."""
    if len(words) < 2:
        raise RequestRefused(f"the transfer command {' '.join(words)!r} names no driver")
    command, driver, *arguments = words
    return Step(
        kind=Kind.TRANSFER,
        action=action,
        arguments=((prefix + command).lower(), *arguments),
        drivers=(driver,),
        stdin=stdin,
        undo=undo,
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
    clean = _clean(message) if message.since(5, 12) else []
    path = message.field("LOCAL_DEPLOYMENT_FILE")
    if not path:
        raise RequestRefused("DEPLOY: the message names no LOCAL_DEPLOYMENT_FILE")
    return [
        *_transfers(message, "tm_context"),
        *_network(message, "pre"),
        _script(message, "deploy", path, message.request.host, undo=tuple(clean), regret=(cancel,)),
        *_post(message, DEPLOYED, undo=(cancel, *clean)),
    ]


def _restore(message: Message) -> list[Step]:
    deploy_id = message.deploy_id
    cancel = _script(message, "cancel", deploy_id, message.request.host)
    return [
        *_transfers(message, "tm_context"),
        *_network(message, "pre"),
        _script(message, "restore", message.field("CHECKPOINT_FILE"), message.request.host, deploy_id),
        *_post(message, deploy_id, undo=(cancel,)),
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


def _restart(action: str) -> Callable[[Message], list[Step]]:
    """Return a function for the step with deploy id and host; up to 5.8 its outcome is not logged."""

    def steps(message: Message) -> list[Step]:
        return [_script(message, action, message.deploy_id, message.request.host, is_logged=message.since(5, 10))]

    return steps


def _poll(message: Message) -> list[Step]:
    return [_script(message, "poll", message.deploy_id, message.request.host, is_logged=False)]


def _migrate(message: Message) -> list[Step]:
    deploy_id, destination = message.deploy_id, message.field("MIGR_HOST")
    vm = message.vm_document()

    def transfer(prefix: str, *, undo: tuple[Step, ...] = (), may_fail: bool = False) -> list[Step]:
        action = f"tm_{prefix}migrate"
        found = message.transfers()[:1]
        if message.since(5, 10):
            return [_transfer(words, action, prefix, stdin=vm, undo=undo, may_fail=may_fail) for words in found]
        # Before 5.10 the VM is an argument.
        again = _encoded(vm)
        return [_transfer((*words, again), action, prefix, undo=undo, may_fail=may_fail) for words in found]

    fail = tuple(transfer("fail", may_fail=True)) if message.since(4, 14) else ()
    # After `migrate` steps may fail: oned would otherwise look for the VM on the first host.
    return [
        *transfer("pre", undo=fail if message.since(7, 4) else ()),
        *_network(message, "pre", host=destination),
        _script(message, "migrate", deploy_id, destination, message.request.host, undo=fail),
        *_clean(message, may_fail=True),
        *_post(message, deploy_id, host=destination, may_fail=True),
        *transfer("post", may_fail=True),
    ]


def _attach_disk(message: Message) -> list[Step]:
    attach = _only_transfer(message, "TM_COMMAND", "ATTACHDISK")
    rollback = message.transfers("TM_COMMAND_ROLLBACK")[:1]
    undo = tuple(_transfer(words, "tm_detach") for words in rollback)
    again = _encoded(message.document)
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
    detach = _script(message, "detach_nic", deploy_id, mac)
    reconfigure = _reconfigure(message, undo=(detach,) if message.since(6, 4, 1) else ()) if message.since(5) else []
    if nic.kind == "NIC_ALIAS":
        around = [*_network(message, "pre"), *_post(message, deploy_id)] if _is_for_network(message, nic) else []
        return [*around, *reconfigure]
    return [
        *_network(message, "pre"),
        _script(message, "attach_nic", deploy_id, mac, _bridge(message, nic), model, *_network_place(message, nic)),
        *_post(message, deploy_id, undo=(detach,)),
        *reconfigure,
    ]


def _bridge(message: Message, nic: Nic) -> str:
    """Return the bridge; in 4.14, with Open vSwitch on the host, that driver's bridge."""
    is_split = message.since(4, 14) and message.field("NET_DRV") == "ovswitch"  # no NET_DRV from 5.0 on
    return (nic.attributes.get("BRIDGE_OVS", "") if is_split else "") or nic.attributes.get("BRIDGE", "")


def _network_place(message: Message, nic: Nic) -> tuple[str, ...]:
    if not message.since(5):
        return (message.field("NET_DRV"),)
    return nic.attributes["VN_MAD"], nic.attributes["TARGET"]


def _detach_nic(message: Message) -> list[Step]:
    nic = _nic(message, "MAC")
    reconfigure = _reconfigure(message) if message.since(5, 8) else []
    if nic.kind == "NIC_ALIAS":
        return [*(_clean(message) if _is_for_network(message, nic) else []), *reconfigure]
    return [_script(message, "detach_nic", message.deploy_id, nic.attributes["MAC"]), *_clean(message), *reconfigure]


def _is_for_network(message: Message, alias: Nic) -> bool:
    """Return True when network drivers run for an alias. Up to 6.0.2 they do so for an external alias only.

    Drivers without support for aliases drop the security groups of all interfaces of the VM in `clean`.
    """
    if message.since(6, 0, 3):
        return True
    return "EXTERNAL" in alias.attributes or (message.since(6) and alias.driver == "elastic")


def _nic(message: Message, *needed: str) -> Nic:
    nic = next((nic for nic in message.nics if nic.is_being_changed), None)
    if nic is None:
        raise RequestRefused("the message marks no network interface with ATTACH = YES")
    needed = needed or (("MAC", "BRIDGE", "VN_MAD", "TARGET") if message.since(5) else ("MAC", "BRIDGE"))
    if missing := ", ".join(name for name in needed if not nic.attributes.get(name, "").strip()):
        raise RequestRefused(f"the {nic.kind} that the message is about has no {missing}")
    return nic


def _reconfigure(message: Message, undo: tuple[Step, ...] = ()) -> list[Step]:
    """Return the step that updates the guest's context."""
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
    if deploy_id or message.since(5, 8, 3):
        steps += _clean(message, may_fail=True)
    if before:
        if deploy_id:
            steps.append(_script(message, "cancel", deploy_id, before, host=before, may_fail=True))
        steps += _clean(message, host=before, may_fail=True)
    return [*steps, *_transfers(message, "tm_delete", may_fail=True)]


def _snapshot(action: str, name: str) -> Callable[[Message], list[Step]]:
    def steps(message: Message) -> list[Step]:
        return [_script(message, action, message.deploy_id, message.request.operand.get(name, ""), is_logged=False)]

    return steps


def _snapshot_revert(message: Message) -> list[Step]:
    snapshot, is_logged = message.request.operand.get("HYPERVISOR_ID", ""), message.since(6, 8)
    again = _post(message, message.deploy_id, skipped=("elastic",)) if message.since(6, 8) else []
    return [_script(message, "snapshotrevert", message.deploy_id, snapshot, is_logged=is_logged), *again]


def _resize(message: Message) -> list[Step]:
    return [_script(message, "resize", message.deploy_id, is_logged=False)]


def _resize_disk(message: Message) -> list[Step]:
    operand = message.request.operand
    again = _encoded(message.document)
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
    return _network(message, "update_sg", message.deploy_id)


def _update_nic(message: Message) -> list[Step]:
    return _network(message, "update_nic", message.deploy_id, message.field("VIRTUAL_NETWORK_ID"))


def _exec(message: Message) -> list[Step]:
    operand, vm_id = message.request.operand, str(message.request.vm_id)
    arguments = (vm_id, message.request.host, operand.get("COMMAND", ""), operand.get("STDIN", ""))
    return [Step(kind=Kind.VIRTUALIZATION, action="exec", arguments=arguments, is_logged=False)]


def _exec_cancel(message: Message) -> list[Step]:
    return [_script(message, "exec_cancel", is_logged=False)]


_SEQUENCES: Mapping[str, Callable[[Message], Iterable[Step]]] = {
    "DEPLOY": _deploy,
    "SHUTDOWN": _ending("shutdown"),
    "CANCEL": _ending("cancel"),
    "REBOOT": _restart("reboot"),
    "RESET": _restart("reset"),
    "POLL": _poll,
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
    "RESIZE": _resize,
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

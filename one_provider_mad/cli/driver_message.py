"""Builds the lines that oned sends to a virtualization driver, release by release, and the XML document in them.

Pure: the same arguments give the same bytes. `build` makes the document, `wire_line` the whole line. Elements, their
order and their empty forms are those of VirtualMachineManager::format_message, VirtualMachine::to_xml_extended and
History::to_xml in the release's source.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import TypedDict, Unpack

from one_provider_mad.cli.verbs import ACTIVE, CONTROLS, DONE, ERAS, Release, default_lcm_state, history_action
from one_provider_mad.cli.vm_template import Attributes, PlacedTemplate
from one_provider_mad.domain import Template
from one_provider_mad.template_text.grammar import KEPT_NAME

DEFAULT_HOST = "remote_provider"
DEFAULT_STIME = 1_760_000_000
"""STIME unless given, in seconds since the epoch: a constant, so that separately encoded lines are about the same
VM."""

DEFAULT_TYPE = "simulated"


def default_template(cloud: str = DEFAULT_TYPE) -> Template:
    """Return the example template of OpenNebula's cloud bursting guide, with `cloud` as the TYPE of PUBLIC_CLOUD."""
    section = {"TYPE": cloud, "PROVIDER_IMAGE_ID": "id-141234", "PROVIDER_INSTANCE_TYPE": "small_256mb"}
    return Template(values={"CPU": ("1",), "MEMORY": ("256",), "PUBLIC_CLOUD": (section,)})


class Details(TypedDict, total=False):
    """Values of the VM and its host for the document; after the semicolon, the default."""

    template: Template
    """The VM's template as its user wrote it; `default_template()`."""

    host: str
    """Name of the OpenNebula host; `DEFAULT_HOST`."""

    host_id: int
    """Number of the host; 0."""

    lcm_state: int
    """The VM's LCM_STATE; `verbs.default_lcm_state`."""

    state: int
    """VM/STATE: ACTIVE, or DONE, with LCM_STATE 0, as in some CLEANUPs; ACTIVE."""

    deploy_id: str
    """The cloud's id of the instance; "", as before the first deploy."""

    name: str
    """The VM's name; the template's NAME, else `one-<id>`."""

    stime: int
    """Creation time of the VM, seconds since the epoch; `DEFAULT_STIME`."""

    seq: int
    """Number of the history record, which grows with every resume; 0."""

    operand: Mapping[str, str]
    """Keys of the disk, NIC, snapshot or other part that the action is about, in upper case; {}."""


def build(action: str, *, vm_id: int, release: Release = "7.4", **details: Unpack[Details]) -> bytes:
    """Return the document that oned of this release sends with an action.

    Raises:
        ValueError: oned could not send that; the message is one sentence.
    """
    return _Document(action, vm_id, release, details).text().encode()


def wire_line(action: str, *, vm_id: int = 0, release: Release = "7.4", **details: Unpack[Details]) -> bytes:
    """Return the whole line, line feed included; INIT, FINALIZE and DRIVER_CANCEL carry no document.

    Raises:
        ValueError: as `build`.
    """
    if action in CONTROLS:
        return f"{action}\n".encode()
    has_status_field = release == "7.4"
    gap = "  " if has_status_field else " "
    if action == "DRIVER_CANCEL":
        _check_number("the VM's id", vm_id)
        return f"{action}{gap}{vm_id}{' ' if has_status_field else ''}\n".encode()
    document = b64encode(build(action, vm_id=vm_id, release=release, **details))
    return f"{action}{gap}{vm_id} ".encode() + document + b"\n"


_MOST_INT = 2**31 - 1
_MOST_LONG = 2**63 - 1
_ACTION = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_OBJECT_NAME = re.compile("[^&|:\\\\;/'#{}$<>\\x00-\\x1f\\x7f\ud800-\udfff\ufffe\uffff]{1,128}")
_UNESCAPED = re.compile("[^<&>\\x00-\\x1f\\x7f\ud800-\udfff\ufffe\uffff]*")
_CDATA = re.compile("[\\t\\n\\x20-\\x7e\\x80-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


def _check_number(what: str, number: int, *, least: int = 0, most: int = _MOST_INT) -> None:
    if not least <= number <= most:
        raise ValueError(f"{what} is a number from {least} to {most}, not {number}")


def _check_object_name(what: str, name: str) -> None:
    if not _OBJECT_NAME.fullmatch(name):
        raise ValueError(f"{what} has 1 to 128 characters and none of &|:\\;/'#{{}}$<>, got {name!r}")


def _check_unescaped(what: str, text: str) -> None:
    """Raise ValueError for text that is not valid XML: oned writes it without escapes."""
    if not _UNESCAPED.fullmatch(text):
        raise ValueError(f"{what} holds no <, >, & and no control characters, got {text!r}")


class _Document:
    """Builds one document from an action and its details."""

    def __init__(self, action: str, vm_id: int, release: Release, details: Details) -> None:
        template = details.get("template", default_template())
        self._action = action
        self._vm_id = vm_id
        self._release = release
        self._era = ERAS[release]
        self._host = details.get("host", DEFAULT_HOST)
        self._host_id = details.get("host_id", 0)
        self._lcm_state = details.get("lcm_state", default_lcm_state(action, release))
        self._state = details.get("state", ACTIVE if self._lcm_state else DONE)
        self._deploy_id = details.get("deploy_id", "")
        self._name = details.get("name") or template.text("NAME", f"one-{vm_id}")
        self._stime = details.get("stime", DEFAULT_STIME)
        self._seq = details.get("seq", 0)
        self._placed = PlacedTemplate(
            template,
            action=action,
            release=release,
            vm_id=vm_id,
            stime=self._stime,
            operand=details.get("operand", {}),
        )
        self._check()

    def _check(self) -> None:
        if not _ACTION.fullmatch(self._action):
            raise ValueError(f"an action is one word in upper case, not {self._action!r}")
        _check_number("the VM's id", self._vm_id)
        _check_number("the host's id", self._host_id, least=-1)
        _check_number("LCM_STATE", self._lcm_state)
        _check_number("STATE", self._state)
        _check_number("SEQ", self._seq)
        _check_number("STIME", self._stime, most=_MOST_LONG)
        _check_object_name("the VM's name", self._name)
        _check_object_name("the host's name", self._host)
        _check_unescaped("a deploy id", self._deploy_id)
        for name, text in self._placed.top_level.items():
            _check_unescaped(name, text)

    def text(self) -> str:
        """Return the XML, without blanks between elements."""
        return _full("VMM_DRIVER_ACTION_DATA", *self._parts())

    def _parts(self) -> Iterable[str]:
        is_old = self._release == "4.4"
        migr_host = self._placed.top_level.get("MIGR_HOST", "")
        yield _short("HOST", self._host)
        if is_old:
            yield _short("NET_DRV", "dummy")
        yield _short("MIGR_HOST", migr_host)
        if is_old:
            yield _short("MIGR_NET_DRV", "dummy" if migr_host else "")
        # A DEPLOY has no deploy id in this place, not even on resume: only its VM element has one.
        yield _short("DEPLOY_ID", "" if self._action == "DEPLOY" else self._deploy_id)
        yield from self._files()
        for name in ("SECURITY_GROUP_ID", "VIRTUAL_NETWORK_ID"):
            if name in self._placed.top_level:
                yield _short(name, self._placed.top_level[name])
        yield _full("VM", *self._vm())
        if self._release == "7.4":
            yield self._datastore()

    def _files(self) -> Iterable[str]:
        place = f"{self._era.datastores}/{self._era.datastore_id}/{self._vm_id}"
        deployment, has_checkpoint = f"deployment.{self._seq}", self._action in ("SAVE", "RESTORE", "MIGRATE")
        is_deploy = self._action == "DEPLOY"
        disk = f"{place}/disk.{self._placed.context_disk}" if self._has_context_transfer() else ""
        yield _short("LOCAL_DEPLOYMENT_FILE", f"/var/lib/one/vms/{self._vm_id}/{deployment}" if is_deploy else "")
        yield _short("REMOTE_DEPLOYMENT_FILE", f"{place}/{deployment}" if is_deploy else "")
        yield _short("CHECKPOINT_FILE", f"{place}/checkpoint" if has_checkpoint else "")
        yield _short("TM_COMMAND", self._context_transfer(disk) if disk else "")
        yield _short("TM_COMMAND_ROLLBACK", "")
        yield _short("DISK_TARGET_PATH", disk)

    def _has_context_transfer(self) -> bool:
        """Return whether CONTEXT is transferred to a datastore: up to 6.x a cloud host has none."""
        return self._release == "7.4" and self._action in ("DEPLOY", "RESTORE") and bool(self._placed.context_disk)

    def _context_transfer(self, disk: str) -> str:
        script = f"/var/lib/one/vms/{self._vm_id}/context.sh"
        place = f"{self._host}:{disk} {self._vm_id} {self._era.datastore_id}"
        return _cdata(f"CONTEXT {self._era.tm_mad} {script} {place}\n")

    def _vm(self) -> Iterable[str]:
        is_old, is_new = self._release == "4.4", self._release == "7.4"
        yield _full("ID", str(self._vm_id))
        yield from _owner(self._name, group_use=0)
        yield from _numbers(LAST_POLL=0, STATE=self._state, LCM_STATE=self._lcm_state)
        if not is_old:
            yield from _numbers(PREV_STATE=self._state, PREV_LCM_STATE=self._lcm_state)
        yield from _numbers(RESCHED=0, STIME=self._stime, ETIME=0)
        yield _full("DEPLOY_ID", self._deploy_id)
        yield from _numbers(MEMORY=0, CPU=0, NET_TX=0, NET_RX=0) if is_old else (_full("MONITORING"),)
        if is_new:
            yield _full("SCHED_ACTIONS")
        yield _full("TEMPLATE", *_attributes(self._placed.system))
        yield _full("USER_TEMPLATE", *_attributes(self._placed.user))
        yield _full("HISTORY_RECORDS", _full("HISTORY", *self._history()))
        if is_new:
            config = _short("BACKUP_CONFIG", "".join(_pairs(self._placed.backup)))
            yield _full("BACKUPS", config, _full("BACKUP_IDS"))

    def _history(self) -> Iterable[str]:
        begun = self._stime + self._seq
        prolog = 0 if self._seq else begun
        operation = history_action(self._action, self._lcm_state, self._release)
        yield from _numbers(OID=self._vm_id, SEQ=self._seq)
        yield _full("HOSTNAME", self._host)
        yield from _numbers(HID=self._host_id, CID=self._era.cluster_id, STIME=begun, ETIME=0)
        yield from self._drivers()
        yield from _numbers(PSTIME=prolog, PETIME=prolog, RSTIME=begun, RETIME=0, ESTIME=0, EETIME=0)
        if self._release == "4.4":
            yield from _numbers(REASON=0, ACTION=operation)
        elif operation:
            yield from _numbers(ACTION=operation, UID=0, GID=0, REQUEST_ID=8192)
        else:
            yield from _numbers(ACTION=0, UID=-1, GID=-1, REQUEST_ID=-1)

    def _drivers(self) -> Iterable[str]:
        if self._release == "4.4":
            yield _full("VMMMAD", "vmm_provider")
            yield _full("VNMMAD", "dummy")
            yield _full("TMMAD", self._era.tm_mad)
            yield _full("DS_LOCATION", self._era.datastores)
        else:
            yield _full("VM_MAD", _cdata("vmm_provider"))
            yield _full("TM_MAD", _cdata(self._era.tm_mad))
        yield from _numbers(DS_ID=self._era.datastore_id)
        if self._release == "7.4":
            yield from _numbers(PLAN_ID=-2, ACTION_ID=-1)

    def _datastore(self) -> str:
        """Return the system datastore of a fresh installation."""
        era = self._era
        return _full(
            "DATASTORE",
            _full("ID", str(era.datastore_id)),
            *_owner("system", group_use=1),
            _full("DS_MAD", _cdata("-")),
            _full("TM_MAD", _cdata(era.tm_mad)),
            _full("BASE_PATH", _cdata(f"{era.datastores}/{era.datastore_id}")),
            *_numbers(TYPE=1, DISK_TYPE=0, STATE=0),
            _full("CLUSTERS", *_numbers(ID=0)),
            *_numbers(TOTAL_MB=0, FREE_MB=0, USED_MB=0),
            _full("IMAGES"),
            _full("TEMPLATE", *_pairs({**_DATASTORE, "TM_MAD": era.tm_mad})),
        )


_DATASTORE = {
    "ALLOW_ORPHANS": "NO",
    "DISK_TYPE": "FILE",
    "DS_LIVE_MIGRATE": "NO",
    "DS_MIGRATE": "YES",
    "DS_MIGRATE_SNAP": "NO",
    "PERSISTENT_SNAPSHOTS": "YES",
    "RESTRICTED_DIRS": "/",
    "SAFE_DIRS": "/var/tmp",  # noqa: S108 - what oned writes, no directory of ours
    "SHARED": "YES",
    "TYPE": "SYSTEM_DS",
}


def _full(name: str, *content: str) -> str:
    """Return an XML element, with both tags even when it is empty."""
    return f"<{name}>{''.join(content)}</{name}>"


def _short(name: str, content: str) -> str:
    """Return an XML element, as one tag when it is empty."""
    return _full(name, content) if content else f"<{name}/>"


def _numbers(**elements: int) -> Iterable[str]:
    return (_full(name, str(number)) for name, number in elements.items())


def _cdata(text: str) -> str:
    if not _CDATA.fullmatch(text) or "]]>" in text:
        raise ValueError(f"OpenNebula's templates hold no control characters and no ]]>, got {text!r}")
    return f"<![CDATA[{text}]]>"


def _owner(name: str, *, group_use: int) -> Iterable[str]:
    yield from _numbers(UID=0, GID=0)
    yield from (_full(element, "oneadmin") for element in ("UNAME", "GNAME"))
    yield _full("NAME", name)
    granted = ("OWNER_U", "OWNER_M", *(["GROUP_U"] if group_use else []))
    rights = (f"{who}_{what}" for who in ("OWNER", "GROUP", "OTHER") for what in "UMA")
    yield _full("PERMISSIONS", *_numbers(**{right: int(right in granted) for right in rights}))


def _attributes(attributes: Attributes) -> Iterable[str]:
    """Yield a template in oned's order: by name, attributes of one name as they were given."""
    for name in sorted(attributes):
        _check_element(name)
        for value in attributes[name]:
            yield _full(name, _cdata(value)) if isinstance(value, str) else _full(name, *_pairs(value))


def _pairs(vector: Mapping[str, str]) -> Iterable[str]:
    for key in sorted(vector):
        _check_element(key)
        yield _full(key, _cdata(vector[key]))


def _check_element(name: str) -> None:
    if not KEPT_NAME.fullmatch(name):
        raise ValueError(f"a template's names are made of A-Z, 0-9 and _, got {name!r}")

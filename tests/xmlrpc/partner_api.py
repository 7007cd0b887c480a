"""The methods of the tests' OpenNebula; partner.py serves them over HTTP."""

# ruff: noqa: FBT001, FBT002 - the API's booleans have places, not names

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar
from xml.sax.saxutils import escape

from one_provider_mad.domain import Template
from one_provider_mad.template_text.strict_reader import TemplateError, read_template
from tests.xmlrpc.partner_vms import (
    ACTIVE,
    BOOT,
    DONE,
    HOLD,
    OF_THE_VM,
    RUNNING,
    Attributes,
    RefusedError,
    Vm,
    act,
    attributes_of,
    datastore_xml,
    host_xml,
    pool,
    start,
    template_xml,
)

_Row = TypeVar("_Row")

Release = Literal["4.14.2", "5.10.5", "7.4.0"]
RELEASES: tuple[Release, ...] = ("5.10.5", "7.4.0")

IMAGE_SIZE = "2048"
"""MB of every image."""

AUTHENTICATION, AUTHORIZATION, NO_EXISTS, ACTION, INTERNAL, ALLOCATE = 256, 512, 1024, 2048, 8192, 16384


class ApiError(Exception):
    """A refusal: [False, text, code, id, -1]."""

    def __init__(self, code: int, text: str, number: int = -1) -> None:
        super().__init__(text)
        self.code, self.text, self.number = code, text, number


@dataclass
class User:
    number: int
    gid: int
    name: str
    quota: Mapping[str, str] = field(default_factory=dict)


class Api:
    """The partner's state and its methods; `do_vm_info` is `one.vm.info`.

    Args:
        release: the release as which it answers.
        delay: seconds each state of a transition takes.
    """

    def __init__(self, release: Release, *, delay: float) -> None:
        self.release = release
        self.delay = delay
        self.is_7 = release.startswith("7.")
        self.vms: dict[int, Vm] = {}
        self.users = {"oneadmin:secret": User(0, 0, "oneadmin"), "burst:secret": User(2, 1, "burst")}
        self.groups = {0: "oneadmin", 1: "users", 100: "partners"}
        self.templates: dict[int, tuple[str, str]] = {
            0: ("small", 'CPU=1\nMEMORY=128\nCONTEXT=[ NETWORK="YES" ]'),
            3: ("with key", 'CPU=1\nMEMORY=256\nCONTEXT=[ SSH_PUBLIC_KEY="$USER[SSH_PUBLIC_KEY]", USERNAME="root" ]'),
            7: ("ubuntu server", "CPU=1\nMEMORY=256"),
        }
        self.hosts = {2: 2, 1: 2, 0: 2}
        self.system_datastores = {"system": "local", "cloud-system": "dummy"}
        self.im_mad = "im_provider"
        self.host_attributes: dict[str, str] = {}
        self.restricted: set[str] = set()
        self.writes_sizes = False
        """Whether the DISKs of new VMs have the SIZE of their image, as a real one's have."""
        self.default_cost = {"CPU_COST": "0", "MEMORY_COST": "0", "DISK_COST": "0"}
        self.is_descending = True
        self.may_see_hosts = True
        self.next_number = 0

    def do_system_version(self, user: User) -> str:
        return self.release

    def do_zonepool_info(self, user: User) -> str:
        return (
            "<ZONE_POOL><ZONE><ID>0</ID><NAME>OpenNebula</NAME><STATE>0</STATE>"
            "<TEMPLATE><ENDPOINT><![CDATA[http://localhost:2633/RPC2]]></ENDPOINT></TEMPLATE>"
            "<SERVER_POOL></SERVER_POOL></ZONE></ZONE_POOL>"
        )

    def do_user_info(self, user: User, number: int, is_decrypted: bool = False) -> str:
        quota = "".join(f"<{name}><![CDATA[{value}]]></{name}>" for name, value in user.quota.items())
        nothing = "".join(f"<{kind}_QUOTA></{kind}_QUOTA>" for kind in ("DATASTORE", "NETWORK", "VM", "IMAGE"))
        own = nothing.replace("<VM_QUOTA>", f"<VM_QUOTA><VM>{quota}</VM>" if quota else "<VM_QUOTA>")
        return (
            f"<USER><ID>{user.number}</ID><GID>{user.gid}</GID><GROUPS><ID>{user.gid}</ID></GROUPS>"
            f"<GNAME>{self.groups[user.gid]}</GNAME><NAME>{user.name}</NAME><PASSWORD><![CDATA[***]]></PASSWORD>"
            "<AUTH_DRIVER><![CDATA[core]]></AUTH_DRIVER><ENABLED>1</ENABLED>"
            "<TEMPLATE><TOKEN_PASSWORD><![CDATA[***]]></TOKEN_PASSWORD></TEMPLATE>"
            f"{own}<DEFAULT_USER_QUOTAS>{nothing}</DEFAULT_USER_QUOTAS></USER>"
        )

    def do_group_info(self, user: User, number: int) -> str:
        return f"<GROUP><ID>{user.gid}</ID><NAME>{self.groups[user.gid]}</NAME><VM_QUOTA></VM_QUOTA></GROUP>"

    def do_grouppool_info(self, user: User) -> str:
        groups = "".join(f"<GROUP><ID>{number}</ID><NAME>{name}</NAME></GROUP>" for number, name in self.groups.items())
        return f"<GROUP_POOL>{groups}</GROUP_POOL>"

    def do_hostpool_info(self, user: User) -> str:
        hosts = self.hosts if self.may_see_hosts else {}
        return f"<HOST_POOL>{''.join(self._host(*host) for host in hosts.items())}</HOST_POOL>"

    def do_datastorepool_info(self, user: User) -> str:
        stores = [("default", "local", 0), *((name, tm_mad, 1) for name, tm_mad in self.system_datastores.items())]
        return f"<DATASTORE_POOL>{''.join(datastore_xml(*store) for store in stores)}</DATASTORE_POOL>"

    def do_clusterpool_info(self, user: User) -> str:
        inside = "".join(f"<ID>{number}</ID>" for number in sorted(self.hosts))
        return (
            f"<CLUSTER_POOL><CLUSTER><ID>0</ID><NAME>default</NAME><HOSTS>{inside}</HOSTS>"
            "<DATASTORES><ID>0</ID><ID>1</ID></DATASTORES><VNETS></VNETS>"
            "<TEMPLATE><RESERVED_CPU></RESERVED_CPU><RESERVED_MEM></RESERVED_MEM></TEMPLATE></CLUSTER></CLUSTER_POOL>"
        )

    def do_host_info(self, user: User, number: int, is_decrypted: bool = False) -> str:
        number + 0
        if number not in self.hosts or not self.may_see_hosts:
            raise ApiError(NO_EXISTS, f"Error getting host [{number}].", number)
        may_decrypt = is_decrypted and user.gid == 0
        return self._host(number, self.hosts[number], is_whole=True, is_decrypted=may_decrypt)

    def _host(self, number: int, state: int, *, is_whole: bool = False, is_decrypted: bool = False) -> str:
        vms = [vm.number for vm in self.vms.values() if vm.has_history and vm.state != DONE] if number == 0 else []
        secrets = {
            name: value if is_decrypted else "bm90IGZvciB5b3VyIGV5ZXM=" for name, value in self.host_attributes.items()
        }
        return host_xml(number, state, vms, is_7=self.is_7, is_whole=is_whole, im_mad=self.im_mad, attributes=secrets)

    def do_templatepool_info(self, user: User, flag: int, first: int, last: int) -> str:
        rows = {
            number: f"<VMTEMPLATE><ID>{number}</ID><NAME>{escape(name)}</NAME>"
            f"{template_xml('TEMPLATE', attributes_of(read_template(text)))}</VMTEMPLATE>"
            for number, (name, text) in self.templates.items()
        }
        return f"<VMTEMPLATE_POOL>{''.join(self._page(rows, first, last))}</VMTEMPLATE_POOL>"

    def do_imagepool_info(self, user: User, flag: int, first: int, last: int) -> str:
        rows = {
            4: f"<IMAGE><ID>4</ID><UNAME>oneadmin</UNAME><NAME>debian</NAME><SIZE>{IMAGE_SIZE}</SIZE></IMAGE>",
        }
        return f"<IMAGE_POOL>{''.join(self._page(rows, first, last))}</IMAGE_POOL>"

    def do_system_config(self, user: User) -> str:
        root = "OPENNEBULA_CONFIGURATION" if self.is_7 else "TEMPLATE"
        costs = "".join(f"<{name}><![CDATA[{value}]]></{name}>" for name, value in self.default_cost.items())
        return f"<{root}><DEFAULT_COST>{costs}</DEFAULT_COST></{root}>"

    def do_vnpool_info(self, user: User, flag: int, first: int, last: int) -> str:
        ranges = (
            "<AR><AR_ID>0</AR_ID><TYPE>IP4</TYPE><IP>192.0.2.10</IP><SIZE>20</SIZE></AR><AR><TYPE>ETHER</TYPE></AR>"
        )
        values = "<GATEWAY>192.0.2.1</GATEWAY><NETWORK_MASK>255.255.255.0</NETWORK_MASK><VN_MAD>bridge</VN_MAD>"
        rows = {
            number: f"<VNET><ID>{number}</ID><UNAME>oneadmin</UNAME><NAME>{name}</NAME>"
            f"<TEMPLATE>{values}</TEMPLATE><AR_POOL>{ranges}</AR_POOL></VNET>"
            for number, name in enumerate(("lan", "dmz"))
        }
        return f"<VNET_POOL>{''.join(self._page(rows, first, last))}</VNET_POOL>"

    def do_template_info(self, user: User, number: int, is_extended: bool = False) -> str:
        name, text = self._template(number)
        attributes = attributes_of(read_template(text))
        if is_extended and "DISK" in attributes:
            sized = [{"SIZE": IMAGE_SIZE, **dict(each)} for each in attributes["DISK"] if not isinstance(each, str)]
            attributes = {**attributes, "DISK": [*sized]}
        inner = template_xml("TEMPLATE", attributes)
        return f"<VMTEMPLATE><ID>{number}</ID><NAME>{escape(name)}</NAME>{inner}</VMTEMPLATE>"

    def _template(self, number: int) -> tuple[str, str]:
        number + 0
        if number not in self.templates:
            raise ApiError(NO_EXISTS, f"Error getting virtual machine template [{number}].", number)
        return self.templates[number]

    def do_template_instantiate(
        self,
        user: User,
        number: int,
        name: str,
        is_held: bool,
        extra: str,
        is_persistent: bool = False,
    ) -> int:
        _, text = self._template(number)
        added = attributes_of(parsed(extra))
        for name in self.restricted:
            if any(name in each for each in added.get("DISK", []) if not isinstance(each, str)):
                reason = f"VM Template includes a restricted attribute DISK/{name}."
                raise ApiError(AUTHORIZATION, reason, number)
        attributes = attributes_of(read_template(text)) | added
        attributes["TEMPLATE_ID"] = [str(number)]
        return self._create(user, name, attributes, is_held=is_held)

    def do_vm_allocate(self, user: User, text: str, is_held: bool) -> int:
        attributes = attributes_of(parsed(text))
        [name, *_] = [str(value) for value in attributes.pop("NAME", ["one"])]
        if "CPU" not in attributes:
            raise ApiError(ALLOCATE, "Error allocating a new virtual machine. CPU attribute must be a positive float")
        return self._create(user, name, {key: values[:1] for key, values in attributes.items()}, is_held=is_held)

    def _create(self, user: User, name: str, attributes: Attributes, *, is_held: bool) -> int:
        limit = user.quota.get("VMS", "")
        if limit and sum(vm.uid == user.number and vm.state != DONE for vm in self.vms.values()) >= int(limit):
            raise ApiError(AUTHORIZATION, f"User [{user.number}] : limit of {limit} reached for VMS quota in VM.")
        number, self.next_number = self.next_number, self.next_number + 1
        own = {key: values for key, values in attributes.items() if key in OF_THE_VM}
        context: dict[str, str] = {"DISK_ID": "0", "TARGET": "hda"}
        for section in own.get("CONTEXT", []):
            context |= {} if isinstance(section, str) else section
        if "DISK" in own and self.writes_sizes:
            sized = [{"SIZE": IMAGE_SIZE, **each} for each in own["DISK"] if not isinstance(each, str)]
            own["DISK"] = [*sized]
        own |= {"CONTEXT": [context], "VMID": [str(number)]}
        own["AUTOMATIC_REQUIREMENTS"] = ["!(PIN_POLICY = PINNED)" if self.is_7 else _REQUIREMENTS_5]
        for part in ("DISK", "NIC"):
            own |= (
                {part: [_numbered(part, section, each) for each, section in enumerate(own[part])]}
                if part in own
                else {}
            )
        if self.is_7:
            own["OS"] = [{"UUID": "03a420c3-55cc-4d98-b291-74c744c3034f"}]
        rest = {key: values for key, values in attributes.items() if key not in OF_THE_VM}
        vm = Vm(number, user.number, name or f"one-{number}", self.is_7, own, rest, gid=user.gid)
        self.vms[number] = vm
        if is_held:
            own["SUBMIT_ON_HOLD"] = ["YES"]
            vm.go((HOLD, 0), delay=self.delay)
        else:
            start(vm, delay=self.delay)
        return number

    def vm(self, user: User, number: int, what: str = "USE") -> Vm:
        number + 0
        vm = self.vms.get(number)
        if vm is None:
            raise ApiError(NO_EXISTS, f"Error getting virtual machine [{number}].", number)
        if user.number not in (0, vm.uid) and not vm.is_open:
            text = f"User [{user.number}] : Not authorized to perform {what} VM [{number}]."
            raise ApiError(AUTHORIZATION, text, number)
        return vm

    def do_vm_info(self, user: User, number: int, is_decrypted: bool = False) -> str:
        return self.vm(user, number).document()

    def do_vmpool_info(self, user: User, flag: int, first: int, last: int, state: int, query: str = "") -> str:
        return self._pool(user, flag, first, last, state, query, is_extended=self.release.startswith("4."))

    def do_vmpool_infoextended(self, user: User, flag: int, first: int, last: int, state: int, query: str = "") -> str:
        return self._pool(user, flag, first, last, state, query, is_extended=True)

    def _pool(self, user: User, flag: int, first: int, last: int, state: int, query: str, *, is_extended: bool) -> str:
        if query:
            kind = "JSON query" if self.is_7 else "Full text"
            raise ApiError(INTERNAL, f"{kind} search is not supported by the SQL backend")
        rows = {
            number: vm
            for number, vm in self.vms.items()
            if (state == -2 or (vm.state != DONE if state == -1 else vm.state == state))
            and (vm.uid == user.number or (flag == -2 and (user.number == 0 or vm.is_open)))
        }
        return pool(self._page(rows, first, last), is_extended=is_extended)

    def _page(self, rows: Mapping[int, _Row], first: int, last: int) -> list[_Row]:
        """Offset and negative size, or first and last id (src/rm/RequestManagerPoolInfoFilter.cc)."""
        numbers = sorted(rows, reverse=self.is_descending)
        if last < -1:
            return [rows[number] for number in numbers[first : first - last]]
        return [rows[number] for number in numbers if first <= number and (last == -1 or number <= last)]

    def do_vm_action(self, user: User, action: str, number: int) -> int:
        vm = self.vm(user, number, "MANAGE")
        try:
            act(vm, action, delay=self.delay)
        except RefusedError as error:
            raise ApiError(ACTION, str(error)) from error
        return number

    def do_vm_deploy(self, user: User, number: int, host: int, is_enforced: bool, store: int, extra: str) -> int:
        vm = self.vm(user, number, "ADMIN")
        vm.go((ACTIVE, BOOT), (ACTIVE, RUNNING), delay=self.delay)
        return number

    def do_vm_update(self, user: User, number: int, text: str, is_merged: int) -> int:
        vm = self.vm(user, number, "MANAGE")
        new = attributes_of(parsed(text))
        vm.user_template = {**(vm.user_template if is_merged else {}), **new}
        return number

    def do_vm_chown(self, user: User, number: int, uid: int, gid: int) -> int:
        self.vm(user, number, "MANAGE").gid = gid
        return number


_REQUIREMENTS_5 = "!(PUBLIC_CLOUD = YES) & !(PIN_POLICY = PINNED)"


def parsed(text: str) -> Template:
    try:
        return read_template(text)
    except TemplateError as error:
        raise ApiError(INTERNAL, f"Parse error: syntax error, {error}") from error


def _numbered(name: str, section: str | Mapping[str, str], number: int) -> Mapping[str, str]:
    assert not isinstance(section, str)
    return {**section, f"{name}_ID": str(number)}

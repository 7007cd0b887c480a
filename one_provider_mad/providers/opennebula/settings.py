"""What the operator can set about a partner OpenNebula."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from one_provider_mad.providers.opennebula.template_text import attribute
from one_provider_mad.xmlrpc.client import USUAL_ENDPOINT, Connection, check_endpoints

Seconds = Annotated[float, Meta(gt=0)]


class OpenNebulaSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[opennebula]`."""

    endpoints: tuple[str, ...] = (USUAL_ENDPOINT,)
    """URLs of the partner's front-ends, as `http://one.example.org:2633/RPC2`, tried in this order. The first one names
    the account: put new ones after it."""

    credentials_file: str = ""
    """File that holds `user:password` or `user:token` in its first line, mode 600. Default: the file that ONE_AUTH
    names, else ~/.one/one_auth. Beware: on a front-end that is the key of the local OpenNebula."""

    login_from_host: str = ""
    """Name or number of the host here whose template holds ONE_USER and ONE_PASSWORD, as upstream's driver wants them;
    they come in the place of `credentials_file`. OpenNebula decrypts them from 5.10 on, for oneadmin."""

    ca_file: str = ""
    """Certificates (PEM) to trust for https endpoints. Default: the system's."""

    template: str = ""
    """Name or number of the remote template that is instantiated where a VM names none."""

    name_prefix: str = "remote-opennebula-"
    """Remote VMs are called so, and the VM's number; upstream's driver used the same prefix."""

    networks: dict[str, str] = {}
    """Name of a local network to the remote one that stands for it, for interfaces that are attached: its number, its
    name, or `owner/name`, which a network of another remote user needs."""

    group: str = ""
    """Name or number of the remote group that VMs are given to. Default: the remote user's own."""

    hold: bool = False
    """VMs are created on hold, and wait until somebody of the partner's releases them."""

    context: Literal["merge", "replace", "none"] = "merge"
    """What becomes of a VM's CONTEXT: added to the remote template's own, put in its place, or left out."""

    capacity_from: Literal["vm", "template"] = "vm"
    """Whose CPU, VCPU and MEMORY count: the VM's, or the remote template's, which the local scheduler does not see."""

    attributes: dict[str, str] = {}
    """Attributes that every remote VM gets, SCHED_REQUIREMENTS say."""

    allow_template_text: bool = False
    """VMs may bring a whole template text. Off: it could ask for anything that the remote user may have."""

    adopt_upstream: bool = False
    """A remote VM with nothing but upstream's REMOTE_OPENNEBULA_VM_ID counts as that VM's. Off: with another OpenNebula
    that bursts with the same remote user, its VMs would count too."""

    terminate: Literal["soft", "hard"] = "soft"
    """How `onevm terminate` ends a VM. soft: the guest is asked to shut down first, and ended hard when the request is
    repeated after it has refused, or two minutes later. hard: at once, as `onevm terminate --hard` always does."""

    visible: Literal["mine", "group", "all"] = "mine"
    """Which remote VMs are listed: those of the remote user, also those of its groups, or all that it may see."""

    page_size: Annotated[int, Meta(ge=10, le=10_000)] = 500
    """VMs in one page of a listing; a page of 500 has about 2 MB. What is done with a page holds up everything else for
    some milliseconds, a page of 10,000 for a tenth of a second."""

    body_limit: Annotated[int, Meta(ge=65_536)] = 16_777_216
    """Bytes that one answer may have; a larger one is refused rather than filling the memory."""

    timeout: Seconds = 30.0
    """Seconds one XML-RPC call may take; less than call_timeout, so that another front-end gets a turn."""

    watch_interval: Seconds = 2.0
    """Seconds between two looks while the driver waits for a state; they cost the partner a query each."""

    patience: Seconds = 20.0
    """Seconds in which an action is offered again to a VM that is busy with something else; then it is paced."""

    visibility_grace: Annotated[float, Meta(ge=5)] = 10.0
    """Seconds after an unanswered create in which the driver looks for what it may have made before it creates again:
    oned answers from its memory at once, but an overloaded one may work on a call long after nobody waits for it."""

    def __post_init__(self) -> None:
        """Refuse what would only show when a VM is created."""
        check_endpoints(self.endpoints)
        if self.login_from_host and self.credentials_file:
            raise ValueError("login_from_host: give either a host or credentials_file, not both")
        for name, value in self.attributes.items():
            attribute(name, value)

    @property
    def connection(self) -> Connection:
        """How to reach the partner."""
        return Connection(
            endpoints=self.endpoints,
            credentials_file=self.credentials_file,
            ca_file=self.ca_file,
            timeout=self.timeout,
            body_limit=self.body_limit,
            whose="the partner's OpenNebula",
            address_setting="endpoints in [opennebula]",
            login_setting=f"{'login_from_host' if self.login_from_host else 'credentials_file'} in [opennebula]",
        )

    @property
    def filter_flag(self) -> int:
        """`visible` in the API's numbers (src/rm/RequestManagerPoolInfoFilter.cc)."""
        return {"mine": -3, "group": -1, "all": -2}[self.visible]

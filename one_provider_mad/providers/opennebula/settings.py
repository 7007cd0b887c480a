"""The table `[opennebula]` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from one_provider_mad.template_text.exact_writer import attribute
from one_provider_mad.xmlrpc.client import USUAL_ENDPOINT, Connection, check_endpoints

Seconds = Annotated[float, Meta(gt=0)]


class OpenNebulaSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[opennebula]`."""

    endpoints: tuple[str, ...] = (USUAL_ENDPOINT,)
    """URLs of the partner's front-ends, as `http://one.example.org:2633/RPC2`, tried in this order. The first one is
    part of the account's name: put new ones after it."""

    credentials_file: str = ""
    """File with `user:password` or `user:token` in its first line, mode 600. Default: the file in ONE_AUTH, else
    ~/.one/one_auth. Beware: on a front-end that is the key of the local OpenNebula."""

    login_from_host: str = ""
    """Name or number of a local host with ONE_USER and ONE_PASSWORD in its template, as for upstream's driver;
    instead of `credentials_file`. OpenNebula decrypts them from 5.10 on, for oneadmin."""

    ca_file: str = ""
    """Certificates (PEM) to trust for https endpoints. Default: the system's."""

    template: str = ""
    """Name or number of the remote template for VMs that name none."""

    name_prefix: str = "remote-opennebula-"
    """Prefix of the remote VMs' names, before the VM's number; upstream's driver used the same."""

    networks: dict[str, str] = {}
    """Local network names to remote networks, for interfaces that are attached: number, name, or `owner/name` for a
    network of another remote user."""

    group: str = ""
    """Name or number of the remote group for new VMs. Default: the remote user's own."""

    hold: bool = False
    """Create VMs on hold; they wait until the partner releases them."""

    context: Literal["merge", "replace", "none"] = "merge"
    """What to do with a VM's CONTEXT: add it to the remote template's own, replace that, or leave it out."""

    capacity_from: Literal["vm", "template"] = "vm"
    """Which CPU, VCPU and MEMORY count: the VM's, or the remote template's, which the local scheduler does not know."""

    template_disks: bool = True
    """Make the template's DISKs at the partner: the first one at its SIZE if `[images]` maps its image, volatile ones,
    and images that the partner has. false: a remote VM has the disks of its template alone, as up to release 0.1."""

    attributes: dict[str, str] = {}
    """Attributes for every remote VM, such as SCHED_REQUIREMENTS."""

    allow_template_text: bool = False
    """VMs may bring a whole template text. Off: it could ask for all that the remote user is allowed."""

    adopt_upstream: bool = False
    """A remote VM with upstream's REMOTE_OPENNEBULA_VM_ID as its only tag counts as that VM's. Off: VMs of another
    OpenNebula with the same remote user would count too."""

    terminate: Literal["soft", "hard"] = "soft"
    """How `onevm terminate` ends a VM. soft: the guest is asked to shut down first, and ended hard when the request is
    repeated after it has refused, or two minutes later. hard: at once, as `onevm terminate --hard` always does."""

    visible: Literal["mine", "group", "all"] = "mine"
    """Which remote VMs are listed: those of the remote user, also those of its groups, or all that it may see."""

    page_size: Annotated[int, Meta(ge=10, le=10_000)] = 500
    """VMs in one page of a listing; a page of 500 has about 2 MB. Reading a page blocks everything else for some
    milliseconds, a page of 10,000 for a tenth of a second."""

    body_limit: Annotated[int, Meta(ge=65_536)] = 16_777_216
    """Largest answer in bytes; a larger one is refused, since it would fill the memory."""

    timeout: Seconds = 30.0
    """Seconds one XML-RPC call may take; less than call_timeout, so that another front-end gets a turn."""

    watch_interval: Seconds = 2.0
    """Seconds between two lookups while the driver waits for a state; each costs the partner a query."""

    patience: Seconds = 20.0
    """Seconds for which a change of a busy VM is tried again at short intervals; then at longer ones."""

    visibility_grace: Annotated[float, Meta(ge=5)] = 10.0
    """Seconds after an unanswered create in which the driver looks for its VM before it creates again: oned answers
    from its memory at once, but an overloaded one may finish a call long after its client has gone."""

    def __post_init__(self) -> None:
        """Refuse values that would fail only when a VM is created."""
        check_endpoints(self.endpoints)
        if self.login_from_host and self.credentials_file:
            raise ValueError("login_from_host: give either a host or credentials_file, not both")
        for name, value in self.attributes.items():
            attribute(name, value)

    @property
    def connection(self) -> Connection:
        """Return the way to reach the partner."""
        return Connection(
            endpoints=self.endpoints,
            credentials_file=self.credentials_file,
            ca_file=self.ca_file,
            timeout=self.timeout,
            body_limit=self.body_limit,
            peer="the partner's OpenNebula",
            address_setting="endpoints in [opennebula]",
            login_setting=f"{'login_from_host' if self.login_from_host else 'credentials_file'} in [opennebula]",
        )

    @property
    def filter_flag(self) -> int:
        """Return `visible` in the API's numbers (src/rm/RequestManagerPoolInfoFilter.cc)."""
        return {"mine": -3, "group": -1, "all": -2}[self.visible]

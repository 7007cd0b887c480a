"""The table `[ec2]` of the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from one_provider_mad.domain import TAG_PREFIX
from one_provider_mad.providers.ec2.attributes import KNOWN_ATTRIBUTES, MOST_TAGS
from one_provider_mad.providers.ec2.budgets import Budget, check_budgets

_REGION = re.compile(r"[a-z0-9-]{1,64}")
_ROLE = re.compile(r"arn:[\w-]+:iam::\d{12}:role/\S+")
_PRICE = re.compile(r"\d{1,6}(\.\d{1,6})?")

Seconds = Annotated[float, Meta(gt=0)]


class InstanceType(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The size of a further instance type."""

    cpu: Annotated[float, Meta(gt=0)]
    """Virtual cores."""

    memory: Annotated[float, Meta(gt=0)]
    """GiB, as on EC2's own pages, and as in upstream's ec2_driver.conf."""


class Ec2Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[ec2]`."""

    region: str
    """Region such as `eu-west-1`, for signatures, and for the endpoint unless `endpoint_url` is set."""

    endpoint_url: str = ""
    """URL of the Query API, for compatible clouds and for tests; empty: Amazon's endpoint of the region."""

    sts_endpoint_url: str = ""
    """URL of STS, which knows the credentials' account; empty: Amazon's endpoint, or `endpoint_url` if that is set."""

    cloudwatch_endpoint_url: str = ""
    """URL of CloudWatch; empty: Amazon's endpoint, or `endpoint_url` when that is set."""

    pricing_endpoint_url: str = ""
    """URL of AWS's price list service; empty: Amazon's endpoint, or no price list when `endpoint_url` is set."""

    account: str = ""
    """Name of the account, used without asking STS; only for a compatible cloud without GetCallerIdentity."""

    access_key_id: str = ""
    """Key of the account; empty: botocore's own search (environment, profile, SSO, roles, metadata service)."""

    secret_access_key: str = ""
    """Secret of the key; the file must then not be readable by all users."""

    session_token: str = ""
    """Session token of a temporary key."""

    login_from_host: str = ""
    """Name or number of an OpenNebula host with EC2_ACCESS and EC2_SECRET in its template, as for upstream's driver;
    instead of keys here. OpenNebula decrypts them from 5.10 on, for oneadmin."""

    profile: str = ""
    """Profile of the AWS configuration files to use instead of keys here; empty: the default one."""

    credentials_file: str = ""
    """Path of the AWS credentials file; empty: `~/.aws/credentials` of the user that runs the driver."""

    config_file: str = ""
    """Path of the AWS configuration file; empty: `~/.aws/config` of the user that runs the driver."""

    role_arn: str = ""
    """Role to assume with the credentials found; empty: none."""

    external_id: str = ""
    """External id for the role's trust policy."""

    ca_bundle: str = ""
    """Path of a file of certificates to trust instead of the system's; for compatible clouds with their own CA."""

    proxy: str = ""
    """URL of an HTTP proxy; empty: none."""

    connect_timeout: Seconds = 10.0
    """Seconds to reach the endpoint; `call_timeout` limits the whole call."""

    max_connections: Annotated[int, Meta(ge=1, le=1000)] = 32
    """Connections kept open to the cloud; further calls wait for a free one."""

    max_answer: Annotated[int, Meta(ge=1024)] = 16 * 1024 * 1024
    """Largest answer in bytes; a page of 1,000 instances has about 3 MB."""

    page_size: Annotated[int, Meta(ge=5, le=1000)] = 1000
    """Instances in one page of a listing; EC2 allows 5 to 1,000."""

    client_tokens: bool = True
    """The cloud honours a create's ClientToken, so that the same create again makes no second instance. Amazon does.
    false for a compatible cloud that does not: the instance of an unanswered create is then found by its tags."""

    visibility_grace: Seconds = 300.0
    """Seconds in which an instance may be missing from listings, after a create or later: EC2 is only eventually
    consistent, and an instance that is believed gone too early is bought twice."""

    watch_interval: Seconds = 3.0
    """Seconds between two lookups while the driver waits for a state; all waiting actions share one call."""

    call_share: Annotated[float, Meta(gt=0, le=1)] | None = None
    """Part of the calls that Amazon allows an account in a region, 1 for all of them; calls beyond it wait. Not set:
    0.9 at Amazon's endpoint; at any other no limit, but 0.9 of `budgets`."""

    budgets: dict[str, Budget] = {}
    """Limits by action where Amazon has raised them for this account, such as `RunInstances`; all other actions have
    those of a new account."""

    shortage_memory: Annotated[float, Meta(ge=0)] = 600.0
    """Seconds for which an instance type in a zone or subnet that lacked capacity is tried after the others. While all
    types of `[capacity.instance_types]`, else of the defaults, lack it in all usual zones or subnets, the host shows no
    free capacity."""

    defaults: dict[str, str] = {}
    """PUBLIC_CLOUD attributes for VMs without them, as upstream's ec2_driver.default."""

    tags: dict[str, str] = {}
    """Tags of every instance and volume; they replace the VM's own of the same name."""

    template_disks: bool = True
    """Make the template's DISKs: the root volume has the SIZE of the first one, further ones become volumes, at their
    price. false: an instance has the volumes of its AMI and of PUBLIC_CLOUD alone, as up to release 0.1."""

    instance_profile: str = ""
    """Name or ARN of the instance profile of new instances. Only here: it gives privileges."""

    imdsv2: Literal["required", "one-context", "optional"] = "required"
    """Whether the instance's metadata service requires a session token, which protects the instance's credentials from
    flaws of web applications. `one-context`: not where OpenNebula's one-context is to read the context, since it sends
    none; a user can have that with GUEST in the template."""

    metadata_hop_limit: Annotated[int, Meta(ge=1, le=64)] = 1
    """Network hops allowed for an answer of the metadata service; 2 for containers within the instance."""

    max_spot_price: str = ""
    """Highest price of a spot instance an hour, in dollars as `0.05`; empty: the price of on-demand instances."""

    instance_types: dict[str, InstanceType] = {}
    """Sizes of further instance types, or other sizes for the built-in ones."""

    cloudwatch: bool = False
    """Report CloudWatch's figures of running instances. Off: Amazon charges for each metric that is read, 26 cents a
    month for an instance at the usual period."""

    cloudwatch_period: Annotated[float, Meta(ge=60)] = 300.0
    """Seconds between two readings of figures; CloudWatch has new ones every five minutes."""

    cloudwatch_disks: bool = False
    """Report the reads and writes of volumes as well: four more metrics for each instance, at more than twice the
    cost."""

    events: bool = True
    """Report and warn of EC2's own plans: scheduled events, spot instances that it takes back."""

    events_period: Annotated[float, Meta(ge=10)] = 60.0
    """Seconds between two requests for scheduled events."""

    interruptions_period: Annotated[float, Meta(ge=1)] = 5.0
    """Seconds between two requests for interruptions, while there are spot instances; EC2 announces the end of one two
    minutes ahead."""

    adopt_upstream: bool = False
    """An instance with upstream's ONE_ID as its only tag counts as that VM's. Off: in an account shared with another
    OpenNebula, its instances would count too."""

    def __post_init__(self) -> None:
        """Refuse values that would fail only later, or go unnoticed."""
        if not _REGION.fullmatch(self.region):
            raise ValueError(f"region: expected a name such as eu-west-1, got {self.region!r}")
        for key in ("endpoint_url", "sts_endpoint_url", "cloudwatch_endpoint_url", "pricing_endpoint_url", "proxy"):
            if (url := getattr(self, key)) and not re.match(r"https?://[^\s/?#@]+(/[^\s?#]*)?$", url):
                raise ValueError(f"{key}: expected an http or https URL without user and query")
        if bool(self.access_key_id) != bool(self.secret_access_key):
            raise ValueError("access_key_id and secret_access_key belong together, give both or neither")
        if self.login_from_host and (self.access_key_id or self.profile):
            raise ValueError("login_from_host: give either a host, or keys, or a profile")
        if self.access_key_id and self.profile:
            raise ValueError("profile: give either a profile or keys, not both")
        if self.role_arn and not _ROLE.fullmatch(self.role_arn):
            raise ValueError("role_arn: expected an ARN such as arn:aws:iam::123456789012:role/opennebula")
        if self.max_spot_price and not _PRICE.fullmatch(self.max_spot_price):
            raise ValueError("max_spot_price: expected dollars an hour in quotes, such as 0.05")
        self._check_defaults(self.defaults)
        check_budgets(self.budgets)
        if len(self.tags) > MOST_TAGS:
            raise ValueError(f"tags: an instance may have {MOST_TAGS} besides the driver's own")
        for name in self.tags:
            if name.upper().startswith((TAG_PREFIX, "AWS:")):
                raise ValueError(f"tags: {name} is reserved")

    @property
    def share_of_budget(self) -> float:
        """Return `call_share`, or the value that holds without it."""
        return self.call_share or 0.9

    @property
    def has_amazons_limits(self) -> bool:
        """True where actions without a budget have Amazon's limits for a new account, and not no limit at all."""
        return self.call_share is not None or not self.endpoint_url

    @staticmethod
    def _check_defaults(defaults: Mapping[str, str]) -> None:
        for name in defaults:
            if name not in KNOWN_ATTRIBUTES:
                raise ValueError(f"defaults: {name} is no PUBLIC_CLOUD attribute of EC2; names are in upper case")
            if name == "INTERRUPTED":
                raise ValueError("defaults: INTERRUPTED is for templates, set interrupted in [spot]")
            if name == "GUEST":
                raise ValueError("defaults: GUEST is for templates, set guest in [context]")
        for item in defaults.get("TAGS", "").split(","):
            if (name := item.partition("=")[0].strip()).upper().startswith(TAG_PREFIX):
                raise ValueError(f"defaults: TAGS holds {name}, which is reserved")

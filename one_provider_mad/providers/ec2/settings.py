"""What the operator can set about EC2: the table `[ec2]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from one_provider_mad.domain import TAG_PREFIX
from one_provider_mad.providers.ec2.attributes import KNOWN_ATTRIBUTES, MOST_TAGS

_REGION = re.compile(r"[a-z0-9-]{1,64}")
_ROLE = re.compile(r"arn:[\w-]+:iam::\d{12}:role/\S+")
_PRICE = re.compile(r"\d{1,6}(\.\d{1,6})?")

Seconds = Annotated[float, Meta(gt=0)]


class InstanceType(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The size of an instance type that is not built in."""

    cpu: Annotated[float, Meta(gt=0)]
    """Virtual cores."""

    memory: Annotated[float, Meta(gt=0)]
    """GiB, as EC2's own pages count it, and as upstream's ec2_driver.conf did."""


class Ec2Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[ec2]`."""

    region: str
    """Region such as `eu-west-1`; signs every request, and names the endpoint unless `endpoint_url` does."""

    endpoint_url: str = ""
    """Where the Query API is; empty: Amazon's endpoint of the region. For compatible clouds and for trying things."""

    sts_endpoint_url: str = ""
    """Where the credentials' account is asked for; empty: Amazon's endpoint, or `endpoint_url` when that is set."""

    cloudwatch_endpoint_url: str = ""
    """Where CloudWatch is; empty: Amazon's endpoint, or `endpoint_url` when that is set."""

    account: str = ""
    """What to call the account without asking; only for a compatible cloud that knows no GetCallerIdentity."""

    access_key_id: str = ""
    """Key of the account; empty: botocore's own search (environment, profile, SSO, roles, metadata service)."""

    secret_access_key: str = ""
    """Secret of the key; the file must then not be readable by everybody."""

    session_token: str = ""
    """Session of a temporary key."""

    login_from_host: str = ""
    """Name or number of the OpenNebula host whose template holds EC2_ACCESS and EC2_SECRET, as upstream's driver wants
    them; in the place of keys here. OpenNebula decrypts them from 5.10 on, for oneadmin."""

    profile: str = ""
    """Profile of the AWS configuration files to use instead of keys here; empty: the default one."""

    credentials_file: str = ""
    """Path of the AWS credentials file; empty: `~/.aws/credentials` of the user that runs the driver."""

    config_file: str = ""
    """Path of the AWS configuration file; empty: `~/.aws/config` of the user that runs the driver."""

    role_arn: str = ""
    """Role to assume with the credentials found; empty: none."""

    external_id: str = ""
    """External id that the role's trust policy asks for."""

    ca_bundle: str = ""
    """Path of a file of certificates to trust instead of the system's; for compatible clouds with a CA of their own."""

    proxy: str = ""
    """URL of an HTTP proxy on the way to the cloud; empty: none."""

    connect_timeout: Seconds = 10.0
    """Seconds to reach the endpoint; the whole call is bounded by `call_timeout`."""

    max_connections: Annotated[int, Meta(ge=1, le=1000)] = 32
    """Connections kept open to the cloud; further calls wait for one that is free."""

    max_answer: Annotated[int, Meta(ge=1024)] = 16 * 1024 * 1024
    """Bytes of the largest answer that is read; a page of 1,000 instances has about 3 MB."""

    page_size: Annotated[int, Meta(ge=5, le=1000)] = 1000
    """Instances asked for in one page of a listing; EC2 gives 5 to 1,000."""

    client_tokens: bool = True
    """The cloud heeds a create's ClientToken, so that the same create again makes no second instance. Amazon does.
    false for a compatible cloud that does not: what an unanswered create has made is then looked for by its tags."""

    visibility_grace: Seconds = 300.0
    """Seconds in which an instance may be missing from listings, after a create or later: EC2 is consistent only after
    a while, and believing it too early buys a second instance."""

    watch_interval: Seconds = 3.0
    """Seconds between two looks while the driver waits for a state; all that wait share one call."""

    call_share: Annotated[float, Meta(gt=0, le=1)] | None = None
    """Part of the calls that Amazon allows an account in a region, 1 for all of them; calls beyond it wait. Not set:
    0.9 at Amazon's endpoint, and no bound at any other."""

    shortage_memory: Annotated[float, Meta(ge=0)] = 600.0
    """Seconds in which a type and place that had no room is tried after the others."""

    defaults: dict[str, str] = {}
    """PUBLIC_CLOUD attributes of VMs that do not give them, as upstream's ec2_driver.default."""

    tags: dict[str, str] = {}
    """Tags of every instance and volume; they come over the VM's own."""

    instance_profile: str = ""
    """Name or ARN of the instance profile that new instances get. Only here: it gives privileges."""

    imdsv2: Literal["required", "optional"] = "required"
    """Whether the instance's metadata service asks for a session token, so that a hole in a web page does not give
    the instance's credentials away."""

    metadata_hop_limit: Annotated[int, Meta(ge=1, le=64)] = 1
    """Hops that an answer of the metadata service may travel; 2 for containers within the instance."""

    max_spot_price: str = ""
    """Most that a spot instance may cost an hour, in dollars as `0.05`; empty: what on-demand instances cost."""

    instance_types: dict[str, InstanceType] = {}
    """Sizes of further instance types, or other sizes for the built-in ones."""

    cloudwatch: bool = False
    """Report what running instances use, as CloudWatch measures it. Off: Amazon asks money for each metric that is
    read, 26 cents a month for an instance at the usual period."""

    cloudwatch_period: Annotated[float, Meta(ge=60)] = 300.0
    """Seconds between two questions for figures; CloudWatch has new ones every five minutes."""

    cloudwatch_disks: bool = False
    """Report what volumes read and write as well: four metrics more for each instance, which costs more than twice as
    much."""

    events: bool = True
    """Report and warn of what EC2 is about to do by itself: scheduled events, spot instances that it takes back."""

    events_period: Annotated[float, Meta(ge=10)] = 60.0
    """Seconds between two questions for that; a spot instance is told of two minutes ahead."""

    adopt_upstream: bool = False
    """An instance tagged only with upstream's ONE_ID counts as that VM's. Off: in an account that another OpenNebula
    uses as well, its instances would count too."""

    def __post_init__(self) -> None:
        """Refuse what would only fail later, or go unnoticed."""
        if not _REGION.fullmatch(self.region):
            raise ValueError(f"region: expected a name such as eu-west-1, got {self.region!r}")
        for key in ("endpoint_url", "sts_endpoint_url", "cloudwatch_endpoint_url", "proxy"):
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
        if len(self.tags) > MOST_TAGS:
            raise ValueError(f"tags: an instance may have {MOST_TAGS} besides the driver's own")
        for name in self.tags:
            if name.upper().startswith((TAG_PREFIX, "AWS:")):
                raise ValueError(f"tags: {name} is reserved")

    @property
    def share_of_budget(self) -> float:
        """`call_share`, or what holds without it; 0 for no bound."""
        return self.call_share or (0.0 if self.endpoint_url else 0.9)

    @staticmethod
    def _check_defaults(defaults: Mapping[str, str]) -> None:
        for name in defaults:
            if name not in KNOWN_ATTRIBUTES:
                raise ValueError(f"defaults: {name} is no PUBLIC_CLOUD attribute of EC2; names are in upper case")
        for item in defaults.get("TAGS", "").split(","):
            if (name := item.partition("=")[0].strip()).upper().startswith(TAG_PREFIX):
                raise ValueError(f"defaults: TAGS holds {name}, which is reserved")

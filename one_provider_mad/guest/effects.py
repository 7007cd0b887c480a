"""What each CONTEXT attribute does in a guest, by the program that reads it; docs/context.md has the same table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from one_provider_mad.domain import Value
from one_provider_mad.guest.reading import FILES, GIVEN, KEYS, OF_NETWORK, SCRIPTS, SECRET, Context

NO = "no: "
"""Begins the entry of attributes without effect; the reason follows it."""

_HOME = "as at home"


class Effect(Value, frozen=True, kw_only=True):
    """What a group of CONTEXT attributes does in each kind of guest: one row of the table.

    Attributes:
        names: attributes, or the pattern of their names.
        cloud_init: what it does in a guest with cloud-init; after `NO` the reason why nothing.
        one_context: the same for OpenNebula's one-context.
        cloudbase_init: the same for cloudbase-init, on Windows.
    """

    names: tuple[str, ...]
    cloud_init: str
    one_context: str = _HOME
    cloudbase_init: str


_NOT_ON_WINDOWS = NO + "cloudbase-init has nothing like it"
_NO_VARIABLES = NO + "Windows has no script that reads CONTEXT"
_STAYS = NO + "files of the context disk stay on OpenNebula's front-end, put a script into START_SCRIPT"
_CLOUDS_NETWORK = NO + "the cloud configures the instance's interfaces"

EFFECTS = (
    Effect(
        names=KEYS,
        cloud_init="keys of USERNAME, or else of the image's default user",
        one_context="keys of USERNAME, or else of root",
        cloudbase_init="keys of USERNAME",
    ),
    Effect(
        names=("USERNAME",),
        cloud_init="made if the image has no such user",
        cloudbase_init="made, among the Administrators",
    ),
    Effect(
        names=("USERNAME_SUDO", "GRANT_SUDO"),
        cloud_init="YES, the default: sudo without a password",
        cloudbase_init="NO: not among the Administrators",
    ),
    Effect(names=("USERNAME_SHELL",), cloud_init="shell of a user that is made", cloudbase_init=_NOT_ON_WINDOWS),
    Effect(
        names=("USERNAME_PASSWORD_RESET",),
        cloud_init=NO + "cloud-init locks the password of USERNAME when CONTEXT has none",
        cloudbase_init=_NOT_ON_WINDOWS,
    ),
    Effect(
        names=("PASSWORD", "PASSWORD_BASE64"),
        cloud_init="sent as a SHA-512 hash; password of USERNAME, or else of root",
        one_context="sent as a SHA-512 hash",
        cloudbase_init="sent as it is, since Windows takes no hash; password of USERNAME",
    ),
    Effect(
        names=("CRYPTED_PASSWORD", "CRYPTED_PASSWORD_BASE64"),
        cloud_init="password of USERNAME, or else of root",
        cloudbase_init=NO + "Windows takes no such hash, set PASSWORD",
    ),
    Effect(
        names=("SET_HOSTNAME", "HOSTNAME"),
        cloud_init="host name, with a line in /etc/hosts",
        cloudbase_init="host name",
    ),
    Effect(
        names=("DNS_HOSTNAME",),
        cloud_init=NO + "cloud-init takes no name from the DNS, so the cloud's stays; set SET_HOSTNAME",
        cloudbase_init=NO + "cloudbase-init takes no name from the DNS, so the cloud's stays; set SET_HOSTNAME",
    ),
    Effect(
        names=("DNS", "SEARCH_DOMAIN"),
        cloud_init="for systemd-resolved, and /etc/resolv.conf where cloud-init manages it",
        one_context=NO + "one-context sets name servers with the interfaces, which the cloud configures",
        cloudbase_init=_NOT_ON_WINDOWS,
    ),
    Effect(names=("TIMEZONE",), cloud_init="time zone", cloudbase_init="time zone, by its IANA name"),
    Effect(
        names=("GROW_ROOTFS",),
        cloud_init="NO keeps partition and file system as they are",
        cloudbase_init=NO + "cloudbase-init's own configuration says which volumes grow",
    ),
    Effect(
        names=("GROW_FS",),
        cloud_init=NO + "cloud-init enlarges the root file system only",
        cloudbase_init=NO + "cloudbase-init's own configuration says which volumes grow",
    ),
    Effect(
        names=tuple(reversed(SCRIPTS)),
        cloud_init="runs once, at the first boot",
        one_context="runs at every boot",
        cloudbase_init="runs once; as PowerShell without a first line that says otherwise",
    ),
    Effect(
        names=(*GIVEN, "USER_DATA_ENCODING", "USERDATA_ENCODING"),
        cloud_init="all forms that cloud-init takes; its own values win over those made of CONTEXT",
        cloudbase_init="all forms that cloudbase-init takes",
    ),
    Effect(names=FILES, cloud_init=_STAYS, one_context=_STAYS, cloudbase_init=_STAYS),
    Effect(
        names=("ONEGATE_TOKEN", "ONEGATE_ENDPOINT", "VMID"),
        cloud_init="in /var/lib/one-context/context.sh, and in the environment of START_SCRIPT",
        cloudbase_init=_NO_VARIABLES,
    ),
    Effect(
        names=("REPORT_READY", "READY_SCRIPT", "READY_SCRIPT_PATH"),
        cloud_init="READY=YES goes to OneGate after START_SCRIPT",
        cloudbase_init=NO + "Windows has no script that reports to OneGate",
    ),
    Effect(
        names=("NETCFG_TYPE", "NETCFG_NETPLAN_RENDERER"),
        cloud_init=_CLOUDS_NETWORK,
        one_context="as at home; NETCFG_TYPE is none unless it is set",
        cloudbase_init=_CLOUDS_NETWORK,
    ),
    Effect(
        names=("ETH0_*", "PCI0_*"),
        cloud_init=_CLOUDS_NETWORK,
        one_context=_CLOUDS_NETWORK,
        cloudbase_init=_CLOUDS_NETWORK,
    ),
    Effect(
        names=("further ones",),
        cloud_init="in /var/lib/one-context/context.sh, and in the environment of START_SCRIPT",
        cloudbase_init=_NO_VARIABLES,
    ),
)
"""All rows. DISK_ID, TARGET and NETWORK are the core's own, about the context disk, and have none."""

_KNOWN = frozenset(name for effect in EFFECTS for name in effect.names)
_OF_CORE = re.compile(r"DISK_ID|TARGET|NETWORK|TOKEN|DISK\d+_MOUNT_(TAG|POINT)")


def sentences(context: Context, effect_of: Callable[[Effect], str]) -> Iterator[str]:
    """Yield one sentence for each reason why attributes of this CONTEXT have no effect.

    Args:
        context: as it was read.
        effect_of: the column of the guest's program.
    """
    without: dict[str, list[str]] = {}
    for effect in EFFECTS:
        what = effect_of(effect)
        if what.startswith(NO):
            without.setdefault(what.removeprefix(NO), []).extend(_named(context, effect))
    for reason, names in without.items():
        if names:
            is_one = len(names) == 1 and not names[0].endswith("*")
            which = f"attribute {names[0][:40]} has" if is_one else f"attributes {_some(names)} have"
            yield f"CONTEXT {which} no effect in the guest: {reason}"


def _named(context: Context, effect: Effect) -> list[str]:
    if effect.names == ("ETH0_*", "PCI0_*"):
        return [f"{interface}_*" for interface in context.interfaces]
    if effect.names == ("further ones",):
        return sorted(
            name
            for name in context.names - context.left_out - _KNOWN
            if not _OF_CORE.fullmatch(name) and not OF_NETWORK.fullmatch(name)
        )
    # Of several attributes for a password, one counts; of a name, SET_HOSTNAME.
    unused = {"DNS_HOSTNAME"} if not context.asks_dns else set()
    secret = next((name for name in SECRET if name in context.names), "")
    unused |= set(SECRET) - {secret}
    return [name for name in effect.names if name in context.names - context.left_out and name not in unused]


def _some(names: list[str]) -> str:
    more = len(names) - 8
    return ", ".join(name[:40] for name in names[:8]) + (f" and {more} more" if more > 0 else "")

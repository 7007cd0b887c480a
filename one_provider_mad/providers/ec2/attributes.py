"""The PUBLIC_CLOUD attributes of EC2, and the parsers of their values; no I/O."""

from __future__ import annotations

import base64
import binascii
import re

from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.type_wishes import FILTERS

MOST_TAGS = 40
"""Most tags besides ours: EC2 allows 50 a resource (docs.aws.amazon.com, "Tag your Amazon EC2 resources")."""

KNOWN_ATTRIBUTES = (
    *("TYPE", "HOST", "CLOUD"),
    # Upstream's, from src/vmm_mad/remotes/ec2/ec2_driver.rb.
    *("AMI", "AKI", "RAMDISK", "INSTANCETYPE", "KEYPAIR", "SECURITYGROUPS", "SECURITYGROUPIDS", "SUBNETID"),
    *("PRIVATEIP", "AVAILABILITYZONE", "PLACEMENTGROUP", "TENANCY", "EBS_OPTIMIZED", "BLOCKDEVICEMAPPING"),
    *("USERDATA", "ELASTICIP", "TAGS", "CLOUD_INIT"),
    # Beyond upstream.
    *("SPOT", "SPOTPRICE", "INTERRUPTED", "GUEST", *FILTERS),
    *("VOLUMETYPE", "VOLUMESIZE", "VOLUMEIOPS", "VOLUMETHROUGHPUT", "VOLUMEENCRYPTED"),
    "DELETEONTERMINATION",
)
"""All attributes of a PUBLIC_CLOUD section for EC2."""

HISTORIC = {
    "LICENSEPOOL": "EC2 has no licence pools any more",
    "AUTHORIZEDPORTS": "ports are opened in security groups, name one in SECURITYGROUPIDS",
}
"""Upstream's attributes that no longer do anything, and why."""

PRIVILEGED = ("IAMINSTANCEPROFILE", "IAM_INSTANCE_PROFILE", "INSTANCEPROFILE", "INSTANCE_PROFILE")
"""Names of attributes that only the configuration may set (decision 25), as users write them."""

LONGEST_USER_DATA = 16 * 1024
"""Most bytes of user data, before base64 (docs.aws.amazon.com, API_RunInstances, UserData)."""

_YES = frozenset({"YES", "TRUE", "ON", "1"})
_NO = frozenset({"NO", "FALSE", "OFF", "0"})


def words(text: str) -> tuple[str, ...]:
    """Return the items of a comma list, each once, in order."""
    return tuple(dict.fromkeys(filter(None, (item.strip() for item in text.split(",")))))


def flag(name: str, text: str) -> bool:
    """Parse YES or NO.

    Raises:
        BadParameter: it is neither.
    """
    if text.upper() in _YES:
        return True
    if text.upper() in _NO:
        return False
    raise BadParameter(f"{name}={text[:40]} of the PUBLIC_CLOUD section is neither YES nor NO")


def check_interrupted(text: str) -> None:
    """Check the value of INTERRUPTED, "" for none. Raises BadParameter."""
    if text.lower() not in ("", "report", "recreate"):
        raise BadParameter(f"INTERRUPTED={text[:40]} of the PUBLIC_CLOUD section is neither report nor recreate")


PREFERRED = "PREFERRED"
"""Value of SPOT that allows an on-demand instance where there is no spot instance."""


def is_spot(wish: str, most: str) -> bool:
    """Return whether SPOT and SPOTPRICE ("" for none) ask for the spot market.

    Raises:
        BadParameter: SPOT has an unknown value.
    """
    return wish.upper() == PREFERRED or (flag("SPOT", wish) if wish else bool(most))


def number(name: str, text: str) -> str:
    """Check a whole number and return its text.

    Raises:
        BadParameter: it is not a whole number.
    """
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise BadParameter(f"{name}={text[:40]} of the PUBLIC_CLOUD section is not a whole number")
    return str(int(text))


def price(name: str, text: str) -> str:
    """Check a price in dollars an hour and return its text.

    Raises:
        BadParameter: it is no price.
    """
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or not float(text):
        raise BadParameter(f"{name}={text[:40]} of the PUBLIC_CLOUD section is no price an hour, write 0.05")
    return text


def user_data(encoded: str) -> str:
    """Check user data that is in base64 already, as for upstream's driver.

    Raises:
        BadParameter: it is not base64, or too large.
    """
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadParameter("USERDATA of the PUBLIC_CLOUD section is not base64, encode it") from None
    return encoded_user_data(data, source="USERDATA of the PUBLIC_CLOUD section")


def encoded_user_data(data: bytes, *, source: str) -> str:
    """Encode user data for RunInstances.

    Raises:
        BadParameter: it is larger than EC2's limit.
    """
    if len(data) > LONGEST_USER_DATA:
        raise BadParameter(f"{source} has {len(data)} bytes, EC2 takes {LONGEST_USER_DATA} of user data: shorten it")
    return base64.b64encode(data).decode()


def check_tags(tags: dict[str, str]) -> None:
    """Refuse tags that EC2 would refuse.

    Raises:
        BadParameter: too many, too long, or reserved.
    """
    if len(tags) > MOST_TAGS:
        raise BadParameter(f"TAGS of the PUBLIC_CLOUD section has {len(tags)} tags, an instance may have {MOST_TAGS}")
    for key, value in tags.items():
        if key.lower().startswith("aws:"):
            raise BadParameter(f"TAGS of the PUBLIC_CLOUD section has {key[:60]}: names that begin with aws: are EC2's")
        if len(key) > 128 or len(value) > 256:
            raise BadParameter(f"TAGS of the PUBLIC_CLOUD section: {key[:40]} is longer than EC2 takes: 128=256")

"""Checks a request's signature by AWS Signature Version 4; no I/O.

From docs.aws.amazon.com, "Create a signed AWS API request".
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote

from one_provider_mad.lab.ec2.refusals import Refusal

ALGORITHM = "AWS4-HMAC-SHA256"
TOLERANCE = 900.0
"""Most seconds between the client's clock and the server's; with more a request is refused."""

_AUTHORIZATION = re.compile(
    rf"{ALGORITHM} Credential=([^/,\s]+)/(\d{{8}})/([^/,\s]+)/([^/,\s]+)/aws4_request,"
    r"\s*SignedHeaders=([a-z0-9;-]+),\s*Signature=([0-9a-f]{64})"
)
_MUST_BE_SIGNED = {"host", "x-amz-date"}


class Key(NamedTuple):
    """A key of the account.

    Attributes:
        secret: the signing key.
        session: session token that must come with it, "" for a lasting key.
    """

    secret: str
    session: str = ""


class SignedRequest(NamedTuple):
    """The signed request.

    Attributes:
        method, path: of the request line; the path as it was sent, without a query.
        query: name and value, in any order.
        headers: names in lower case.
        body: as it came.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    body: bytes


def service_of(headers: Mapping[str, str]) -> str:
    """Return the service in a request's signature; "" without one."""
    match = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    return match[4] if match else ""


def check(request: SignedRequest, *, region: str, key_of: Callable[[str], Key | None], now: float) -> str:
    """Compute the signature again and compare.

    Args:
        request: the request.
        region: the served region.
        key_of: returns the key of an access key id, None for an unknown one.
        now: seconds since the epoch.

    Returns:
        The access key id.

    Raises:
        Refusal: the request is not signed, or not with this key, for this region and recently.
    """
    headers = request.headers
    if "authorization" not in headers:
        raise Refusal("MissingAuthenticationToken", "Request is missing Authentication Token", 403)
    match = _AUTHORIZATION.fullmatch(headers["authorization"])
    moment = headers.get("x-amz-date", "")
    if match is None or not re.fullmatch(r"\d{8}T\d{6}Z", moment):
        raise Refusal("IncompleteSignature", "The request signature does not conform to AWS standards")
    key_id, day, scoped, service, names, signature = match.groups()
    key = key_of(key_id)
    if key is None or headers.get("x-amz-security-token", "") != key.session:
        raise Refusal("AuthFailure", "AWS was not able to validate the provided access credentials", 401)
    signed = names.split(";")
    if scoped != region or day != moment[:8] or not _MUST_BE_SIGNED <= set(signed) <= headers.keys():
        text = f"Credential should be scoped to {region}, and host and x-amz-date should be signed"
        raise Refusal("SignatureDoesNotMatch", text, 403)
    canonical = "\n".join(
        (
            request.method,
            quote(request.path, safe="/-_.~%"),
            "&".join(sorted(f"{quote(name, safe='-_.~')}={quote(text, safe='-_.~')}" for name, text in request.query)),
            *(f"{name}:{' '.join(headers[name].split())}" for name in signed),
            "",
            names,
            hashlib.sha256(request.body).hexdigest(),
        )
    )
    scope = f"{day}/{scoped}/{service}/aws4_request"
    text = f"{ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    secret = f"AWS4{key.secret}".encode()
    for part in (day, scoped, service, "aws4_request"):
        secret = hmac.digest(secret, part.encode(), "sha256")
    if not hmac.compare_digest(hmac.digest(secret, text.encode(), "sha256").hex(), signature):
        text = "The request signature we calculated does not match the signature you provided."
        raise Refusal("SignatureDoesNotMatch", text, 403)
    if abs(_seconds(moment) - now) > TOLERANCE:
        raise Refusal("RequestExpired", f"Request has expired. Timestamp date is {moment}")
    return key_id


def _seconds(moment: str) -> float:
    try:
        return datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0

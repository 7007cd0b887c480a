"""Maps every error code of EC2 to a kind of `ProviderError`; no I/O.

The codes are those of docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html ("Error codes for the Amazon EC2
API"), the common ones of every AWS service (IAM's "Common Errors", STS' GetCallerIdentity), and
IdempotentInstanceTerminated, which RunInstances answers since January 2025. A code in `CODES` has that kind; else
the first matching pattern in `FAMILIES` decides; else the class of the HTTP status.
"""

from __future__ import annotations

import re

from one_provider_mad.errors import (
    AuthenticationRefused,
    BadParameter,
    InstanceNotFound,
    NoCapacity,
    NotReached,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    Throttled,
    TokenMismatch,
    TokenSpent,
    WrongState,
)
from one_provider_mad.masking import masked

Kind = type[ProviderError]


def _all(kind: Kind, codes: str) -> dict[str, Kind]:
    return dict.fromkeys(codes.split(), kind)


CODES: dict[str, Kind] = {
    **_all(
        Throttled,
        "RequestLimitExceeded Throttling ThrottlingException ThrottledException RequestThrottled"
        " RequestThrottledException EC2ThrottledException BandwidthLimitExceeded TooManyRequestsException SlowDown"
        " PriorRequestNotComplete ResourceRequestLimitExceeded",
    ),
    **_all(
        AuthenticationRefused,
        "AuthFailure InvalidClientTokenId MissingAuthenticationToken IncompleteSignature SignatureDoesNotMatch"
        " ExpiredToken ExpiredTokenException RequestExpired InvalidAccessKeyId UnrecognizedClientException InvalidToken"
        " InvalidSecurity MissingAuthenticationTokenException NotAuthenticated",
    ),
    **_all(
        PermissionDenied,
        "UnauthorizedOperation AccessDenied AccessDeniedException OperationNotPermitted Blocked OptInRequired"
        " PendingVerification AccountDisabled InsufficientPrivileges NotAuthorized SubscriptionRequired",
    ),
    **_all(
        NoCapacity,
        "InsufficientInstanceCapacity InsufficientCapacity InsufficientHostCapacity InsufficientCapacityOnHost"
        " InsufficientReservedInstanceCapacity InsufficientReservedInstancesCapacity InsufficientFreeAddressesInSubnet"
        " InsufficientAddressCapacity InsufficientVolumeCapacity SpotMaxPriceTooLow CapacityNotAvailable Unsupported"
        " InstanceTypeNotSupportedInAvailabilityZone ReservationCapacityExceeded UnfulfillableCapacity",
    ),
    **_all(
        QuotaExceeded,
        "InstanceLimitExceeded VcpuLimitExceeded MaxSpotInstanceCountExceeded MaxSpotFleetRequestCountExceeded"
        " MaxIOPSLimitExceeded MaxScheduledInstanceCapacityExceeded VolumeIOPSLimit AddressLimitExceeded"
        " VolumeModificationRateExceeded ResourceCountExceeded",
    ),
    **_all(TokenSpent, "IdempotentInstanceTerminated"),
    **_all(TokenMismatch, "IdempotentParameterMismatch IdempotentParameterMismatchException"),
    **_all(
        InstanceNotFound,
        "InvalidInstanceID.NotFound InvalidInstanceId.NotFound InvalidInstanceID.Malformed InvalidInstanceId.Malformed",
    ),
    **_all(
        WrongState,
        "IncorrectInstanceState IncorrectState IncorrectModificationState InvalidInstanceID.NotLinkable"
        " InvalidInstanceState InvalidState VolumeInUse InvalidVolume.InUse Resource.AlreadyAssociated"
        " InvalidIPAddress.InUse InvalidNetworkInterface.InUse",
    ),
    **_all(
        ProviderUnavailable,
        "InternalError InternalFailure ServiceUnavailable ServiceUnavailableException RequestTimeout"
        " RequestTimeoutException RequestAbandoned ConcurrentTagAccess ConcurrentModification",
    ),
    **_all(NotReached, "Unavailable"),
    **_all(
        BadParameter,
        "UnsupportedOperation UnsupportedProtocol UnsupportedHostConfiguration UnsupportedInstanceAttribute"
        " MissingAction MissingParameter MalformedQueryString UnknownParameter UnknownParameterValue DryRunOperation"
        " ValidationError ValidationException InvalidAction InvalidClientToken EncryptedVolumesNotSupported"
        " InstanceCreditSpecification.NotSupported DependencyViolation VPCIdNotSpecified VPCResourceNotSpecified"
        " DefaultVpcDoesNotExist NoSuchVersion TagPolicyViolation RootDeviceNotSupported CannotDelete"
        " AttachmentLimitExceeded",
    ),
}
"""EC2's code to the kind of error. After ConcurrentTagAccess and the like perhaps nothing was changed, and a
retry is right. Unavailable comes from a server that "can't handle the request", ServiceUnavailable from one that
failed, perhaps after it had begun to carry the call out."""

FAMILIES: tuple[tuple[re.Pattern[str], Kind], ...] = (
    # `TagLimitExceeded` is about one call or resource, other limits about the account.
    (
        re.compile(r"(Tag|Filter|SecurityGroupsPer(Instance|Interface)|RulesPerSecurityGroup)LimitExceeded"),
        BadParameter,
    ),
    (re.compile(r".*(LimitExceeded|LimitReached|QuotaExceeded|CountExceeded)"), QuotaExceeded),
    (re.compile(r"Insufficient\w*Capacity.*"), NoCapacity),
    (re.compile(r".*Throttl.*"), Throttled),
    (re.compile(r"Incorrect\w*State.*|.*\.(InUse|IncorrectState)"), WrongState),
    # Images, groups, subnets, keys, volumes...: one in the template does not exist or is not valid.
    (re.compile(r"(Invalid|Malformed|Missing|Unknown|Unsupported|Incompatible).*|.*NotSupported"), BadParameter),
    (re.compile(r".*\.(NotFound|Malformed|Duplicate|NotExist)|.*(NotFound|AlreadyExists)"), BadParameter),
)
"""Kinds of the codes that follow EC2's naming; the first pattern that matches the whole code counts."""

GENERAL_LIMITS = frozenset({"InstanceLimitExceeded", "VcpuLimitExceeded"})
"""Limits of the account in a region for the standard families of types (sizes.is_standard): each further family has
a limit of its own (docs.aws.amazon.com, "Amazon EC2 instance type quotas")."""

RELOAD_CREDENTIALS = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "AuthFailure"})
"""Codes of refusals after which new credentials are searched for."""

_ENCODED = "Encoded authorization failure message"

DECODE = "the driver's log has the whole encoded message, for aws sts decode-authorization-message"
"""End of the sentence for an error with an encoded message."""

_LONGEST = 400


def kind_of(code: str, *, status: int) -> Kind:
    """Return the kind of error of a code.

    Args:
        code: as EC2 wrote it, `Client.` or `Server.` before it or not; "" when the answer had none.
        status: the answer's HTTP status.
    """
    bare = code.removeprefix("Client.").removeprefix("Server.")
    if bare in CODES:
        return CODES[bare]
    for pattern, kind in FAMILIES:
        if bare and pattern.fullmatch(bare):
            return kind
    return _kind_of_status(status)


def is_shortage(code: str) -> bool:
    """Return True when the code in a state reason means lack of capacity: `Server.InsufficientInstanceCapacity`...

    EC2 may accept an instance of any market, and end it for this reason ("Troubleshoot instance launch issues").
    """
    return kind_of(code, status=200) is NoCapacity


def _kind_of_status(status: int) -> Kind:
    if status == 429:
        return Throttled
    if status == 401:
        return AuthenticationRefused
    if status == 403:
        return PermissionDenied
    # Below 400 is no refusal, and 408 is a server's timeout: the call may have been carried out or not.
    return BadParameter if 400 <= status < 500 and status != 408 else ProviderUnavailable


def refusal(action: str, *, code: str, message: str, status: int, retry_after: float | None = None) -> ProviderError:
    """Return the error for an answer of EC2; its sentence begins with EC2's own.

    Args:
        action: the called action, `RunInstances`.
        code: the error's code, "" for none.
        message: EC2's sentence.
        status: HTTP status.
        retry_after: seconds to wait, from the answer.
    """
    kind = kind_of(code, status=status)
    said = tidy(message) or f"HTTP status {status} without a message"
    if code == "RequestExpired":
        said = f"this machine's clock differs from EC2's: {said}"
    decode = f"; {DECODE}" if encoded_message(message) else ""
    sentence = f"EC2: {said} ({action}{f', {code}' if code else ''}){decode}"
    if kind in (Throttled, NotReached):
        return kind(sentence, retry_after=retry_after)
    if kind is QuotaExceeded:
        return QuotaExceeded(sentence, is_general=code.removeprefix("Client.") in GENERAL_LIMITS)
    return kind(sentence)


def encoded_message(message: str) -> str:
    """Return EC2's encoded message, for `aws sts decode-authorization-message`, "" for none: it names the policy."""
    return message.partition(_ENCODED)[2].lstrip(": ").partition("\n")[0].strip()


def tidy(message: str) -> str:
    """Return EC2's message in one line, without its encoded part and without secrets."""
    first = message.strip().partition(_ENCODED)[0].partition("\n")[0]
    return masked(" ".join(first.split()))[:_LONGEST]

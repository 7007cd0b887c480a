"""Every error code of EC2 becomes one of our error classes; an undocumented one by its name, then by the HTTP status.

The codes are those of docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html.
"""

from __future__ import annotations

import pytest

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
from one_provider_mad.providers.ec2.refusals import CODES, kind_of, refusal

DOCUMENTED: dict[type[ProviderError], str] = {
    AuthenticationRefused: "AuthFailure IncompleteSignature InvalidClientTokenId MissingAuthenticationToken"
    " RequestExpired ExpiredToken SignatureDoesNotMatch",
    PermissionDenied: "Blocked OptInRequired PendingVerification UnauthorizedOperation OperationNotPermitted"
    " AccessDenied",
    Throttled: "RequestLimitExceeded BandwidthLimitExceeded Throttling EC2ThrottledException",
    NoCapacity: "InsufficientInstanceCapacity InsufficientHostCapacity InsufficientCapacity InsufficientCapacityOnHost"
    " InsufficientReservedInstanceCapacity InsufficientFreeAddressesInSubnet InsufficientAddressCapacity"
    " InsufficientVolumeCapacity SpotMaxPriceTooLow Unsupported",
    QuotaExceeded: "InstanceLimitExceeded VcpuLimitExceeded MaxSpotInstanceCountExceeded VolumeLimitExceeded"
    " MaxIOPSLimitExceeded SnapshotLimitExceeded AddressLimitExceeded HostLimitExceeded NetworkInterfaceLimitExceeded"
    " ConcurrentSnapshotLimitExceeded SecurityGroupLimitExceeded KeyPairLimitExceeded VolumeModificationRateExceeded",
    InstanceNotFound: "InvalidInstanceID.NotFound InvalidInstanceID.Malformed",
    TokenSpent: "IdempotentInstanceTerminated",
    TokenMismatch: "IdempotentParameterMismatch",
    WrongState: "IncorrectInstanceState IncorrectState IncorrectModificationState VolumeInUse InvalidIPAddress.InUse"
    " Resource.AlreadyAssociated",
    ProviderUnavailable: "InternalError InternalFailure ServiceUnavailable RequestTimeout",
    NotReached: "Unavailable",
    BadParameter: "DryRunOperation InvalidAction InvalidCharacter InvalidPaginationToken InvalidParameter"
    " InvalidParameterCombination InvalidParameterValue InvalidQueryParameter MalformedQueryString MissingAction"
    " MissingParameter UnknownParameter UnsupportedInstanceAttribute UnsupportedOperation UnsupportedProtocol"
    " ValidationError InvalidAMIID.Malformed InvalidAMIID.NotFound InvalidAMIID.Unavailable InvalidGroup.NotFound"
    " InvalidKeyPair.NotFound InvalidSubnetID.NotFound InvalidSecurityGroupID.NotFound InvalidSnapshot.NotFound"
    " InvalidVolume.NotFound InvalidVolume.ZoneMismatch InvalidZone.NotFound InvalidAllocationID.NotFound"
    " InvalidAddress.NotFound InvalidBlockDeviceMapping InvalidDevice.InUse InvalidPlacementGroup.Unknown"
    " InvalidUserData.Malformed InvalidInstanceType InvalidTagKey.Malformed InvalidSpotInstanceRequestID.NotFound"
    " InvalidLaunchTemplateId.NotFound TagLimitExceeded FilterLimitExceeded SecurityGroupsPerInstanceLimitExceeded"
    " AttachmentLimitExceeded EncryptedVolumesNotSupported InstanceCreditSpecification.NotSupported"
    " VPCIdNotSpecified DefaultVpcDoesNotExist UnknownVolumeType.Unsupported RootDeviceNotSupported DependencyViolation"
    " InvalidClientToken InvalidInstanceID InvalidAttachment.NotFound",
}


@pytest.mark.parametrize(
    ("code", "kind"), [(code, kind) for kind, codes in DOCUMENTED.items() for code in codes.split()], ids=str
)
def test_a_documented_error_code_has_one_error_class(code: str, kind: type[ProviderError]) -> None:
    if code == "InvalidDevice.InUse":
        kind = WrongState
    assert kind_of(code, status=400) is kind
    assert kind_of(code, status=500) is kind
    assert kind_of(f"Client.{code}", status=400) is kind


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        pytest.param("InvalidGizmoID.NotFound", 400, BadParameter, id="a-new-kind-not-found"),
        pytest.param("GizmoLimitExceeded", 400, QuotaExceeded, id="a-new-limit"),
        pytest.param("InsufficientGizmoCapacity", 500, NoCapacity, id="a-new-shortage"),
        pytest.param("GizmoThrottledException", 400, Throttled, id="a-new-throttling-code"),
        pytest.param("IncorrectGizmoState", 400, WrongState, id="a-new-state"),
        pytest.param("Gizmo", 400, BadParameter, id="unknown-400"),
        pytest.param("Gizmo", 403, PermissionDenied, id="unknown-403"),
        pytest.param("", 401, AuthenticationRefused, id="no-code-401"),
        pytest.param("", 404, BadParameter, id="no-code-404"),
        pytest.param("", 408, ProviderUnavailable, id="no-code-408"),
        pytest.param("", 429, Throttled, id="no-code-429"),
        pytest.param("Gizmo", 500, ProviderUnavailable, id="unknown-500"),
        pytest.param("", 503, ProviderUnavailable, id="no-code-503"),
        pytest.param("", 302, ProviderUnavailable, id="no-code-302"),
    ],
)
def test_an_undocumented_code_is_classified_by_its_name_then_by_the_http_status(
    code: str, status: int, kind: type[ProviderError]
) -> None:
    assert kind_of(code, status=status) is kind


def test_no_error_code_is_classified_as_not_supported() -> None:
    assert {kind for kind in CODES.values() if "NotSupported" in kind.__name__} == set()


def test_an_error_sentence_begins_with_ec2s_message() -> None:
    error = refusal(
        "RunInstances",
        code="UnauthorizedOperation",
        message="You are not authorized to perform this operation. Encoded authorization failure message: 4GIOHlTkIaWH",
        status=403,
    )
    assert str(error) == (
        "EC2: You are not authorized to perform this operation. (RunInstances, UnauthorizedOperation);"
        " the driver's log has the whole encoded message, for aws sts decode-authorization-message"
    )


def test_a_signature_mismatch_does_not_show_the_signed_text() -> None:
    error = refusal(
        "X", code="SignatureDoesNotMatch", message="It does not match.\n\nThe Canonical String...", status=403
    )
    assert str(error) == "EC2: It does not match. (X, SignatureDoesNotMatch)"


def test_an_expired_request_is_explained_by_the_clock() -> None:
    error = refusal("X", code="RequestExpired", message="Request has expired.", status=400)
    assert str(error).startswith("EC2: this machine's clock differs from EC2's: Request has expired.")


def test_a_throttling_error_has_the_retry_after_of_the_answer() -> None:
    error = refusal("X", code="RequestLimitExceeded", message="slow down", status=503, retry_after=7)
    assert isinstance(error, Throttled)
    assert error.retry_after == 7

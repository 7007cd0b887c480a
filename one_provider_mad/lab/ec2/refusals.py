"""Converts the simulated cloud's errors to EC2's; no I/O.

Codes and their meanings are those of docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html; the HTTP statuses
are those of EC2's answers (503 for throttling, 500 for no capacity, 400 for most others).
"""

from __future__ import annotations

from collections.abc import Mapping

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


class Refusal(Exception):
    """An error in an answer of the API.

    Args:
        code: EC2's.
        message: a sentence.
        status: of the HTTP answer.
    """

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


class AnswerLost(Exception):
    """The call took effect, but its answer does not arrive: the connection ends without one."""


MEANINGS: Mapping[type[ProviderError], tuple[str, int]] = {
    AuthenticationRefused: ("AuthFailure", 401),
    PermissionDenied: ("UnauthorizedOperation", 403),
    BadParameter: ("InvalidParameterValue", 400),
    NoCapacity: ("InsufficientInstanceCapacity", 500),
    QuotaExceeded: ("InstanceLimitExceeded", 400),
    InstanceNotFound: ("InvalidInstanceID.NotFound", 400),
    WrongState: ("IncorrectInstanceState", 400),
    TokenMismatch: ("IdempotentParameterMismatch", 400),
    TokenSpent: ("IdempotentInstanceTerminated", 400),
    Throttled: ("RequestLimitExceeded", 503),
    NotReached: ("Unavailable", 503),
    ProviderUnavailable: ("InternalError", 500),
}
"""Kind of error to EC2's code and HTTP status."""


def refusal_of(error: ProviderError) -> Refusal:
    """Return EC2's error for a refusal of the simulated cloud."""
    code, status = MEANINGS.get(type(error), ("InternalError", 500))
    return Refusal(code, str(error), status)


def not_found(instance_id: str) -> Refusal:
    """Return the error for an unknown instance, or one that is not visible yet."""
    return Refusal("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")


def needed(name: str) -> Refusal:
    """Return the error for a missing parameter."""
    return Refusal("MissingParameter", f"The request must contain the parameter {name}")


def invalid(name: str, value: str) -> Refusal:
    """Return the error for an invalid parameter."""
    return Refusal("InvalidParameterValue", f"Value ({value[:80]}) for parameter {name} is invalid.")

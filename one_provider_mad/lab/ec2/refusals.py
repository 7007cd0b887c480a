"""PURE: errors of the simulated cloud in the words of EC2.

Codes and what they mean are those of docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html; the HTTP statuses
are what EC2 answers with them (throttling is a 503, a lack of room a 500, most others a 400).
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
    """An error that the API answers.

    Args:
        code: EC2's.
        message: a sentence.
        status: of the HTTP answer.
    """

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


class AnswerLost(Exception):
    """The call took effect, and its answer does not arrive: the connection ends without one."""


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
"""Kind to code and HTTP status."""


def refusal_of(error: ProviderError) -> Refusal:
    """What EC2 answers where the simulated cloud refuses."""
    code, status = MEANINGS.get(type(error), ("InternalError", 500))
    return Refusal(code, str(error), status)


def not_found(instance_id: str) -> Refusal:
    """No such instance, or none that can be seen yet."""
    return Refusal("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")


def needed(name: str) -> Refusal:
    """A parameter is missing."""
    return Refusal("MissingParameter", f"The request must contain the parameter {name}")


def invalid(name: str, value: str) -> Refusal:
    """A parameter makes no sense."""
    return Refusal("InvalidParameterValue", f"Value ({value[:80]}) for parameter {name} is invalid.")

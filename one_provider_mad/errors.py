"""Every error that a person or the core can meet, each one sentence.

MadError
├── SettingsError             the configuration cannot be used
├── JournalError              the journal cannot be read or written
├── RequestRefused            the request itself is wrong: nothing was done
├── DeadlineExceeded          the action ran out of time while waiting
├── OwnershipError            the instance is not this VM's, or nobody can tell
│   ├── NotOurs               its tags name another VM, another owner or nobody
│   ├── AmbiguousInstance     several instances claim to be this VM
│   ├── CannotTell            whether an instance still exists is not known for certain
│   └── WrongAccount          the credentials belong to another account or region
└── ProviderError             what a cloud answered, by kind
    ├── ProviderUnavailable   no answer, or a server error: it may have taken effect
    │   └── NotReached        nobody took the call: it was not carried out
    │       └── WrongEndpoint nothing has ever answered at the configured address
    ├── Throttled             refused for now: it was not carried out
    ├── AuthenticationRefused the credentials are not accepted
    ├── PermissionDenied      the credentials may not do this
    ├── BadParameter          the cloud does not accept what was asked
    ├── NoCapacity            the cloud has no room for this just now
    ├── QuotaExceeded         the account may not have more
    ├── InstanceNotFound      the cloud does not know the instance
    ├── WrongState            the instance cannot do this in its present state
    ├── TokenSpent            the idempotency token's instance is already terminated
    ├── TokenMismatch         the idempotency token was used with other parameters
    └── NotSupported          this provider cannot do this at all

The class tells the core what to do (`retryable`, `definite`); the fields tell a person what happened.
docs/providers.md holds the same list as a table, and a test keeps the two alike.
"""

from __future__ import annotations

from typing import ClassVar

LONGEST_WAIT = 30.0
"""Seconds that a cloud may make us wait before it is asked again, whatever it says: everything waits for that call."""


class MadError(Exception):
    """Something that went wrong, told in one sentence by `str()`. Never raised itself: one of its kinds is."""


class SettingsError(MadError):
    """The configuration cannot be used; the sentence names the file, the key and what was expected."""


class JournalError(MadError):
    """The journal cannot be read or written; nothing that costs money is begun without it."""


class RequestRefused(MadError):
    """The request cannot be carried out as it was sent, and nothing was done."""


class DeadlineExceeded(MadError):
    """The action's time ran out; the sentence says what was being waited for."""


class OwnershipError(MadError):
    """An instance is not, or not certainly, the VM's that the request speaks of."""


class NotOurs(OwnershipError):
    """The instance's tags name another VM, another owner, or nobody."""


class AmbiguousInstance(OwnershipError):
    """More than one instance matches the VM; a person has to choose."""


class CannotTell(OwnershipError):
    """Whether an instance still exists is not certain, so it must not be called gone."""


class WrongAccount(OwnershipError):
    """The credentials lead to another account or region than the journal has recorded."""


class ProviderError(MadError):
    """What a cloud answered to a call.

    Attributes:
        retryable: the same call may succeed when it is sent again.
        definite: the call certainly had no effect; after a create, a new attempt may be opened.
        is_paced: it is sent again until the action's deadline, and that is no retry: it certainly had no effect, and
            the reason passes.
        retry_after: seconds the cloud asked to wait, never more than `LONGEST_WAIT`; None where it asked for none.
    """

    retryable: ClassVar[bool] = False
    definite: ClassVar[bool] = True
    is_paced: ClassVar[bool] = False
    retry_after: float | None = None


class ProviderUnavailable(ProviderError):
    """The cloud did not answer, or answered with a server error: the call may or may not have taken effect."""

    retryable = True
    definite = False


class NotReached(ProviderUnavailable):
    """Nobody took the call: it was not sent, or whoever answered says that it was not carried out.

    Args:
        sentence: who could not be reached, and why.
        retry_after: seconds the cloud asked to wait, or None.
    """

    definite = True
    is_paced = True

    def __init__(self, sentence: str, *, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = _bounded(retry_after)


class WrongEndpoint(NotReached):
    """Nothing has ever answered at the configured address, and waiting will not change that."""

    retryable = False
    is_paced = False


class Throttled(ProviderError):
    """The cloud refused the call for now and did not carry it out.

    Args:
        sentence: what the cloud said.
        retry_after: seconds the cloud asked to wait, or None.
    """

    retryable = True
    is_paced = True

    def __init__(self, sentence: str, *, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = _bounded(retry_after)


def _bounded(seconds: float | None) -> float | None:
    return None if seconds is None else min(max(seconds, 0.0), LONGEST_WAIT)


class AuthenticationRefused(ProviderError):
    """The cloud does not accept the credentials."""


class PermissionDenied(ProviderError):
    """The credentials are good but may not do this."""


class BadParameter(ProviderError):
    """The cloud, or its adapter, does not accept what was asked for."""


class NoCapacity(ProviderError):
    """The cloud has no room for this kind of instance just now; another kind or place may have."""


class QuotaExceeded(ProviderError):
    """The account has reached a limit.

    Args:
        sentence: what the cloud said.
        is_general: the limit holds for every VM of this cloud, not only for one that asks for something special.
    """

    def __init__(self, sentence: str, *, is_general: bool = False) -> None:
        super().__init__(sentence)
        self.is_general = is_general


class InstanceNotFound(ProviderError):
    """The cloud does not know the instance (or does not know it yet)."""


class WrongState(ProviderError):
    """The instance cannot do this in the state it is in."""


class TokenSpent(ProviderError):
    """The idempotency token belongs to an instance that is already terminated."""


class TokenMismatch(ProviderError):
    """The idempotency token was used before with other parameters."""


class NotSupported(ProviderError):
    """The provider cannot do this at all.

    Args:
        provider: the provider's name.
        what: what was asked for, in OpenNebula's words.
    """

    def __init__(self, provider: str, what: str) -> None:
        super().__init__(f"provider {provider} does not support {what}")
        self.provider = provider
        self.what = what


def internal_error(error: BaseException) -> str:
    """The sentence for a defect: its kind; what else is known of it is no sentence, and stands in the log."""
    return f"internal error ({type(error).__name__}), the driver's log has the details"

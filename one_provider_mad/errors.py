"""Every error that is shown to a person or sent to oned, each with a message of one sentence.

MadError
├── SettingsError             the configuration cannot be used
│   └── UnknownSetting        it has a key that this release does not know
├── JournalError              the journal cannot be read or written
├── BudgetError               the file of a budget cannot be read or written
├── LedgerError               the ledger of costs cannot be read or written
├── RequestRefused            the request itself is wrong: nothing was done
│   └── BudgetExceeded        it would exceed a limit of [budget]
├── DeadlineExceeded          the action ran out of time while waiting
├── OwnershipError            the instance is not, or not certainly, this VM's
│   ├── NotOurs               its tags name another VM or another owner, or are missing
│   ├── AmbiguousInstance     several instances claim to be this VM
│   ├── CannotTell            whether an instance still exists is not known for certain
│   └── WrongAccount          the credentials belong to another account or region
└── ProviderError             an error of the cloud, by kind
    ├── ProviderUnavailable   no answer, or a server error: it may have taken effect
    │   └── NotReached        the call was certainly not carried out
    │       └── WrongEndpoint nothing has ever answered at the configured address
    ├── Throttled             refused for now: it was not carried out
    ├── AuthenticationRefused the credentials are not accepted
    ├── PermissionDenied      the credentials may not do this
    ├── BadParameter          the cloud does not accept a parameter
    ├── NoCapacity            the cloud has no capacity for this at this time
    ├── QuotaExceeded         the account may not have more
    ├── InstanceNotFound      the cloud does not know the instance
    ├── WrongState            the instance cannot do this in its present state
    ├── TokenSpent            the idempotency token's instance is already terminated
    ├── TokenMismatch         the idempotency token was used with other parameters
    └── NotSupported          this provider cannot do this at all

The class decides what happens next (`retryable`, `definite`); the message explains the error to a person.
docs/providers.md holds the same list as a table, and a test keeps the two alike.
"""

from __future__ import annotations

from typing import ClassVar

LONGEST_WAIT = 30.0
"""Longest pause in seconds before a call is repeated; a cloud's longer Retry-After is shortened to it."""


class MadError(Exception):
    """Base class of the errors below; `str()` returns the message, one sentence. Only subclasses are raised."""


class SettingsError(MadError):
    """The configuration cannot be used; the message names the file, the key and the expected value."""


class UnknownSetting(SettingsError):
    """The configuration has keys that this release does not know: misspelt, or of a later release.

    Args:
        sentence: the message, which names the first key.
        paths: the keys that lead to each of them from the top of the file.
    """

    def __init__(self, sentence: str, paths: tuple[tuple[str | int, ...], ...] = ()) -> None:
        super().__init__(sentence)
        self.paths = paths


class JournalError(MadError):
    """The journal cannot be read or written; no instance is created without it."""


class BudgetError(MadError):
    """The file of a budget cannot be read or written; nothing that a limit counts is admitted without it."""


class LedgerError(MadError):
    """The ledger of costs cannot be read or written; actions and reports do not depend on it."""


class RequestRefused(MadError):
    """The request cannot be carried out as it was sent, and nothing was done."""


class BudgetExceeded(RequestRefused):
    """The request would exceed a limit of `[budget]`; it is not repeated, and the cloud does not lack room."""


class DeadlineExceeded(MadError):
    """The action's time ran out; the message names the step that it waited for."""


class OwnershipError(MadError):
    """The instance does not, or not certainly, belong to the VM of the request."""


class NotOurs(OwnershipError):
    """The instance's tags name another VM or another owner, or are missing."""


class AmbiguousInstance(OwnershipError):
    """More than one instance matches the VM; a person has to choose."""


class CannotTell(OwnershipError):
    """Whether an instance still exists is not certain, so it must not be reported as gone."""


class WrongAccount(OwnershipError):
    """The credentials belong to another account or region than the one in the journal."""


class ProviderError(MadError):
    """A call to the cloud failed.

    Attributes:
        retryable: the same call may succeed when it is sent again.
        definite: the call certainly had no effect; after a create, a new attempt may be opened.
        is_paced: the call is sent again until the action's deadline without counting as a retry: it certainly had no
            effect, and the reason is temporary.
        retry_after: seconds the cloud asked to wait, at most `LONGEST_WAIT`; None where it asked for none.
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
    """The call was certainly not carried out: it was not sent, or the answer says so.

    Args:
        sentence: the name of the unreachable service, and why.
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
        sentence: the message.
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
    """The cloud, or its adapter, does not accept a parameter of the request."""


class NoCapacity(ProviderError):
    """The cloud lacks capacity for this type of instance at this time; another type or zone may have some.

    Args:
        sentence: the message.
        is_general: it has room for no VM at all at this time.
    """

    def __init__(self, sentence: str, *, is_general: bool = False) -> None:
        super().__init__(sentence)
        self.is_general = is_general


class QuotaExceeded(ProviderError):
    """The account has reached a limit.

    Args:
        sentence: the message.
        is_general: the limit applies to every VM of this cloud, not only to VMs with a special wish.
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
        what: the requested feature, in OpenNebula's words.
    """

    def __init__(self, provider: str, what: str) -> None:
        super().__init__(f"provider {provider} does not support {what}")
        self.provider = provider
        self.what = what


def internal_error(error: BaseException) -> str:
    """Return the message for a defect, with its class; the details are in the log."""
    return f"internal error ({type(error).__name__}), the driver's log has the details"

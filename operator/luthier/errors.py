"""Errors, and what the reconciler does with each.

LuthierError
├── InvalidSpec       only a new spec mends it: Stalled, no retry until the generation changes
├── NameConflict      a child's name is taken by somebody else's object: Stalled, never touched
├── NotLeader         the Lease is not ours, or nearly over: nothing was sent, the pass ends
├── Unreachable       no answer, or a broken one: a write may have happened; backs off
└── ApiError          the API server said no
    ├── NotFound      404
    ├── Conflict      409: observe again
    └── Throttled     429 or 503 with Retry-After: not before then
"""

from __future__ import annotations


class LuthierError(Exception):
    """Base of all errors of the operator."""


def describe(error: BaseException) -> str:
    """Return an error's text, or its type where it has none (a timeout)."""
    return str(error) or type(error).__name__


class InvalidSpec(LuthierError):
    """The object cannot work as it is written."""

    def __init__(self, field: str, message: str, *, reason: str = "InvalidSpec") -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
        self.reason = reason


class NameConflict(LuthierError):
    """A child's name belongs to an object that is not ours."""


class NotLeader(LuthierError):
    """This replica may not write now."""


class Unreachable(LuthierError):
    """The API server gave no answer in time, or one that is no JSON."""


class ApiError(LuthierError):
    """The API server answered with an error status."""

    def __init__(self, status: int, message: str, *, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.message = message
        self.reason = reason
        self.retry_after = retry_after

    @property
    def is_refusal(self) -> bool:
        """Say whether the server has understood the request and takes it in no case: waiting alone does not help.

        An apply that does not fit the type's schema is answered with 500 and no reason; failures that pass, of etcd or
        of a webhook, have one (seen on Kubernetes 1.34).
        """
        unfit = not self.reason and self.message.startswith("failed to create typed patch object")
        return self.status < 500 or (self.status == 500 and unfit)


class NotFound(ApiError):
    """404."""


class Conflict(ApiError):
    """409."""


class Throttled(ApiError):
    """429, or 503 with Retry-After."""

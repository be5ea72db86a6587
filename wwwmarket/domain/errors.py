"""Errors by whose fault. A refusal is the world's fault, is told to the world, and changes nothing.

The HTTP code of each stands in ``gateway/problems.py`` and nowhere else. Our own bugs are assertions.
"""

from typing import ClassVar


class Refusal(Exception):  # noqa: N818 - it is an answer, not an error of ours
    """What was asked for is refused; ``code`` is for programs, the message says what to do about it."""

    code: ClassVar[str] = "refused"

    def __init__(self, message: str, *, param: str | None = None, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.reason = reason or self.code


class Malformed(Refusal):
    """Bytes that are not what they claim to be: not JSON, not canonical, out of range, unknown fields."""

    code = "malformed"


class TooLarge(Malformed):
    """More bytes, tokens or items than a stated limit."""

    code = "too_large"


class Unauthorised(Refusal):
    """No key, an unknown key, or a signature that does not verify."""

    code = "unauthorised"


class Forbidden(Refusal):
    """A known party asked for what only another may do."""

    code = "forbidden"


class NotFound(Refusal):
    code = "not_found"


class Conflict(Refusal):
    """It contradicts what is already agreed: a used sequence number, an award settled before."""

    code = "conflict"


class Reused(Conflict):
    """A name that stands for one request was given to another."""

    code = "reused"


class Stale(Refusal):
    """It came after its expiry, or before its time."""

    code = "stale"


class InsufficientCredit(Refusal):
    code = "insufficient_credit"


class Exhausted(Refusal):
    """A bounded resource is full; the same request may succeed after ``retry_after_ms``."""

    code = "exhausted"

    def __init__(
        self, message: str, *, retry_after_ms: int, param: str | None = None, reason: str | None = None
    ) -> None:
        super().__init__(message, param=param, reason=reason)
        self.retry_after_ms = retry_after_ms


class Unavailable(Exhausted):
    """Nobody (or nobody reachable) can do it now."""

    code = "unavailable"

"""What a client asks of a gateway, apart from how it is sent: a conversation is a generator of calls.

It yields a ``Call`` and is sent the ``Reply``, or yields a ``Wait`` and is sent None. One text serves the client that
waits and the client that is awaited.
"""

from collections.abc import Generator
from typing import Final, TypeAlias, TypeVar

import msgspec

from wwwmarket.domain.errors import (
    Conflict,
    Exhausted,
    Forbidden,
    InsufficientCredit,
    Malformed,
    NotFound,
    Refusal,
    Stale,
    Unauthorised,
    Unavailable,
)
from wwwmarket.domain.shape import Value

T = TypeVar("T")

ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
_RETRY_MS: Final = 1_000
_KINDS: Final = {401: Unauthorised, 402: InsufficientCredit, 403: Forbidden, 404: NotFound, 409: Conflict, 410: Stale}


class Call(Value):
    """One request. ``path`` begins at the gateway's base address."""

    method: str
    path: str
    body: bytes = b""


class Wait(Value):
    """Some time before the next call."""

    seconds: float


class Reply(Value):
    status: int
    body: bytes


Conversation: TypeAlias = Generator[Call | Wait, Reply | None, T]


class Refused(Refusal):
    """An answer that is no success, as it came: a gateway's refusal, or the winning engine's own."""

    code = "refused"

    def __init__(self, status: int, body: bytes, message: str, reason: str | None) -> None:
        super().__init__(message, reason=reason)
        self.status = status
        self.body = body


class _Told(msgspec.Struct):
    message: str
    code: str | int | None = None


class _Problem(msgspec.Struct):
    error: _Told


def ask(call: Call, shape: type[T]) -> Conversation[T]:
    """The answer to ``call`` as ``shape``.

    Raises:
        Malformed: what answers is no gateway.
        Refusal: the gateway refuses, in its own words.
    """
    return read(expect((yield call)), shape)


def expect(reply: Reply | None) -> bytes:
    """The body of a success. Raises as ``ask``."""
    assert reply is not None, "a call is answered"
    if not 200 <= reply.status < 300:
        raise refusal_of(reply)
    return reply.body


def read(body: bytes, shape: type[T]) -> T:
    """Raises Malformed."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"what answers is not this version's gateway: {error}") from None


def refusal_of(reply: Reply) -> Refusal:
    """What an answer that is no success says, by the table of codes of the gateway."""
    try:
        told = msgspec.json.decode(reply.body, type=_Problem).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = _Told(f"the gateway answered with HTTP status {reply.status}")
    reason = None if told.code is None else str(told.code)
    if reply.status in {429, 503}:
        kind = Unavailable if reply.status == 503 else Exhausted
        return kind(told.message, retry_after_ms=_RETRY_MS, reason=reason)
    if reply.status in _KINDS:
        return _KINDS[reply.status](told.message, reason=reason)
    return Refused(reply.status, reply.body, told.message, reason)


def problem_of(refusal: Refusal) -> tuple[int, bytes]:
    """A refusal as an HTTP answer in OpenAI's form: as it came, where it came so."""
    if isinstance(refusal, Refused):
        return refusal.status, refusal.body
    statuses = {kind: status for status, kind in _KINDS.items()} | {Unavailable: 503, Exhausted: 429}
    error = {"message": refusal.message, "type": refusal.code, "param": refusal.param, "code": refusal.reason}
    return statuses.get(type(refusal), 400), msgspec.json.encode({"error": error})

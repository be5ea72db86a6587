"""The one table of HTTP codes, and OpenAI's form of an error: ``{"error": {message, type, param, code}}``.

OpenAI's clients retry 408, 409, 429 and 5xx by themselves and honour ``Retry-After``: hence 410, not 409, for what has
expired and can never succeed.
"""

from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec
from starlette.responses import Response

from wwwmarket.domain.errors import (
    Conflict,
    Exhausted,
    Forbidden,
    InsufficientCredit,
    Malformed,
    NotFound,
    Refusal,
    Reused,
    Stale,
    TooLarge,
    Unauthorised,
    Unavailable,
)
from wwwmarket.ports.engine import EngineRefused


class Problem(NamedTuple):
    status: int
    type: str


PROBLEMS: Final[dict[type[Refusal], Problem]] = {
    Refusal: Problem(400, "invalid_request_error"),
    Malformed: Problem(400, "invalid_request_error"),
    TooLarge: Problem(413, "invalid_request_error"),
    Unauthorised: Problem(401, "authentication_error"),
    InsufficientCredit: Problem(402, "insufficient_quota"),
    Forbidden: Problem(403, "permission_error"),
    NotFound: Problem(404, "not_found_error"),
    Conflict: Problem(409, "conflict_error"),
    Stale: Problem(410, "stale_error"),
    Exhausted: Problem(429, "rate_limit_error"),
    Unavailable: Problem(503, "service_unavailable_error"),
    Reused: Problem(422, "invalid_request_error"),  # not 409, which OpenAI's clients repeat
    EngineRefused: Problem(502, "engine_error"),  # where the engine's own answer cannot be passed on
}


class _Error(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class _Envelope(msgspec.Struct, frozen=True):
    error: _Error


def problem_of(refusal: Refusal) -> Problem:
    """The table's row for a refusal: its own class's, or its nearest ancestor's."""
    return next(PROBLEMS[kind] for kind in type(refusal).__mro__ if kind in PROBLEMS)


def body_of(refusal: Refusal) -> bytes:
    """A refusal in OpenAI's form."""
    error = _Error(refusal.message, problem_of(refusal).type, refusal.param, refusal.reason)
    return msgspec.json.encode(_Envelope(error))


def headers_of(refusal: Refusal) -> dict[str, str]:
    """What a client needs besides the body: when to come back, how to sign in, that the rest of a body is unread."""
    match refusal:
        case Exhausted():
            whole_s = max(1, -(-refusal.retry_after_ms // 1000))
            return {"retry-after": str(whole_s), "retry-after-ms": str(max(1, refusal.retry_after_ms))}
        case Unauthorised():
            return {"www-authenticate": 'Bearer realm="wwwmarket"'}
        case TooLarge():
            return {"connection": "close"}
        case _:
            return {}


def response_of(refusal: Refusal) -> Response:
    """A refusal as an HTTP answer; an engine's own refusal of a request is passed on as the engine said it."""
    if isinstance(refusal, EngineRefused) and HTTPStatus.BAD_REQUEST <= refusal.status < 500 and _is_json(refusal.body):
        return Response(refusal.body, refusal.status, media_type="application/json")
    return Response(body_of(refusal), problem_of(refusal).status, headers_of(refusal), "application/json")


def plain_body(status: int, message: str) -> bytes:
    """The same form for what HTTP itself refuses, where no refusal of the market stands behind it."""
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    code = HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")
    return msgspec.json.encode(_Envelope(_Error(message, kind, None, code)))


def plain_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return Response(plain_body(status, message), status, headers, "application/json")


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True

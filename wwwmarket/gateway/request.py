"""Reading requests: bounded in bytes and time while they arrive, decoded once and strictly."""

import asyncio
import re
from typing import Any, Final, TypeVar

import msgspec
from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from wwwmarket.domain.errors import Malformed, TooLarge, Unauthorised
from wwwmarket.domain.identity import AccountId, Digest, EntryId
from wwwmarket.gateway.config import GatewayConfig
from wwwmarket.node.service import ApiKeyView, Service
from wwwmarket.ports.tracing import TRACEPARENT, TraceParent

T = TypeVar("T")

FORM_BYTES_MAX: Final = 65_536
"""Any request that carries no prompt."""

_DISCARDED_FACTOR: Final = 4
"""A body over its limit is read on (and dropped) up to this many times the limit, so that its sender gets the answer
instead of a reset connection."""

_TRACEPARENT: Final = re.compile(TRACEPARENT)
_FIELD: Final = re.compile(r"`\$\.([A-Za-z0-9_.\[\]]+)`|required field `([A-Za-z0-9_]+)`|unknown field `([^`]{1,64})`")


async def read_body(request: Request, config: GatewayConfig, *, bytes_max: int) -> bytes:
    """The whole body.

    Raises:
        TooLarge: more than ``bytes_max`` bytes, declared or sent.
        HTTPException: 408, it took longer than ``body_timeout_s``.
        ClientDisconnect: the client left.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > bytes_max * _DISCARDED_FACTOR:
        raise _too_large(bytes_max)
    try:
        async with asyncio.timeout(config.body_timeout_s):
            return await _collect(request, bytes_max)
    except TimeoutError:
        late = f"the body did not arrive within {config.body_timeout_s:g} s"
        raise HTTPException(408, late, {"connection": "close"}) from None


async def _collect(request: Request, bytes_max: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= bytes_max:
            chunks.append(chunk)
        elif size > bytes_max * _DISCARDED_FACTOR:
            break
        else:
            chunks.clear()
    if size > bytes_max:
        raise _too_large(bytes_max)
    return b"".join(chunks)


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"the body is over the limit of {bytes_max} bytes")


def decode(data: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T]) -> T:
    """``data`` as the decoder's shape. Raises Malformed, which names the field at fault where one is."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from None


def convert(value: object, shape: Any) -> Any:
    """A value from a path or a query as a named type of the domain. Raises Malformed."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise _malformed(error) from None


def entry_id(text: str) -> EntryId:
    return EntryId(convert(text, EntryId))


def digest_of(text: str) -> Digest:
    return Digest(convert(text, Digest))


def account_id(text: str) -> AccountId:
    return AccountId(convert(text, AccountId))


def _malformed(error: Exception) -> Malformed:
    if isinstance(error, UnicodeDecodeError):
        return Malformed("the body is not UTF-8")
    if isinstance(error, RecursionError):
        return Malformed("the body is nested too deeply")
    found = _FIELD.search(str(error))
    return Malformed(str(error), param=next(filter(None, found.groups()), None) if found else None)


def bearer(request: Request) -> str:
    """The secret after ``Authorization: Bearer`` (RFC 6750, section 2.1). Raises Unauthorised."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthorised("send your API key as 'Authorization: Bearer sk-…'")
    return secret.strip()


def api_key(request: Request, service: Service) -> ApiKeyView:
    """Raises Unauthorised."""
    return service.authenticate(bearer(request))


def require_admin(request: Request, service: Service) -> None:
    """Raises Unauthorised."""
    if not service.is_admin(bearer(request)):
        raise Unauthorised("this asks for the node's own admin token")


def traceparent_of(headers: Headers) -> TraceParent | None:
    """The client's span (W3C Trace Context); None without one, and for what is none: then a trace begins here."""
    given = headers.get("traceparent")
    return given if given is not None and _TRACEPARENT.fullmatch(given) else None

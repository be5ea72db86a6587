"""A node's gateway as commands see it: typed answers, refusals as refusals, bounds on what a stranger may send."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
import msgspec

from wwwmarket.domain.errors import (
    Forbidden,
    InsufficientCredit,
    Malformed,
    NotFound,
    Refusal,
    TooLarge,
    Unauthorised,
    Unavailable,
)

T = TypeVar("T")

ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
CONNECT_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 620.0
"""A little over the longest execution that a market allows."""
_KINDS: Final = {401: Unauthorised, 402: InsufficientCredit, 403: Forbidden, 404: NotFound}
"""The refusals that a command may want to tell apart."""
_HEADER: Final = bytes(range(0x21, 0x7F))


class _Told(msgspec.Struct):
    message: str
    code: str | None = None


class _Problem(msgspec.Struct):
    error: _Told


class GatewayClient:
    """Speaks to the gateway at ``address``, with or without ``/v1`` at its end; ``secret`` is a key or admin token."""

    def __init__(self, address: str, secret: str | None = None) -> None:
        self.base: Final = address.rstrip("/").removesuffix("/v1")
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._http = httpx.Client(timeout=timeout, headers=_credentials(secret), trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, shape: type[T], **query: str | int) -> T:
        """The answer at ``path`` as ``shape``. Raises as ``request``."""
        return self.request("GET", path, shape, params=query)

    def post(self, path: str, body: object, shape: type[T], headers: dict[str, str] | None = None) -> T:
        """The answer to ``body`` as JSON. Raises as ``request``."""
        return self.request("POST", path, shape, content=msgspec.json.encode(body), headers=headers)

    def put(self, path: str, body: object, shape: type[T]) -> T:
        """As ``post``."""
        return self.request("PUT", path, shape, content=msgspec.json.encode(body))

    def request(self, method: str, path: str, shape: type[T], **sent: Any) -> T:
        """One request and its whole answer.

        Raises:
            Unavailable: nobody answers there.
            Malformed: what answers is no gateway.
            Refusal: the gateway refuses, in its own words.
        """
        with self._answered(method, path, **sent) as response:
            return self._decode(self._read(response), shape)

    def text(self, path: str) -> str:
        """A text at ``path``. Raises as ``request``."""
        with self._answered("GET", path) as response:
            return self._read(response).decode("utf-8", "replace").strip()

    def content(self, path: str) -> bytes:
        """The bytes at ``path``, as they are. Raises as ``request``."""
        with self._answered("GET", path) as response:
            return self._read(response)

    @contextmanager
    def stream(self, path: str, body: object, headers: dict[str, str]) -> Iterator[tuple[httpx.Headers, Iterator[str]]]:
        """Headers of a streamed answer, and its lines. Raises as ``request``, also between two lines."""
        with self._answered("POST", path, content=msgspec.json.encode(body), headers=headers) as response:
            yield response.headers, response.iter_lines()

    @contextmanager
    def _answered(self, method: str, path: str, **sent: Any) -> Iterator[httpx.Response]:
        try:
            with self._http.stream(method, self.base + path, **sent) as response:
                if response.is_success:
                    yield response
                    return
                raise self._refusal(response.status_code, self._read(response))
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise Malformed(f"{self.base!r} is not the address of a gateway, such as http://127.0.0.1:8080") from None
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"no gateway answers at {self.base}: {reason}", retry_after_ms=1_000) from None

    def _read(self, response: httpx.Response) -> bytes:
        data = bytearray()
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) > ANSWER_BYTES_MAX:
                raise TooLarge(f"the answer of {self.base} is over the limit of {ANSWER_BYTES_MAX} bytes")
        return bytes(data)

    def _decode(self, data: bytes, shape: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=shape)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(f"what answers at {self.base} is not this version's gateway: {error}") from None

    def _refusal(self, status: int, data: bytes) -> Refusal:
        try:
            told = msgspec.json.decode(data, type=_Problem).error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Refusal(f"{self.base} answered with HTTP status {status}", reason=str(status))
        return _KINDS.get(status, Refusal)(told.message, reason=told.code)


def _credentials(secret: str | None) -> dict[str, str]:
    """Raises Malformed for what no header can carry (RFC 9110, section 5.5)."""
    if secret is None:
        return {}
    if not secret or not set(secret.encode()) <= set(_HEADER):
        raise Malformed("that is no key: it has spaces or characters that no key has")
    return {"authorization": f"Bearer {secret}"}

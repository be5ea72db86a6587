"""HTTP/1.1 to one engine over connections kept alive: what every engine with such an interface is spoken to by.

No redirects, proxies, cookies or decompression: what comes back is what the engine itself sent.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Final

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientOSError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    ServerDisconnectedError,
    TCPConnector,
)

from wwwmarket.domain.errors import Unavailable

CONNECT_TIMEOUT_S: Final = 3.0
WRITE_TIMEOUT_S: Final = 10.0
POLL_TIMEOUT_S: Final = 3.0
KEEPALIVE_S: Final = 4.0
"""llama.cpp closes a connection after 5 s of idleness."""
CONNECTIONS_MAX: Final = 1024
"""More than any engine runs and queues for one provider; whoever comes later waits as long as for a connection."""
WHOLE_BODY_BYTES_MAX: Final = 64 * 1024
"""A longer request is written in parts, so that it holds up nobody else's; a part costs 0.1 ms more."""
RETRY_AFTER_MS: Final = 1_000


class EngineHttp:
    """Requests to the engine at ``base_url``; made where an event loop runs.

    ``silence_timeout_s`` is the longest wait for the next byte of an answer to a request with a body.
    """

    def __init__(self, base_url: str, api_key: str | None, *, silence_timeout_s: float) -> None:
        self._base_url = base_url.rstrip("/").removesuffix("/v1")
        self._headers = {"accept-encoding": "identity", "content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        # the client's own timeout for silence begins when the request is written
        self._begin_timeout_s = CONNECT_TIMEOUT_S + WRITE_TIMEOUT_S + silence_timeout_s
        self._timeout = ClientTimeout(connect=CONNECT_TIMEOUT_S, sock_read=silence_timeout_s)
        self._poll_timeout = ClientTimeout(total=POLL_TIMEOUT_S)
        self._session = self._new_session(TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=KEEPALIVE_S))
        self._fresh_session = self._new_session(TCPConnector(limit=CONNECTIONS_MAX, force_close=True))

    def _new_session(self, connector: TCPConnector) -> ClientSession:
        return ClientSession(
            connector=connector,
            headers=self._headers,
            cookie_jar=DummyCookieJar(),
            skip_auto_headers=("user-agent",),
            auto_decompress=False,
            trust_env=False,
        )

    @asynccontextmanager
    async def answer(self, method: str, path: str, body: bytes = b"") -> AsyncIterator[ClientResponse]:
        """The response to a request, its headers read. Leaving closes the connection unless the body was read whole.

        A connection that the engine closed meanwhile shows only when it is used: the request goes out once more.

        Raises:
            Unavailable: no answer in time, or, also within the block, one that breaks off.
        """
        try:
            try:
                response = await self._begun(self._session, method, path, body)
            except ClientConnectorError:
                raise
            except (ServerDisconnectedError, ClientOSError):
                response = await self._begun(self._fresh_session, method, path, body)
            try:
                yield response
            finally:
                response.close()
        except (ClientError, TimeoutError) as error:
            reason = f"the engine is gone: {type(error).__name__} {error}".strip()
            raise Unavailable(reason, retry_after_ms=RETRY_AFTER_MS) from error

    async def _begun(self, session: ClientSession, method: str, path: str, body: bytes) -> ClientResponse:
        async with asyncio.timeout(self._begin_timeout_s):
            return await session.request(
                method,
                self._base_url + path,
                data=BytesIO(body) if len(body) > WHOLE_BODY_BYTES_MAX else body or None,
                timeout=self._timeout if body else self._poll_timeout,
                allow_redirects=False,
            )

    async def close(self) -> None:
        await self._session.close()
        await self._fresh_session.close()


async def read_at_most(response: ClientResponse, limit: int) -> bytes:
    """The whole body.

    Raises:
        Unavailable: it has more than ``limit`` bytes.
    """
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise Unavailable("the engine's answer is over the limit", retry_after_ms=RETRY_AFTER_MS)
    return bytes(body)

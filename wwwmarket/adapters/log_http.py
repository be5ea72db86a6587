"""Logs and mirrors over HTTP: files, and requests for cosignatures. Of strangers, so bounded in bytes and time.

No redirects, proxies, cookies or decompression: what comes back is what was served.
"""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

from wwwmarket.domain.errors import Conflict, NotFound, Refusal, TooLarge, Unavailable
from wwwmarket.ports.log_files import LogFiles
from wwwmarket.ports.mirrors import MirrorAnswer
from wwwmarket.rules.succession import SUCCESSIONS_BYTES_MAX

CONNECT_TIMEOUT_S: Final = 3.0
SILENCE_TIMEOUT_S: Final = 10.0
"""The longest wait for the next byte of a file."""
SWITCH_AFTER_S: Final = 3.0
"""How long one of several servers of a log may keep a reader waiting, before the next one is asked."""
KEEPALIVE_S: Final = 10.0
"""Shorter than the 15 s after which a node's door closes an idle connection."""
CONNECTIONS_MAX: Final = 64
ANSWER_BYTES_MAX: Final = 65_536
"""A hundred signature lines need a third of it."""
RETRY_AFTER_MS: Final = 1_000

_GONE: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})


def _new_session() -> ClientSession:
    return ClientSession(
        connector=TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=KEEPALIVE_S),
        cookie_jar=DummyCookieJar(),
        headers={"accept-encoding": "identity"},
        skip_auto_headers=("user-agent",),
        auto_decompress=False,
        trust_env=False,
    )


class HttpFiles:
    """Implements ``ports.log_files.LogFiles`` for the files under a URL; made where an event loop runs."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.rstrip("/")
        self._session = _new_session()
        self._timeout = ClientTimeout(connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S)

    async def read(self, path: str, *, bytes_max: int) -> bytes:
        url = f"{self._prefix}/{path}"
        try:
            async with self._session.get(url, timeout=self._timeout, allow_redirects=False) as response:
                if response.status in _GONE:
                    raise NotFound(f"there is no {url}")
                if response.status != HTTPStatus.OK:
                    raise Unavailable(f"{url}: HTTP status {response.status}", retry_after_ms=RETRY_AFTER_MS)
                return await _read_at_most(response, bytes_max)
        except (ClientError, TimeoutError, ValueError) as error:
            raise Unavailable(f"{url}: {str(error) or type(error).__name__}", retry_after_ms=RETRY_AFTER_MS) from None

    async def close(self) -> None:
        await self._session.close()


class AnyFiles:
    """Implements ``ports.log_files.LogFiles`` by several servers of one log: the one that answered last is asked first.

    What comes back is judged by whoever reads it, so it does not matter whose it is.
    """

    def __init__(self, servers: Sequence[LogFiles], *, switch_after_s: float = SWITCH_AFTER_S) -> None:
        assert servers, "a log is served by somebody"
        self._servers: Final = tuple(servers)
        self._switch_after_s = switch_after_s
        self._first = 0

    async def read(self, path: str, *, bytes_max: int) -> bytes:
        """Raises what the last one raised; NotFound only where all that answer have no such file."""
        refused: list[Refusal] = []
        for turn in range(len(self._servers)):
            place = (self._first + turn) % len(self._servers)
            is_last = turn == len(self._servers) - 1
            try:
                async with asyncio.timeout(None if is_last else self._switch_after_s):
                    content = await self._servers[place].read(path, bytes_max=bytes_max)
            except TimeoutError:
                refused.append(Unavailable("a server of the log does not answer", retry_after_ms=RETRY_AFTER_MS))
            except (NotFound, Unavailable) as refusal:
                refused.append(refusal)
            else:
                self._first = place
                return content
        raise next((each for each in refused if isinstance(each, Unavailable)), refused[-1])


class HttpMirrors:
    """Implements ``ports.mirrors.Mirrors``; made where an event loop runs."""

    def __init__(self) -> None:
        self._session = _new_session()

    async def add_checkpoint(self, url: str, body: bytes, *, timeout_ms: int) -> MirrorAnswer:
        timeout = ClientTimeout(total=timeout_ms / 1_000, connect=CONNECT_TIMEOUT_S)
        try:
            async with self._session.post(
                f"{url.rstrip('/')}/add-checkpoint", data=body, timeout=timeout, allow_redirects=False
            ) as response:
                content = await _read_at_most(response, ANSWER_BYTES_MAX)
                return MirrorAnswer(status=response.status, media_type=response.content_type, body=content)
        except (ClientError, TimeoutError, ValueError) as error:
            raise Unavailable(f"{url}: {str(error) or type(error).__name__}", retry_after_ms=RETRY_AFTER_MS) from None

    async def successions(self, url: str, *, timeout_ms: int) -> bytes:
        timeout = ClientTimeout(total=timeout_ms / 1_000, connect=CONNECT_TIMEOUT_S)
        path = f"{url.rstrip('/')}/ledger/succession"
        try:
            async with self._session.get(path, timeout=timeout, allow_redirects=False) as response:
                if response.status != HTTPStatus.OK:
                    raise NotFound(f"{path}: HTTP status {response.status}")
                return await _read_at_most(response, SUCCESSIONS_BYTES_MAX)
        except (ClientError, TimeoutError, ValueError) as error:
            raise Unavailable(f"{path}: {str(error) or type(error).__name__}", retry_after_ms=RETRY_AFTER_MS) from None

    async def close(self) -> None:
        await self._session.close()


async def _read_at_most(response: ClientResponse, bytes_max: int) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > bytes_max:
            raise TooLarge(f"{response.url} has more than {bytes_max} bytes")
    return bytes(content)


async def find_prefixes(addresses: str, default: str | None = None) -> tuple[tuple[str, ...], str]:
    """Where the files of a log are, at each of several addresses with commas between them, and its verifier key's text.

    One that does not answer now is taken to be a node's gateway, as long as another does or the key is known by
    ``default``.

    Raises:
        NotFound: what answers has no key.
        Unavailable: nobody answers, and the key is not known.
        Conflict: they have different keys.
    """
    prefixes: list[str] = []
    keys: dict[str, str] = {}
    refused: Unavailable | None = None
    for each in addresses.split(","):
        address = each.strip()
        try:
            prefix, found = await find_prefix(address)
            keys[found] = address
        except Unavailable as refusal:
            prefix, refused = f"{address.rstrip('/').removesuffix('/v1').removesuffix('/ledger')}/ledger", refusal
        prefixes.append(prefix)
    if len(keys) > 1:
        raise Conflict(f"{' and '.join(keys.values())} have different keys: they are not of one log")
    key = next(iter(keys), default)
    if key is None:
        assert refused is not None, "who answers has a key"
        raise refused
    return tuple(prefixes), key


async def find_prefix(address: str) -> tuple[str, str]:
    """Where the files of a log are, given a node's gateway or the prefix itself, and its verifier key's text.

    Raises:
        NotFound: neither has a key.
        Unavailable: nobody answers there.
    """
    base = address.rstrip("/").removesuffix("/v1").removesuffix("/ledger")
    for prefix in (f"{base}/ledger", address.rstrip("/")):
        files = HttpFiles(prefix)
        try:
            key = await files.read("vkey", bytes_max=1_024)
            return prefix, key.decode("utf-8", "replace").strip()
        except NotFound:
            continue
        finally:
            await files.close()
            await asyncio.sleep(0)  # aiohttp closes its sockets in the loop's next turn
    raise NotFound(f"there is no log at {address}: give the address of the market's node")

"""etcd's version 3 API over HTTP (its gRPC gateway, JSON): whichever member answers.

Keys and values travel in base64, 64-bit integers as strings (etcd 3.4 and later, ``/v3/``).
"""

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Final

import aiohttp

from wwwmarket.domain.errors import Malformed, TooLarge, Unavailable

REQUEST_TIMEOUT_S: Final = 2.0
"""A healthy member commits within milliseconds, and elects within a second: then another one is asked."""
_RETRY_MS: Final = 1_000
_ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024


def encoded(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def decoded(text: str) -> bytes:
    return b64decode(text)


def parse_members(address: str) -> list[str]:
    """The members' base addresses. Raises Malformed."""
    scheme, _, rest = address.partition("://")
    members = rest.rstrip("/").split(",")
    if scheme != "etcd" or not all(_is_member(member) for member in members):
        raise Malformed(f"{address!r} is not the address of an etcd: etcd://host:port,host:port,host:port is")
    return [f"http://{member}" for member in members]


def _is_member(member: str) -> bool:
    host, _, port = member.rpartition(":")
    return bool(host) and not set(host) & set("/@?# ") and port.isascii() and port.isdigit() and 0 < int(port) < 65_536


class EtcdClient:
    """Asks one member, and the next one when it does not answer."""

    def __init__(self, members: Sequence[str], *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._members = list(members)
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._http = aiohttp.ClientSession(timeout=timeout, trust_env=False)

    async def call(self, path: str, body: dict[str, Any], *, once: bool = False) -> dict[str, Any]:
        """The answer to a request. ``once``: it must not be asked of a second member, since the first may have done it.

        Raises:
            Unavailable: nobody answers, or nobody with a majority behind it.
            TooLarge: etcd takes no request that long.
            Malformed: it does not understand the request.
        """
        told = "none was asked"
        for _ in range(1 if once else len(self._members)):
            try:
                return await self._ask(self._members[0], path, body)
            except (aiohttp.ClientError, TimeoutError, Unavailable, ValueError) as error:
                told = str(error) or type(error).__name__
                self._members.append(self._members.pop(0))
        members = ", ".join(sorted(self._members))
        raise Unavailable(
            f"etcd does not answer ({told}): check that more than half of its members run and reach each other, "
            f"with 'etcdctl endpoint health' at {members}",
            retry_after_ms=_RETRY_MS,
            reason="orderer_unreachable",
        )

    async def _ask(self, member: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = BytesIO(json.dumps(body).encode("ascii"))
        async with self._http.post(f"{member}/v3/{path}", data=request) as answer:
            text = await answer.content.read(_ANSWER_BYTES_MAX)
            while not answer.content.at_eof() and len(text) < _ANSWER_BYTES_MAX:
                text += await answer.content.read(_ANSWER_BYTES_MAX - len(text))
        said = json.loads(text)
        if not isinstance(said, dict):
            raise Unavailable(f"{member} answers with something else than etcd's JSON", retry_after_ms=_RETRY_MS)
        if answer.status == 200:
            return said
        fault = str(said.get("message") or said.get("error"))[:200]
        if "request is too large" in fault or "larger than max" in fault:
            raise TooLarge(f"etcd takes no request of that length ({fault}): raise its --max-request-bytes")
        if answer.status == 400:
            raise Malformed(f"etcd refuses the request: {fault}")
        raise Unavailable(f"{member}: {fault}", retry_after_ms=_RETRY_MS)

    async def close(self) -> None:
        await self._http.close()
        await asyncio.sleep(0)  # its connections are closed in the loop's next turn

"""A relay server of iroh's: off unless given, asked for where it is, and never in the way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import iroh
import pytest

from wwwmarket.adapters.transport import IrohTransport
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Conflict, Malformed

EVERYWHERE = "0.0.0.0:0"
PATIENCE_S = 10


class Door:
    """Where a relay server would listen: it keeps the request lines that come, and answers nothing."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.heard = asyncio.Event()

    async def open(self) -> asyncio.Server:
        server = await asyncio.start_server(self._hear, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readline())
        self.heard.set()
        writer.close()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def door(stack) -> Door:
    door = Door()
    server = await door.open()
    stack.callback(server.close)
    return door


@pytest.fixture
def bind(stack):
    async def make(number: int, url: str | None) -> IrohTransport:
        transport = await IrohTransport.bind(KeyPair(bytes([number]) * 32), EVERYWHERE, iroh_relay=url)
        stack.push_async_callback(transport.close)
        transport.serve(echo, ignore)
        return transport

    return make


async def echo(_peer, message):
    return message


async def ignore(_stream, _opening):
    pass


async def test_a_node_asks_the_relay_server_that_it_was_given(bind, door):
    """The URL reaches iroh, which looks at the server with a request that iroh's own servers answer."""
    await bind(1, door.url)
    async with asyncio.timeout(PATIENCE_S):
        await door.heard.wait()
    assert door.asked[0].startswith(b"GET /ping ")


async def test_every_call_names_the_relay_server(bind, door, monkeypatch):
    """The other end may be known by nothing but its key and the server that both were given."""
    named = []

    class Noted(iroh.EndpointAddr):
        def __init__(self, key, relay_url, addresses) -> None:
            named.append(relay_url)
            super().__init__(key, relay_url, addresses)

    caller, other, plain = await bind(1, door.url), await bind(2, door.url), await bind(3, None)
    monkeypatch.setattr(iroh, "EndpointAddr", Noted)
    for one in (caller, plain):
        assert await one.request(other.address(), b"?", timeout_ms=5_000) == b"?"
    assert named == [door.url, None]


async def test_nodes_whose_relay_server_is_dead_speak_directly(bind):
    """Nothing depends on it: a server that nobody runs costs no call."""
    one, other = await bind(1, "http://127.0.0.1:9"), await bind(2, "http://127.0.0.1:9")
    assert await one.request(other.address(), b"?", timeout_ms=5_000) == b"?"


@pytest.mark.parametrize("url", ["relay.example.org", "ftp://relay.example.org", "https://", ""])
async def test_what_is_no_url_is_refused(url):
    """Before a socket is opened."""
    with pytest.raises(Malformed, match="no address of an iroh relay"):
        await IrohTransport.bind(KeyPair(b"r" * 32), EVERYWHERE, iroh_relay=url)


async def test_a_node_on_loopback_has_no_relay(door):
    """It speaks with its own machine only, and a relay would let others in."""
    with pytest.raises(Conflict, match="--bind"):
        await IrohTransport.bind(KeyPair(b"r" * 32), iroh_relay=door.url)
    assert door.asked == []

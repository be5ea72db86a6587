"""What the client under an engine does, and never does, against servers that try it."""

import asyncio
import contextlib
from contextlib import asynccontextmanager

import pytest

from wwwmarket.adapters.engines import engine_http
from wwwmarket.adapters.engines.engine_http import EngineHttp, read_at_most
from wwwmarket.domain.errors import Unavailable

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
ENDLESS = b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\nok"


@asynccontextmanager
async def engine_at(serve):
    """A client of a server that runs ``serve(reader, writer)`` on every connection."""
    connections = set()

    async def guarded(reader, writer):
        connections.add(asyncio.current_task())
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    http = EngineHttp(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", None, silence_timeout_s=0.2)
    try:
        yield http
    finally:
        await http.close()
        server.close()
        await asyncio.gather(*connections)


def answering(answer: bytes, seen: list | None = None):
    async def serve(reader, writer):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if seen is not None:
                seen.append(head.lower())
            writer.write(answer)

    return serve


async def get(http) -> bytes:
    async with http.answer("GET", "/x") as response:
        return await read_at_most(response, 1000)


async def test_an_engine_that_reads_nothing_is_unavailable(monkeypatch):
    """A request that the engine does not take in ends with the time for writing it."""
    monkeypatch.setattr(engine_http, "CONNECT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(engine_http, "WRITE_TIMEOUT_S", 0.05)
    done = asyncio.Event()

    async def deaf(reader, writer):
        await done.wait()

    async with engine_at(deaf) as http:
        with pytest.raises(Unavailable):
            async with asyncio.timeout(5), http.answer("POST", "/x", bytes(32 * 1024 * 1024)):
                pass
        done.set()


async def test_a_poll_ends_in_its_time(monkeypatch):
    """A poll has one time for everything, so that no drip of bytes keeps it open."""
    monkeypatch.setattr(engine_http, "POLL_TIMEOUT_S", 0.1)
    async with engine_at(answering(ENDLESS)) as http:
        with pytest.raises(Unavailable):
            await get(http)


async def test_a_second_try_takes_no_pooled_connection():
    """However many idle connections the engine has closed, one more try is enough."""
    tries, together = [], asyncio.Barrier(3)

    async def once(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        tries.append("answered")
        if len(tries) <= 3:
            await together.wait()
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")
        tries.append("closed")

    async with engine_at(once) as http:
        await asyncio.gather(get(http), get(http), get(http))
        async with http.answer("POST", "/x", b"{}") as response:
            assert await read_at_most(response, 2) == b"ok"
    assert tries == ["answered"] * 3 + ["closed", "answered"]


async def test_connections_have_a_limit(monkeypatch):
    """Whoever finds no free connection in time is told that the engine is unavailable."""
    monkeypatch.setattr(engine_http, "CONNECTIONS_MAX", 1)
    monkeypatch.setattr(engine_http, "CONNECT_TIMEOUT_S", 0.05)
    async with engine_at(answering(ENDLESS)) as http, http.answer("POST", "/x", b"{}"):
        with pytest.raises(Unavailable):
            async with http.answer("POST", "/x", b"{}"):
                pass


async def test_an_endless_head_is_refused():
    """More header fields than any engine sends, or one without end, are no answer."""
    for head in (b"a: b\r\n" * 500, b"a: " + b"b" * 100_000 + b"\r\n"):
        async with engine_at(answering(b"HTTP/1.1 200 OK\r\n" + head + b"content-length: 2\r\n\r\nok")) as http:
            with pytest.raises(Unavailable):
                await get(http)


async def test_an_answer_is_not_decompressed():
    """The bytes are those that the engine sent, whatever it calls them: a bomb stays small."""
    packed = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nok"
    async with engine_at(answering(packed)) as http:
        assert await get(http) == b"ok"


async def test_nothing_but_the_request_decides_what_is_sent(monkeypatch):
    """No proxy of the environment is used, and no cookie is kept."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    seen = []
    async with engine_at(answering(OK.replace(b"\r\n\r\n", b"\r\nset-cookie: a=b\r\n\r\n"), seen)) as http:
        assert [await get(http), await get(http)] == [b"ok", b"ok"]
    assert len(seen) == 2
    assert not any(b"cookie" in head for head in seen)
    assert all(b"accept-encoding: identity" in head for head in seen)


async def test_leaving_early_closes_the_connection():
    """The engine sees the end of an abandoned answer at once."""
    seen = asyncio.Event()

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ENDLESS)
        assert await reader.read() in {b"", b"{}"}
        seen.set()

    async with engine_at(serve) as http:
        async with http.answer("POST", "/x", b"{}") as response:
            assert await response.content.readany() == b"ok"
        async with asyncio.timeout(5):
            await seen.wait()

"""What only a real socket shows: clients that leave, stall, dribble, or send too much."""

import asyncio
import json
from contextlib import suppress

import pytest

from wwwmarket.gateway.app import create_app
from wwwmarket.gateway.config import GatewayConfig
from wwwmarket.gateway.server import Server


def post(path, body, *headers):
    head = [f"POST {path} HTTP/1.1", "host: node", "authorization: Bearer sk-ada", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def sized(path, value):
    body = json.dumps(value).encode()
    return post(path, body, f"content-length: {len(body)}")


@pytest.fixture
async def serve(market):
    """Starts servers with other limits, and opens connections to them."""
    servers = []

    async def start(*, http="httptools", **limits):
        config = GatewayConfig(shutdown_timeout_s=1, **limits)
        server = Server(create_app(market, config=config), "127.0.0.1", 0, config=config, http=http)
        port = await server.start()
        servers.append(server)
        return port

    yield start
    for server in servers:
        await server.stop()


async def read_status(reader):
    return int((await asyncio.wait_for(reader.readline(), 5)).split()[1])


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_closes_closes_its_purchase(*, serve, market, scripts, chat, http, stream):
    """Under either parser, mid-stream or while waiting, the purchase is closed as soon as the socket is."""
    started = asyncio.Event()

    class Reached(asyncio.Event):
        async def wait(self):
            started.set()
            await super().wait()

    market.script = [scripts.awarded, scripts.started, scripts.piece(scripts.chunk("a")), Reached()]
    reader, writer = await asyncio.open_connection("127.0.0.1", await serve(http=http))
    writer.write(sized("/v1/chat/completions", chat | {"stream": stream}))
    await asyncio.wait_for(started.wait(), 5)
    if stream:
        await asyncio.wait_for(reader.readuntil(b'"content":"a"'), 5)
    writer.close()
    await asyncio.wait_for(market.closed.wait(), 5)


async def test_a_client_that_stops_reading_is_given_up(serve, market, scripts, chat):
    """A stalled client does not hold its provider for longer than one write may wait."""
    big = scripts.piece(scripts.chunk("x" * 200_000))
    market.script = [scripts.awarded, scripts.started, *[big] * 100, scripts.delivered]
    _, writer = await asyncio.open_connection("127.0.0.1", await serve(write_timeout_s=0.05), limit=1_024)
    writer.write(sized("/v1/chat/completions", chat | {"stream": True}))
    await asyncio.wait_for(market.closed.wait(), 5)
    writer.close()


async def test_one_request_more_than_the_limit_is_429_and_health_is_still_answered(serve, market, scripts, chat):
    """Above its limit the node refuses at once, says when to come back, and stays observable."""
    release = asyncio.Event()
    market.script = [scripts.awarded, scripts.started, scripts.piece(scripts.chunk("a")), release, scripts.delivered]
    port = await serve(in_flight_max=1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sized("/v1/chat/completions", chat | {"stream": True}))
    await asyncio.wait_for(reader.readuntil(b'"content":"a"'), 5)
    for path, status in (("/v1/models", 429), ("/health", 200), ("/metrics", 200)):
        other, out = await asyncio.open_connection("127.0.0.1", port)
        out.write(f"GET {path} HTTP/1.1\r\nhost: node\r\n\r\n".encode())
        assert await read_status(other) == status
        head = await asyncio.wait_for(other.readuntil(b"\r\n\r\n"), 5)
        assert (b"retry-after: 1\r\n" in head) == (status == 429)
        out.close()
    release.set()
    await asyncio.wait_for(reader.readuntil(b"[DONE]"), 5)
    writer.close()


async def test_a_body_that_dribbles_is_timed_out(serve):
    """A body that does not arrive in its time is a 408, and its connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", await serve(body_timeout_s=0.05))
    writer.write(post("/v1/chat/completions", b'{"mo', "content-length: 100"))
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 408")
    assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["type"] == "invalid_request_error"
    writer.close()


async def test_a_head_that_dribbles_is_cut_off(serve):
    """A socket that never finishes its headers is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", await serve(head_timeout_s=0.05))
    writer.write(b"GET / HTTP/1.1\r\nho")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), 5)
    writer.close()


async def test_a_head_without_end_is_refused(serve):
    """Headers are bounded while they arrive, not after: the connection ends although the head does not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", await serve(head_bytes_max=1_000))
    writer.write(b"GET / HTTP/1.1\r\n")
    with suppress(ConnectionResetError, BrokenPipeError):
        while not reader.at_eof():
            writer.write(b"x: " + b"y" * 500 + b"\r\n")
            await asyncio.wait_for(writer.drain(), 5)
            await asyncio.sleep(0)
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_too_many_headers_are_431(serve):
    """A whole head over the limit is refused in the one form."""
    reader, writer = await asyncio.open_connection("127.0.0.1", await serve(head_bytes_max=1_000))
    writer.write(b"GET /health HTTP/1.1\r\nx: " + b"y" * 1_200 + b"\r\n\r\n")
    assert await read_status(reader) == 431
    writer.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_413(serve, market, chunked):
    """Declared or sent in chunks, and answered rather than reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", await serve(request_bytes_max=1_000))
    body = b"x" * 3_000
    if chunked:
        writer.write(post("/v1/chat/completions", b"bb8\r\n" + body + b"\r\n0\r\n\r\n", "transfer-encoding: chunked"))
    else:
        writer.write(post("/v1/chat/completions", body, "content-length: 3000"))
    assert await read_status(reader) == 413
    writer.close()


async def test_a_body_declared_far_over_the_limit_is_refused_unread(serve):
    """Nobody is made to send what will not be taken."""
    reader, writer = await asyncio.open_connection("127.0.0.1", await serve(request_bytes_max=1_000))
    writer.write(post("/v1/chat/completions", b"", "content-length: 9999999999999"))
    assert await read_status(reader) == 413
    writer.close()


async def test_an_endless_chunked_body_is_cut_off(serve):
    """Past some multiple of the limit the reading stops."""
    reader, writer = await asyncio.open_connection("127.0.0.1", await serve(request_bytes_max=1_000))
    writer.write(post("/v1/chat/completions", b"2710\r\n" + b"x" * 10_000 + b"\r\n", "transfer-encoding: chunked"))
    assert await read_status(reader) == 413
    writer.close()


async def test_sockets_over_the_limit_are_dropped(serve):
    """Open connections are bounded, idle ones too."""
    port = await serve(connections_max=1)
    _, first = await asyncio.open_connection("127.0.0.1", port)
    reader, second = await asyncio.open_connection("127.0.0.1", port)
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    first.close()
    second.close()


async def test_a_connection_is_kept_for_several_requests_with_large_bodies(serve, chat):
    """Bodies do not count as heads."""
    reader, writer = await asyncio.open_connection("127.0.0.1", await serve(head_bytes_max=1_000))
    long = chat | {"messages": [{"role": "user", "content": "x" * 50_000}]}
    for _ in range(3):
        writer.write(sized("/v1/chat/completions", long))
        assert await read_status(reader) == 200
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.split(b":")[1]))
    writer.close()


async def test_stopping_waits_a_bounded_time_and_closes_what_is_left(market, scripts, chat):
    """A stream that would go on for ever is cancelled when the server's time to stop is over."""
    config = GatewayConfig(shutdown_timeout_s=1)
    server = Server(create_app(market, config=config), "127.0.0.1", 0, config=config)
    market.script = [scripts.awarded, scripts.started, scripts.piece(scripts.chunk("a")), asyncio.Event()]
    reader, writer = await asyncio.open_connection("127.0.0.1", await server.start())
    writer.write(sized("/v1/chat/completions", chat | {"stream": True}))
    await asyncio.wait_for(reader.readuntil(b'"content":"a"'), 5)
    await asyncio.wait_for(server.stop(), 5)
    assert market.closed.is_set()
    await server.stop()
    writer.close()


async def test_a_port_that_is_taken_is_an_oserror(market, serve):
    """The caller can tell the operator, instead of the process ending."""
    port = await serve()
    config = GatewayConfig()
    with pytest.raises(OSError, match="in use"):
        await Server(create_app(market, config=config), "127.0.0.1", port, config=config).start()

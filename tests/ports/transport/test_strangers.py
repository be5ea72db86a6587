"""What a stranger with a QUIC library of its own can do to the real transport: nothing to anybody but itself."""

import asyncio
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final

import iroh
import pytest

from wwwmarket.adapters.transport import IrohTransport, TransportLimits, sockets
from wwwmarket.adapters.transport.endpoint import ALPN
from wwwmarket.adapters.transport.framing import Kind, control_frame, frame
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Malformed, TooLarge, Unavailable
from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.records import NodeAddress
from wwwmarket.ports.transport import Stream

LIMITS: Final = TransportLimits(
    frame_bytes_max=10_000,
    connections_max=3,
    requests_per_peer_max=4,
    streams_per_peer_max=2,
    outbox_bytes_max=10_000,
    handshake_timeout_ms=500,
    ping_interval_ms=50,
    idle_timeout_ms=200,
)
NODE: Final = KeyPair(b"n" * 32)


class Node:
    """A transport that echoes requests at once, save b"wait", and keeps each stream that is opened to it."""

    def __init__(self, transport: IrohTransport) -> None:
        self.transport = transport
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()
        self.waiting = 0
        self.go_on = asyncio.Event()
        transport.serve(self.answer, self.keep)

    async def answer(self, _peer: NodeId, message: bytes) -> bytes:
        if message == b"wait":
            self.waiting += 1
            await self.go_on.wait()
            self.waiting -= 1
        return message

    async def keep(self, stream: Stream, _opening: bytes) -> None:
        self.streams.put_nowait(stream)
        await asyncio.Event().wait()


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    transport = await IrohTransport.bind(NODE, limits=LIMITS)
    yield Node(transport)
    await transport.close()


@pytest.fixture
async def friend(node: Node) -> AsyncIterator[IrohTransport]:
    """Somebody with whom the node must go on speaking, whatever the stranger does."""
    transport = await IrohTransport.bind(KeyPair(b"f" * 32), limits=LIMITS)
    yield transport
    assert await transport.request(node.transport.address(), b"still there", timeout_ms=5000) == b"still there"
    await transport.close()


class Stranger:
    def __init__(self, endpoint: iroh.Endpoint) -> None:
        self._endpoint = endpoint

    async def dial(self, address: NodeAddress, alpn: bytes = ALPN) -> iroh.Connection:
        name = iroh.EndpointId.from_bytes(bytes.fromhex(address.node))
        return await self._endpoint.connect(iroh.EndpointAddr(name, None, list(address.sockets)), alpn)

    @property
    def name(self) -> NodeId:
        return NodeId(self._endpoint.id().to_bytes().hex())

    @property
    def sockets(self) -> tuple[str, ...]:
        return tuple(text for text in self._endpoint.bound_sockets() if sockets.is_loopback(text))

    async def accept(self) -> iroh.Connection:
        incoming = await self._endpoint.accept_next()
        assert incoming is not None
        return await (await incoming.accept()).connect()

    async def control(self, address: NodeAddress, first: bytes) -> tuple[iroh.Connection, iroh.BiStream]:
        connection = await self.dial(address)
        control = await connection.open_bi()
        await control.send().write_all(first)
        return connection, control


@pytest.fixture
async def stranger(friend: IrohTransport) -> AsyncIterator[Stranger]:
    del friend  # it is there to be asked in the end
    options = iroh.EndpointOptions(
        preset=iroh.preset_minimal(),
        bind_addr="127.0.0.1:0",
        secret_key=b"s" * 32,
        alpns=[ALPN],
        relay_mode=iroh.RelayMode.disabled(),
    )
    endpoint = await iroh.Endpoint.bind(options)
    yield Stranger(endpoint)
    with suppress(TimeoutError):
        await asyncio.wait_for(endpoint.close(), 1)


async def closed(connection: iroh.Connection) -> None:
    """The other side has hung up."""
    await asyncio.wait_for(connection.closed(), 5)


PING: Final = control_frame(1, Kind.PING)


@pytest.mark.parametrize(
    "rubbish",
    [
        struct.pack(">I", 1 << 31),
        struct.pack(">I", LIMITS.frame_bytes_max + 10),
        frame(b"too short"[:8]),
        frame(bytes(8) + b"\x09"),
        frame(b""),
    ],
    ids=["huge", "just too large", "short", "unknown kind", "empty"],
)
async def test_rubbish_on_the_control_stream_ends_the_connection(node: Node, stranger: Stranger, rubbish) -> None:
    """A frame that is none is the last that its sender says."""
    connection, _control = await stranger.control(node.transport.address(), PING + rubbish)
    await closed(connection)


async def test_answers_and_pongs_that_nobody_asked_for_are_ignored(node: Node, stranger: Stranger) -> None:
    """The connection stays usable."""
    unasked = b"".join(control_frame(77, kind, b"x") for kind in (Kind.ANSWER, Kind.FAILED, Kind.PONG))
    _connection, control = await stranger.control(
        node.transport.address(), unasked + control_frame(5, Kind.REQUEST, b"y")
    )
    seen = b""
    async with asyncio.timeout(5):
        while control_frame(5, Kind.ANSWER, b"y") not in seen:
            seen += await control.recv().read(65_536)


async def test_requests_beyond_the_limit_fail_at_once(node: Node, stranger: Stranger, eventually) -> None:
    """Four of one peer are answered at a time; reconnecting frees none of them."""
    for _ in range(2):
        flood = b"".join(control_frame(number, Kind.REQUEST, b"wait") for number in range(10, 16))
        connection, control = await stranger.control(node.transport.address(), flood)
        seen = b""
        async with asyncio.timeout(5):
            while control_frame(15, Kind.FAILED) not in seen:
                seen += await control.recv().read(65_536)
        connection.close(0, b"")
    assert node.waiting == LIMITS.requests_per_peer_max
    assert control_frame(10, Kind.FAILED) in seen, "the second connection found every slot taken"


async def test_a_peer_that_asks_and_does_not_read_is_dropped(node: Node, stranger: Stranger) -> None:
    """Answers do not pile up without bound."""
    connection, control = await stranger.control(node.transport.address(), PING)

    async def flood() -> None:
        while True:
            await control.send().write_all(PING * 5000)

    flooding = asyncio.ensure_future(flood())
    await closed(connection)
    with pytest.raises(iroh.IrohError):
        await flooding


async def test_a_silent_peer_is_dropped(node: Node, stranger: Stranger) -> None:
    """A peer whose control stream says nothing for three intervals is dead, though its QUIC lives."""
    connection, _control = await stranger.control(node.transport.address(), PING)
    await closed(connection)


async def test_a_handshake_without_a_control_stream_is_given_up(node: Node, stranger: Stranger) -> None:
    """Whoever connects and opens nothing holds its place for half a second."""
    connection = await stranger.dial(node.transport.address())
    await closed(connection)


async def test_another_protocol_is_refused(node: Node, stranger: Stranger) -> None:
    """A caller who does not speak this protocol is not let in."""
    with pytest.raises(iroh.IrohError):
        await stranger.dial(node.transport.address(), b"something/9")


async def keep_alive(control: iroh.BiStream) -> None:
    """Ping for ever, as a real peer does."""
    with suppress(iroh.IrohError):
        while True:
            await control.send().write_all(PING)
            await asyncio.sleep(0.02)


@pytest.fixture
async def peer(node: Node, stranger: Stranger) -> AsyncIterator[iroh.Connection]:
    """A stranger who keeps to the rules of the control stream."""
    connection, control = await stranger.control(node.transport.address(), PING)
    pinging = asyncio.ensure_future(keep_alive(control))
    yield connection
    pinging.cancel()
    await asyncio.wait({pinging})


async def test_a_stream_dies_of_a_frame_over_the_limit(node: Node, peer: iroh.Connection) -> None:
    """The reader gets TooLarge, then Unavailable."""
    pair = await peer.open_bi()
    await pair.send().write_all(frame(b"opening") + struct.pack(">I", LIMITS.frame_bytes_max + 1))
    stream = await asyncio.wait_for(node.streams.get(), 5)
    with pytest.raises(TooLarge):
        await stream.receive()
    with pytest.raises(Unavailable):
        await stream.receive()


async def test_a_stream_that_ends_inside_a_frame_is_broken(node: Node, peer: iroh.Connection) -> None:
    """Half a frame is not delivered, and is no orderly end."""
    pair = await peer.open_bi()
    await pair.send().write_all(frame(b"opening") + frame(b"whole") + frame(b"half of it")[:8])
    await pair.send().finish()
    stream = await asyncio.wait_for(node.streams.get(), 5)
    assert await stream.receive() == b"whole"
    with pytest.raises(Unavailable, match="inside a frame"):
        await stream.receive()


async def test_a_stream_without_an_opening_frame_is_given_up(node: Node, peer: iroh.Connection) -> None:
    """It is reset after the time for handshakes, and no handler sees it."""
    pair = await peer.open_bi()
    await pair.send().write_all(frame(b"long")[:5])
    with pytest.raises(iroh.IrohError):
        await asyncio.wait_for(pair.recv().read(10), 5)
    assert node.streams.empty()


async def open_one_more(peer: iroh.Connection) -> None:
    pair = await peer.open_bi()
    await pair.send().write_all(frame(b"opening"))
    await pair.recv().read(10)


async def test_streams_beyond_the_limit_are_not_served(node: Node, peer: iroh.Connection) -> None:
    """Two streams of one peer are open at a time."""
    for _ in range(LIMITS.streams_per_peer_max):
        await (await peer.open_bi()).send().write_all(frame(b"opening"))
        await asyncio.wait_for(node.streams.get(), 5)
    with pytest.raises((iroh.IrohError, TimeoutError)):
        await asyncio.wait_for(open_one_more(peer), 0.3)
    assert node.streams.empty()


async def test_our_own_excess_is_refused_before_it_is_sent(node: Node, friend: IrohTransport, eventually) -> None:
    """Requests in flight and open streams to one peer are bounded on the asking side too."""
    address = node.transport.address()
    asking = [asyncio.ensure_future(friend.request(address, b"wait", timeout_ms=9000)) for _ in range(4)]
    await eventually(lambda: node.waiting == 4)
    with pytest.raises(Unavailable, match="in flight already"):
        await friend.request(address, b"one more", timeout_ms=5000)
    for each in asking:
        each.cancel()
    await asyncio.wait(asking)
    streams = [await friend.open_stream(address, b"", timeout_ms=5000) for _ in range(2)]
    with pytest.raises(Unavailable, match="no further stream"):
        await friend.open_stream(address, b"", timeout_ms=5000)
    for stream in streams:
        await stream.abort()
    node.go_on.set()
    await eventually(lambda: node.waiting == 0)


async def test_connections_beyond_the_limit_are_refused(node: Node) -> None:
    """Three are open; the fourth caller is told no, and may come once one has gone."""
    callers = [await IrohTransport.bind(KeyPair(bytes([number]) * 32), limits=LIMITS) for number in range(4)]
    address = node.transport.address()
    held = [await caller.open_stream(address, b"", timeout_ms=5000) for caller in callers[:3]]
    with pytest.raises(Unavailable):
        await callers[3].request(address, b"", timeout_ms=1000)
    assert len(held) == 3
    await callers[0].close()
    async with asyncio.timeout(10):
        while True:
            with suppress(Unavailable):
                assert await callers[3].request(address, b"now", timeout_ms=1000) == b"now"
                break
    for caller in callers:
        await caller.close()


async def test_garbage_from_the_street_disturbs_nobody(node: Node, friend: IrohTransport) -> None:
    """Datagrams that are no QUIC, to the node's port."""
    host, port = sockets.split(node.transport.address().sockets[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as street:
        for length in range(1, 1400, 7):
            street.sendto(os.urandom(length), (host, port))
            street.sendto(bytes([0xC0 | length % 64]) + b"\x00\x00\x00\x01" + os.urandom(1200), (host, port))
    assert await friend.request(node.transport.address(), b"well?", timeout_ms=5000) == b"well?"


async def test_a_node_on_loopback_speaks_with_its_own_machine_only(node: Node) -> None:
    """A caller from another address is ignored, as is a socket elsewhere among those to dial."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks which address this machine would use
        own = probe.getsockname()[0]
    open_node = await IrohTransport.bind(KeyPair(b"o" * 32), f"{own}:0", limits=LIMITS)
    caller = await IrohTransport.bind(KeyPair(b"c" * 32), f"{own}:0", limits=LIMITS)
    Node(open_node)
    assert await caller.request(open_node.address(), b"", timeout_ms=2000) == b""
    open_node._loopback = True  # as if bound to loopback: its sockets stay where the caller can reach them
    other = await IrohTransport.bind(KeyPair(b"d" * 32), f"{own}:0", limits=LIMITS)
    with pytest.raises(Unavailable):
        await other.request(open_node.address(), b"", timeout_ms=700)
    with pytest.raises(Unavailable):
        await node.transport.request(caller.address(), b"", timeout_ms=700)
    for transport in (open_node, caller, other):
        await transport.close()


@pytest.mark.parametrize("held", [2, 3, 4])
async def test_under_a_flood_of_handshakes_callers_prove_their_address_and_then_are_refused(
    held: int, stranger
) -> None:
    """Of four handshakes at once the first two are free; from the fifth on all are refused until one has ended."""
    limits = TransportLimits(handshakes_max=4, handshake_timeout_ms=1000)
    crowded = await IrohTransport.bind(KeyPair(b"w" * 32), limits=limits)
    Node(crowded)
    caller = await IrohTransport.bind(KeyPair(b"c" * 32), limits=limits)
    dangling = [await stranger.dial(crowded.address()) for _ in range(held)]
    if held < limits.handshakes_max:
        assert await caller.request(crowded.address(), b"in", timeout_ms=900) == b"in"
    else:
        with pytest.raises(Unavailable):
            await caller.request(crowded.address(), b"out", timeout_ms=900)
    for connection in dangling:
        await closed(connection)
    assert await caller.request(crowded.address(), b"in again", timeout_ms=5000) == b"in again"
    for transport in (caller, crowded):
        await transport.close()


async def test_a_peer_that_connects_again_and_again_holds_two_connections(node: Node, stranger: Stranger) -> None:
    """The newest speaks for it, the one before may finish, older ones are closed."""
    first, second, third = [await stranger.control(node.transport.address(), PING) for _ in range(3)]
    pinging = [asyncio.ensure_future(keep_alive(control)) for _, control in (second, third)]
    await closed(first[0])
    assert third[0].close_reason() is None
    for each in pinging:
        each.cancel()
    await asyncio.wait(pinging)


@pytest.mark.parametrize("seed", [bytes([number]) * 32 for number in range(6)])
async def test_in_a_tie_the_connection_dialled_by_the_lesser_key_stays(seed: bytes, stranger: Stranger, lost) -> None:
    """Whichever of the two came first."""
    transport = await IrohTransport.bind(KeyPair(seed), limits=TransportLimits(ping_interval_ms=50))
    here = NodeAddress(node=stranger.name, sockets=stranger.sockets)
    asking = asyncio.ensure_future(transport.request(here, b"", timeout_ms=9000))
    dialled = await stranger.accept()
    controls = [await dialled.accept_bi()]
    Node(transport)
    dialling, control = await stranger.control(transport.address(), PING)
    pinging = [asyncio.ensure_future(keep_alive(each)) for each in (*controls, control)]
    asking.cancel()
    lesser = transport.address().node < stranger.name
    await closed(dialling if lesser else dialled)
    assert (dialled if lesser else dialling).close_reason() is None
    await transport.close()
    await asyncio.wait(pinging)


async def test_what_waits_for_a_dial_ends_with_the_transport(lost) -> None:
    """Closing does not wait for an answer from nowhere."""
    transport = await IrohTransport.bind(NODE, limits=LIMITS)
    nowhere = NodeAddress(node=NodeId(KeyPair(b"0" * 32).account), sockets=("127.0.0.1:9",))
    asking = [asyncio.ensure_future(transport.request(nowhere, b"", timeout_ms=9000)) for _ in range(2)]
    await asyncio.sleep(0)
    await transport.close()
    for each in asking:
        assert "closed" in str(await lost(each))


async def test_dials_are_bounded_as_connections_are(node: Node, lost) -> None:
    """A node cannot be made to dial more than it may hold."""
    nowhere = [
        NodeAddress(node=NodeId(KeyPair(bytes([number]) * 32).account), sockets=("127.0.0.1:9",)) for number in range(4)
    ]
    asking = [asyncio.ensure_future(node.transport.request(each, b"", timeout_ms=300)) for each in nowhere]
    assert "no further connection" in str(await lost(asking[3]))
    for each in asking[:3]:
        await lost(each)


async def test_simultaneous_dials_come_to_one_connection(eventually) -> None:
    """Both sides keep the one dialled by the lesser key, and no request is lost on the way there."""
    limits = TransportLimits(ping_interval_ms=30)
    ends = [await IrohTransport.bind(KeyPair(seed * 32), limits=limits) for seed in (b"x", b"y")]
    one, other = (Node(end).transport for end in ends)
    for _ in range(5):
        answers = await asyncio.gather(
            *(one.request(other.address(), b"%d" % each, timeout_ms=5000) for each in range(20)),
            *(other.request(one.address(), b"%d" % each, timeout_ms=5000) for each in range(20)),
        )
        assert answers == [b"%d" % each for each in range(20)] * 2
    await eventually(lambda: len(one._links) == len(other._links) == 1)
    assert await one.request(other.address(), b"after", timeout_ms=5000) == b"after"
    for end in ends:
        await end.close()


async def test_an_idle_connection_is_closed_and_made_again(node: Node, friend: IrohTransport, eventually) -> None:
    """A connection that carries nothing goes after its time; the next request dials."""
    address = node.transport.address()
    await friend.request(address, b"", timeout_ms=5000)
    await eventually(lambda: len(friend._links) == 0)
    assert await friend.request(address, b"again", timeout_ms=5000) == b"again"


async def test_a_resting_connection_is_hardly_pinged(eventually) -> None:
    """While nothing is due each side pings once in eight intervals, and the connection stays."""
    limits = TransportLimits(ping_interval_ms=20)
    one, other = [Node(await IrohTransport.bind(KeyPair(seed * 32), limits=limits)).transport for seed in (b"x", b"y")]
    assert await one.request(other.address(), b"first", timeout_ms=5000) == b"first"
    link = one._links.best(other.address().node)
    said, intervals = link._numbers, link._idle_intervals
    await eventually(lambda: link._idle_intervals >= intervals + 40)
    assert 1 <= link._numbers - said <= 40 // 8 + 2
    assert not link.closed
    await one.close()
    await other.close()


async def test_a_resting_peer_that_was_killed_is_noticed(eventually) -> None:
    """Nobody asks it for anything: a resting ping finds that it is gone."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", PEER, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    address = NodeAddress(
        node=NodeId(KeyPair(b"k" * 32).account), sockets=((await child.stdout.readline()).decode().strip(),)
    )
    transport = await IrohTransport.bind(KeyPair(b"a" * 32), limits=TransportLimits(ping_interval_ms=50))
    with pytest.raises(Unavailable):
        await transport.request(address, b"", timeout_ms=100)
    os.kill(child.pid, signal.SIGKILL)
    await child.wait()
    await eventually(lambda: len(transport._links) == 0)
    await transport.close()


PEER: Final = """
import asyncio, sys
from wwwmarket.adapters.transport import IrohTransport
from wwwmarket.crypto.signing import KeyPair

async def never(peer, message):
    await asyncio.Event().wait()

async def main():
    transport = await IrohTransport.bind(KeyPair(b"k" * 32))
    transport.serve(never, never)
    print(transport.address().sockets[0], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_peer_is_noticed_within_seconds(lost: Callable) -> None:
    """An open stream and a request in flight end, at kill -9, long before QUIC's own idle timeout."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", PEER, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    address = NodeAddress(
        node=NodeId(KeyPair(b"k" * 32).account), sockets=((await child.stdout.readline()).decode().strip(),)
    )
    transport = await IrohTransport.bind(KeyPair(b"a" * 32), limits=TransportLimits(ping_interval_ms=200))
    stream = await transport.open_stream(address, b"", timeout_ms=5000)
    receiving = asyncio.ensure_future(stream.receive())
    asking = asyncio.ensure_future(transport.request(address, b"", timeout_ms=60_000))
    with pytest.raises(Unavailable):
        await transport.request(address, b"", timeout_ms=100)
    os.kill(child.pid, signal.SIGKILL)
    await child.wait()
    async with asyncio.timeout(3):
        await lost(receiving)
        await lost(asking)
    await transport.close()


async def test_an_address_that_is_none_is_refused() -> None:
    """Binding says what it wants."""
    for address in ("localhost:0", "127.0.0.1", "127.0.0.1:99999", ""):
        with pytest.raises(Malformed):
            await IrohTransport.bind(NODE, address)


async def test_an_address_in_use_is_unavailable(node: Node) -> None:
    """Two nodes cannot share a port."""
    with pytest.raises(Unavailable, match="cannot bind"):
        await IrohTransport.bind(KeyPair(b"2" * 32), node.transport.address().sockets[0])


async def test_an_advertised_address_is_what_others_are_told() -> None:
    """A node behind a forwarded port names the port's outside; one on every interface names its interfaces."""
    transport = await IrohTransport.bind(NODE, "0.0.0.0:0", advertised=("node.example:4433",))
    assert transport.address().sockets == ("node.example:4433",)
    await transport.close()
    transport = await IrohTransport.bind(NODE, "0.0.0.0:0")
    assert transport.address().sockets
    assert not any(sockets.is_unspecified(text) for text in transport.address().sockets)
    await transport.close()


async def test_hints_are_resolved_and_bad_ones_left_out() -> None:
    """Names become numbers; what is no address helps nobody and harms nobody."""
    found = await sockets.resolve(("127.0.0.1:1", "[::1]:2", "no port", "host:", "x:99999", "127.0.0.1:1", "..:5"))
    assert found == ["127.0.0.1:1", "[::1]:2"]
    assert "127.0.0.1:7" in await sockets.resolve(("localhost:7",))
    assert sockets.is_loopback("[::ffff:127.0.0.1]:5")
    assert not sockets.is_loopback("[::ffff:192.0.2.1]:5")

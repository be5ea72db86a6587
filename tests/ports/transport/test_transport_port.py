"""What every transport promises, real or simulated."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from typing import Final

import pytest

from wwwmarket.adapters.system import SystemClock
from wwwmarket.adapters.transport import IrohTransport, TransportLimits
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import TooLarge, Unavailable
from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.records import NodeAddress
from wwwmarket.ports.transport import Stream, Transport
from wwwmarket.simulator.transport import Conditions, Network

FRAME_BYTES_MAX: Final = 65_536
LIMITS: Final = TransportLimits(frame_bytes_max=FRAME_BYTES_MAX, ping_interval_ms=200)
"""Quick to know a dead peer, and patient enough for a machine that runs other tests too."""

Join = Callable[[int], Awaitable[Transport]]


def key(number: int) -> KeyPair:
    return KeyPair(bytes([number]) * 32)


def node(number: int) -> NodeId:
    return NodeId(key(number).account)


async def echo(_peer: NodeId, message: bytes) -> bytes:
    return message


async def echo_stream(stream: Stream, _opening: bytes) -> None:
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)


@pytest.fixture(params=["real", "twin"])
async def join(request: pytest.FixtureRequest) -> AsyncIterator[Join]:
    """Brings node number n up; all are closed in the end."""
    network = Network(SystemClock(), Conditions(frame_bytes_max=FRAME_BYTES_MAX, silence_ms=300))
    up: list[Transport] = []

    async def come(number: int) -> Transport:
        if request.param == "twin":
            transport: Transport = network.join(node(number))
        else:
            transport = await IrohTransport.bind(key(number), limits=LIMITS)
        up.append(transport)
        return transport

    yield come
    for transport in up:
        await transport.close()


@pytest.fixture
async def far(join: Join) -> Transport:
    transport = await join(2)
    transport.serve(echo, echo_stream)
    return transport


@pytest.fixture
async def near(join: Join) -> Transport:
    return await join(1)


async def test_a_request_is_answered_by_the_peer_who_knows_its_caller(join: Join, near: Transport) -> None:
    """The handler sees the caller's key, and its answer reaches the caller."""
    far = await join(2)

    async def who(peer: NodeId, message: bytes) -> bytes:
        return message + peer.encode()

    far.serve(who, echo_stream)
    assert far.address().node == node(2)
    assert await near.request(far.address(), b"I am ", timeout_ms=5000) == b"I am " + node(1).encode()


async def test_each_of_many_requests_gets_its_own_answer(near: Transport, far: Transport) -> None:
    """Answers are matched with requests, whatever is in flight beside them."""
    messages = [b"%d" % number * (number % 97) for number in range(200)]
    answers = await asyncio.gather(*(near.request(far.address(), each, timeout_ms=5000) for each in messages))
    assert answers == messages


async def test_answers_need_not_come_in_order(join: Join, near: Transport) -> None:
    """A request that waits does not hold up the next one."""
    far, first_may_end = await join(2), asyncio.Event()

    async def wait_for_second(_peer: NodeId, message: bytes) -> bytes:
        if message == b"first":
            await first_may_end.wait()
        return message

    far.serve(wait_for_second, echo_stream)
    first = asyncio.ensure_future(near.request(far.address(), b"first", timeout_ms=5000))
    assert await near.request(far.address(), b"second", timeout_ms=5000) == b"second"
    assert not first.done()
    first_may_end.set()
    assert await first == b"first"


async def test_a_node_without_an_open_port_can_be_asked_by_those_it_dialled(near: Transport, far: Transport) -> None:
    """The acceptor of a connection uses it for its own requests and streams."""
    near.serve(echo, echo_stream)
    await near.request(far.address(), b"hello", timeout_ms=5000)
    hidden = NodeAddress(node=near.address().node)
    assert await far.request(hidden, b"and back", timeout_ms=5000) == b"and back"
    stream = await far.open_stream(hidden, b"", timeout_ms=5000)
    await stream.send(b"too")
    assert await stream.receive() == b"too"
    await stream.abort()


async def test_a_handler_that_raises_costs_one_answer_only(join: Join, near: Transport, lost) -> None:
    """Its caller gets Unavailable, and the next request is answered."""
    far = await join(2)

    async def fragile(_peer: NodeId, message: bytes) -> bytes:
        if message == b"bad":
            raise ValueError(message)
        return message

    far.serve(fragile, echo_stream)
    await lost(near.request(far.address(), b"bad", timeout_ms=5000))
    assert await near.request(far.address(), b"good", timeout_ms=5000) == b"good"


async def test_a_request_ends_when_its_time_is_over(join: Join, near: Transport, lost) -> None:
    """No answer in time is Unavailable."""
    far = await join(2)

    async def never(_peer: NodeId, _message: bytes) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    far.serve(never, echo_stream)
    assert "within 50 ms" in str(await lost(near.request(far.address(), b"", timeout_ms=50)))


async def test_an_answer_that_comes_too_late_disturbs_nothing(join: Join, near: Transport) -> None:
    """It is dropped, and the next request gets its own answer."""
    far, go_on = await join(2), asyncio.Event()

    async def dawdle(_peer: NodeId, message: bytes) -> bytes:
        if message == b"late":
            await go_on.wait()
        return message

    far.serve(dawdle, echo_stream)
    await near.request(far.address(), b"first", timeout_ms=5000)
    late = asyncio.ensure_future(near.request(far.address(), b"late", timeout_ms=100))
    await asyncio.wait({late})
    assert isinstance(late.exception(), Unavailable)
    go_on.set()
    assert await near.request(far.address(), b"next", timeout_ms=5000) == b"next"


async def test_many_large_messages_at_once_wait_for_each_other(near: Transport, far: Transport) -> None:
    """More than may wait on a connection at once still arrives, each whole."""
    messages = [bytes([number]) * FRAME_BYTES_MAX for number in range(100)]
    answers = await asyncio.gather(*(near.request(far.address(), each, timeout_ms=9000) for each in messages))
    assert answers == messages


async def test_nobody_at_the_address_is_unavailable(near: Transport, lost) -> None:
    """Requests and streams to a node that is not there are refused in time."""
    nobody = NodeAddress(node=node(9), sockets=("127.0.0.1:9",))
    await lost(near.request(nobody, b"", timeout_ms=50))
    await lost(near.open_stream(nobody, b"", timeout_ms=50))


async def test_a_node_does_not_reach_itself(near: Transport, lost) -> None:
    """What a node has to say to itself needs no transport."""
    await lost(near.request(near.address(), b"", timeout_ms=500))


async def test_what_the_peer_would_refuse_is_not_sent(near: Transport, far: Transport) -> None:
    """A message over the limit is TooLarge at once; the largest one passes."""
    largest, larger = bytes(FRAME_BYTES_MAX), bytes(FRAME_BYTES_MAX + 1)
    assert await near.request(far.address(), largest, timeout_ms=5000) == largest
    with pytest.raises(TooLarge):
        await near.request(far.address(), larger, timeout_ms=5000)
    with pytest.raises(TooLarge):
        await near.open_stream(far.address(), larger, timeout_ms=5000)
    stream = await near.open_stream(far.address(), b"", timeout_ms=5000)
    with pytest.raises(TooLarge):
        await stream.send(larger)
    await stream.send(largest)
    assert await stream.receive() == largest
    await stream.abort()


async def test_an_answer_over_the_limit_is_no_answer(join: Join, near: Transport, lost) -> None:
    """The caller is told that the peer could not answer."""
    far = await join(2)

    async def verbose(_peer: NodeId, _message: bytes) -> bytes:
        return bytes(FRAME_BYTES_MAX + 1)

    far.serve(verbose, echo_stream)
    await lost(near.request(far.address(), b"", timeout_ms=5000))


async def test_frames_arrive_whole_and_in_order_both_ways(near: Transport, far: Transport) -> None:
    """Empty, small and large frames come back as they were sent, then the end, as often as it is asked for."""
    frames = [b"", b"a", bytes(range(256)) * 200, b"", b"z" * FRAME_BYTES_MAX]
    stream = await near.open_stream(far.address(), b"open", timeout_ms=5000)
    assert stream.peer == far.address().node
    for frame in frames:
        await stream.send(frame)
    await stream.finish()
    assert [await stream.receive() for _ in frames] == frames
    assert await stream.receive() is None
    assert await stream.receive() is None


async def test_the_opening_frame_reaches_the_handler(join: Join, near: Transport) -> None:
    """It is given beside the stream, not received from it."""
    far, seen = await join(2), []

    async def note(stream: Stream, opening: bytes) -> None:
        seen.append((stream.peer, opening, await stream.receive()))

    far.serve(echo, note)
    stream = await near.open_stream(far.address(), b"opening", timeout_ms=5000)
    await stream.finish()
    assert await stream.receive() is None, "the handler's return finishes the other side"
    assert seen == [(node(1), b"opening", None)]


async def test_an_aborted_stream_is_lost_at_both_ends(join: Join, near: Transport, lost) -> None:
    """The peer's receive and one's own raise Unavailable; aborting again is safe."""
    far, ends, began = await join(2), asyncio.Queue[Exception](), asyncio.Event()

    async def note_the_end(stream: Stream, _opening: bytes) -> None:
        began.set()
        try:
            await stream.receive()
        except Unavailable as error:
            ends.put_nowait(error)
            raise

    far.serve(echo, note_the_end)
    stream = await near.open_stream(far.address(), b"", timeout_ms=5000)
    receiving = asyncio.ensure_future(stream.receive())
    await began.wait()
    await stream.abort()
    await stream.abort()
    await lost(receiving)
    await lost(stream.receive())
    await lost(stream.send(b""))
    assert isinstance(await asyncio.wait_for(ends.get(), 10), Unavailable)


async def test_a_stream_handler_that_raises_aborts_its_stream(join: Join, near: Transport, lost) -> None:
    """Its peer gets Unavailable, not an orderly end."""
    far = await join(2)

    async def fail(_stream: Stream, _opening: bytes) -> None:
        raise ValueError

    far.serve(echo, fail)
    await lost((await near.open_stream(far.address(), b"", timeout_ms=5000)).receive())


async def test_a_sender_learns_that_nobody_listens_any_longer(join: Join, near: Transport, lost) -> None:
    """When the handler has returned, sending ends in Unavailable instead of filling a void."""
    far = await join(2)

    async def leave(_stream: Stream, _opening: bytes) -> None:
        return

    far.serve(echo, leave)
    stream = await near.open_stream(far.address(), b"", timeout_ms=5000)

    async def send_on() -> None:
        while True:
            await stream.send(bytes(10_000))
            await asyncio.sleep(0)

    await lost(send_on())
    await stream.abort()


async def test_a_slow_reader_holds_up_its_own_stream_only(join: Join, near: Transport) -> None:
    """The sender to one who does not read waits; requests and other streams pass."""
    far, read_on = await join(2), asyncio.Event()

    async def read_late(stream: Stream, opening: bytes) -> None:
        if opening == b"slow":
            await read_on.wait()
        await echo_stream(stream, opening)

    far.serve(echo, read_late)
    slow = await near.open_stream(far.address(), b"slow", timeout_ms=5000)
    sent = 0

    async def fill() -> None:
        nonlocal sent
        for _ in range(400):
            await slow.send(bytes(FRAME_BYTES_MAX))
            sent += 1

    filling = asyncio.ensure_future(fill())
    for _ in range(50):
        assert await near.request(far.address(), b"quick", timeout_ms=5000) == b"quick"
    quick = await near.open_stream(far.address(), b"quick", timeout_ms=5000)
    await quick.send(b"quick")
    assert await quick.receive() == b"quick"
    assert not filling.done()
    assert sent < 400
    filling.cancel()
    await quick.abort()
    await slow.abort()
    read_on.set()


async def test_a_cancelled_receive_loses_nothing(near: Transport, far: Transport) -> None:
    """Whoever stops waiting for a frame gets it the next time."""
    stream = await near.open_stream(far.address(), b"", timeout_ms=5000)
    frames = [b"%d" % number for number in range(50)]
    received: list[bytes | None] = []
    for frame in frames:
        receiving = asyncio.ensure_future(stream.receive())
        await stream.send(frame)
        receiving.cancel()
        await asyncio.wait({receiving})
        received.append(await stream.receive() if receiving.cancelled() else receiving.result())
    assert received == frames
    await stream.abort()


async def test_what_runs_over_a_transport_ends_when_the_peer_closes(join: Join, near: Transport, lost) -> None:
    """Requests in flight and open streams raise Unavailable soon after the peer is gone."""
    far, asked = await join(2), asyncio.Event()

    async def never(_peer: NodeId, _message: bytes) -> bytes:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    far.serve(never, echo_stream)
    stream = await near.open_stream(far.address(), b"", timeout_ms=5000)
    receiving = asyncio.ensure_future(stream.receive())
    asking = asyncio.ensure_future(near.request(far.address(), b"", timeout_ms=9000))
    await asked.wait()
    await far.close()
    await lost(receiving)
    await lost(asking)


async def test_a_node_that_comes_back_is_reached_again(join: Join, near: Transport, lost) -> None:
    """A new life under the same key is dialled on demand, at its new address."""
    for life in (b"first", b"second"):
        far = await join(2)
        far.serve(echo, echo_stream)
        assert await near.request(far.address(), life, timeout_ms=5000) == life
        await far.close()
        await lost(near.request(far.address(), b"", timeout_ms=400))


async def test_the_round_trip_to_a_peer_is_measured(near: Transport, far: Transport, eventually) -> None:
    """None for a stranger; milliseconds once there is a connection."""
    assert near.round_trip_ms(far.address().node) is None
    await near.request(far.address(), b"", timeout_ms=5000)
    await eventually(lambda: near.round_trip_ms(far.address().node) is not None)
    assert 0 <= (near.round_trip_ms(far.address().node) or 0) < 5000


async def test_closing_leaves_nothing_running(join: Join, lost) -> None:
    """Handlers are stopped, and no task remains; closing twice is safe."""
    before = asyncio.all_tasks()
    near, far, began = await join(1), await join(2), asyncio.Event()

    async def linger(_stream: Stream, _opening: bytes) -> None:
        began.set()
        await asyncio.Event().wait()

    far.serve(echo, linger)
    near.serve(echo, linger)
    stream = await near.open_stream(far.address(), b"", timeout_ms=5000)
    receiving = asyncio.ensure_future(stream.receive())
    await began.wait()
    for transport in (far, near, far, near):
        await transport.close()
    await lost(receiving)
    await lost(near.request(far.address(), b"", timeout_ms=50))
    assert asyncio.all_tasks() == before


async def test_requests_pass_along_a_chain_of_nodes(join: Join) -> None:
    """A handler may itself ask the next node while its caller waits."""
    chain = [await join(number) for number in range(1, 5)]
    for transport, onward in pairwise(chain):

        async def pass_on(_peer: NodeId, message: bytes, transport=transport, onward=onward) -> bytes:
            return await transport.request(onward.address(), message + b"+", timeout_ms=5000)

        transport.serve(pass_on, echo_stream)
    chain[-1].serve(echo, echo_stream)
    caller = await join(9)
    assert await caller.request(chain[0].address(), b"", timeout_ms=5000) == b"+++"

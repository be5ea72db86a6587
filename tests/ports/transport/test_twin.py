"""What only the simulated network can be told to do, under a clock that only the test moves."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Unavailable
from wwwmarket.domain.identity import NodeId
from wwwmarket.ports.transport import Stream
from wwwmarket.simulator.clock import SimulatedClock
from wwwmarket.simulator.transport import Conditions, MemoryTransport, Network

A, B, C = (NodeId(KeyPair(bytes([number]) * 32).account) for number in (1, 2, 3))


async def echo(_peer: NodeId, message: bytes) -> bytes:
    return message


async def echo_stream(stream: Stream, _opening: bytes) -> None:
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)


async def settled() -> None:
    """Let every task run as far as it can without time passing."""
    for _ in range(30):
        await asyncio.sleep(0)


async def timed(clock: SimulatedClock, call: Awaitable[Any]) -> tuple[Any, float]:
    """Outcome of ``call`` and the milliseconds it took, moving the clock from wake to wake."""
    began, task = clock.monotonic_ms(), asyncio.ensure_future(call)
    while True:
        await settled()
        if task.done():
            elapsed = clock.monotonic_ms() - began
            return task.exception() or task.result(), elapsed
        wake = clock.next_wake_ms()
        assert wake is not None, "nothing will ever happen"
        clock.advance_to_ms(wake)


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
async def network(clock: SimulatedClock):
    made = Network(clock, Conditions(latency_ms=lambda one, _other: 10.0 if one == A else 30.0, silence_ms=1000))
    joined = [made.join(each) for each in (A, B, C)]
    for transport in joined:
        transport.serve(echo, echo_stream)
    yield made
    for each in (A, B, C):
        transport = made.reach(C if each != C else A, each)
        if transport is not None:
            await transport.close()


@pytest.fixture
def near(network: Network) -> MemoryTransport:
    return network._members[A]


@pytest.fixture
def far(network: Network) -> MemoryTransport:
    return network._members[B]


async def test_a_request_takes_the_way_there_and_back(clock, near, far) -> None:
    """Ten milliseconds out and thirty back are forty, and that is the measured round trip."""
    assert await timed(clock, near.request(far.address(), b"x", timeout_ms=100)) == (b"x", 40.0)
    assert near.round_trip_ms(B) == 40.0


async def test_time_over_is_time_over(clock, near, far) -> None:
    """A way longer than the time allowed ends in Unavailable at that time."""
    outcome, elapsed = await timed(clock, near.request(far.address(), b"x", timeout_ms=39))
    assert isinstance(outcome, Unavailable)
    assert elapsed == 39


async def test_frames_travel_together(clock, near, far) -> None:
    """A hundred frames take as long as one, and arrive in order."""

    async def exchange() -> list[bytes | None]:
        stream = await near.open_stream(far.address(), b"", timeout_ms=100)
        for number in range(50):
            await stream.send(b"%d" % number)
        await stream.finish()
        return [await stream.receive() for _ in range(51)]

    assert await timed(clock, exchange()) == ([*(b"%d" % number for number in range(50)), None], 40.0)


async def test_a_cut_is_silence_until_it_is_mended(clock, network, near, far) -> None:
    """Requests across it end after the silence; those that go round it, and later ones, pass."""
    network.cut(A, B)
    outcome, elapsed = await timed(clock, near.request(far.address(), b"x", timeout_ms=5000))
    assert isinstance(outcome, Unavailable)
    assert elapsed == 1010
    assert (await timed(clock, near.request(network._members[C].address(), b"x", timeout_ms=100)))[0] == b"x"
    network.mend(A, B)
    assert (await timed(clock, near.request(far.address(), b"x", timeout_ms=100)))[0] == b"x"


@pytest.mark.parametrize("disaster", ["cut", "crash"])
async def test_open_streams_break_once_the_silence_is_noticed(clock, network, near, far, disaster) -> None:
    """What was under way is lost, and both kinds of end raise Unavailable a second later."""
    stream = await near.open_stream(far.address(), b"", timeout_ms=100)
    await timed(clock, stream.send(b"lost"))
    if disaster == "cut":
        network.cut(A, B)
    else:
        network.crash(B)
    await timed(clock, stream.send(b"into the silence"))
    outcome, elapsed = await timed(clock, stream.receive())
    assert isinstance(outcome, Unavailable)
    assert elapsed == 1000
    assert isinstance((await timed(clock, stream.send(b"too late")))[0], Unavailable)


async def test_a_crash_stops_handlers_where_they_are(clock, network, near, far) -> None:
    """The caller hears nothing more; the node can come back under its name."""
    began, stopped = asyncio.Event(), asyncio.Event()

    async def wait(_peer: NodeId, _message: bytes) -> bytes:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        raise AssertionError

    network.crash(B)
    again = network.join(B)
    again.serve(wait, echo_stream)
    asking = asyncio.ensure_future(timed(clock, near.request(far.address(), b"x", timeout_ms=3000)))
    await began.wait()
    network.crash(B)
    outcome, _elapsed = await asking
    assert isinstance(outcome, Unavailable)
    assert stopped.is_set()
    network.join(B).serve(echo, echo_stream)
    assert (await timed(clock, near.request(far.address(), b"x", timeout_ms=100)))[0] == b"x"


async def test_loss_costs_time_and_nothing_else() -> None:
    """Half of all messages lost: every request is answered, later; the same seed gives the same times."""

    async def times(seed: int) -> list[float]:
        clock = SimulatedClock()
        network = Network(clock, Conditions(latency_ms=lambda _one, _other: 5.0, loss=0.5), seed=seed)
        one, other = network.join(A), network.join(B)
        other.serve(echo, echo_stream)
        outcomes = [await timed(clock, one.request(other.address(), b"x", timeout_ms=9000)) for _ in range(30)]
        for transport in (one, other):
            await transport.close()
        assert all(answer == b"x" for answer, _ in outcomes)
        return [elapsed for _, elapsed in outcomes]

    first = await times(1)
    assert first == await times(1)
    assert first != await times(2)
    assert min(first) == 10
    assert set(first) <= {10 + 35 * lost for lost in range(40)}


async def test_sleepers_wake_in_the_order_of_their_moments(clock: SimulatedClock) -> None:
    """Ties in the order of their coming; a moment that has passed is no wait; a cancelled sleeper is no wake."""
    woken: list[str] = []

    async def sleep(name: str, until_ms: float) -> None:
        await clock.sleep_until_ms(until_ms)
        woken.append(name)

    tasks = [asyncio.ensure_future(sleep(name, at)) for name, at in (("c", 3), ("a", 1), ("b", 1), ("d", 9), ("n", 0))]
    await settled()
    assert woken == ["n"]
    tasks[1].cancel()
    await settled()
    assert clock.next_wake_ms() == 1
    clock.advance_ms(5)
    await settled()
    assert woken == ["n", "b", "c"]
    assert (clock.monotonic_ms(), clock.now_ms()) == (5, 1_767_225_600_005)
    clock.advance_to_ms(9)
    await asyncio.wait(tasks)
    assert woken[-1] == "d"
    assert clock.next_wake_ms() is None

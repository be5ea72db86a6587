"""What every clock and source of chance promises."""

import asyncio

import pytest

from wwwmarket.adapters.system import SystemClock, SystemEntropy
from wwwmarket.ports.clock import Clock, Entropy
from wwwmarket.simulator.clock import SimulatedClock


@pytest.fixture(params=[SystemClock, SimulatedClock])
def clock(request) -> Clock:
    return request.param()


async def test_a_sleeper_wakes_at_its_moment_or_later(clock: Clock) -> None:
    """Never before; and intervals never run backwards."""
    until = clock.monotonic_ms() + 20
    sleeping = asyncio.ensure_future(clock.sleep_until_ms(until))
    await asyncio.sleep(0)
    assert not sleeping.done()
    if isinstance(clock, SimulatedClock):
        clock.advance_ms(20)
    await sleeping
    assert clock.monotonic_ms() >= until


async def test_a_moment_that_has_passed_is_not_waited_for(clock: Clock) -> None:
    """But others run first."""
    ran = asyncio.ensure_future(asyncio.sleep(0))
    await clock.sleep_until_ms(clock.monotonic_ms() - 1000)
    await clock.sleep_until_ms(clock.monotonic_ms())
    assert ran.done()


def test_now_is_counted_from_1970(clock: Clock) -> None:
    """In milliseconds: later than 2025, and an integer."""
    assert isinstance(clock.now_ms(), int)
    assert clock.now_ms() > 1_735_689_600_000


def test_chance_is_of_the_size_asked_for() -> None:
    """Bytes by count, integers below their bound, every one of them in time."""
    entropy: Entropy = SystemEntropy()
    assert len(entropy.bytes(32)) == 32
    assert entropy.bytes(32) != entropy.bytes(32)
    assert {entropy.below(3) for _ in range(500)} == {0, 1, 2}

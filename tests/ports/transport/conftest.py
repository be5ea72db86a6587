"""Waiting for what the transport does in its own time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from wwwmarket.domain.errors import Unavailable


@pytest.fixture
def lost() -> Callable[[Awaitable[Any]], Awaitable[Unavailable]]:
    """The refusal with which a call ends within some seconds."""

    async def end(call: Awaitable[Any]) -> Unavailable:
        with pytest.raises(Unavailable) as caught:
            await asyncio.wait_for(call, 10)
        return caught.value

    return end


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Wait until a condition holds, some seconds at most."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - nothing in there has an event to wait for
                await asyncio.sleep(0.005)

    return wait

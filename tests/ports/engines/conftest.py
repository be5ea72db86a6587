"""The engines of the port suite: both real processes."""

from collections.abc import AsyncIterator

import pytest_asyncio

from wwwmarket.adapters.engines.embedded import EmbeddedEngine
from wwwmarket.adapters.engines.emulated import EmulatedEngine

EMULATED_OPTIONS = ("--speedup", "4", "--sequences-max", "4", "--context-tokens", "4096")


@pytest_asyncio.fixture(params=["embedded", "emulated"], loop_scope="module", scope="module")
async def engine(request) -> AsyncIterator[EmbeddedEngine | EmulatedEngine]:
    if request.param == "embedded":
        started = await EmbeddedEngine.start()
    else:
        started = await EmulatedEngine.start("H100-SXM", "Qwen3-8B", arguments=EMULATED_OPTIONS)
    async with started as running:
        await running.describe()
        yield running

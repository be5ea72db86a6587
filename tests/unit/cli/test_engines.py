"""Where a provider's engines come from, and what is remembered of them."""

import asyncio

import pytest

from wwwmarket.cli.engines import BENCHMARK, Sources, measuring, remembering
from wwwmarket.domain.errors import Malformed
from wwwmarket.ports.engine import ServedModel
from wwwmarket.simulator.engine import PlayingEngine

MODEL = ServedModel(name="m", revision="1", precision="bf16", context_tokens=4_096)


class Now:
    """A clock that nobody waits for."""

    def monotonic_ms(self):
        return 0.0

    async def sleep_until_ms(self, _monotonic_ms):
        await asyncio.sleep(0)


def test_nothing_to_sell_from_is_refused():
    """An engine's address, or one to launch, is needed."""
    with pytest.raises(Malformed, match="--engine"):
        Sources(()).check()
    Sources(("http://127.0.0.1:1",)).check()
    Sources((), ("vllm:m",)).check()


async def test_options_that_are_no_words_are_refused():
    """A quotation that does not end is the operator's slip."""
    with pytest.raises(Malformed, match="launch-options"):
        async with Sources((), ("vllm:m",), 'a "b').addresses():
            pass


async def test_what_was_measured_is_said_kept_and_remembered(tmp_path, capsys):
    """The next start without a benchmark takes it, for the same engine and model alone."""
    engine = PlayingEngine(Now(), MODEL)
    description = await engine.describe()
    fit = await measuring(tmp_path, 4)(engine, description, MODEL)
    assert "Measured m on playing" in capsys.readouterr().err
    assert (tmp_path / BENCHMARK).exists()
    recall = Sources(("x",), measure=False).measuring(tmp_path, 4)
    assert await recall(engine, description, MODEL) == fit
    other = ServedModel(name="other", revision="1", precision="bf16", context_tokens=4_096)
    assert await recall(engine, description, other) is None
    (tmp_path / BENCHMARK).write_text("{")
    assert remembering(tmp_path) is None


def test_nothing_remembered_is_no_fault(tmp_path):
    """A first start without a benchmark begins with the promise."""
    assert remembering(tmp_path / "nothing") is None

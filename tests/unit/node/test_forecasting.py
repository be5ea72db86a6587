"""What a provider predicts from the work that it has in hand."""

import pytest

from tests.integration.node.town import MODEL, JumpingLoop, LoopClock
from wwwmarket.dispatch.prediction import LearntLatency
from wwwmarket.dispatch.step_time import EngineLimits
from wwwmarket.domain.quantity import Slo
from wwwmarket.node.forecasting import Forecasting
from wwwmarket.simulator.engine import PlayingEngine

ONE, TWO = "1" * 64, "2" * 64
TPOT_MS = 100


@pytest.fixture
def run():
    """Runs a story about the forecasts of one engine with a single slot, in simulated time."""

    def tell(story) -> None:
        loop = JumpingLoop()

        async def main() -> None:
            clock = LoopClock()
            engine = PlayingEngine(clock, MODEL)
            promise = LearntLatency.from_promise(
                Slo(ttft_ms=100, tpot_ms=TPOT_MS), EngineLimits(kv_tokens_max=100_000, sequences_max=1)
            )
            forecasting = Forecasting(engine, promise, clock, poll_ms=3_600_000)
            await forecasting.poll()
            await story(forecasting, clock)

        loop.run_until_complete(main())
        loop.close()

    return tell


def first_token_ms(forecasting: Forecasting) -> int:
    forecast = forecasting.forecast(input_tokens=10, output_tokens=10, held=0)
    assert forecast is not None
    return forecast.ttft_ms


async def execute(forecasting, clock, award, *, wait_ms=0, tokens=10, already=False) -> None:
    if not already:
        forecasting.started(award, input_tokens=10, output_tokens=tokens, output_tokens_max=1_000)
    await clock.sleep_until_ms(clock.monotonic_ms() + wait_ms)
    for _ in range(tokens):
        forecasting.said(award)
        await clock.sleep_until_ms(clock.monotonic_ms() + TPOT_MS)
    forecasting.ended(award, tokens)


def test_an_answer_that_outlasts_what_was_expected_is_not_about_to_end(run):
    """After fifty tokens where ten were expected, its slot is not promised to the next as if it were free."""

    async def story(forecasting, _clock):
        forecasting.started(ONE, input_tokens=10, output_tokens=10, output_tokens_max=1_000)
        for _ in range(50):
            forecasting.said(ONE)
        assert first_token_ms(forecasting) > 9 * TPOT_MS

    run(story)


def test_long_answers_are_learnt_to_go_on(run):
    """Where answers came to two hundred tokens, one at its fiftieth has much before it."""

    async def story(forecasting, clock):
        for _ in range(8):
            await execute(forecasting, clock, ONE, tokens=200)
        forecasting.started(TWO, input_tokens=10, output_tokens=10, output_tokens_max=1_000)
        for _ in range(50):
            forecasting.said(TWO)
        assert first_token_ms(forecasting) > 80 * TPOT_MS

    run(story)


def test_who_waited_for_a_slot_does_not_make_first_tokens_look_slow(run):
    """Requests that stood in the queue for a minute say nothing of an idle engine's time to first token."""

    async def story(forecasting, clock):
        await execute(forecasting, clock, ONE, wait_ms=50)
        idle_ms = first_token_ms(forecasting)
        for _ in range(5):
            forecasting.started(ONE, input_tokens=10, output_tokens=10, output_tokens_max=1_000)
            forecasting.started(TWO, input_tokens=10, output_tokens=10, output_tokens_max=1_000)
            await execute(forecasting, clock, ONE, already=True)
            await execute(forecasting, clock, TWO, already=True, wait_ms=60_000)
        assert first_token_ms(forecasting) < 3 * idle_ms

    run(story)

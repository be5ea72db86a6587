"""Predictions against the engine that they predict, and what is learnt where there is no table."""

from math import ceil

import pytest

from wwwmarket.dispatch.batching import BatchingEngine, Sequence
from wwwmarket.dispatch.prediction import CalibratedLatency, LearntLatency, Load, Observation, TableLatency, Work
from wwwmarket.dispatch.step_time import EngineLimits, limits_for, step_time_model
from wwwmarket.domain.errors import TooLarge
from wwwmarket.domain.quantity import Slo

IDLE = Load(running=0, waiting=0)
STEPS = step_time_model("H100-SXM", "Qwen3-8B")
LIMITS = limits_for("H100-SXM", "Qwen3-8B")
TABLE = TableLatency(model=STEPS, limits=LIMITS)


def play(sequences, own):
    """The engine stepped one by one: when ``own`` has its first token and its last."""
    engine = BatchingEngine(STEPS, LIMITS)
    for sequence in sequences:
        engine.admit(sequence)
    now, first = STEPS.front_end_ms, None
    while True:
        outcome = engine.next_step(now)
        now = outcome.ended_ms
        if first is None and own in outcome.emitted:
            first = now
        if own in outcome.finished:
            return ceil(first), ceil(now)


@pytest.mark.parametrize(("input_tokens", "output_tokens"), [(2, 1), (100, 50), (1024, 200), (2049, 3), (9000, 700)])
def test_an_idle_engine_is_predicted_exactly(input_tokens, output_tokens):
    """On an idle engine the prediction is what the engine then does."""
    predicted = TABLE.predict(IDLE, input_tokens=input_tokens, output_tokens=output_tokens)
    ttft, finish = play([Sequence(key=0, input_tokens=input_tokens, output_tokens=output_tokens)], 0)
    assert (predicted.ttft_ms, predicted.finish_ms) == (ttft, finish)


def test_a_loaded_engine_is_predicted_within_5_percent():
    """With the work ahead known, the prediction under load is within 5 % of what the engine then does."""
    work = tuple(Work(input_tokens_left=1, output_tokens_left=40 + 11 * i, context_tokens=300 + i) for i in range(40))
    load = Load(running=40, waiting=0, work=work)
    predicted = TABLE.predict(load, input_tokens=1500, output_tokens=300)
    ahead = [
        Sequence(
            key=i,
            input_tokens=w.context_tokens + 1,
            output_tokens=w.output_tokens_left,
            computed_tokens=w.context_tokens,
        )
        for i, w in enumerate(work)
    ]
    ttft, finish = play([*ahead, Sequence(key=99, input_tokens=1500, output_tokens=300)], 99)
    assert predicted.ttft_ms == pytest.approx(ttft, rel=0.05)
    assert predicted.finish_ms == pytest.approx(finish, rel=0.05)


def test_sequences_of_others_count():
    """What the engine reports beyond the known work delays too, and so does a fuller KV cache, and so do holds."""
    idle = TABLE.predict(IDLE, input_tokens=500, output_tokens=100)
    others = TABLE.predict(Load(running=30, waiting=0), input_tokens=500, output_tokens=100)
    fuller = TABLE.predict(Load(running=30, waiting=0, kv_usage_ppm=600_000), input_tokens=500, output_tokens=100)
    held = Work(input_tokens_left=500, output_tokens_left=100)
    promised = TABLE.predict(Load(running=0, waiting=0, holds=(held, held)), input_tokens=500, output_tokens=100)
    assert idle.finish_ms < others.finish_ms < fuller.finish_ms
    assert idle.finish_ms < promised.finish_ms


def test_a_request_that_can_never_fit_is_refused():
    """More tokens than the KV cache holds have no finish time."""
    with pytest.raises(TooLarge):
        TABLE.predict(IDLE, input_tokens=LIMITS.kv_tokens_max, output_tokens=1)


def test_an_absurd_load_is_late_and_cheap():
    """Counts beyond belief are cut; the answer is late, and it comes."""
    load = Load(running=2**31, waiting=2**31)
    assert TABLE.predict(load, input_tokens=10, output_tokens=10).ttft_ms > 1_000


def promised() -> LearntLatency:
    return LearntLatency.from_promise(
        Slo(ttft_ms=800, tpot_ms=40), EngineLimits(kv_tokens_max=100_000, sequences_max=16)
    )


def test_before_any_observation_the_promise_is_predicted():
    """A typical prompt on a full engine takes what the offer promises; alone it is faster."""
    alone = promised().predict(IDLE, input_tokens=1000, output_tokens=101)
    assert alone.ttft_ms == pytest.approx(800, rel=0.1)
    assert 2000 <= alone.finish_ms - alone.ttft_ms <= 4000
    full = promised().predict(Load(running=15, waiting=0), input_tokens=1000, output_tokens=101)
    assert full.finish_ms - full.ttft_ms == pytest.approx(4000, rel=0.1)


def test_what_is_observed_replaces_the_promise():
    """After some tens of observations of a faster engine, predictions are within 15 % of it."""
    learnt = promised()
    true = step_time_model("L40S", "Qwen3-8B")
    limits = EngineLimits(kv_tokens_max=171_000, sequences_max=16)
    table = TableLatency(model=true, limits=limits)
    for i in range(120):
        running, tokens = i * 7 % 15, 200 + i * 131 % 1800
        seen = table.predict(Load(running=running, waiting=0), input_tokens=tokens, output_tokens=100)
        learnt = learnt.observe(
            Observation(
                input_tokens_ahead=tokens,
                output_tokens=100,
                concurrency=running + 1,
                ttft_ms=seen.ttft_ms,
                finish_ms=seen.finish_ms,
            )
        )
    for running, tokens in ((0, 300), (5, 1000), (14, 1500)):
        load = Load(running=running, waiting=0)
        expected = table.predict(load, input_tokens=tokens, output_tokens=100)
        predicted = learnt.predict(load, input_tokens=tokens, output_tokens=100)
        assert predicted.ttft_ms == pytest.approx(expected.ttft_ms, rel=0.15, abs=20)
        assert predicted.finish_ms == pytest.approx(expected.finish_ms, rel=0.15)


def test_slots_are_the_engines_own():
    """Where an engine runs four at once, a fifth waits for one of them, however many sequences are on offer."""
    learnt = LearntLatency.from_promise(
        Slo(ttft_ms=800, tpot_ms=40), EngineLimits(kv_tokens_max=100_000, sequences_max=4)
    )
    work = tuple(Work(input_tokens_left=0, output_tokens_left=100, context_tokens=10) for _ in range(4))
    room = learnt.predict(Load(running=3, waiting=0, work=work[:3]), input_tokens=1000, output_tokens=10)
    full = learnt.predict(Load(running=4, waiting=0, work=work), input_tokens=1000, output_tokens=10)
    assert full.ttft_ms > room.ttft_ms + 100 * 30


@pytest.mark.parametrize("factor", [0.5, 1.3, 4.0])
def test_an_engine_of_the_table_is_calibrated(factor):
    """An engine so many times slower than its row is predicted within 10 % after some tens of answers."""
    true = TableLatency(model=STEPS.scaled(factor), limits=LIMITS)
    learnt = CalibratedLatency(table=STEPS, limits=LIMITS)
    for _ in range(30):
        seen = true.predict(IDLE, input_tokens=500, output_tokens=100)
        learnt = learnt.observe(
            Observation(
                input_tokens_ahead=500,
                output_tokens=100,
                concurrency=1,
                ttft_ms=seen.ttft_ms,
                finish_ms=seen.finish_ms,
                context_tokens=550,
            )
        )
    load = Load(running=20, waiting=0)
    expected = true.predict(load, input_tokens=800, output_tokens=200)
    predicted = learnt.predict(load, input_tokens=800, output_tokens=200)
    assert predicted.ttft_ms == pytest.approx(expected.ttft_ms, rel=0.1)
    assert predicted.finish_ms == pytest.approx(expected.finish_ms, rel=0.1)


def test_short_answers_calibrate_nothing():
    """The pace of a few tokens is chance."""
    learnt = CalibratedLatency(table=STEPS, limits=LIMITS)
    seen = Observation(input_tokens_ahead=500, output_tokens=15, concurrency=1, ttft_ms=10, finish_ms=100_000)
    assert learnt.observe(seen) == learnt


def test_repeated_observations_do_not_wind_up():
    """Thousands of equal observations leave the estimate finite and where they are."""
    learnt = promised()
    seen = Observation(input_tokens_ahead=500, output_tokens=50, concurrency=1, ttft_ms=100, finish_ms=590)
    for _ in range(5_000):
        learnt = learnt.observe(seen)
    predicted = learnt.predict(IDLE, input_tokens=500, output_tokens=50)
    assert predicted.ttft_ms == pytest.approx(100, rel=0.1)
    assert predicted.finish_ms == pytest.approx(590, rel=0.1)

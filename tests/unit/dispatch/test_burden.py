"""What a newcomer takes from those in hand, against the engine that it slows."""

import pytest

from wwwmarket.dispatch.batching import BatchingEngine, Sequence
from wwwmarket.dispatch.burden import burden
from wwwmarket.dispatch.prediction import Load, Work
from wwwmarket.dispatch.step_time import EngineLimits, step_time_model

STEPS = step_time_model("L40S", "Qwen3-8B")
LIMITS = EngineLimits(kv_tokens_max=200_000, sequences_max=64)
SECOND_MICRO = 1_000


def running(count, *, left=400, context=1_000, micro=SECOND_MICRO):
    work = [
        Work(input_tokens_left=0, output_tokens_left=left, context_tokens=context, time_value_micro_per_s=micro)
        for _ in range(count)
    ]
    return Load(running=0, waiting=count, work=tuple(work))


def played_ms(count, left, context, newcomer):
    """When each of those in hand has its last token."""
    engine = BatchingEngine(STEPS, LIMITS)
    for key in range(count):
        engine.admit(Sequence(key=key, input_tokens=context + 1, output_tokens=left, computed_tokens=context))
    if newcomer:
        engine.admit(Sequence(key=count, input_tokens=newcomer[0], output_tokens=newcomer[1]))
    now, ended = 0.0, {}
    while len(ended) < count:
        outcome = engine.next_step(now)
        now = outcome.ended_ms
        ended |= {key: now for key in outcome.finished if key < count}
    return sum(ended.values())


@pytest.mark.parametrize("newcomer", [(200, 400), (1_500, 150), (3_000, 800)])
@pytest.mark.parametrize("count", [1, 8, 40])
def test_the_burden_is_what_the_engine_then_loses(count, newcomer):
    """Within a quarter, it is the time by which all those in hand end later, at what a second is worth to them."""
    lost_ms = played_ms(count, 400, 1_000, newcomer) - played_ms(count, 400, 1_000, None)
    said = burden(STEPS, LIMITS, running(count), input_tokens=newcomer[0], output_tokens=newcomer[1])
    assert said == pytest.approx(lost_ms * SECOND_MICRO / 1_000, rel=0.25)


def test_nobody_in_hand_loses_nothing():
    """An idle engine asks nothing on top, nor one whose clients' time is worth nothing."""
    assert burden(STEPS, LIMITS, running(0), input_tokens=1_000, output_tokens=100) == 0
    assert burden(STEPS, LIMITS, running(8, micro=0), input_tokens=1_000, output_tokens=100) == 0


def test_work_that_waits_before_it_loses_nothing():
    """A request behind others in the queue does not slow what is before it there."""
    waiting = Work(input_tokens_left=500, output_tokens_left=400, time_value_micro_per_s=SECOND_MICRO)
    load = Load(running=0, waiting=3, work=(waiting,) * 3)
    assert burden(STEPS, LIMITS, load, input_tokens=1_000, output_tokens=100) == 0

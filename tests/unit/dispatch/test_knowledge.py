"""What a provider learns of its engine from what passes by, told by a live node or by the simulator alike."""

from functools import partial

import pytest

from wwwmarket.dispatch.knowledge import Foreseen, Knowledge, Request
from wwwmarket.dispatch.prediction import CalibratedLatency, LearntLatency
from wwwmarket.dispatch.step_time import EngineLimits, limits_for, step_time_model
from wwwmarket.domain.quantity import Slo
from wwwmarket.simulator.engines import EngineTwin
from wwwmarket.simulator.events import EventLoop

STEPS = step_time_model("L40S", "Qwen3-8B")
LIMITS = limits_for("L40S", "Qwen3-8B", sequences_max=8)
REQUEST = Request(input_tokens=400, output_tokens=100, output_tokens_max=1_000)


def foreseen(knowledge: Knowledge[str]) -> Foreseen:
    seen = knowledge.forecast(input_tokens=400, output_tokens=100, held=0)
    assert seen is not None
    return seen


def table() -> CalibratedLatency:
    return CalibratedLatency(table=STEPS, limits=LIMITS)


@pytest.mark.parametrize("factor", [0.7, 1.0, 2.0])
def test_what_is_foreseen_comes_true(factor):
    """On an engine that is not as its table says, alone and in company, an answer ends within 15 % of when it was
    foreseen to, once a few tens of answers were seen; all that is told are tokens and ends.
    """
    loop, knowledge, errors = EventLoop(), Knowledge(table()), []
    engine = EngineTwin(loop, STEPS.scaled(factor), LIMITS)

    def submit(name: str, *, learnt: bool) -> None:
        due_ms = loop.now_us / 1_000 + foreseen(knowledge).finish_ms
        knowledge.started(name, REQUEST, loop.now_us / 1_000)

        def first() -> None:
            knowledge.said(name, 1, loop.now_us / 1_000)

        def finish() -> None:
            now_ms = loop.now_us / 1_000
            knowledge.said(name, 99, now_ms)
            knowledge.ended(name, 100, now_ms)
            if learnt:
                errors.append(abs(due_ms - now_ms) / foreseen(knowledge).finish_ms)

        engine.submit(400, 100, first, finish)

    for i in range(60):
        loop.at(i * round(2_600_000 * factor), partial(submit, f"{i}", learnt=i >= 40))
    while loop.step():
        pass
    assert len(errors) == 20
    assert max(errors) < 0.15


def test_counts_of_others_are_what_is_beyond_ones_own():
    """What an engine counts beyond the work sent here is somebody else's, and makes a forecast later."""
    knowledge: Knowledge[str] = Knowledge(table())
    knowledge.started("own", REQUEST, 0.0)
    alone = foreseen(knowledge)
    knowledge.polled(running=1, waiting=0, kv_usage_ppm=None, in_hand=1)
    assert (knowledge.others_running, knowledge.others_waiting) == (0, 0)
    assert foreseen(knowledge) == alone
    knowledge.polled(running=7, waiting=3, kv_usage_ppm=None, in_hand=1)
    assert (knowledge.others_running, knowledge.others_waiting) == (7, 2)
    assert foreseen(knowledge).finish_ms > alone.finish_ms


def test_only_those_that_decode_count_as_beside():
    """Requests that wait behind one do not make its pace look like that of a full batch: learnt from such a minute, an
    engine is not believed to be faster in company than it is.
    """
    learnt = LearntLatency.from_promise(
        Slo(ttft_ms=100, tpot_ms=50), EngineLimits(kv_tokens_max=100_000, sequences_max=8)
    )
    knowledge: Knowledge[str] = Knowledge(learnt)
    crowd_ms = []
    for round_ms in range(0, 100_000, 10_000):
        knowledge.started("one", REQUEST, round_ms)
        for name in ("a", "b", "c"):
            knowledge.started(name, REQUEST, round_ms)
        for token in range(100):
            knowledge.said("one", 1, round_ms + 100 + 50 * token)
        knowledge.ended("one", 100, round_ms + 100 + 50 * 99)
        for name in ("a", "b", "c"):
            knowledge.ended(name, None, round_ms + 6_000)
        crowd_ms.append(foreseen(knowledge).finish_ms)
    assert crowd_ms[-1] == pytest.approx(foreseen(knowledge).ttft_ms + 50 * 99, rel=0.1)


def test_an_answer_in_one_piece_tells_nothing_of_pace():
    """Its length is learnt, and not that all its tokens came at once."""
    knowledge: Knowledge[str] = Knowledge(table())
    before = foreseen(knowledge)
    for round_ms in range(0, 50_000, 10_000):
        knowledge.started("one", REQUEST, round_ms)
        knowledge.said("one", 1, round_ms + 5_000)
        knowledge.ended("one", 100, round_ms + 5_000)
    assert foreseen(knowledge).finish_ms == pytest.approx(before.finish_ms, rel=0.3)


def test_a_request_that_can_never_fit_is_not_foreseen():
    """More than the KV cache holds has no forecast."""
    knowledge: Knowledge[str] = Knowledge(table())
    assert knowledge.forecast(input_tokens=LIMITS.kv_tokens_max, output_tokens=10, held=0) is None


def test_the_dead_tell_nothing():
    """Tokens and ends of what is not in hand change nothing."""
    knowledge: Knowledge[str] = Knowledge(table())
    before = foreseen(knowledge)
    knowledge.said("gone", 5, 1.0)
    knowledge.ended("gone", 50, 2.0)
    assert foreseen(knowledge) == before

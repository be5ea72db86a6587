"""Predictions in segments against the engine stepped one by one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from wwwmarket.dispatch.batching import BatchingEngine, Sequence
from wwwmarket.dispatch.foresight import Part, foresee
from wwwmarket.dispatch.step_time import EngineLimits, step_time_model

STEPS = step_time_model("L40S", "Qwen3-8B")

running = st.builds(Part, st.just(1), st.integers(1, 300), st.integers(1, 2_000))
queued = st.builds(Part, st.integers(2, 3_000), st.integers(1, 300), st.just(0))


def play(limits, ahead, own):
    engine = BatchingEngine(STEPS, limits)
    for key, part in enumerate([*ahead, own]):
        known = part.input_tokens + part.computed_tokens
        engine.admit(
            Sequence(
                key=key, input_tokens=known, output_tokens=part.output_tokens, computed_tokens=part.computed_tokens
            )
        )
    now, first = STEPS.front_end_ms, None
    while True:
        outcome = engine.next_step(now)
        now = outcome.ended_ms
        if first is None and len(ahead) in outcome.emitted:
            first = now
        if len(ahead) in outcome.finished:
            return first, now


@settings(max_examples=150, deadline=None)
@given(st.lists(running, max_size=20), st.lists(queued, max_size=6), queued, st.sampled_from([8, 16, 64]))
def test_segments_end_when_the_engine_does(begun, waiting, own, slots):
    """Played in segments, first token and finish are within 3 % of the engine's own, whatever is ahead."""
    limits = EngineLimits(kv_tokens_max=200_000, sequences_max=slots)
    ahead = [*begun, *waiting]
    first, finish = play(limits, ahead, own)
    seen = foresee(STEPS, limits, [(part.output_tokens, part.computed_tokens) for part in begun], waiting, own)
    assert abs(seen.first_ms - first) <= 0.03 * first
    assert abs(seen.finish_ms - finish) <= 0.03 * finish


@settings(max_examples=100, deadline=None)
@given(st.lists(running, max_size=20), st.lists(queued, max_size=6), queued, st.integers(0, 30))
def test_who_is_followed_by_others_is_not_done_earlier(begun, waiting, own, usual):
    """With others to follow those who end, the first token comes when it did, and the last never earlier."""
    limits = EngineLimits(kv_tokens_max=200_000, sequences_max=16)
    decoding = [(part.output_tokens, part.computed_tokens) for part in begun]
    alone = foresee(STEPS, limits, decoding, waiting, own)
    followed = foresee(STEPS, limits, decoding, waiting, own, usual=usual)
    assert followed.first_ms == alone.first_ms
    assert followed.finish_ms >= alone.finish_ms - 1e-6


def test_a_batch_that_stays_full_is_foreseen_full():
    """Where twelve run as a rule, a long request goes at the pace of twelve, not at that of the one that is left."""
    limits = EngineLimits(kv_tokens_max=500_000, sequences_max=64)
    decoding, own = [(50, 500)] * 11, Part(500, 2_000, 0)
    seen = foresee(STEPS, limits, decoding, [], own, usual=12)
    pace_ms = (seen.finish_ms - seen.first_ms) / 2_000
    assert STEPS.step_ms(12, 12 * 500) < pace_ms < STEPS.step_ms(12, 12 * 2_500) * 1.05
    alone = foresee(STEPS, limits, decoding, [], own)
    assert seen.finish_ms > 1.05 * alone.finish_ms


def test_an_exhausted_cache_is_not_guessed():
    """Where the KV cache would run out, nothing is said: the engine itself must be played."""
    limits = EngineLimits(kv_tokens_max=1_000, sequences_max=8)
    assert foresee(STEPS, limits, [(300, 400), (300, 400)], [], Part(100, 300, 0)) is None

"""What is fitted to an engine's own measurements."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wwwmarket.dispatch.fitting import CONCURRENCY_MAX, Probe, Sample, fit, plan, together
from wwwmarket.dispatch.prediction import Load
from wwwmarket.dispatch.step_time import EngineLimits
from wwwmarket.domain.errors import Malformed

LIMITS = EngineLimits(kv_tokens_max=1_000_000, sequences_max=64)
ENGINES = st.tuples(st.floats(0.5, 200), st.floats(0.001, 0.5), st.floats(0.5, 100), st.floats(0.01, 5))


def measured(engine, probes, *, late=()):
    """What an engine of exactly those constants would show; samples named in ``late`` take ten times as long."""
    ttft, per_token, tpot, per_sequence = engine
    samples = []
    for number, probe in enumerate(probes):
        scale = 10 if number in late else 1
        first = ttft + per_token * probe.input_tokens * probe.concurrency
        finish = first + (probe.output_tokens - 1) * (tpot + per_sequence * probe.concurrency)
        samples += [
            Sample(
                input_tokens=probe.input_tokens,
                output_tokens=probe.output_tokens,
                concurrency=probe.concurrency,
                ttft_ms=first * scale,
                finish_ms=finish * scale,
            )
        ] * probe.concurrency
    return samples


@given(ENGINES)
def test_an_engine_that_keeps_to_its_lines_is_fitted_exactly(engine):
    """Without noise the constants come back."""
    found = fit(measured(engine, plan(context_tokens=32_768, sequences=16)))
    ttft, per_token, tpot, per_sequence = engine
    assert found.ttft_ms + 1_000 * found.ttft_ms_per_token == pytest.approx(ttft + 1_000 * per_token, rel=0.02)
    assert found.ttft_ms == pytest.approx(ttft, rel=0.02)
    assert found.tpot_ms + 8 * found.tpot_ms_per_sequence == pytest.approx(tpot + 8 * per_sequence, rel=0.02)
    assert found.tpot_ms == pytest.approx(tpot, rel=0.02)
    assert max(found.ttft_error_ppm, found.tpot_error_ppm) < 20_000


@given(ENGINES, st.integers(0, 5))
def test_one_late_answer_counts_for_nothing(engine, late):
    """Of three equal requests the median is fitted."""
    probes = plan(context_tokens=32_768, sequences=4)
    calm, disturbed = fit(measured(engine, probes)), fit(measured(engine, probes, late={late}))
    for name in ("ttft_ms", "ttft_ms_per_token", "tpot_ms", "tpot_ms_per_sequence"):
        assert getattr(disturbed, name) == pytest.approx(getattr(calm, name))


@given(ENGINES, st.integers(1, 200), st.integers(2, 400))
def test_the_prediction_of_an_idle_engine_is_what_was_measured(engine, input_tokens, output_tokens):
    """The fitted model and the engine agree on a request that nobody measured."""
    model = fit(measured(engine, plan(context_tokens=32_768, sequences=8))).latency(LIMITS)
    seen = model.predict(Load(running=0, waiting=0), input_tokens=input_tokens, output_tokens=output_tokens)
    (truth,) = measured(engine, [Probe(input_tokens=input_tokens, output_tokens=output_tokens)])
    assert seen.finish_ms == pytest.approx(truth.finish_ms, rel=0.25, abs=engine[2] + engine[3] + 2)


@given(st.integers(2, 100_000), st.integers(1, 300))
def test_a_plan_fits_the_engine(context_tokens, sequences):
    """No probe is longer than the context, nor wider than what is sold."""
    for probe in plan(context_tokens=context_tokens, sequences=sequences):
        assert probe.input_tokens + probe.output_tokens <= max(context_tokens, 128)
        assert probe.concurrency <= min(max(sequences, 1), CONCURRENCY_MAX)


@given(
    st.lists(
        st.builds(
            Sample,
            input_tokens=st.integers(0, 10_000),
            output_tokens=st.integers(0, 500),
            concurrency=st.integers(1, 16),
            ttft_ms=st.floats(0, 1e6),
            finish_ms=st.floats(0, 1e6),
        ),
        max_size=12,
    )
)
def test_whatever_was_measured_nothing_is_free(samples):
    """Any measurement gives positive constants, or is refused as too little."""
    try:
        found = fit(samples)
    except Malformed:
        return
    assert min(found.ttft_ms, found.ttft_ms_per_token, found.tpot_ms, found.tpot_ms_per_sequence) > 0


@pytest.mark.parametrize(
    "samples", [[], [Sample(input_tokens=1, output_tokens=1, concurrency=1, ttft_ms=1, finish_ms=1)]]
)
def test_too_little_is_not_fitted(samples):
    """Nothing, or one token, says nothing of pace."""
    with pytest.raises(Malformed):
        fit(samples)


@given(ENGINES, st.integers(1, 8))
def test_engines_together_slow_down_less(engine, count):
    """A further sequence slows one of several equal engines, the first token none the less takes as long."""
    one = fit(measured(engine, plan(context_tokens=32_768, sequences=8)))
    many = together([one] * count)
    assert many.ttft_ms == one.ttft_ms
    assert many.tpot_ms_per_sequence == pytest.approx(one.tpot_ms_per_sequence / count)

"""What holds of the batching engine and of predictions for every workload."""

from hypothesis import given, settings
from hypothesis import strategies as st

from wwwmarket.dispatch.batching import BatchingEngine, Sequence
from wwwmarket.dispatch.prediction import Load, TableLatency, Work
from wwwmarket.dispatch.step_time import EngineLimits, limits_for, step_time_model

STEPS = step_time_model("L40S", "Qwen3-8B")
sizes = st.tuples(st.integers(1, 150), st.integers(1, 60))
workloads = st.lists(sizes, min_size=1, max_size=12)
limits = st.builds(
    EngineLimits,
    kv_tokens_max=st.integers(211, 500),
    sequences_max=st.integers(1, 6),
    batch_tokens_max=st.integers(6, 64),
)


def run(engine, *, steps_max=1, admissions=()):
    """Step to the end, admitting one more sequence before each step; tokens, end and preemptions by key."""
    pending, tokens, ended, preempted, now = list(admissions), {}, {}, [], 0.0
    while True:
        if pending:
            engine.admit(pending.pop(0))
        outcome = engine.next_step(now, steps_max=steps_max)
        if outcome is None:
            return tokens, ended, preempted
        assert outcome.duration_ms > 0
        assert 0 <= engine.kv_tokens <= engine.limits.kv_tokens_max
        assert engine.running <= engine.limits.sequences_max
        now = outcome.ended_ms
        preempted += outcome.preempted
        for key in outcome.emitted:
            tokens[key] = tokens.get(key, 0) + outcome.steps
        ended |= dict.fromkeys(outcome.finished, now)


def sequences(workload):
    return [Sequence(key=i, input_tokens=a, output_tokens=b) for i, (a, b) in enumerate(workload)]


@given(workloads, limits)
def test_every_sequence_finishes_with_exactly_its_tokens(workload, bounds):
    """KV stays within capacity, and whatever is preempted, each sequence gets its output tokens once."""
    engine = BatchingEngine(STEPS, bounds)
    tokens, ended, _ = run(engine, admissions=sequences(workload))
    assert tokens == {i: output for i, (_, output) in enumerate(workload)}
    assert ended.keys() == tokens.keys()
    assert engine.kv_tokens == engine.running == engine.waiting == 0


@given(workloads, limits)
def test_joined_steps_change_nothing(workload, bounds):
    """Joining equal decode steps gives the same tokens, ends, preemptions and final state as single steps."""
    single, joined = BatchingEngine(STEPS, bounds), BatchingEngine(STEPS, bounds)
    for sequence in sequences(workload):
        single.admit(sequence)
        joined.admit(sequence)
    tokens, ended, preempted = run(single)
    tokens_joined, ended_joined, preempted_joined = run(joined, steps_max=1_000)
    assert tokens == tokens_joined
    assert preempted == preempted_joined
    assert all(abs(ended[key] - ended_joined[key]) < 1e-6 * ended[key] for key in ended)
    assert single.digest() == joined.digest()


@given(workloads, limits, st.data())
def test_an_abort_leaves_no_trace(workload, bounds, data):
    """Aborted at any moment, a sequence frees its KV, gets no more tokens, and the others finish."""
    engine = BatchingEngine(STEPS, bounds)
    for sequence in sequences(workload):
        engine.admit(sequence)
    gone = data.draw(st.integers(0, len(workload) - 1))
    early = set()
    for _ in range(data.draw(st.integers(0, 40))):
        outcome = engine.next_step(0.0)
        early |= set(outcome.finished) if outcome else set()
    assert engine.abort(gone) == (gone not in early)
    assert not engine.abort(gone)
    tokens, ended, _ = run(engine)
    assert gone not in tokens
    assert ended.keys() | early | {gone} == set(range(len(workload)))
    assert engine.kv_tokens == 0


def test_exhaustion_preempts_the_last_admitted_and_recomputes_it():
    """With KV for one sequence and a half, the younger one gives way, starts again, and loses no token."""
    engine = BatchingEngine(STEPS, EngineLimits(kv_tokens_max=120, sequences_max=4, batch_tokens_max=64))
    engine.admit(Sequence(key=1, input_tokens=30, output_tokens=60))
    engine.admit(Sequence(key=2, input_tokens=30, output_tokens=60))
    tokens, ended, preempted = run(engine)
    assert preempted == [2]
    assert tokens == {1: 60, 2: 60}
    assert ended[1] < ended[2]


works = st.builds(
    Work, input_tokens_left=st.integers(1, 3000), output_tokens_left=st.integers(1, 400), context_tokens=st.just(0)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(works, max_size=12), works, st.integers(10, 2000), st.integers(1, 300))
def test_more_work_ahead_is_never_faster(known, more, input_tokens, output_tokens):
    """A prediction does not improve when work is added ahead of the request, where all of it is known: lengths of
    others are guessed from those known, and a short one shortens the guess.
    """
    table = TableLatency(model=STEPS, limits=limits_for("L40S", "Qwen3-8B"))
    before = Load(running=0, waiting=len(known), work=tuple(known))
    after = Load(running=0, waiting=len(known) + 1, work=(*known, more))
    a = table.predict(before, input_tokens=input_tokens, output_tokens=output_tokens)
    b = table.predict(after, input_tokens=input_tokens, output_tokens=output_tokens)
    assert a.ttft_ms <= b.ttft_ms
    assert a.finish_ms <= b.finish_ms
    assert a.ttft_ms <= a.finish_ms


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 64), st.integers(0, 64), st.integers(0, 900_000), st.integers(1, 100_000))
def test_a_fuller_engine_is_never_faster(running, waiting, usage_ppm, more_ppm):
    """More running, more waiting, or a fuller KV cache never predicts an earlier finish."""
    table = TableLatency(model=STEPS, limits=limits_for("L40S", "Qwen3-8B", sequences_max=32))

    def finish(r, w, u):
        return table.predict(Load(running=r, waiting=w, kv_usage_ppm=u), input_tokens=300, output_tokens=80).finish_ms

    base = finish(running, waiting, usage_ppm // 2)
    assert base <= finish(running, waiting + 1, usage_ppm // 2)
    assert base <= finish(running, waiting, usage_ppm // 2 + more_ppm // 2)

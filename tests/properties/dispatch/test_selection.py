"""Which of several engines answers: filter, score, pick."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from wwwmarket.dispatch.fitting import Fit
from wwwmarket.dispatch.prediction import Load
from wwwmarket.dispatch.selection import BLOCK_BYTES, Candidate, Prefixes, Wanted, blocks_of, eligible, pick
from wwwmarket.dispatch.step_time import EngineLimits

LIMITS = EngineLimits(kv_tokens_max=100_000, sequences_max=8)


def fitted(ttft_ms: float, tpot_ms: float) -> Fit:
    return Fit(
        ttft_ms=ttft_ms,
        ttft_ms_per_token=0.1,
        tpot_ms=tpot_ms,
        tpot_ms_per_sequence=tpot_ms / 20,
        ttft_error_ppm=0,
        tpot_error_ppm=0,
    )


LOADS = st.none() | st.builds(
    Load, running=st.integers(0, 20), waiting=st.integers(0, 20), kv_usage_ppm=st.none() | st.integers(0, 1_000_000)
)
LATENCIES = st.builds(fitted, st.floats(1, 100), st.floats(1, 50)).map(lambda fit: fit.latency(LIMITS))
MODELS = st.frozensets(st.sampled_from(["a", "b"]))
ENGINES = st.lists(
    st.builds(
        Candidate,
        key=st.integers(0, 1_000),
        models=MODELS,
        context_tokens=st.integers(1, 20_000),
        latency=LATENCIES,
        load=LOADS,
        known_tokens=st.integers(0, 5_000),
    ),
    unique_by=lambda one: one.key,
    max_size=6,
)
WANTED = st.builds(
    Wanted, model=st.sampled_from(["a", "b"]), input_tokens=st.integers(1, 4_000), output_tokens=st.integers(0, 500)
)
IDLE = Candidate(
    key=0,
    models=frozenset({"a"}),
    context_tokens=8_192,
    latency=fitted(10, 5).latency(LIMITS),
    load=Load(running=0, waiting=0),
)
ASKED = Wanted(model="a", input_tokens=1_000, output_tokens=100)


@given(ENGINES, WANTED)
def test_only_engines_that_can_answer_are_picked(engines, wanted):
    """An unknown engine is never picked, nor one without the model, nor one that is too small."""
    for one in pick(engines, wanted):
        assert one.load is not None
        assert wanted.model in one.models
        assert wanted.input_tokens + wanted.output_tokens <= one.context_tokens
        assert one in eligible(engines, wanted)


@given(ENGINES, WANTED, st.randoms(use_true_random=False))
def test_the_order_of_the_engines_does_not_matter(engines, wanted, chance):
    """The same engines in any order give the same ranking."""
    shuffled = list(engines)
    chance.shuffle(shuffled)
    assert pick(shuffled, wanted) == pick(engines, wanted)


@given(st.integers(0, 10), st.integers(1, 10))
def test_of_equal_engines_the_less_loaded_one_is_first(few, more):
    """Load decides where nothing else does."""
    calm = replace(IDLE, key=7, load=Load(running=few, waiting=0))
    busy = replace(IDLE, key=1, load=Load(running=few + more, waiting=0))
    assert pick([busy, calm], ASKED) == [calm, busy]


def test_an_engine_that_has_seen_the_beginning_comes_before_an_equal_one():
    """A prompt goes where its prefix is, until that engine is too busy for it to be worth while."""
    warm = replace(IDLE, key=5, known_tokens=900)
    assert pick([IDLE, warm], ASKED)[0] is warm
    crowded = replace(warm, load=Load(running=8, waiting=8))
    assert pick([IDLE, crowded], ASKED)[0] is IDLE


def test_a_faster_engine_comes_before_a_slower_one():
    """Predicted finish is what counts."""
    slow = replace(IDLE, key=0, latency=fitted(50, 20).latency(LIMITS))
    assert pick([slow, replace(IDLE, key=3)], ASKED)[0].key == 3


def test_what_its_memory_never_holds_is_not_picked():
    """The KV cache is a bound as the context is."""
    small = replace(IDLE, latency=fitted(10, 5).latency(EngineLimits(kv_tokens_max=500)))
    assert pick([small], ASKED) == []


@given(st.binary(max_size=4_000), st.binary(max_size=1_000), st.binary(max_size=1_000))
def test_what_is_known_of_a_prompt_is_its_common_beginning(common, one, other):
    """Whole blocks of a common beginning are known, and nothing behind the first difference."""
    seen = Prefixes()
    seen.remember(blocks_of(common + one))
    known = seen.known_tokens(blocks_of(common + other)) * 4
    shared = len(common)
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        shared += 1
    assert known == min(shared, len(common + one), len(common + other)) // BLOCK_BYTES * BLOCK_BYTES


@given(st.lists(st.binary(min_size=300, max_size=3_000), max_size=20))
def test_what_is_remembered_is_bounded(prompts):
    """Beginnings are forgotten last, and no more blocks are kept than the bound."""
    seen = Prefixes(blocks_max=8)
    for prompt in prompts:
        seen.remember(blocks_of(prompt))
        assert len(seen) <= 8
        assert seen.known_tokens(blocks_of(prompt)[:8]) == len(blocks_of(prompt)[:8]) * BLOCK_BYTES // 4

"""Learnt output lengths, whatever comes."""

from hypothesis import given
from hypothesis import strategies as st

from wwwmarket.dispatch.output_length import OutputLengths

CLIENTS = ["a" * 64, "b" * 64, "c" * 64]
MODELS = ["small", "large"]
MAX = 2_048

maxima = st.integers(1, 2**32)
answers = st.lists(st.tuples(st.sampled_from(CLIENTS), st.sampled_from(MODELS), st.integers(0, 2**32), maxima))


@given(answers, maxima)
def test_nothing_is_expected_beyond_the_maximum(seen, bound):
    """Whatever was counted: 1 ≤ expected, high ≤ maximum."""
    lengths = OutputLengths()
    for client, model, output_tokens, max_output_tokens in seen:
        lengths.observe(client, model, output_tokens, max_output_tokens=max_output_tokens)
    for client in CLIENTS:
        told = lengths.expected(client, MODELS[0], bound)
        assert 1 <= told.expected <= bound
        assert 1 <= told.high <= bound


@given(st.integers(1, MAX - 1))
def test_a_constant_length_is_converged_to(length):
    """Whatever the one size is, it is what is expected in the end."""
    lengths = OutputLengths()
    for _ in range(200):
        lengths.observe(CLIENTS[0], MODELS[0], length, max_output_tokens=MAX)
    told = lengths.expected(CLIENTS[0], MODELS[0], MAX)
    assert abs(told.expected - length) <= 1 + 0.05 * length


@given(
    st.lists(st.integers(20, 400), min_size=5, max_size=60).flatmap(
        lambda one: st.tuples(st.just(one), st.permutations(one))
    )
)
def test_the_order_of_the_same_answers_hardly_matters(orders):
    """Within what is remembered, the same answers in another order come to the same, within a few percent."""
    told = []
    for order in orders:
        lengths = OutputLengths()
        for length in order:
            lengths.observe(CLIENTS[0], MODELS[0], length, max_output_tokens=MAX)
        told.append(lengths.expected(CLIENTS[0], MODELS[0], MAX).expected)
    assert abs(told[0] - told[1]) <= 2 + 0.1 * max(told)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=200))
def test_what_is_remembered_is_bounded(pairs):
    """However many clients and models come, no more habits are kept than said."""
    lengths = OutputLengths(clients_max=5, models_max=3)
    for client, model in pairs:
        lengths.observe(f"{client:064x}", str(model), 10, max_output_tokens=100)
        lengths.expected(f"{model:064x}", str(client), 100)
    assert len(lengths) <= 8


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=100))
def test_who_keeps_what_is_told_can_go_on(pairs):
    """Whatever was seen: what ``observe`` returned, kept by key, makes another learner that expects the same."""
    lengths = OutputLengths(clients_max=5, models_max=3)
    kept = {}
    for client, model in pairs:
        for memory in lengths.observe(f"{client:064x}", str(model), 1 + client, max_output_tokens=100):
            key = (memory.client, memory.model)
            kept.pop(key, None)
            if memory.habit is not None:
                kept[key] = memory
    again = OutputLengths(clients_max=5, models_max=3)
    assert again.remember(kept.values()) == ()
    assert len(again) == len(lengths) == len(kept)
    for client, model in pairs:
        name = (f"{client:064x}", str(model), 100)
        assert again.expected(*name) == lengths.expected(*name)

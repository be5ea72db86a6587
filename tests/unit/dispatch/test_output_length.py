"""Learnt output lengths: what is expected of a stranger, of a client with a history, and how sure it is."""

from random import Random

import pytest

from tests.unit.rules.world import CLIENT, STRANGER
from wwwmarket.dispatch.output_length import MEMORY_ANSWERS, OutputLengths

MODEL = "test/model"
MAX = 4_096


def learnt(lengths: list[int], client=CLIENT, *, max_output_tokens: int = MAX) -> OutputLengths:
    seen = OutputLengths()
    for length in lengths:
        seen.observe(client.account, MODEL, length, max_output_tokens=max_output_tokens)
    return seen


def test_a_stranger_is_expected_to_use_half_of_its_maximum():
    """Without any history the mean is half of what is allowed, and the high quantile close to all of it."""
    told = OutputLengths().expected(CLIENT.account, MODEL, 1_000)
    assert told.expected == pytest.approx(500, rel=0.05)
    assert told.high == 1_000


def test_nothing_allowed_is_nothing_expected():
    """A maximum of no tokens has one answer only."""
    told = OutputLengths().expected(CLIENT.account, MODEL, 0)
    assert (told.expected, told.high) == (0, 0)


def test_a_regular_client_is_learnt():
    """After a few dozen answers of one size, that size is expected within a few percent, with little spread."""
    told = learnt([100] * 50).expected(CLIENT.account, MODEL, MAX)
    assert told.expected == pytest.approx(100, rel=0.05)
    assert 100 <= told.high < 150


def test_a_strangers_length_is_drawn_from_its_models():
    """A client without a history is expected to do as others do with this model, and with no other."""
    seen = learnt([100] * 50)
    assert seen.expected(STRANGER.account, MODEL, MAX).expected < 150
    assert seen.expected(STRANGER.account, "other", MAX).expected > MAX // 3


def test_clients_are_told_apart():
    """Two clients of one model keep their own habits."""
    seen = OutputLengths()
    for _ in range(40):
        seen.observe(CLIENT.account, MODEL, 50, max_output_tokens=MAX)
        seen.observe(STRANGER.account, MODEL, 2_000, max_output_tokens=MAX)
    assert seen.expected(CLIENT.account, MODEL, MAX).expected < 100
    assert seen.expected(STRANGER.account, MODEL, MAX).expected > 1_400


def test_a_changed_habit_is_learnt_anew():
    """The past fades: after twice the memory the old size is forgotten."""
    told = learnt([50] * 500 + [1_000] * int(3 * MEMORY_ANSWERS)).expected(CLIENT.account, MODEL, MAX)
    assert told.expected == pytest.approx(1_000, rel=0.25)


def test_one_outlier_moves_little():
    """A single huge answer among small ones is no habit."""
    calm = learnt([100] * 40).expected(CLIENT.account, MODEL, MAX).expected
    told = learnt([100] * 40 + [MAX - 1]).expected(CLIENT.account, MODEL, MAX).expected
    assert told < calm * 1.3


def test_answers_that_were_cut_off_lower_nothing():
    """What hit a small maximum says nothing against long answers under a large one."""
    seen = learnt([1_000] * 30)
    for _ in range(30):
        seen.observe(CLIENT.account, MODEL, 16, max_output_tokens=16)
    assert seen.expected(CLIENT.account, MODEL, MAX).expected > 800


def test_an_answer_of_nothing_teaches_nothing():
    """No tokens have no logarithm, and say that something else went on."""
    assert len(learnt([0, 0])) == 0


def test_the_high_quantile_is_honest():
    """Of log-normal lengths, nine in ten stay below what is told, give or take a few."""
    chance = Random(7)
    seen, below = OutputLengths(), 0
    for turn in range(1_200):
        length = min(MAX, max(1, round(chance.lognormvariate(5.0, 0.8))))
        if turn >= 200:
            below += length <= seen.expected(CLIENT.account, MODEL, MAX).high
        seen.observe(CLIENT.account, MODEL, length, max_output_tokens=MAX)
    assert 0.87 <= below / 1_000 <= 0.95


def test_the_mean_is_honest():
    """Of log-normal lengths, what is expected agrees with the mean of what comes, which is above the median."""
    chance = Random(11)
    lengths = [min(MAX, max(1, round(chance.lognormvariate(5.0, 0.8)))) for _ in range(2_000)]
    seen, told = OutputLengths(), 0
    for length in lengths:
        told += seen.expected(CLIENT.account, MODEL, MAX).expected
        seen.observe(CLIENT.account, MODEL, length, max_output_tokens=MAX)
    assert told / len(lengths) == pytest.approx(sum(lengths) / len(lengths), rel=0.1)

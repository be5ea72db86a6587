"""How much longer an answer goes on, by what was seen of others."""

from wwwmarket.dispatch.remaining_length import REMEMBERED, RemainingLengths


def left(lengths: RemainingLengths, produced: int, expected: int = 77) -> int:
    return lengths.left(produced, expected=expected, prior=100, longest=8_192)


def test_what_goes_on_is_expected_to_go_on():
    """An answer that has been going on for long is expected to go on longer than was expected of it at first."""
    lengths = RemainingLengths()
    for length in [10] * 120 + [1_000] * 120:
        lengths.observe(length)
    assert left(lengths, 0) == 77
    assert left(lengths, 500) > 400


def test_an_answer_beyond_all_that_was_expected_is_not_about_to_end():
    """Where nothing longer was ever seen, the prior says how much is left, up to the bound."""
    lengths = RemainingLengths()
    assert left(lengths, 500) == 100
    assert left(lengths, 8_150) == 42
    assert left(lengths, 9_000) == 1


def test_what_is_remembered_is_bounded():
    """The oldest lengths are forgotten."""
    lengths = RemainingLengths()
    for length in [5_000] * 10 + [10] * REMEMBERED:
        lengths.observe(length)
    assert left(lengths, 100) == 100

"""A gateway learns how long its clients' answers are, from what was settled, and bids with it."""

from tests.integration.node.town import MODEL, Town, bodies, buy, simulate
from wwwmarket.domain.records import Award
from wwwmarket.simulator.engine import Begin, Break, Say

MAX = 1_000
BROKEN = (Begin(), Say(data=b"data: word\n\n"), Break())


def test_answers_that_are_short_are_expected_to_be():
    """The first bid expects half of its maximum, the tenth about what came before."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await town.house("provider")
        await town.listed(1)
        for _ in range(10):
            assert (await buy(operator, max_output_tokens=MAX)).delivered.usage.output_tokens == 3
        await town.settled()
        awards = bodies(operator, Award)
        expected = [award.bid.expected_output_tokens for award in awards]
        assert 450 < expected[0] < 550
        assert 3 <= expected[-1] < 30
        assert expected == sorted(expected, reverse=True)

    simulate(story)


def test_a_broken_answer_teaches_nothing():
    """What failed after a few tokens was not short: the next bid expects what the first did."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await town.house("provider", play=BROKEN)
        await town.listed(1)
        lengths, client = operator.node.buying.purse.lengths, operator.key.account
        before = lengths.expected(client, MODEL.name, MAX)
        assert (await buy(operator, max_output_tokens=MAX)).refusal is not None
        await town.settled()
        assert lengths.expected(client, MODEL.name, MAX) == before

    simulate(story)

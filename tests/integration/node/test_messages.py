"""What a node counts of its auctions: the same messages as the simulator counts."""

from tests.integration.node.town import Town, buy, dearer, simulate
from wwwmarket.domain.records import Transfer
from wwwmarket.simulator.engine import Break


def counted(house, name):
    return house.answers.counters().counters.get(name, 0)


def test_asks_answers_and_handovers_between_nodes_are_counted():
    """Two others asked, two answers, one handover: five messages, and one auction; what stays in the house is none."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        home = await town.house("home")
        await town.house("dear", prices=dearer(2))
        await town.listed(2)
        assert (await buy(operator)).refusal is None
        assert counted(operator, "dispatch_messages_total") == 5
        assert counted(operator, "auctions_total") == 1
        assert counted(operator, "failovers_total") == 0
        await town.settled()
        await operator.node.author.settle(operator.key.account, transfer(home))
        await town.until(lambda: home.node.replica.state.account(home.key.account).available_micro > 1_000_000)
        assert (await buy(home)).refusal is None
        assert counted(home, "dispatch_messages_total") == 2
        await town.settled()

    simulate(story)


def test_a_failover_is_one_more_handover():
    """A winner that breaks before its first token costs one message and is counted as one failover."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await town.house("broken", (Break(),))
        await town.house("good", prices=dearer(2))
        await town.listed(2)
        assert (await buy(operator)).refusal is None
        assert counted(operator, "dispatch_messages_total") == 6
        assert counted(operator, "failovers_total") == 1
        await town.settled()

    simulate(story)


def transfer(house):

    return Transfer(to=house.key.account, amount_micro=2_000_000)

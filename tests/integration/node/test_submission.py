"""A node's own entries on their way to the operator: in order, many in one message, each answered for itself."""

import asyncio
from typing import Any

from tests.integration.node.town import House, Town, simulate
from tests.unit.rules.world import key
from wwwmarket.domain.errors import InsufficientCredit, Unavailable
from wwwmarket.domain.records import Transfer
from wwwmarket.node import messages

CREDITS_MICRO = 1_000_000
COUNT = 100


async def rich(town: Town) -> House:
    """Somebody who follows the ledger and has credits on it."""
    await town.house("operator", None)
    follower = await town.house("follower", None)
    await town.operator.node.author.settle(key("operator").account, pay("follower", CREDITS_MICRO))
    await town.until(lambda: balance(follower) == CREDITS_MICRO)
    return follower


def pay(to: str, amount_micro: int) -> Transfer:
    return Transfer(to=key(to).account, amount_micro=amount_micro)


def balance(house: House, name: str = "follower") -> int:
    return house.node.replica.state.account(key(name).account).available_micro


def counted(house: House) -> list[messages.Submit]:
    """What the house submits from now on, message by message."""
    sent: list[messages.Submit] = []
    transport = house.node.world.transport
    request = transport.request

    async def listen(peer: Any, message: bytes, *, timeout_ms: int) -> bytes:
        if isinstance(said := messages.read_request(message), messages.Submit):
            sent.append(said)
        return await request(peer, message, timeout_ms=timeout_ms)

    transport.request = listen
    return sent


def test_what_comes_while_a_message_is_under_way_goes_with_the_next_one():
    async def story(town: Town) -> None:
        follower = await rich(town)
        sent, author = counted(follower), follower.node.author
        await asyncio.gather(*(author.settle(key("follower").account, pay("x", 1)) for _ in range(COUNT)))
        await town.until(lambda: balance(town.operator, "x") == COUNT)
        assert sum(len(one.leaves) for one in sent) == COUNT
        assert len(sent) <= 1 + -(-COUNT // messages.SUBMITTED_MAX)

    simulate(story)


def test_one_that_is_refused_costs_those_behind_it_a_signature_and_nothing_else():
    async def story(town: Town) -> None:
        follower = await rich(town)
        author = follower.node.author
        bodies = [pay("x", 10 * CREDITS_MICRO if number % 25 == 7 else 1) for number in range(COUNT)]
        outcomes = await asyncio.gather(
            *(author.settle(key("follower").account, body) for body in bodies), return_exceptions=True
        )
        refused = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Exception)]
        assert refused == [7, 32, 57, 82]
        assert {type(outcomes[number]) for number in refused} == {InsufficientCredit}
        await town.until(lambda: balance(town.operator, "x") == COUNT - len(refused))

    simulate(story)


def test_an_operator_that_dies_between_is_told_again_and_takes_each_once():
    async def story(town: Town) -> None:
        follower = await rich(town)
        author = follower.node.author
        paying = asyncio.gather(*(author.settle(key("follower").account, pay("x", 1)) for _ in range(COUNT)))
        await town.until(lambda: balance(town.operator, "x") > 0)
        await town.operator.kill()
        await town.operator.open()
        await paying
        await town.until(lambda: balance(town.operator, "x") == COUNT)
        assert balance(town.operator) == CREDITS_MICRO - COUNT

    simulate(story)


def test_what_an_operator_cannot_take_now_is_not_lost_with_those_behind_it():
    """It is full for a moment: what it took stays, and the rest comes again in order."""

    async def story(town: Town) -> None:
        follower = await rich(town)
        author, sequencer = follower.node.author, town.operator.node.sequencer
        admit, refusals = sequencer._admit, iter([3, 9])
        due, seen = next(refusals), 0

        def full_at_times(entry: Any, future: Any) -> None:
            nonlocal due, seen
            seen += 1
            if seen == due:
                due = next(refusals, 0)
                raise Unavailable("full", retry_after_ms=1)
            admit(entry, future)

        sequencer._admit = full_at_times
        await asyncio.gather(*(author.settle(key("follower").account, pay("x", 1)) for _ in range(20)))
        await town.until(lambda: balance(town.operator, "x") == 20)
        assert due == 0, "it was full twice"

    simulate(story)

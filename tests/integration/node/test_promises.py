"""Promises of inclusion, as an author holds its operator to them."""

import asyncio

import pytest

from tests.integration.node.test_followers import same
from tests.integration.node.town import Town, simulate
from tests.unit.rules.world import key
from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.signing import open_entry, sign
from wwwmarket.domain.errors import Conflict, Malformed
from wwwmarket.domain.records import Inclusion, Transfer
from wwwmarket.ledger.evidence import judge
from wwwmarket.node import messages

SINK = key("sink").account


def faults(house) -> list[str]:
    return [judge(each).fault for each in house.evidence]


async def begun(town: Town):
    operator, follower = await town.house("operator", None), await town.house("follower", None)
    gift = Transfer(to=follower.key.account, amount_micro=100)
    await operator.node.author.settle(operator.key.account, gift)
    await same(town, follower, operator)
    return operator, follower


def answering(town: Town, promise) -> None:
    """The operator answers each entry with what ``promise`` makes of it, and orders none."""

    async def answer(_peer, message: bytes) -> bytes:
        leaves = messages.read_request(message).leaves
        promises = [promise(open_entry(leaf.encode())).signed for leaf in leaves]
        return canonical.encode(messages.Submitted(answers=tuple(messages.Promise(inclusion=one) for one in promises)))

    town.operator.transport._on_request = answer


def inclusion(town: Town, submitted, /, by=None, **changes):
    fields = {"entry": submitted.id, "origin": town.genesis.origin, "index": 10, "covered_by_ms": 0} | changes
    return sign(by or town.log_key, Inclusion(**fields))


def test_a_promise_by_another_or_of_another_entry_is_none():
    """Whoever signed it, for whatever: the author takes the log's own word for its own entry alone."""

    async def story(town: Town) -> None:
        _, follower = await begun(town)
        for wrong in ({"by": key("stranger")}, {"origin": "another.market"}, {"entry": "1" * 64}):
            answering(town, lambda entry, wrong=wrong: inclusion(town, entry, **wrong))
            with pytest.raises(Malformed):
                await follower.node.author.settle(follower.key.account, Transfer(to=SINK, amount_micro=1))
        assert faults(follower) == []

    simulate(story)


@pytest.mark.parametrize(("ahead", "within_ms", "fault"), [(0, 60_000, "displaced"), (50, 1_500, "overdue")])
def test_a_promise_that_is_not_kept_is_kept_as_evidence(ahead, within_ms, fault):
    """Another entry comes to stand at the index; or marks go past the deadline, and nothing stands there."""

    async def story(town: Town) -> None:
        operator, follower = await begun(town)
        index, due_ms = operator.node.replica.size + ahead, town.clock.now_ms() + within_ms
        answering(town, lambda entry: inclusion(town, entry, index=index, covered_by_ms=due_ms))
        await follower.node.author.settle(follower.key.account, Transfer(to=SINK, amount_micro=1))
        for _ in range(4):
            await operator.node.author.settle(operator.key.account, Transfer(to=SINK, amount_micro=1))
            await asyncio.sleep(1)
        await same(town, follower, operator)
        await town.until(lambda: bool(follower.evidence), 10_000)
        assert faults(follower) == [f"promise_{fault}"]

    simulate(story)


def test_an_honest_operator_leaves_no_evidence():
    """Under load, and over its own quick restart."""

    async def story(town: Town) -> None:
        operator, follower = await begun(town)
        for _ in range(3):
            for _ in range(10):
                await follower.node.author.settle(follower.key.account, Transfer(to=SINK, amount_micro=1))
            await operator.kill()
            await asyncio.sleep(1)
            await operator.open()
        await same(town, follower, operator)
        await asyncio.sleep(2)
        assert follower.evidence == []

    simulate(story)


def test_an_operator_that_was_away_for_longer_than_it_promised_was_late():
    """It kept the entry, and its first mark after it comes past the deadline: delay needs no intent."""

    async def story(town: Town) -> None:
        operator, follower = await begun(town)
        await asyncio.sleep(1)
        await follower.node.author.settle(follower.key.account, Transfer(to=SINK, amount_micro=1))
        await operator.kill()
        await asyncio.sleep(30)
        await operator.open()
        await same(town, follower, operator)
        await town.until(lambda: bool(follower.evidence), 60_000)
        assert faults(follower) == ["promise_late"]

    simulate(story)


def test_two_entries_for_one_place_are_kept_by_who_orders_them():
    """The account's own two signatures; the log takes the first."""

    async def story(town: Town) -> None:
        operator, follower = await begun(town)
        seq, prev = operator.node.replica.state.chain_head(follower.key.account)
        pair = [
            signing.verified_own(
                signing.sign_entry(follower.key, seq=seq, prev=prev, body=Transfer(to=SINK, amount_micro=amount))
            )
            for amount in (1, 2)
        ]
        await operator.node.sequencer.submit(pair[0])
        with pytest.raises(Conflict):
            await operator.node.sequencer.submit(pair[1])
        assert faults(operator) == ["chain_forked"]
        await operator.node.sequencer.submit(pair[0])
        assert len(operator.evidence) == 1

    simulate(story)

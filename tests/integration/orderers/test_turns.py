"""Sequencers that take turns, in simulated time: who admits, who follows, and what becomes of what was pending."""

import asyncio

import pytest

from tests.integration.node.town import House, Town, simulate
from tests.unit.rules.world import key
from wwwmarket.config import LOCAL
from wwwmarket.crypto import canonical, signing
from wwwmarket.domain.errors import Conflict, NotFound, Unavailable
from wwwmarket.domain.records import Inclusion, Transfer
from wwwmarket.ledger.note import VerifierKey
from wwwmarket.node import messages, turns
from wwwmarket.node.node import Founding, Joining
from wwwmarket.node.sequencer import SUPERSEDED
from wwwmarket.simulator.orderer import MemoryOrderer, MemoryOrdering
from wwwmarket.simulator.store import MemoryLedger


class Sequencers(Town):
    """``operator`` and ``second`` order one log; everybody else follows both."""

    def __init__(self) -> None:
        super().__init__(LOCAL)
        self.ordering = MemoryOrdering()
        self.orderers: dict[str, MemoryOrderer] = {}
        self.alone = False
        """Whether the operator orders in its own store for now."""
        self.seeds = False

    def orderer_of(self, name: str) -> MemoryOrderer | None:
        if self.alone or name not in {"operator", "second"}:
            return None
        self.orderers[name] = self.ordering.orderer(key(name).account)
        return self.orderers[name]

    def part(self, name: str) -> Founding | Joining:
        if name in {"operator", "second"}:
            return Founding(self.log_key, self.genesis, seed_orderer=self.seeds and name == "operator")
        houses = (self.houses["operator"], self.houses["second"])
        addresses = [house.transport.address() for house in houses]
        return Joining(addresses[0], VerifierKey(self.genesis.origin, self.log_key.account), tuple(addresses[1:]))

    async def leads(self, house: House) -> None:
        await self.until(lambda: house.node.sequencer.leads)

    async def pay(self, house: House, times: int = 1) -> list[Inclusion]:
        """The promises of so many transfers from the founder's account, signed and sent by that house."""
        await self.until(lambda: house.node.replica.size == len(self.ordering.leaves))
        author = house.node.author
        author.add_key(key("operator"))
        transfer = Transfer(to=key("x").account, amount_micro=1)
        return [(await author.settle(key("operator").account, transfer)).body for _ in range(times)]

    async def die(self, house: House) -> None:
        """Killed; its lease ends."""
        await house.kill()
        await self.ordering.depose()

    async def same(self, *houses: House) -> None:
        """All hold the whole log and the same state, each in its own store, as far as it was ordered."""
        whole = self.ordering.leaves
        await self.until(lambda: all(house.node.replica.size == len(whole) for house in houses))
        assert len({house.node.replica.state.root() for house in houses}) == 1
        for house in houses:
            assert await house.ledger.read(0, 10**6) == whole


def play(story) -> None:
    async def sequencers(_town: Town) -> None:
        town = Sequencers()
        try:
            await story(town)
        finally:
            await town.close()

    simulate(sequencers)


def test_one_leads_and_the_other_follows_it():
    """Entries given to either are promised once, and both stores and a follower of either come to the same."""

    async def story(town: Sequencers) -> None:
        first, second = await town.house("operator", None), await town.house("second", None)
        follower = await town.house("follower", None)
        await town.leads(first)
        assert not second.node.sequencer.leads
        promised = await town.pay(first, 3) + await town.pay(second, 3) + await town.pay(follower, 3)
        assert len({promise.index for promise in promised}) == 9
        await town.same(first, second, follower)
        await town.until(lambda: second.node.replica.checkpoint.checkpoint.size > promised[-1].index)
        status = second.answers.status()
        assert [address.node for address in status.sequencers] == [first.id, second.id], "the leader is named first"

    play(story)


def test_a_sequencer_that_does_not_lead_says_so_and_who_does():
    """Unavailable, with when to try again: it admits nothing."""

    async def story(town: Sequencers) -> None:
        first, second = await town.house("operator", None), await town.house("second", None)
        stranger = await town.house("follower", None)
        entry = signing.sign_entry(
            key("operator"), seq=0, prev="00" * 32, body=Transfer(to=key("x").account, amount_micro=1)
        )
        message = canonical.encode(messages.Submit(leaves=(canonical.encode(entry).decode(),)))
        await town.leads(first)
        answer = await stranger.transport.request(second.transport.address(), message, timeout_ms=5_000)
        (refused,) = messages.read_answer(answer).answers
        assert (refused.code, refused.reason) == ("unavailable", "not_leading")
        assert refused.retry_after_ms > 0
        await town.ordering.depose()
        await town.until(lambda: second.node.sequencer.leads or first.node.sequencer.leads)

    play(story)


def test_the_next_one_takes_over_where_the_dead_one_ended():
    """Nothing promised is lost, the follower and its entries find the new leader, and the dead one comes back behind."""

    async def story(town: Sequencers) -> None:
        first, second = await town.house("operator", None), await town.house("second", None)
        follower = await town.house("follower", None)
        await town.leads(first)
        before = await town.pay(first, 5)
        await town.die(first)
        after = await town.pay(follower, 5)
        await town.leads(second)
        assert {promise.index for promise in before} & {promise.index for promise in after} == set()
        await first.open()
        await town.same(first, second, follower)
        await town.die(second)
        await town.leads(first)
        await town.pay(follower)
        await town.same(first, follower)

    play(story)


def test_an_append_whose_answer_is_lost_is_found_and_promised():
    """It is in the log once."""

    async def story(town: Sequencers) -> None:
        first, second = await town.house("operator", None), await town.house("second", None)
        await town.leads(first)
        for lost in (1, 3):
            town.orderers["operator"].answers_lost = lost
            (promise,) = await town.pay(first)
            assert town.ordering.leaves.count(town.ordering.leaves[promise.index]) == 1
        await town.same(first, second)

    play(story)


def test_a_leader_waits_for_its_orderer_and_goes_on():
    """Unreachable for a while: what was admitted is promised once it is back."""

    async def story(town: Sequencers) -> None:
        first = await town.house("operator", None)
        await town.leads(first)
        town.ordering.reachable = False
        paying = first.spawn(town.pay(first))
        await asyncio.sleep(10)
        assert not paying.done()
        town.ordering.reachable = True
        await paying
        await town.same(first)

    play(story)


def test_a_fenced_leader_promises_nothing_and_begins_anew():
    """What it admitted and could not order makes its state worthless: it ends, and started again it follows."""

    async def story(town: Sequencers) -> None:
        first, second = await town.house("operator", None), await town.house("second", None)
        await town.leads(first)
        await town.pay(first, 2)
        await town.same(first, second)
        size = len(town.ordering.leaves)
        town.ordering.leader = town.orderers["second"]  # behind everybody's back: a lease that ended unnoticed
        entry = signed_by_founder(first)
        with pytest.raises(Unavailable) as caught:
            await first.node.sequencer.submit(entry)
        assert caught.value.reason == SUPERSEDED
        with pytest.raises(Unavailable):
            await first.node.wait_failed()
        assert len(town.ordering.leaves) == size
        await first.kill()
        await town.ordering.depose()
        await town.leads(second)
        await first.open()
        await town.pay(second, 2)
        await town.same(first, second)

    play(story)


def signed_by_founder(house: House):
    account = key("operator")
    head = house.node.replica.state.chain_head(account.account)
    body = Transfer(to=key("x").account, amount_micro=1)
    return signing.verified_own(signing.sign_entry(account, seq=head.next_seq, prev=head.prev, body=body))


def test_a_leader_that_is_deposed_with_nothing_pending_follows_and_leads_again():
    """Without a restart."""

    async def story(town: Sequencers) -> None:
        first, second = await town.house("operator", None), await town.house("second", None)
        await town.leads(first)
        await turned_over(town, first, second)
        await turned_over(town, second, first)

    play(story)


async def turned_over(town: Sequencers, one: House, other: House) -> None:
    """The lead, while the one has nothing pending; it is told."""
    await town.until(lambda: one.node.replica.size == one.node.sequencer.committed)
    async with town.ordering.vacant:
        town.ordering.leader = town.orderers[other.name]
        town.ordering.vacant.notify_all()
    await town.leads(other)
    await town.until(lambda: not one.node.sequencer.leads)
    await town.pay(one)
    await town.same(one, other)


def test_a_lost_tail_is_repaired_from_the_orderer():
    """A sequencer whose disk lost the end of its log has it again when it starts."""

    async def story(town: Sequencers) -> None:
        first, second = await town.house("operator", None), await town.house("second", None)
        await town.leads(first)
        await town.pay(first, 6)
        await town.same(first, second)
        await town.die(first)
        await town.leads(second)
        for kept in (3, 0):
            first.ledger = await shortened(first.ledger, kept)
            await first.open()
            await town.same(first, second)
            await first.kill()

    play(story)


async def shortened(ledger: MemoryLedger, size: int) -> MemoryLedger:
    """As it was at that size, though it knows what it promised, and still has its latest checkpoint."""
    older = Shortened(await ledger.promised())
    leaves = await ledger.read(0, size)
    await older.append(0, leaves, [signing.open_entry(leaf).id for leaf in leaves])
    note = await ledger.checkpoint()
    if note is not None:
        older._checkpoints = ledger._checkpoints
    return older


class Shortened(MemoryLedger):
    def __init__(self, promised: int) -> None:
        super().__init__()
        self._promised = promised

    async def promised(self) -> int:
        return max(self._promised, await self.size())


def test_an_operator_alone_does_not_start_on_a_log_that_lost_its_end():
    """It would order other entries where promised ones stood. The message says what to do."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await operator.node.author.settle(operator.key.account, Transfer(to=key("x").account, amount_micro=1))
        await operator.kill()
        operator.ledger = await shortened(operator.ledger, 1)
        operator.ledger._checkpoints.clear()
        with pytest.raises(Conflict, match="Restore the database") as caught:
            await operator.open()
        assert caught.value.reason == "lost_tail"

    simulate(story)


def test_an_orderer_that_lost_entries_is_not_believed():
    """A sequencer that has more than its orderer does not start: other entries would stand where promised ones stood."""

    async def story(town: Sequencers) -> None:
        first = await town.house("operator", None)
        await town.leads(first)
        await town.pay(first, 4)
        await town.die(first)
        for lost in (1, len(town.ordering.leaves)):
            del town.ordering.leaves[-lost:]
            with pytest.raises(Conflict, match="restore what the orderer lost") as caught:
                await first.open()
            assert caught.value.reason == "lost_tail"
            await first.kill()

    play(story)


def test_a_log_that_one_process_ordered_alone_moves_to_a_shared_orderer():
    """Told to, its sequencer seeds the empty orderer and goes on; a second one joins; another log is not mixed in."""

    async def story(town: Sequencers) -> None:
        town.alone = True
        first = await town.house("operator", None)
        author = first.node.author
        for _ in range(300):
            await author.settle(first.key.account, Transfer(to=key("x").account, amount_micro=1))
        await first.kill()
        town.alone, town.seeds = False, True
        await first.open()
        await town.leads(first)
        second = await town.house("second", None)
        await town.pay(first, 2)
        await town.same(first, second)
        await town.die(first)
        await town.leads(second)
        town.ordering.leaves = [b"another log", *town.ordering.leaves[: first.node.replica.size - 2]]
        await second.kill()
        await town.ordering.depose()
        with pytest.raises(Conflict) as caught:
            await first.open()
        assert caught.value.reason == "other_tree"

    play(story)


def test_the_orderer_forgets_only_what_every_sequencer_keeps(monkeypatch):
    """The tail is trimmed behind the slowest; one that has nothing copies the log from another, and then follows."""
    monkeypatch.setattr(turns, "TAIL_KEPT_ENTRIES", 4)

    async def story(town: Sequencers) -> None:
        first, second = await town.house("operator", None), await town.house("second", None)
        await town.leads(first)
        await town.pay(first, 20)
        await town.until(lambda: town.ordering.trimmed > 10)
        await second.kill()
        stood = second.node.replica.size
        await town.pay(first, 20)
        await asyncio.sleep(5)
        assert town.ordering.trimmed <= stood - 4, "one that is announced is waited for"
        town.ordering.announced.pop(second.id)  # its announcement ends
        await town.until(lambda: town.ordering.trimmed > stood)
        second.ledger = MemoryLedger()
        await second.open()
        await town.same(first, second)

    play(story)


def test_a_sequencer_alone_behind_a_trimmed_tail_says_so(monkeypatch):
    """Nobody is there to copy from: it does not begin a log of its own."""
    monkeypatch.setattr(turns, "TAIL_KEPT_ENTRIES", 4)

    async def story(town: Sequencers) -> None:
        first = await town.house("operator", None)
        await town.leads(first)
        await town.pay(first, 20)
        await town.until(lambda: town.ordering.trimmed > 10)
        await town.die(first)
        first.ledger = MemoryLedger()
        with pytest.raises(NotFound) as caught:
            await first.open()
        assert caught.value.reason == "trimmed"

    play(story)

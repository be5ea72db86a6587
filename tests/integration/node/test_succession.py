"""A node whose operator is gone: it follows a quorum's word, gives up what was never final, and nothing of its own."""

import asyncio

import pytest
from msgspec.structs import replace

from tests.integration.node.test_followers import same
from tests.integration.node.town import House, Town, simulate
from tests.unit.mirror.test_succession import NAMES, certified
from tests.unit.mirror.world import committee_of
from tests.unit.rules.world import key
from wwwmarket.crypto.derivation import child
from wwwmarket.crypto.signing import open_entry
from wwwmarket.domain.errors import Refusal, Unavailable
from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.records import Certified, NodeAddress, Succession, Transfer
from wwwmarket.ledger.merkle import leaf_hash, root_of
from wwwmarket.node.node import Founding
from wwwmarket.node.sequencer import SUPERSEDED
from wwwmarket.node.succeeding import keep_succession
from wwwmarket.ports.mirrors import MirrorAnswer
from wwwmarket.rules.succession import write_successions

SINK = key("sink").account
NEXT = "test.market/2"


class Telling:
    """Implements ``ports.mirrors.Mirrors`` for a committee that cosigns nothing, and tells of a succession."""

    def __init__(self) -> None:
        self.told: bytes = write_successions(())

    async def add_checkpoint(self, url: str, body: bytes, *, timeout_ms: int) -> MirrorAnswer:  # noqa: ARG002 - nobody is there
        raise Unavailable("nobody answers", retry_after_ms=1_000)

    async def successions(self, url: str, *, timeout_ms: int) -> bytes:  # noqa: ARG002 - every mirror says the same
        return self.told


class Site(Town):
    """A market with a committee of four, whose log a node named ``successor`` may take over."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.genesis = replace(self.genesis, committee=committee_of(NAMES))
        self.mirrors = Telling()

    def part(self, name: str):
        if name == "successor":
            return Founding(child(key(name), "operator"), self.genesis)
        return super().part(name)

    async def succeed(self, decreed: Certified[Succession]) -> House:
        """The new operator, over a copy of what the mirrors swore to."""
        house = self.houses["successor"] = House(self, "successor", None)
        leaves = self.operator.ledger._leaves[: decreed.body.size]
        await house.ledger.append(0, leaves, [open_entry(leaf).id for leaf in leaves])
        await house.records.write([keep_succession(decreed)])
        await house.open()
        return house


def story_of(story):
    """Run it in such a site."""
    simulate(lambda _town: _in_site(story))


async def _in_site(story) -> None:
    site = Site()
    try:
        await story(site)
    finally:
        await site.close()


def sworn(site: Site, size: int, names=NAMES[:3]) -> Certified[Succession]:
    leaves = site.operator.ledger._leaves[:size]
    return certified(
        Succession(
            origin=site.genesis.origin,
            number=0,
            size=size,
            root=root_of(map(leaf_hash, leaves)).hex(),
            successor=NEXT,
            operator=child(key("successor"), "operator").account,
            operator_address=NodeAddress(node=NodeId(key("successor").account)),
        ),
        names,
    )


async def pay(house: House, amount: int) -> None:
    await house.node.author.settle(house.key.account, Transfer(to=SINK, amount_micro=amount))


async def begun(site: Site) -> tuple[House, int]:
    """A follower with credits, and the size of a checkpoint; what the follower pays then is promised and not final."""
    operator, follower = await site.house("operator", None), await site.house("follower", None)
    gift = Transfer(to=follower.key.account, amount_micro=100)
    await operator.node.author.settle(operator.key.account, gift)
    await asyncio.sleep(2)
    size = operator.node.replica.checkpoint.checkpoint.size
    await pay(follower, 5)
    await same(site, follower, operator)
    assert follower.node.replica.size > size
    return follower, size


def test_a_follower_goes_on_with_the_successor():
    """What it paid and was promised, and what it signed while nobody answered, stand in the new operator's log."""

    async def story(site: Site) -> None:
        follower, size = await begun(site)
        await site.operator.kill()
        late = follower.spawn(pay(follower, 7))
        await asyncio.sleep(1)
        decreed = sworn(site, size)
        successor = await site.succeed(decreed)
        assert successor.node.log.name == NEXT
        site.mirrors.told = write_successions([decreed])
        with pytest.raises(Refusal) as refusal:
            await follower.node.wait_failed()
        assert refusal.value.reason == SUPERSEDED
        late.cancel()
        await follower.kill()
        await follower.open()
        state = successor.node.replica.state
        await site.until(lambda: state.account(SINK).available_micro == 12)
        assert state.account(follower.key.account).available_micro == 88
        await same(site, follower, successor)
        assert follower.node.log == successor.node.log
        await pay(follower, 1)
        await same(site, follower, successor)

    story_of(story)


def test_an_operator_that_goes_on_is_left_for_its_successor():
    """The old one still answers, orders and signs; nothing of it becomes final, and a quorum has said why."""

    async def story(site: Site) -> None:
        follower, size = await begun(site)
        site.mirrors.told = write_successions([sworn(site, size)])
        await site.until(follower.node._failed.done, 60_000)
        with pytest.raises(Refusal) as refusal:
            await follower.node.wait_failed()
        assert refusal.value.reason == SUPERSEDED
        await follower.kill()
        opening = asyncio.ensure_future(follower.open())
        await pay(site.operator, 1)
        await asyncio.sleep(10)
        assert await follower.ledger.size() == size, "nothing more is taken from who has no say any more"
        successor = await site.succeed(sworn(site, size))
        await opening
        await same(site, follower, successor)

    story_of(story)


def test_less_than_a_quorum_moves_nobody():
    """Two of four, and three of whom one is no member: the follower waits for its operator, and goes on when it is back."""

    async def story(site: Site) -> None:
        follower, size = await begun(site)
        await site.operator.kill()
        site.mirrors.told = write_successions(
            [sworn(site, size, NAMES[:2]), sworn(site, size, [*NAMES[:2], "stranger"])]
        )
        await asyncio.sleep(60)
        assert not follower.node._failed.done()
        await site.operator.open()
        await pay(follower, 1)
        await same(site, follower, site.operator)

    story_of(story)


def test_checkpoints_of_each_size_bear_the_key_of_their_time():
    """A follower that had stored the quorum's word when it died begins with the successor, and knows both keys."""

    async def story(site: Site) -> None:
        follower, size = await begun(site)
        await site.operator.kill()
        decreed = sworn(site, size)
        successor = await site.succeed(decreed)
        await follower.kill()
        await follower.records.write([keep_succession(decreed)])
        await follower.open()
        await same(site, follower, successor)
        assert follower.node.replica.log_at(size).name == site.genesis.origin
        assert follower.node.replica.log_at(size + 1).name == NEXT

    story_of(story)

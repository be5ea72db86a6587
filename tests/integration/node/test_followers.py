"""Replicas that follow: behind, cut off, restarted, and lied to."""

import asyncio
from dataclasses import replace as configured

import pytest

from tests.integration.node.town import Town, buy, simulate
from tests.unit.rules.world import key
from wwwmarket.config import LOCAL
from wwwmarket.crypto import canonical, signing
from wwwmarket.domain.errors import Conflict, Malformed, Refusal, Unauthorised, Unavailable
from wwwmarket.domain.records import Transfer
from wwwmarket.ledger.bundles import encode_bundle
from wwwmarket.ledger.checkpoint import Checkpoint, sign_checkpoint
from wwwmarket.ledger.evidence import judge
from wwwmarket.ledger.merkle import leaf_hash, root_of
from wwwmarket.ledger.note import Signer
from wwwmarket.node import messages
from wwwmarket.node.following import LEAVES, NOTE


async def same(town: Town, one, other) -> None:
    """Both have the same entries, and the same state after them."""
    await town.until(lambda: one.node.replica.size == other.node.replica.size, 30_000)
    assert one.node.replica.state.root() == other.node.replica.state.root()


async def pay(town: Town, times: int = 1) -> None:
    operator = town.operator
    for _ in range(times):
        await operator.node.author.settle(operator.key.account, Transfer(to=key("x").account, amount_micro=1))


def test_a_follower_that_stops_catches_up():
    """Stopped or killed, with news in between or without: it comes back to the same state, and keeps following."""

    async def story(town: Town) -> None:
        operator, follower = await town.house("operator", None), await town.house("follower", None)
        for news in (0, 3):
            for stop in (follower.close, follower.kill):
                await same(town, follower, operator)
                await asyncio.sleep(1)
                await stop()
                await pay(town, news)
                await asyncio.sleep(1)
                await follower.open()
                await same(town, follower, operator)
                await pay(town)
                await same(town, follower, operator)
                assert not follower.node._failed.done()

    simulate(story)


def test_a_follower_survives_its_operators_absence():
    """The operator restarts, or the line is cut: the follower waits, and goes on where it was."""

    async def story(town: Town) -> None:
        operator, follower = await town.house("operator", None), await town.house("follower", None)
        await same(town, follower, operator)
        await operator.kill()
        await asyncio.sleep(10)
        await operator.open()
        await pay(town)
        await same(town, follower, operator)
        town.network.cut(operator.id, follower.id)
        await pay(town, 3)
        await asyncio.sleep(10)
        town.network.mend(operator.id, follower.id)
        await same(town, follower, operator)
        assert not follower.node._failed.done()

    simulate(story)


def test_an_entry_signed_while_cut_off_is_ordered_later():
    """A follower's entry waits for the operator, survives its own restart, and is ordered once."""

    async def story(town: Town) -> None:
        operator, follower = await town.house("operator", None), await town.house("follower", None)
        pair = (operator.id, follower.id)
        await operator.node.author.settle(operator.key.account, Transfer(to=follower.key.account, amount_micro=100))
        await same(town, follower, operator)
        town.network.cut(*pair)
        written = follower.spawn(
            follower.node.author.write(follower.key.account, Transfer(to=key("x").account, amount_micro=7))
        )
        await asyncio.sleep(1)
        assert written.done()
        await follower.kill()
        town.network.mend(*pair)
        await follower.open()
        await town.until(lambda: town.available(key("x").account) == 7)
        await follower.kill()
        await follower.open()
        await same(town, follower, operator)
        assert town.available(key("x").account) == 7
        await town.until(lambda: not follower.records._kinds.get("outbox"))

    simulate(story)


def test_nobody_to_follow_is_said_in_time():
    """A follower whose operator is not there gives up after its time, and says what to look at."""

    async def story(town: Town) -> None:
        with pytest.raises(Unavailable, match="address"):
            await town.house("follower", None)
        await town.houses["follower"].close()

    simulate(story, configured(LOCAL, catch_up_ms=5_000))


LIES = {
    "another root": Conflict,
    "two notes": Conflict,
    "another signer": Refusal,
    "a forged leaf": Unauthorised,
    "a leaf that does not follow": Conflict,
    "another index": Malformed,
    "a frame of no kind": Malformed,
    "a broken bundle": Malformed,
}


def frames(lie: str, town: Town, leaves: list[bytes]) -> list[bytes]:
    """What a lying operator sends instead."""
    size = len(leaves)
    signer = Signer("test.market", key("stranger") if lie == "another signer" else town.log_key)
    honest = LEAVES + (0).to_bytes(8, "big") + encode_bundle(leaves)
    if lie == "two notes":
        last = max(at for at, leaf in enumerate(leaves) if b'"kind":"mark/v1"' in leaf) + 1
        roots = root_of(map(leaf_hash, leaves[:last])), bytes(32)
        notes = [sign_checkpoint(signer, Checkpoint(origin="test.market", size=last, root=root)) for root in roots]
        return [honest, *(NOTE + note for note in notes)]
    if lie in {"another root", "another signer"}:
        return [honest, NOTE + sign_checkpoint(signer, Checkpoint(origin="test.market", size=size, root=bytes(32)))]
    entry = signing.open_entry(leaves[-1]).entry
    forged = canonical.encode(entry).replace(entry.signature.encode(), b"0" * 128)
    return {
        "a forged leaf": [LEAVES + (0).to_bytes(8, "big") + encode_bundle([*leaves[:-1], forged])],
        "a leaf that does not follow": [LEAVES + (0).to_bytes(8, "big") + encode_bundle([*leaves, leaves[-1]])],
        "another index": [LEAVES + (5).to_bytes(8, "big") + encode_bundle(leaves)],
        "a frame of no kind": [b"?" + bytes(10)],
        "a broken bundle": [honest[:-3]],
    }[lie]


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_operator_is_not_followed(lie):
    """What does not follow stops the follower with what was wrong, at once, and nothing of it is stored."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await pay(town, 2)
        await asyncio.sleep(1)
        said = frames(lie, town, list(operator.ledger._leaves))

        async def serve(stream, _opening):
            for frame in said:
                await stream.send(frame)
            await asyncio.sleep(600)

        operator.transport._on_stream = serve
        begun_ms = town.clock.monotonic_ms()
        with pytest.raises(LIES[lie]):
            await town.house("follower", None)
        assert town.clock.monotonic_ms() - begun_ms < 5_000
        follower = town.houses["follower"]
        assert [judge(each).fault for each in follower.evidence] == (["log_forked"] if lie == "two notes" else [])
        stored = follower.ledger._leaves
        assert stored == operator.ledger._leaves[: len(stored)]
        assert (await follower.ledger.checkpoint() is None) == (lie != "two notes")
        await follower.close()

    simulate(story)


def test_a_follower_of_another_tree_is_turned_away():
    """A follower with more entries than the log has, or anything unreadable instead of an opening, is not served."""

    async def story(town: Town) -> None:
        operator, follower = await town.house("operator", None), await town.house("follower", None)
        await same(town, follower, operator)
        opening = canonical.encode(messages.Follow(start=10_000))
        stream = await follower.transport.open_stream(operator.transport.address(), opening, timeout_ms=1_000)
        with pytest.raises(Unavailable):
            await stream.receive()
        assert (await buy(operator)).refusal is not None

    simulate(story)

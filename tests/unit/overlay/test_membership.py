"""What a member believes of messages, and what it answers; each refusal on its own."""

import pytest
from msgspec import structs
from overlay_world import EPOCH_MS, USUAL, address, key, profile

from wwwmarket.crypto.signing import sign
from wwwmarket.domain.records import NodeAddress
from wwwmarket.overlay.announcement import announce
from wwwmarket.overlay.budget import Budget
from wwwmarket.overlay.events import (
    Described,
    LeaveRequested,
    Left,
    MessageArrived,
    PeerUnreachable,
    Reply,
    Send,
    Started,
    Ticked,
)
from wwwmarket.overlay.membership import Membership
from wwwmarket.overlay.params import OverlayParams
from wwwmarket.overlay.records import (
    Announcement,
    LoadDigest,
    Ping,
    PingRequest,
    Pong,
    Rumour,
    Shuffle,
    ShuffleAnswer,
)
from wwwmarket.overlay.reservoir import Acquaintance, Reservoir

NONCE = "0" * 16


def said(number, issued_ms=EPOCH_MS, **changes):
    made = Announcement(address=address(number), serves=(), wants=(), load=LoadDigest(), issued_ms=issued_ms)
    return announce(key(number), structs.replace(made, **changes)).signed


def tell(member, number, message, at_ms=EPOCH_MS):
    return member.step(MessageArrived(at_ms=at_ms, peer=address(number).node, message=message, size_bytes=500))


def known(member):
    hood = member.neighbourhood()
    return {one.node: one.said for one in (*hood.members, *hood.reserves)}


def tick(member, at_ms):
    return member.step(Ticked(at_ms=at_ms, chance=bytes(32)))


@pytest.fixture
def member():
    """A node that knows of node 1, its contact, by its answer."""
    made = Membership(key(0), profile(0), (address(1),), at_ms=EPOCH_MS, chance=bytes(32))
    (asked,) = made.step(Started(at_ms=EPOCH_MS))
    assert asked.to == address(1)
    tell(made, 1, ShuffleAnswer(announcements=(said(1),)))
    assert set(known(made)) == {address(1).node}
    return made


@pytest.fixture
def linked(member):
    """The same, with node 1 in view."""
    (ping,) = tick(member, EPOCH_MS)
    tell(member, 1, Pong(nonce=ping.message.nonce), EPOCH_MS + 10)
    assert [one.round_trip_ms for one in member.neighbourhood().members] == [10]
    return member


@pytest.mark.parametrize("kind", [Shuffle, Rumour])
def test_a_stranger_is_believed_of_itself_alone(member, kind):
    """Of what a stranger tells, its word on itself is kept, and of nodes never heard of nothing."""
    tell(member, 2, kind(announcements=(said(2), said(3))))
    assert set(known(member)) == {address(1).node, address(2).node}


def test_a_stranger_may_bring_a_later_word_of_a_known_node(member):
    """What node 1 has signed later counts, whoever brings it."""
    tell(member, 2, Rumour(announcements=(said(1, EPOCH_MS + 7),)))
    assert known(member)[address(1).node].issued_ms == EPOCH_MS + 7


def test_an_answer_that_was_not_asked_for_is_nothing(member):
    """A shuffle's answer counts once, from whom was asked."""
    tell(member, 2, ShuffleAnswer(announcements=(said(2),)))
    tell(member, 1, ShuffleAnswer(announcements=(said(4),)))
    assert set(known(member)) == {address(1).node}


@pytest.mark.parametrize(
    "forged",
    [
        said(1, EPOCH_MS - 1, address=structs.replace(address(1), sockets=("6.6.6.6:6",))),
        said(1, EPOCH_MS + 10**9),
        sign(key(2), said(1, EPOCH_MS + 5, leaving=True).body).signed,
        structs.replace(said(1), body=said(1, EPOCH_MS + 5, leaving=True).body),
    ],
    ids=["replayed", "future", "foreign", "altered"],
)
def test_nothing_else_moves_a_known_node(linked, forged):
    """A replayed address, a word from the future, a farewell by another or by no one: the neighbour stays as it is."""
    before = known(linked)
    tell(linked, 2, Rumour(announcements=(forged,)))
    assert known(linked) == before


def test_a_pong_with_another_nonce_lets_nobody_in(member):
    """Only the answer to the very ping measures a candidate: nobody can answer before it was asked."""
    (ping,) = tick(member, EPOCH_MS)
    assert ping.message.nonce != NONCE
    tell(member, 1, Pong(nonce=NONCE), EPOCH_MS + 1)
    tell(member, 2, Pong(nonce=ping.message.nonce), EPOCH_MS + 1)
    assert member.neighbourhood().members == ()


def test_a_candidate_that_does_not_answer_is_forgotten(member):
    """After the patience of a courtship, or as soon as the transport gives up, it is not in reserve any more."""
    tick(member, EPOCH_MS)
    member.step(PeerUnreachable(at_ms=EPOCH_MS + 1, peer=address(1).node))
    assert known(member) == {}
    tell(member, 2, Shuffle(announcements=(said(2),)), EPOCH_MS + 2)
    tick(member, EPOCH_MS + 10)
    tick(member, EPOCH_MS + 10 + USUAL.courtship_timeout_ms)
    assert known(member) == {}


def test_a_doubt_is_answered_with_a_later_word(member):
    """Who is asked about the very announcement that is in force signs a later one; a second doubt has to wait."""
    doubted = member.announcement.body.issued_ms
    (reply,) = tell(member, 2, Ping(nonce=NONCE, doubted_ms=doubted), EPOCH_MS + 2_000)
    assert reply.message.refutation.body.issued_ms == EPOCH_MS + 2_000
    (again,) = tell(member, 2, Ping(nonce=NONCE, doubted_ms=EPOCH_MS + 2_000), EPOCH_MS + 2_001)
    assert again.message.refutation == reply.message.refutation
    (absurd,) = tell(member, 2, Ping(nonce=NONCE, doubted_ms=2**53 - 1), EPOCH_MS + 9_000)
    assert absurd.message.refutation == reply.message.refutation


def test_a_helper_hands_on_the_suspects_own_word(member):
    """Asked to ping another, a node pings the signed address, and hands on what comes back to who asked."""
    target = said(3)
    (ping,) = tell(member, 2, PingRequest(target=target))
    assert ping.to == address(3)
    assert ping.message.doubted_ms == EPOCH_MS
    later = said(3, EPOCH_MS + 1)
    effects = tell(member, 3, Pong(nonce=ping.message.nonce, refutation=later), EPOCH_MS + 20)
    assert effects == [Send(to=NodeAddress(node=address(2).node), message=Rumour(announcements=(later,)))]
    assert tell(member, 3, Pong(nonce=ping.message.nonce, refutation=later), EPOCH_MS + 21) == []


@pytest.mark.parametrize("target", [structs.replace(said(3), signer=key(4).account), said(3, 0), said(0), said(2)])
def test_a_helper_pings_nobody_else(member, target):
    """Neither at a forged or stale address, nor itself, nor who asks."""
    assert tell(member, 2, PingRequest(target=target)) == []


def test_a_helper_helps_only_so_many_at_once(member):
    """Probes on behalf of others are bounded, and their places free again after the timeout."""
    pings = [tell(member, 2, PingRequest(target=said(3))) for _ in range(USUAL.relays_max + 1)]
    assert [len(effects) for effects in pings] == [1] * USUAL.relays_max + [0]
    tick(member, EPOCH_MS + USUAL.helpers_timeout_ms)
    assert tell(member, 2, PingRequest(target=said(3)), EPOCH_MS + 1_001)


def test_who_is_behind_is_told_of_its_later_word(member):
    """A node that introduces itself with an older word than is known of it is answered with the later one."""
    later = said(2, EPOCH_MS + 50)
    tell(member, 2, Shuffle(announcements=(later,)))
    (reply,) = tell(member, 2, Shuffle(announcements=(said(2),)))
    assert later in reply.message.announcements


def test_a_former_life_is_overtaken(member):
    """A node that hears a later word of its own than it has said announces itself after that."""
    tell(member, 1, Rumour(announcements=(said(0, EPOCH_MS + 99, leaving=True),)))
    assert member.announcement.body.issued_ms == EPOCH_MS + 100
    assert not member.announcement.body.leaving


def test_changes_of_profile_are_announced_once_a_second(member):
    """The second change within a second is announced when it is over, with whatever is the case then."""
    member.step(Described(at_ms=EPOCH_MS + 1_000, profile=profile(0, "a")))
    member.step(Described(at_ms=EPOCH_MS + 1_001, profile=profile(0, "b")))
    assert member.announcement.body.serves == ("a",)
    tick(member, EPOCH_MS + 2_000)
    assert member.announcement.body.serves == ("b",)


def test_a_message_from_oneself_is_dropped(member):
    """A transport that loops back does no harm."""
    assert tell(member, 0, Ping(nonce=NONCE)) == []


def test_a_known_nodes_shuffle_is_answered_with_whom_it_may_not_know(member):
    """An answer begins with one's own announcement and never tells a node of itself."""
    tell(member, 2, Shuffle(announcements=(said(2),)))
    (reply,) = tell(member, 1, Shuffle(announcements=(said(1),)))
    assert isinstance(reply, Reply)
    assert reply.message.announcements == (member.announcement, said(2))


def acquaintance(number, source=None):
    signed = announce(key(number), said(number).body)
    return Acquaintance(said=signed, source=source, size_bytes=500)


def test_a_full_part_gives_way_by_rank_alone():
    """Whoever a source tells of most, and last, its part holds the same few."""
    source = address(99).node
    params = OverlayParams(source_max=4)
    held = []
    for numbers in (range(1, 20), reversed(range(1, 20))):
        reservoir = Reservoir(params, b"secret")
        for number in numbers:
            reservoir.put(acquaintance(number, source))
        held.append({peer.node for peer in reservoir.all()})
    assert held[0] == held[1]
    assert len(held[0]) == 4


def test_another_secret_is_another_sample():
    """After resampling, who comes by next decides with the old members by new ranks."""
    reservoir = Reservoir(OverlayParams(reservoir_max=4), b"secret")
    for number in range(1, 20):
        reservoir.put(acquaintance(number))
    before = {peer.node for peer in reservoir.all()}
    reservoir.resample(b"another")
    for number in range(1, 20):
        reservoir.put(acquaintance(number))
    assert len(reservoir) == 4
    assert {peer.node for peer in reservoir.all()} != before


def test_a_budget_fills_with_time():
    """A debt is waited out at the stated rate, a pause is worth no more than the burst, and clocks that go back nothing."""
    budget = Budget(1_000, 2_000)
    assert budget.allows(EPOCH_MS)
    budget.spend(3_000)
    assert not budget.allows(EPOCH_MS + 1_000)
    assert not budget.allows(EPOCH_MS - 1)
    assert budget.allows(EPOCH_MS + 1_001)
    assert budget.allows(EPOCH_MS + 10**6)
    assert budget.level == 2_000_000


def test_a_relayed_ping_is_answered_by_its_target_alone(member):
    """Another peer that knows the nonce neither speaks for the target nor uses the relay up."""
    (ping,) = tell(member, 2, PingRequest(target=said(3)))
    later = said(3, EPOCH_MS + 1)
    assert tell(member, 4, Pong(nonce=ping.message.nonce, refutation=later)) == []
    assert tell(member, 3, Pong(nonce=ping.message.nonce, refutation=later))


def test_farewells_without_number_are_remembered_within_a_bound(member):
    """Of more farewells than are kept, the latest are kept, and told on two at a time."""
    for number in range(2, 80):
        tell(member, number, Rumour(announcements=(said(number, EPOCH_MS + number, leaving=True),)))
    buried = member._register.buried
    assert set(buried) == {address(number).node for number in range(80 - USUAL.buried_max, 80)}
    (reply,) = tell(member, 1, Shuffle(announcements=(said(1),)))
    assert sum(told.body.leaving for told in reply.message.announcements) == USUAL.farewells_max


def test_a_farewell_goes_to_so_many_at_most(linked):
    """Of more nodes than are remembered, those that pinged last are told of one's leaving, and every neighbour."""
    for number in range(2, 80):
        tell(linked, number, Ping(nonce=NONCE))
    *sends, left = linked.step(LeaveRequested(at_ms=EPOCH_MS + 20))
    assert left == Left()
    told = {send.to.node for send in sends}
    assert told == {address(number).node for number in (1, *range(80 - USUAL.watchers_max, 80))}

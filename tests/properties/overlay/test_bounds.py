"""Whatever strangers send, a member neither fails, nor grows, nor answers beyond its bounds."""

from hashlib import sha256

from hypothesis import given, settings
from hypothesis import strategies as st
from overlay_world import EPOCH_MS, USUAL, address, key, profile

from wwwmarket.crypto import canonical
from wwwmarket.domain.errors import Refusal
from wwwmarket.overlay.announcement import announce
from wwwmarket.overlay.events import (
    Described,
    LeaveRequested,
    Left,
    MessageArrived,
    PeerUnreachable,
    Reply,
    RoundTripMeasured,
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
    read_message,
)

NUMBERS = st.integers(0, 30)
SMALL = OverlayParams(reservoir_max=12, source_max=4, strangers_max=6, buried_max=5, watchers_max=4, relays_max=2)


@st.composite
def announcements(draw):
    """By anybody of anybody, of any time near now; mostly true."""
    number = draw(NUMBERS)
    said = Announcement(
        address=address(number),
        serves=("org/model",),
        wants=(),
        load=LoadDigest(),
        issued_ms=EPOCH_MS + draw(st.integers(-700_000, 200_000)),
        leaving=draw(st.booleans()),
    )
    signed = announce(key(number), said).signed
    if draw(st.integers(0, 4)) == 0:
        return type(signed)(body=signed.body, signer=key(draw(NUMBERS)).account, signature=signed.signature)
    return signed


NONCES = st.integers(0, 3).map(lambda number: f"{number:016x}")
SEVERAL = st.lists(announcements(), max_size=8).map(tuple)
MESSAGES = st.one_of(
    st.builds(Ping, nonce=NONCES, doubted_ms=st.none() | st.integers(0, 2**53 - 1) | st.just(EPOCH_MS)),
    st.builds(Pong, nonce=NONCES, refutation=st.none() | announcements()),
    st.builds(PingRequest, target=announcements()),
    st.builds(Shuffle, announcements=SEVERAL),
    st.builds(ShuffleAnswer, announcements=SEVERAL),
    st.builds(Rumour, announcements=SEVERAL),
)
PEERS = NUMBERS.map(lambda number: address(number).node)
STEPS = st.one_of(
    st.tuples(st.just("message"), PEERS, MESSAGES),
    st.tuples(st.just("tick"), st.integers(0, 20_000), st.binary(min_size=32, max_size=32)),
    st.tuples(st.just("unreachable"), PEERS, st.none()),
    st.tuples(st.just("measured"), PEERS, st.integers(0, 10**6)),
    st.tuples(st.just("described"), NUMBERS, st.none()),
    st.tuples(st.just("pong"), st.none(), st.none()),
)


def event_of(step, at_ms):
    match step:
        case ("message", peer, message):
            return MessageArrived(at_ms=at_ms, peer=peer, message=message, size_bytes=len(canonical.encode(message)))
        case ("tick", _, chance):
            return Ticked(at_ms=at_ms, chance=chance)
        case ("unreachable", peer, _):
            return PeerUnreachable(at_ms=at_ms, peer=peer)
        case ("measured", peer, round_trip_ms):
            return RoundTripMeasured(at_ms=at_ms, peer=peer, round_trip_ms=round_trip_ms)
        case ("described", number, _):
            return Described(at_ms=at_ms, profile=profile(0, f"org/model-{number}"))
    raise AssertionError(step)


def new_member(params=SMALL):
    contacts = (address(1), address(2))
    return Membership(key(0), profile(0), contacts, at_ms=EPOCH_MS, chance=bytes(32), params=params)


def assert_bounded(member, params):
    register = member._register
    assert len(member._view.links) <= params.view_max
    assert sum(link.near for link in member._view.links.values()) <= params.near_links
    assert len(register.reservoir) <= params.reservoir_max
    assert len(register.buried) <= params.buried_max
    assert set(member._detector.probes) <= set(member._view.links)
    assert len(member._courted) <= max(params.courted_max, 1)
    assert len(member._relays.pending) <= params.relays_max
    assert len(member._watchers) <= params.watchers_max
    assert not set(member._view.links) & {peer.node for peer in register.reservoir.all()}
    assert address(0).node not in {*member._view.links, *register.buried}
    assert register.reservoir.get(address(0).node) is None


@settings(max_examples=150)
@given(st.lists(STEPS, max_size=60))
def test_no_message_breaks_a_member(steps):
    """Arbitrary messages, answers to its own pings, ticks and failures: no error, every bound kept, all of it replayed."""
    members = [new_member(), new_member()]
    at_ms, pinged = EPOCH_MS, {}
    for step in [("tick", 0, bytes(32)), *steps]:
        if step[0] == "tick":
            at_ms += step[1]
        if step[0] == "pong":
            for node, nonce in pinged.items():
                event = MessageArrived(at_ms=at_ms, peer=node, message=Pong(nonce=nonce), size_bytes=45)
                assert members[0].step(event) == members[1].step(event)
            pinged = {}
            continue
        event = event_of(step, at_ms)
        effects = members[0].step(event)
        assert effects == members[1].step(event)
        assert sum(isinstance(effect, Reply) for effect in effects) <= 1
        pinged |= {e.to.node: e.message.nonce for e in effects if isinstance(e, Send) and isinstance(e.message, Ping)}
        assert_bounded(members[0], SMALL)
    assert members[0].digest() == members[1].digest()
    assert isinstance(members[0].step(LeaveRequested(at_ms=at_ms))[-1], Left)


@settings(max_examples=25)
@given(st.permutations(range(12)), st.sampled_from([8, 64]))
def test_the_order_of_arrival_decides_nothing(order, reservoir_max):
    """The same announcements in any order leave the same reservoir, full or not."""
    params = OverlayParams(reservoir_max=reservoir_max, strangers_max=reservoir_max)
    member = new_member(params)
    for number in order:
        for issued_ms in (EPOCH_MS + order[number], EPOCH_MS + 5):
            said = Announcement(
                address=address(number + 1), serves=(), wants=(), load=LoadDigest(), issued_ms=issued_ms
            )
            member._register.hear(announce(key(number + 1), said).signed, None, EPOCH_MS)
    control = new_member(params)
    for number in range(12):
        said = Announcement(
            address=address(number + 1),
            serves=(),
            wants=(),
            load=LoadDigest(),
            issued_ms=EPOCH_MS + max(5, order[number]),
        )
        control._register.hear(announce(key(number + 1), said).signed, None, EPOCH_MS)
    assert member._register.reservoir.all() == control._register.reservoir.all()


@given(st.binary(max_size=200))
def test_no_bytes_break_the_door(data):
    """Bytes are a message or a refusal."""
    try:
        message = read_message(data)
    except Refusal:
        return
    assert canonical.encode(message) == data


def test_a_flood_is_answered_within_the_budget():
    """A minute of strangers' shuffles at 2 MB/s draws no more bytes, in and out, than the strangers' budget."""
    member = new_member(USUAL)
    member.step(Started(at_ms=EPOCH_MS))
    spent_bytes = sent_bytes = 0
    for turn in range(60_000 // 5):
        at_ms = EPOCH_MS + 5 * turn
        peer = sha256(turn.to_bytes(4, "big")).hexdigest()
        event = MessageArrived(at_ms=at_ms, peer=peer, message=Shuffle(announcements=()), size_bytes=10_000)
        effects = member.step(event)
        if effects:
            spent_bytes += event.size_bytes
            sent_bytes += sum(len(canonical.encode(effect)) for effect in effects)
    budget_bytes = USUAL.strangers_bytes_per_s * 60 + USUAL.burst_bytes
    assert spent_bytes + sent_bytes <= budget_bytes + 10_000 + USUAL.shuffle_bytes_max
    assert len(member.digest()) == 64


def test_a_flood_of_strangers_leaves_acquaintances_their_answers():
    """While strangers have used up their budget, a node that is known is still answered."""
    member = new_member(USUAL)
    member.step(Started(at_ms=EPOCH_MS))
    own = announce(
        key(5),
        Announcement(address=address(5), serves=(), wants=(), load=LoadDigest(), issued_ms=EPOCH_MS),
    ).signed
    shuffle = Shuffle(announcements=(own,))
    assert member.step(MessageArrived(at_ms=EPOCH_MS, peer=address(5).node, message=shuffle, size_bytes=600))
    flood = MessageArrived(at_ms=EPOCH_MS, peer=address(9).node, message=Shuffle(announcements=()), size_bytes=10**6)
    assert member.step(flood)
    assert member.step(flood) == []
    ping = MessageArrived(at_ms=EPOCH_MS, peer=address(5).node, message=Ping(nonce="0" * 16), size_bytes=60)
    assert member.step(ping) == [Reply(to=address(5).node, message=Pong(nonce="0" * 16))]

"""Calls through a relay: over real sockets, between transports that know nothing of it but an address."""

import asyncio
import socket
from contextlib import AsyncExitStack

import pytest

from wwwmarket.adapters.transport import IrohTransport
from wwwmarket.adapters.transport.datagrams import ALIVE, Meter, RelayLimits, alive, flow_of, read_alive, with_flow
from wwwmarket.adapters.transport.relay_host import UdpRelayHost
from wwwmarket.adapters.transport.tunnel import RelayTunnels, UdpTunnel, _Inner
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Exhausted, Unavailable
from wwwmarket.domain.records import NodeAddress
from wwwmarket.ports.relay import Reservation

QUICK = RelayLimits(alive_every_s=0.05, silent_s=0.3, holders_max=1, flows_max=2, flow_idle_s=0.2)
PATIENCE_S = 10
TOKEN = bytes(range(32))


async def echo(peer, message):
    return peer.encode() + message


async def echo_stream(stream, opening):
    await stream.send(opening)
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)
    await stream.finish()


@pytest.fixture
async def bind():
    """Makes transports; the number is the key."""
    async with AsyncExitStack() as stack:

        async def make(number: int) -> IrohTransport:
            transport = await IrohTransport.bind(KeyPair(bytes([number]) * 32))
            stack.push_async_callback(transport.close)
            transport.serve(echo, echo_stream)
            return transport

        yield make


class Relayed:
    """A node that sells from behind a router, the relay, and what the relay gave it."""

    def __init__(self, bind, limits=QUICK) -> None:
        self.bind, self.limits = bind, limits

    async def __aenter__(self):
        self.inner, self.relay = await self.bind(1), await self.bind(2)
        await self.inner.request(self.relay.address(), b"", timeout_ms=5_000)
        self.host = UdpRelayHost(self.relay, "127.0.0.1", limits=self.limits)
        self.reservation = await self.host.reserve(self.inner.address().node, ())
        self.tunnel = await RelayTunnels(self.inner, self.limits).open(self.reservation)
        self.through = NodeAddress(node=self.inner.address().node, sockets=self.reservation.sockets)
        return self

    async def __aexit__(self, *_) -> None:
        await self.tunnel.close()
        await self.host.close()


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the condition is the transport's
            await asyncio.sleep(0.01)


async def test_a_node_is_called_through_a_relay_by_its_own_key(bind):
    """Requests and streams of a megabyte come through whole, and each end proves its key to the other, not the relay's."""
    async with Relayed(bind, RelayLimits()) as relayed:
        caller = await bind(3)
        answer = await caller.request(relayed.through, b"?", timeout_ms=5_000)
        assert answer == caller.address().node.encode() + b"?"
        stream = await caller.open_stream(relayed.through, b"opening", timeout_ms=5_000)
        assert (await stream.receive(), stream.peer) == (b"opening", relayed.through.node)
        for number in range(4):
            await stream.send(bytes([number]) * 262_144)
            assert await stream.receive() == bytes([number]) * 262_144
        await stream.finish()
        assert relayed.host.totals["relayed_bytes_total"] > 0


async def test_a_direct_path_where_there_is_one_goes_on_without_the_relay(bind):
    """An address names both: the direct socket is used where it can be reached, and the relay's end ends nothing."""
    async with Relayed(bind) as relayed:
        caller = await bind(3)
        await caller.request(relayed.inner.address(), b"?", timeout_ms=5_000)
        assert caller.seen_at(relayed.through.node) not in {None, *relayed.reservation.sockets}
        await relayed.host.close()
        assert (await caller.request(relayed.inner.address(), b"!", timeout_ms=5_000)).endswith(b"!")


async def test_an_address_names_the_relay_while_the_tunnel_is_open(bind):
    """Others are told of the relay's socket for as long as it forwards, and no longer."""
    async with Relayed(bind) as relayed:
        assert set(relayed.reservation.sockets) < set(relayed.inner.address().sockets)
        await relayed.tunnel.close()
        assert not set(relayed.reservation.sockets) & set(relayed.inner.address().sockets)


async def test_who_is_seen_at_its_own_socket_needs_no_relay(bind):
    """No router is in the way of a node whose packets come from where it says that it is."""
    async with Relayed(bind) as relayed:
        assert await relayed.host.reserve(relayed.inner.address().node, relayed.inner.address().sockets) is None
        assert await relayed.host.reserve(relayed.inner.address().node, ("192.0.2.7:4433",)) == relayed.reservation


async def test_a_relay_forwards_for_so_many_and_forgets_the_silent(bind):
    """A further node is refused, with a time to come back, until one that is relayed for has gone."""
    async with Relayed(bind) as relayed:
        other = (await bind(4)).address().node
        with pytest.raises(Exhausted) as refusal:
            await relayed.host.reserve(other, ())
        assert refusal.value.retry_after_ms > 0
        await relayed.tunnel.close()
        await asyncio.sleep(QUICK.silent_s)
        assert await relayed.host.reserve(other, ()) is not None


async def test_a_tunnel_whose_relay_is_gone_is_known_to_be_dead(bind):
    """Within the stated silence, so that another relay can be found."""
    async with Relayed(bind) as relayed:
        assert relayed.tunnel.alive
        await relayed.host.close()
        await until(lambda: not relayed.tunnel.alive)
        with pytest.raises(Unavailable):
            await RelayTunnels(relayed.inner, QUICK).open(relayed.reservation)


class Stranger(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.heard = []

    def datagram_received(self, data, addr) -> None:  # noqa: ARG002 - asyncio's
        self.heard.append(data)


async def stranger_at(relayed):
    host, _, port = relayed.reservation.sockets[0].rpartition(":")
    return await asyncio.get_running_loop().create_datagram_endpoint(Stranger, remote_addr=(host, int(port)))


async def test_a_stranger_cannot_take_over_a_tunnel(bind):
    """Neither with another token, nor with liveness that was said before: calls still reach the node."""
    async with Relayed(bind) as relayed:
        transport, stranger = await stranger_at(relayed)
        token = bytes.fromhex(relayed.reservation.token)
        for forged in (alive(TOKEN, 2**63), alive(token, 0), b"", b"\0", with_flow(ALIVE, b"short"), bytes(4096)):
            transport.sendto(forged)
        caller = await bind(3)
        assert (await caller.request(relayed.through, b"?", timeout_ms=5_000)).endswith(b"?")
        assert not [heard for heard in stranger.heard if flow_of(heard) == ALIVE]
        transport.close()


async def test_callers_beyond_the_bound_are_not_carried(bind):
    """Two callers hold the two flows; a third is dropped until one of them has been quiet for long."""
    async with Relayed(bind) as relayed:
        ends = [await stranger_at(relayed) for _ in range(2)]
        for transport, _ in ends:
            transport.sendto(b"x" * 1200)
        caller = await bind(3)
        with pytest.raises(Unavailable):
            await caller.request(relayed.through, b"?", timeout_ms=150)
        assert (await caller.request(relayed.through, b"?", timeout_ms=5_000)).endswith(b"?")
        for transport, _ in ends:
            transport.close()


def test_liveness_is_read_only_with_its_token():
    """Any bit changed, or another token, and it says nothing."""
    said = alive(TOKEN, 77)
    assert (flow_of(said), read_alive(TOKEN, said), read_alive(bytes(32), said)) == (ALIVE, 77, None)
    for bit in range(len(said) * 8):
        changed = bytearray(said)
        changed[bit // 8] ^= 1 << bit % 8
        assert read_alive(TOKEN, bytes(changed)) is None


def test_a_meter_admits_its_rate_and_its_burst():
    """At once a burst, later what the rate has earned, never more than a burst."""
    meter = Meter(RelayLimits(bytes_per_s=1_000, burst_bytes=2_000), 0.0)
    assert [meter.admits(1_000, 0.0) for _ in range(3)] == [True, True, False]
    assert [meter.admits(500, 0.5), meter.admits(1, 0.5)] == [True, False]
    assert [meter.admits(2_000, 100.0), meter.admits(1, 100.0)] == [True, False]


class Mailbox(asyncio.DatagramProtocol):
    """A UDP socket that keeps what it gets, and answers liveness as a relay does."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.peers: set[tuple[str, int]] = set()

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.address = transport.get_extra_info("sockname")

    def datagram_received(self, data, addr) -> None:
        self.peers.add(addr)
        if flow_of(data) == ALIVE:
            self.transport.sendto(data, addr)
            self.tunnel_at = addr
        else:
            self.got.append(data)


@pytest.fixture
async def mailbox():
    async with AsyncExitStack() as stack:

        async def make() -> Mailbox:
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.create_datagram_endpoint(Mailbox, local_addr=("127.0.0.1", 0))
            stack.callback(transport.close)
            return protocol

        yield make


async def opened(inner, towards):
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: inner, remote_addr=towards.address)
    return transport


async def test_a_flow_keeps_little_until_its_socket_is_open(mailbox):
    """The first datagrams are sent once it is open, in order; a flood before that is dropped."""
    inner, quic = _Inner(1, lambda _: None), await mailbox()
    for number in range(1, 10_001):
        inner.send(number.to_bytes(4, "big"), QUICK.backlog_bytes)
    transport = await opened(inner, quic)
    inner.send(b"last", QUICK.backlog_bytes)
    await until(lambda: quic.got[-1:] == [b"last"])
    assert quic.got[:10] == [number.to_bytes(4, "big") for number in range(1, 11)]
    assert len(quic.got) <= 17
    transport.close()


async def test_a_flow_that_ends_before_its_socket_is_open_leaves_none(mailbox):
    """The socket that opens for it afterwards closes at once, and nothing that was kept is sent."""
    inner, quic = _Inner(1, lambda _: None), await mailbox()
    inner.send(b"kept", QUICK.backlog_bytes)
    inner.close()
    transport = await opened(inner, quic)
    assert transport.is_closing()
    assert quic.got == []


async def test_a_relay_that_invents_flows_takes_no_more_sockets_than_there_may_be_flows(mailbox):
    """A thousand flows at once through a tunnel that carries two: each socket but those of the last two is closed."""
    relay, quic = await mailbox(), await mailbox()
    reservation = Reservation(sockets=(f"127.0.0.1:{relay.address[1]}",), token=TOKEN.hex())
    tunnel = await UdpTunnel.open(reservation, quic.address, QUICK)
    for flow in range(1, 1_001):
        relay.transport.sendto(with_flow(flow, b"hello"), relay.tunnel_at)

    def last_came() -> bool:
        relay.transport.sendto(with_flow(2_000, b"last"), relay.tunnel_at)
        return b"last" in quic.got

    await until(last_came)
    await until(lambda: sum(not is_free(peer) for peer in quic.peers) <= QUICK.flows_max)
    await tunnel.close()
    await until(lambda: all(is_free(peer) for peer in quic.peers))


def is_free(address) -> bool:
    """Whether nothing is bound there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(address)
        except OSError:
            return False
    return True

"""How a node behind a router keeps itself reachable: told to a machine of answers, on a clock that the test moves."""

import asyncio

from wwwmarket.config import RelayConfig
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import NotFound, Unavailable
from wwwmarket.domain.records import NodeAddress
from wwwmarket.node import messages
from wwwmarket.node.relaying import Relaying
from wwwmarket.ports.relay import Reservation

DIRECT = ("192.168.0.9:4433",)
CONFIG = RelayConfig(tunnels=2, look_ms=1_000, ask_again_ms=30_000)


def address(number: int) -> NodeAddress:
    return NodeAddress(node=KeyPair(bytes([number]) * 32).account, sockets=(f"198.51.100.{number}:4433",))


class Tunnel:
    def __init__(self) -> None:
        self.alive, self.closed = True, False

    async def close(self) -> None:
        self.closed = True


class Scene:
    """``relays``: what each node that is known answers to a reservation. Time stands still until ``look``."""

    def __init__(self, *relays: object, always: bool = False) -> None:
        self.answers = dict(zip(map(address, range(1, 99)), relays, strict=False))
        self.asked, self.tunnels, self.moves, self.at_ms = [], {}, 0, 1_000.0
        self.woken = asyncio.Event()
        self.relaying = Relaying(
            self, self, self, CONFIG, known=lambda: list(self.answers), moved=self._moved, always=always
        )

    def _moved(self) -> None:
        self.moves += 1

    def address(self) -> NodeAddress:
        return NodeAddress(node=KeyPair(bytes(32)).account, sockets=DIRECT)

    async def request(self, peer, message, *, timeout_ms):  # noqa: ARG002 - the port's
        self.asked.append((peer, messages.read_request(message)))
        answer = self.answers[peer]
        if isinstance(answer, Exception):
            raise answer
        return canonical.encode(messages.RelayReserved(reservation=answer))

    async def open(self, reservation):
        return self.tunnels.setdefault(reservation.token, Tunnel())

    def now_ms(self) -> int:
        return round(self.at_ms)

    def monotonic_ms(self) -> float:
        return self.at_ms

    async def sleep_until_ms(self, at_ms: float) -> None:
        self.looked.set()
        self.woken.clear()
        await self.woken.wait()
        self.at_ms = max(self.at_ms, at_ms)

    async def __aenter__(self):
        self.looked = asyncio.Event()
        self.task = asyncio.create_task(self.relaying.run())
        await self.looked.wait()
        return self

    async def look(self, later_ms: float = 0) -> None:
        self.at_ms += later_ms
        self.looked.clear()
        self.woken.set()
        await self.looked.wait()

    async def __aexit__(self, *_) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


def reservation(number: int) -> Reservation:
    return Reservation(sockets=(f"198.51.100.{number}:9000",), token=f"{number:064x}")


async def test_it_reserves_at_as_many_as_it_wants_nearest_first():
    """Two of three; the third is not asked. What it says is where it can be called without."""
    async with Scene(*map(reservation, (1, 2, 3))) as scene:
        assert scene.relaying.relays == (address(1).node, address(2).node)
        assert [asked.direct for _, asked in scene.asked] == [DIRECT, DIRECT]
        assert scene.moves == 1
        await scene.look()
        assert (len(scene.asked), scene.moves) == (2, 1)


async def test_a_dead_relay_is_replaced_and_others_are_told():
    """The tunnel is closed, another relay takes its place, and the node has moved; the dead one is not asked at once."""
    async with Scene(*map(reservation, (1, 2, 3))) as scene:
        scene.tunnels[f"{1:064x}"].alive = False
        await scene.look()
        assert scene.tunnels[f"{1:064x}"].closed
        assert scene.relaying.relays == (address(2).node, address(3).node)
        assert scene.moves == 2


async def test_who_does_not_relay_is_asked_again_only_later():
    """Neither refusals nor silence cost more than one message in the stated time."""
    async with Scene(NotFound("not here"), Unavailable("gone", retry_after_ms=1), None) as scene:
        for _ in range(5):
            await scene.look(1_000)
        assert (len(scene.asked), scene.relaying.relays, scene.moves) == (3, (), 0)
        await scene.look(CONFIG.ask_again_ms)
        await scene.look()
        assert len(scene.asked) == 6


async def test_always_asks_as_one_without_a_direct_socket():
    """Behind a firewall a node is seen at its own socket, and cannot be called there."""
    async with Scene(reservation(1), always=True) as scene:
        assert [asked.direct for _, asked in scene.asked] == [()]


async def test_its_end_closes_every_tunnel():
    """Nothing is left at a relay."""
    async with Scene(*map(reservation, (1, 2))) as scene:
        pass
    assert all(tunnel.closed for tunnel in scene.tunnels.values())

"""Which connection speaks for which peer: one per pair, also when both dialled at once."""

import asyncio
from collections.abc import Callable

from msgspec import Struct

from wwwmarket.adapters.transport.link import Link
from wwwmarket.domain.identity import NodeId


class _Held(Struct, eq=False):
    link: Link
    dialler: NodeId
    since_s: float
    life: asyncio.Task[None]


class Links:
    """Two connections to one peer are a *tie* when both are young: then the one dialled by the lesser key stays, which
    is the same one on both sides. Otherwise the newer stays: a peer that dials again has lost the older one.
    """

    def __init__(self, own: NodeId, tie_s: float, now_s: Callable[[], float]) -> None:
        self._own, self._tie_s, self._now_s = own, tie_s, now_s
        self._held: dict[NodeId, list[_Held]] = {}

    def __len__(self) -> int:
        return sum(len(held) for held in self._held.values())

    def best(self, peer: NodeId) -> Link | None:
        held = self._held.get(peer)
        return held[-1].link if held else None

    def add(self, link: Link, *, dialled: bool) -> None:
        """Start ``link`` and take it for its peer, or retire it at once if a better one is there."""
        held = self._held.setdefault(link.peer, [])
        life = asyncio.ensure_future(link.run())
        new = _Held(link=link, dialler=self._own if dialled else link.peer, since_s=self._now_s(), life=life)
        if held and self._loses(new, held[-1]):
            held.insert(len(held) - 1, new)
        else:
            held.append(new)
        for lesser in held[:-1]:
            lesser.link.retire()
        for surplus in held[:-2]:
            surplus.life.cancel()
        life.add_done_callback(lambda _: self._forget(new))

    def _loses(self, new: _Held, old: _Held) -> bool:
        tie = new.dialler != old.dialler and new.since_s - old.since_s < self._tie_s
        return tie and old.dialler < new.dialler

    def _forget(self, gone: _Held) -> None:
        held = self._held[gone.link.peer]
        held.remove(gone)
        if not held:
            del self._held[gone.link.peer]

    async def close(self) -> None:
        lives = [held.life for each in self._held.values() for held in each]
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)

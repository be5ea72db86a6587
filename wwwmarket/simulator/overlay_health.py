"""How the overlay does by itself: whom draws fall on, how soon the dead are gone, how soon halves meet again."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Final

from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.shape import Value
from wwwmarket.simulator.fleet import mixed
from wwwmarket.simulator.live_views import LiveViews
from wwwmarket.simulator.world import NodeTwin, Setup, World

DRAWS: Final = 40
"""By each node, for the model that it serves itself."""
DYING: Final = 0.1
IDLE_S: Final = 60
CUT_S: Final = 60
PATIENCE_S: Final = 300
LARGE: Final = 1_000
"""From so many nodes on one seed is run: it takes some ten minutes."""
MET_AGAIN: Final = 0.25
"""Of all links cross what was cut, where half of them would by chance."""


class Health(Value):
    """One overlay. Draws are of the first round, as a share of what an even spread would give each provider."""

    nodes: int
    loss: float
    seed: int
    draws_min: float
    draws_max: float
    bytes_per_s: float
    """Sent by a node with nothing to do."""
    dead_unseen_s: float | None
    """From a tenth of the nodes crashing at once until nobody has one of them in view; None where that never was."""
    dead_drawn_60s: float
    """Share of draws that fall on them a minute after."""
    dead_drawn_300s: float
    cut_apart: float
    """Share of links that cross the cut at its end."""
    healed_s: float | None
    """From the end of a cut into halves until ``MET_AGAIN`` of the links cross it."""


class Question(Value):
    nodes: int
    loss: float
    seed: int


def questions(seeds: int, *, quick: bool = False) -> list[Question]:
    sizes = ((8, 0.0),) if quick else ((8, 0.0), (100, 0.0), (100, 0.05), (1_000, 0.0))
    return [
        Question(nodes=nodes, loss=loss, seed=seed)
        for nodes, loss in sizes
        for seed in range(1 if nodes >= LARGE else seeds)
    ]


def answer(question: Question) -> Health:
    return health(question.nodes, question.seed, loss=question.loss)


def health(nodes: int, seed: int, *, loss: float = 0.0) -> Health:
    """Mix, idle, let a tenth crash, cut, heal."""
    world = World(Setup(seed=seed, nodes=mixed(nodes, 8, seed), overlay="live", loss=loss))
    views = LiveViews(world, [_key(seed, node) for node in world.nodes])
    _run(world, 0)
    sent_before = views.sent_bytes
    _run(world, IDLE_S)
    sent = views.sent_bytes - sent_before
    shares = _shares(world, views)
    dead = set(world.chance("dying").sample(world.nodes, round(DYING * nodes)))
    for node in dead:
        node.up = False
        world.network.down.add(node.index)
        views.gone(node, crash=True)
    unseen_s = _until(world, lambda: not any(one in dead for _, one in _links(world, views)))
    _run(world, max(_now_s(world), IDLE_S + 60))
    drawn_60 = _drawn(world, views, dead)
    _run(world, IDLE_S + 300)
    drawn_300 = _drawn(world, views, dead)
    world.network.divide(dict.fromkeys(range(nodes // 2), 1))
    _run(world, _now_s(world) + CUT_S)
    apart = _crossing(world, views)
    world.network.divide({})
    return Health(
        nodes=nodes,
        loss=loss,
        seed=seed,
        draws_min=min(shares),
        draws_max=max(shares),
        bytes_per_s=round(sent / IDLE_S / nodes, 1),
        dead_unseen_s=unseen_s,
        dead_drawn_60s=drawn_60,
        dead_drawn_300s=drawn_300,
        cut_apart=apart,
        healed_s=_until(world, lambda: _crossing(world, views) >= MET_AGAIN),
    )


def table(measured: Sequence[Health]) -> str:
    """Markdown, a row an overlay."""
    heads = "nodes | loss | seed | draws, least to most | bytes/s a node | dead unseen (s) | dead drawn 1 min, 5 min | "
    lines = [f"| {heads}links across a cut at its end | healed (s) |", "|---|---|---|---|---|---|---|---|---|"]
    for one in measured:
        cells = (
            str(one.nodes),
            f"{one.loss:.0%}",
            str(one.seed),
            f"{one.draws_min:.2f} to {one.draws_max:.2f}",
            f"{one.bytes_per_s:.0f}",
            "never" if one.dead_unseen_s is None else f"{one.dead_unseen_s:.1f}",
            f"{one.dead_drawn_60s:.1%}, {one.dead_drawn_300s:.1%}",
            f"{one.cut_apart:.1%}",
            "never" if one.healed_s is None else f"{one.healed_s:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _key(seed: int, node: NodeTwin) -> KeyPair:
    return KeyPair(sha256(f"{seed}/member/{node.index}".encode()).digest())


def _now_s(world: World) -> float:
    return world.loop.now_us / 1e6


def _run(world: World, until_s: float) -> None:
    """Whatever happens up to a moment; an overlay always has something to do."""
    while _now_s(world) < until_s:
        world.loop.step()


def _until(world: World, holds: Callable[[], bool]) -> float | None:
    """Seconds until it held, looked at every half; None where it did not in ``PATIENCE_S``."""
    begun_s = _now_s(world)
    while not holds():
        if _now_s(world) > begun_s + PATIENCE_S:
            return None
        _run(world, _now_s(world) + 0.5)
    return round(_now_s(world) - begun_s, 1)


def _first(world: World, views: LiveViews) -> Iterator[NodeTwin]:
    """Whom the live would ask in their first rounds."""
    for node in world.nodes:
        for _ in range(DRAWS if node.up else 0):
            yield from views.ranked(node, node.spec.serves)[: world.setup.asked]


def _shares(world: World, views: LiveViews) -> list[float]:
    drawn = Counter(node.index for node in _first(world, views))
    found: list[float] = []
    for twins in world.by_model.values():
        fair = sum(drawn[twin.index] for twin in twins) / len(twins)
        found += [round(drawn[twin.index] / fair, 3) for twin in twins]
    return found


def _drawn(world: World, views: LiveViews, of: set[NodeTwin]) -> float:
    drawn = list(_first(world, views))
    return round(sum(node in of for node in drawn) / len(drawn), 4)


def _links(world: World, views: LiveViews) -> Iterator[tuple[NodeTwin, NodeTwin]]:
    """Who has whom in view."""
    for node in world.nodes:
        yield from ((node, other) for other in views.viewed(node))


def _crossing(world: World, views: LiveViews) -> float:
    links = list(_links(world, views))
    half = len(world.nodes) // 2
    return round(sum((one.index < half) != (other.index < half) for one, other in links) / len(links), 4)

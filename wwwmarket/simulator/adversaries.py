"""What adversaries gain, and what they do to others: the same world with them, and with the same nodes truthful.

Profit is as ``incentives`` has it; of an auctioneer with a friend it is the friend's. Attainment is of requests whose
clients came to honest nodes. Sybils are identities on top of the nodes; all others are nodes that change sides.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from wwwmarket.domain.shape import Value
from wwwmarket.simulator.incentives import profit
from wwwmarket.simulator.outcome import Pass
from wwwmarket.simulator.report import interval
from wwwmarket.simulator.run import Run, simulate
from wwwmarket.simulator.scenario import Built, People, Scenario, build, load_scenario

NODES: Final = 60
SHARE: Final = 0.3
CROWD: Final = ("greedy", "over_promising", "under_promising", "slow", "silent", "lying", "ceiling", "ring")
"""Three nodes in ten are so."""
AUCTIONEERS: Final = ("favouring", "omitting", "denying")
SYBILS: Final = ("sybil-silent", "sybil-lying", "sybil-selling")


class Harm(Value):
    """One adversary in one world. What is ``_truthful`` is of the same nodes and clients without it."""

    adversary: str
    seed: int
    attainment: float
    attainment_truthful: float
    won: float
    """Share of the answered requests that the adversaries (the friends of auctioneers) answered."""
    won_truthful: float
    profit_micro: int
    profit_truthful_micro: int
    wronged: int
    """Better asks that were passed over."""
    proven: int
    suspected: int
    falsely_proven: int
    """Of honest auctioneers."""
    falsely_suspected: int

    @property
    def gain(self) -> float | None:
        """As a share of the truthful profit; None where there is none."""
        before = self.profit_truthful_micro
        return (self.profit_micro - before) / before if before > 0 else None


class Question(Value):
    adversary: str
    seed: int
    quick: bool = False


class _World(NamedTuple):
    """A world as it was played, and who is bad in it."""

    built: Built
    run: Run
    bad: tuple[int, ...]


def questions(seeds: int, *, quick: bool = False) -> list[Question]:
    every = (*CROWD, *AUCTIONEERS, *SYBILS)
    return [Question(adversary=name, seed=seed, quick=quick) for name in every for seed in range(seeds)]


def answer(question: Question) -> Harm:
    """Both worlds. Raises AssertionError where a checker of a run found a breach."""
    name, seed = question.adversary, question.seed
    size = (10, 150) if question.quick else (NODES, 3_000)
    base = replace(load_scenario("mixed"), nodes=size[0], requests=size[1], load=0.8)
    bad = _play(_with(base, name), seed)
    good = _play(base, seed)
    reviews = list(enumerate(bad.run.reviews))
    gainers = _friends(bad) if name in AUCTIONEERS else bad.bad
    return Harm(
        adversary=name,
        seed=seed,
        attainment=_attainment(bad, bad.bad),
        attainment_truthful=_attainment(good, bad.bad),
        won=_won(bad.run, gainers),
        won_truthful=_won(good.run, gainers),
        profit_micro=sum(profit(bad.run, node) for node in gainers),
        profit_truthful_micro=sum(profit(good.run, node) for node in gainers if node < base.nodes),
        wronged=sum(review.wronged for _, review in reviews),
        proven=sum(review.proven for node, review in reviews if node in bad.bad),
        suspected=sum(review.suspected for node, review in reviews if node in bad.bad),
        falsely_proven=sum(review.proven for node, review in reviews if node not in bad.bad),
        falsely_suspected=sum(review.suspected for node, review in reviews if node not in bad.bad),
    )


def _with(base: Scenario, name: str) -> Scenario:
    match name:
        case "sybil-silent" | "sybil-lying" | "sybil-selling":
            return replace(base, sybils=name, sybil_share=SHARE)
        case _:
            return replace(base, people=People(**{name: SHARE}))


def _play(scenario: Scenario, seed: int) -> _World:
    built = build(scenario, seed)
    run = simulate(built.setup, built.requests, "market")
    assert isinstance(run.outcome, Pass), run.outcome
    return _World(built, run, tuple(i for i, one in enumerate(built.setup.characters) if one != "honest"))


def _friends(world: _World) -> tuple[int, ...]:
    """Whom the corrupt auctioneers favour (``reviewing.friend_of``)."""
    nodes = world.built.setup.nodes
    found: set[int] = set()
    for node in world.bad:
        same = [i for i, other in enumerate(nodes) if other.serves == nodes[node].serves]
        found.add(same[(same.index(node) + 1) % len(same)])
    return tuple(sorted(found))


def _attainment(world: _World, bad: Sequence[int]) -> float:
    own = [
        served
        for served in world.run.served
        if served.request.at_us >= world.built.measured_from_us and served.request.origin not in bad
    ]
    met = sum(s.latency_us is not None and s.request.at_us + s.latency_us <= s.request.deadline_us for s in own)
    return round(met / max(1, len(own)), 5)


def _won(run: Run, bad: Sequence[int]) -> float:
    inside = sum(count for node, count in enumerate(run.executed) if node in bad)
    return round(inside / max(1, sum(run.executed)), 5)


def table(harms: Sequence[Harm]) -> str:
    """Markdown: means over seeds with their 95 % intervals."""
    heads = "adversary | in time, honest clients (%) | the same without them (%) | requests won (%) | truthful (%) | "
    lines = [f"| {heads}gain (%) | passed over | proven | suspected |", "|---|---|---|---|---|---|---|---|---|"]
    for name in dict.fromkeys(harm.adversary for harm in harms):
        own = [harm for harm in harms if harm.adversary == name]
        gains = [100 * harm.gain for harm in own if harm.gain is not None]
        cells = [
            name.replace("_", "-"),
            _mean([100 * harm.attainment for harm in own]),
            _mean([100 * harm.attainment_truthful for harm in own]),
            _mean([100 * harm.won for harm in own]),
            _mean([100 * harm.won_truthful for harm in own]),
            _mean(gains) if gains else "-",
            str(sum(harm.wronged for harm in own)),
            str(sum(harm.proven for harm in own)),
            f"{sum(harm.suspected for harm in own)} ({sum(harm.falsely_suspected for harm in own)} of honest ones)",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    wrong = sum(harm.falsely_proven for harm in harms)
    return "\n".join(lines) + f"\n\nProven against honest auctioneers, in all: {wrong}.\n"


def _mean(values: Sequence[float]) -> str:
    middle, half = interval(values)
    return f"{middle:.1f} ± {half:.1f}"

"""What a provider gains by not being truthful: one deviates, all others are honest, and everything else is the same.

Profit is what settlements paid, less the cost of the tokens computed; cost is what an honest idle provider asks.

The argument that truth pays, and what it assumes. A winner is paid the price at which it would just have tied with the
runner-up, capped by its own list price: given who is asked and what the others ask, its own price decides whether it
wins, and not what it is paid. So asking above cost only loses awards that paid, asking below it only wins awards that
do not. This holds for one request at a time, where the list price does not bind and the asks of others do not depend on
one's own. It does not hold where capacity is scarce: who is dear is left idle while the others fill up, and sells the
last places, which somebody must have; a place's true cost is then what a later request would pay for it, and not the
engine's alone. Nor where the runner-up is far behind, for then the list price is the payment.

A promise that is not kept costs what it won: settlement gives back the time beyond it, at the client's own value of
time. This holds up to half the price, and not for the first tenth and one second; where time is worth nothing to the
client, a promise wins nothing either, but for meeting the objective.
"""

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from wwwmarket.domain.shape import Value
from wwwmarket.simulator.providing import COST_PPM, LIST_PRICE
from wwwmarket.simulator.report import interval
from wwwmarket.simulator.run import Run, simulate
from wwwmarket.simulator.scenario import Scenario, build, load_scenario
from wwwmarket.simulator.world import TIME_VALUE_MICRO_PER_S, Character

DEVIATIONS: Final[tuple[Character, ...]] = ("greedy", "over-promising", "under-promising")
CLIENTS: Final = {"time and price": TIME_VALUE_MICRO_PER_S, "cheapest in time": 0}
"""What a second is worth to them, in micro-credits."""
DEVIANTS: Final = 3
"""Nodes that deviate, one after the other, in each world."""


class Gain(Value):
    """One deviation of one node in one world, against the same node's profit when honest."""

    clients: str
    deviation: Character
    node: int
    seed: int
    honest_micro: int
    deviating_micro: int

    @property
    def share(self) -> float:
        """Gain as a share of the honest profit."""
        return (self.deviating_micro - self.honest_micro) / max(1, self.honest_micro)


class Question(Value):
    """One world: whose clients, and which seed."""

    clients: str
    seed: int
    requests: int


def questions(seeds: int, *, quick: bool = False) -> list[Question]:
    size = 100 if quick else 800
    return [Question(clients=clients, seed=seed, requests=size) for clients in CLIENTS for seed in range(seeds)]


def answer(question: Question) -> list[Gain]:
    """Every deviation of a few nodes, in one world."""
    return list(_gains(question, load_scenario("mixed")))


def _gains(question: Question, base: Scenario) -> Iterator[Gain]:
    value = CLIENTS[question.clients]
    scenario = replace(base, nodes=8, requests=question.requests, load=0.8, time_value_micro_per_s=value)
    built = build(scenario, question.seed)
    honest = simulate(built.setup, built.requests, "market")
    for node in range(DEVIANTS):
        for deviation in DEVIATIONS:
            cast = list(built.setup.characters)
            cast[node] = deviation
            run = simulate(replace(built.setup, characters=tuple(cast)), built.requests, "market")
            yield Gain(
                clients=question.clients,
                deviation=deviation,
                node=node,
                seed=question.seed,
                honest_micro=profit(honest, node),
                deviating_micro=profit(run, node),
            )


def profit(run: Run, node: int) -> int:
    """Micro-credits earned by a node, less the cost of what it answered."""
    own = [served.request for served in run.served if served.executor == node and served.latency_us is not None]
    tokens_micro = sum(
        request.input_tokens * LIST_PRICE.input_micro_per_mtok
        + request.output_tokens * LIST_PRICE.output_micro_per_mtok
        for request in own
    )
    return run.earned_micro[node] - round(tokens_micro * COST_PPM / 1_000_000 / 1_000_000)


def table(gains: list[Gain]) -> str:
    """Markdown: mean gain in percent of the honest profit, with its 95 % interval."""
    lines = [f"| deviation | {' | '.join(CLIENTS)} |", "|---|" + "---|" * len(CLIENTS)]
    for deviation in DEVIATIONS:
        cells = []
        for clients in CLIENTS:
            shares = [100 * gain.share for gain in gains if (gain.clients, gain.deviation) == (clients, deviation)]
            middle, half = interval(shares) if shares else (0.0, 0.0)
            cells.append(f"{middle:+.1f} ± {half:.1f}")
        lines.append(f"| {deviation} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"

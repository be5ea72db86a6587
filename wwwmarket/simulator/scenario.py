"""A scenario: a readable file that says who is there, what comes, and what is asked of it; and the world built from it.

Two kinds of workload. *Stated*: each node has its own piecewise-Poisson rate. *Loaded*: a trace or a stream of
log-normal requests, stretched in time so that the work offered is ``load`` of what all slots together can do.
"""

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from wwwmarket.domain.errors import Malformed, NotFound
from wwwmarket.domain.model import Precision
from wwwmarket.domain.shape import Value
from wwwmarket.simulator.fleet import GOOD, Mix, NodeSpec, idle_ms, mixed, requests_per_s
from wwwmarket.simulator.network import REGIONS
from wwwmarket.simulator.workload import (
    Arrival,
    Lengths,
    Piece,
    Request,
    piecewise_poisson,
    poisson,
    read_trace,
    repeated,
)
from wwwmarket.simulator.world import TIME_VALUE_MICRO_PER_S, Character, Cut, Leaving, Overlay, Setup

NODES_MAX: Final = 10_000
REQUESTS_MAX: Final = 2_000_000
PATIENT_TTFT_MS: Final = 900_000
PATIENT_TPOT_MS: Final = 1_000
"""Where thresholds are swept over a run's end-to-end latencies, the bid itself asks for no more than this."""
IMBALANCE: Final = 0.5
"""Standard deviation of the logarithm of how much of its share comes in at each node."""


class NodeLine(Value):
    """A node as a scenario names it; ``arrivals`` are [from second, requests per second].

    Nodes of one ``label`` are of one class: what each class comes to is measured.
    """

    gpu: str
    model: str
    region: str = "us-east"
    precision: Precision = "bf16"
    tensor_parallel: int = 1
    slots: int = 256
    arrivals: tuple[tuple[float, float], ...] = ()
    label: str = ""
    slowdown: float = 1.0
    price: float = 1.0
    accept: float | None = None
    offload: float | None = None


Sybils: TypeAlias = Literal["sybil-silent", "sybil-lying", "sybil-selling"]


class People(Value):
    """Shares of the providers of each character, by chance; the rest is honest.

    ``favouring``, ``omitting`` and ``denying`` are honest providers that auction for their friends (``reviewing``).
    """

    greedy: float = 0.0
    over_promising: float = 0.0
    under_promising: float = 0.0
    silent: float = 0.0
    slow: float = 0.0
    lying: float = 0.0
    ceiling: float = 0.0
    ring: float = 0.0
    favouring: float = 0.0
    omitting: float = 0.0
    denying: float = 0.0


class Scenario(Value):
    """``node`` lists nodes one by one; without them ``nodes`` mixed ones are drawn."""

    name: str
    says: str
    node: tuple[NodeLine, ...] = ()
    nodes: int = 8
    slots: int = 8
    lengths: Lengths | None = None
    until_s: float = 750.0
    requests: int = 4_000
    load: float = 0.9
    slo_factor: float = 2.0
    slo_allowance_ms: int = 1_000
    warm_up: float = 0.2
    thresholds_s: tuple[int, ...] = ()
    people: People = People()
    sybils: Sybils | None = None
    sybil_share: float = 0.3
    """Of all identities then: they come on top of the nodes. Those that sell have one engine for each model."""
    churn: float = 0.0
    crashing: float = 0.5
    comings: tuple[Leaving, ...] = ()
    cuts: tuple[Cut, ...] = ()
    overlay: Overlay = "static"
    loss: float = 0.0
    prediction_error: float = 0.09
    time_value_micro_per_s: int = TIME_VALUE_MICRO_PER_S
    dispatch: tuple[str, ...] = ("market", "central-oracle", "power-of-two", "single")


class Built(NamedTuple):
    setup: Setup
    requests: list[Request]
    measured_from_us: int
    slo: str


def shipped() -> tuple[str, ...]:
    """Names of the scenarios that come with the package."""
    folder = files("wwwmarket.simulator") / "scenarios"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_scenario(name: str) -> Scenario:
    """A shipped scenario by name, or a file by its path.

    Raises:
        NotFound: there is neither.
        Malformed: the file is no scenario.
    """
    if name in shipped():
        text = (files("wwwmarket.simulator") / "scenarios" / f"{name}.toml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        raise NotFound(f"no scenario {name}: name a file, or one of {', '.join(shipped())}", param="scenario")
    try:
        scenario = msgspec.convert(tomllib.loads(text), Scenario)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Malformed(f"{name} is no scenario: {error}", param="scenario") from error
    if not 1 <= scenario.nodes <= NODES_MAX or not 1 <= scenario.requests <= REQUESTS_MAX or scenario.load <= 0:
        raise Malformed(
            f"a scenario has 1 to {NODES_MAX} nodes, 1 to {REQUESTS_MAX} requests and a positive load", param="scenario"
        )
    return scenario


def changed(scenario: Scenario, *, nodes: int | None, load: float | None, requests: int | None) -> Scenario:
    """The same with another size, load or number of requests.

    Raises:
        Malformed: the scenario names its nodes one by one, so that their number and load are stated.
    """
    if scenario.node and any(change is not None for change in (nodes, load, requests)):
        raise Malformed(
            f"{scenario.name} states its nodes and their arrivals; --nodes, --load and --requests do not apply"
        )
    return msgspec.structs.replace(
        scenario,
        nodes=nodes or scenario.nodes,
        load=load or scenario.load,
        requests=requests or scenario.requests,
    )


def build(scenario: Scenario, seed: int, trace: Path | None = None) -> Built:
    """The world and the requests of a scenario: the same for the same seed. ``trace`` replaces its stream of requests.

    Raises:
        Malformed: the trace cannot be read, or a region is not known.
        NotFound: there is no such GPU and model in the table.
    """
    if scenario.node and trace is None:
        return _stated(scenario, seed)
    return _loaded(scenario, seed, trace)


def _setup(scenario: Scenario, seed: int, nodes: tuple[NodeSpec, ...], longest: int) -> Setup:
    return Setup(
        seed=seed,
        nodes=nodes,
        characters=_characters(scenario.people, len(nodes), seed),
        accept=tuple(line.accept for line in scenario.node),
        offload=tuple(line.offload for line in scenario.node),
        cuts=scenario.cuts,
        overlay=scenario.overlay,
        loss=scenario.loss,
        output_tokens_max=longest,
        prediction_error=scenario.prediction_error,
        time_value_micro_per_s=scenario.time_value_micro_per_s,
    )


def _specs(scenario: Scenario, seed: int) -> tuple[NodeSpec, ...]:
    if not scenario.node:
        return mixed(scenario.nodes, scenario.slots, seed)
    unknown = {line.region for line in scenario.node} - set(REGIONS)
    if unknown:
        raise Malformed(f"no region {', '.join(sorted(unknown))}; there are: {', '.join(REGIONS)}", param="region")
    return tuple(
        NodeSpec(
            gpu=line.gpu,
            model=line.model,
            region=REGIONS.index(line.region),
            precision=line.precision,
            tensor_parallel=line.tensor_parallel,
            slots=line.slots,
            slowdown=line.slowdown,
            price=line.price,
        )
        for line in scenario.node
    )


def _characters(people: People, count: int, seed: int) -> tuple[Character, ...]:
    chance = Random(f"{seed}/people")
    shares: tuple[tuple[Character, float], ...] = (
        ("greedy", people.greedy),
        ("over-promising", people.over_promising),
        ("under-promising", people.under_promising),
        ("silent", people.silent),
        ("slow", people.slow),
        ("lying", people.lying),
        ("ceiling", people.ceiling),
        ("ring", people.ring),
        ("favouring", people.favouring),
        ("omitting", people.omitting),
        ("denying", people.denying),
    )
    cast: list[Character] = [name for name, share in shares for _ in range(round(share * count))]
    cast = cast[:count] + ["honest"] * (count - len(cast))
    chance.shuffle(cast)
    return tuple(cast)


def _stated(scenario: Scenario, seed: int) -> Built:
    lengths = scenario.lengths or Lengths(output_median=4_850, output_sigma=0.6, output_tokens_max=8_192)
    nodes = _specs(scenario, seed)
    chance = Random(f"{seed}/arrivals")
    moments = sorted(
        (moment, origin)
        for origin, line in enumerate(scenario.node)
        if line.arrivals
        for moment in piecewise_poisson(
            [Piece(from_s=from_s, per_s=per_s) for from_s, per_s in line.arrivals], scenario.until_s, chance
        )
    )
    requests = [
        Request(number, round(moment * 1e6), origin, GOOD, *lengths.draw(chance), PATIENT_TTFT_MS, PATIENT_TPOT_MS)
        for number, (moment, origin) in enumerate(moments)
    ]
    setup = _setup(scenario, seed, nodes, lengths.output_tokens_max)
    return Built(msgspec.structs.replace(setup, comings=scenario.comings), requests, 0, "patient")


def _loaded(scenario: Scenario, seed: int, trace: Path | None) -> Built:
    chance = Random(f"{seed}/arrivals")
    lengths = scenario.lengths or Lengths(
        output_median=150, output_sigma=1.0, output_tokens_max=2_048, input_median=1_000, input_sigma=1.0
    )
    arrivals = repeated(read_trace(trace), scenario.requests) if trace else poisson(scenario.requests, lengths, chance)
    nodes = _specs(scenario, seed)
    mix = _mix(arrivals)
    capacity = {node: requests_per_s(node, mix) for node in set(nodes)}
    stretch = len(arrivals) / max(1e-9, arrivals[-1].at_s) / (scenario.load * sum(capacity[node] for node in nodes))
    requests = _place(scenario, nodes, capacity, arrivals, stretch, chance)
    span_us = requests[-1].at_us
    longest = max(arrival.output_tokens for arrival in arrivals)
    setup = _with_sybils(_setup(scenario, seed, nodes, longest), scenario)
    comings = scenario.comings or _churn(scenario, len(nodes), span_us / 1e6, seed)
    slo = f"{scenario.slo_allowance_ms / 1_000:g}s+{scenario.slo_factor:g}x"
    return Built(msgspec.structs.replace(setup, comings=comings), requests, round(span_us * scenario.warm_up), slo)


def _with_sybils(setup: Setup, scenario: Scenario) -> Setup:
    """More identities: copies of nodes, one of each model, to which clients do not come."""
    kind, nodes = scenario.sybils, setup.nodes
    if kind is None:
        return setup
    models = sorted({node.serves for node in nodes})
    owners = [next(i for i, node in enumerate(nodes) if node.serves == model) for model in models]
    count = round(len(nodes) * scenario.sybil_share / (1 - scenario.sybil_share))
    cast = list(setup.characters)
    for owner in owners if kind == "sybil-selling" else ():
        cast[owner] = kind
    return msgspec.structs.replace(
        setup,
        nodes=(*nodes, *(nodes[owners[i % len(owners)]] for i in range(count))),
        characters=(*cast, *([kind] * count)),
    )


def _mix(arrivals: Sequence[Arrival]) -> Mix:
    count = len(arrivals)
    return Mix(sum(a.input_tokens for a in arrivals) / count, sum(a.output_tokens for a in arrivals) / count)


def _place(  # noqa: PLR0913, PLR0917 - what a stream is laid over
    scenario: Scenario,
    nodes: Sequence[NodeSpec],
    capacity: dict[NodeSpec, float],
    arrivals: Sequence[Arrival],
    stretch: float,
    chance: Random,
) -> list[Request]:
    """Models by their share of capacity, nodes by theirs times an imbalance; objectives by the median engine, idle."""
    models = sorted({node.serves for node in nodes})
    serving = {model: [i for i, node in enumerate(nodes) if node.serves == model] for model in models}
    shares = [sum(capacity[nodes[i]] for i in serving[model]) for model in models]
    weights = {m: [capacity[nodes[i]] * chance.lognormvariate(0.0, IMBALANCE) for i in serving[m]] for m in models}
    median = {model: _median([nodes[i] for i in serving[model]]) for model in models}
    longest = max(arrival.output_tokens for arrival in arrivals)
    room = [node.limits().kv_tokens_max for node in nodes]
    requests: list[Request] = []
    for arrival in arrivals:
        (model,) = chance.choices(models, shares)
        needed = max(2, arrival.input_tokens) + longest
        at = [(i, weight) for i, weight in zip(serving[model], weights[model], strict=True) if room[i] >= needed]
        if not at:
            continue  # it fits no engine of its model, so nobody would offer to take it
        (origin,) = chance.choices([i for i, _ in at], [weight for _, weight in at])
        engine = median[model]
        first_ms, second_ms = idle_ms(engine.step_time(), engine.limits(), arrival.input_tokens, 2)
        requests.append(
            Request(
                number=len(requests),
                at_us=round(arrival.at_s * stretch * 1e6),
                origin=origin,
                model=model,
                input_tokens=arrival.input_tokens,
                output_tokens=arrival.output_tokens,
                slo_ttft_ms=round(scenario.slo_allowance_ms + scenario.slo_factor * first_ms),
                slo_tpot_ms=max(1, round(scenario.slo_factor * (second_ms - first_ms))),
            )
        )
    return requests


def _median(nodes: Sequence[NodeSpec]) -> NodeSpec:
    """The engine in the middle by its inter-token latency alone."""
    ranked = sorted(nodes, key=lambda node: (node.step_time().step_ms(1, 1_000), node.gpu, node.region))
    return ranked[len(ranked) // 2]


def _churn(scenario: Scenario, count: int, span_s: float, seed: int) -> tuple[Leaving, ...]:
    """A share of the nodes leaves at some moment, of which some crash; as many others come only at some moment."""
    chance = Random(f"{seed}/churn")
    moving = chance.sample(range(count), min(count - 1, 2 * round(scenario.churn * count)))
    half = len(moving) // 2
    leaving = [
        Leaving(node=node, leaves_s=chance.uniform(0, span_s), crash=chance.random() < scenario.crashing)
        for node in moving[:half]
    ]
    return (*leaving, *(Leaving(node=node, joins_s=chance.uniform(0, span_s)) for node in moving[half:]))

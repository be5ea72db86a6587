"""One run: a world, a dispatch rule, the same requests; every request ends, and the checkers have the last word."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

from wwwmarket.domain.errors import NotFound
from wwwmarket.domain.shape import Value
from wwwmarket.simulator.bound import bound
from wwwmarket.simulator.marketplace import Market
from wwwmarket.simulator.outcome import Diverged, NoProgress, Outcome, Pass, Violated
from wwwmarket.simulator.reviewing import PATIENCE_MS
from wwwmarket.simulator.rivals import RIVALS
from wwwmarket.simulator.workload import Request
from wwwmarket.simulator.world import Policy, Setup, Trip, World
from wwwmarket.simulator.wwwserve import WwwServe, WwwServeFast

BOUND: Final = "bound"
POLICIES: Final[dict[str, Callable[[World], Policy]]] = {
    "market": Market,
    "single": RIVALS[0],
    "wwwserve": WwwServe,
    "wwwserve-fast": WwwServeFast,
    "random": RIVALS[1],
    "power-of-two": RIVALS[2],
    "stale-queue": RIVALS[3],
    "central-published": RIVALS[4],
    "central-oracle": RIVALS[5],
}
DISPATCHES: Final = (*POLICIES, BOUND)
EVENTS_BETWEEN_CHECKS: Final = 2_000


class Served(Value):
    """One request's end. Times in microseconds from its arrival; None where it has none."""

    request: Request
    ttft_us: int | None
    latency_us: int | None
    messages: int
    failed: str | None
    executor: int | None = None


class Review(Value):
    """A node's auctions: asks that it passed over though they were better, those proven, those only suspected."""

    wronged: int
    proven: int
    suspected: int


class Run(Value):
    dispatch: str
    outcome: Outcome
    served: tuple[Served, ...]
    polled_messages: int = 0
    earned_micro: tuple[int, ...] = ()
    """By node, what settlements paid it; empty where no money moves."""
    executed: tuple[int, ...] = ()
    """By node, how many requests it answered."""
    reviews: tuple[Review, ...] = ()
    """By node, what came of its auctions; empty where nobody looks back."""


def simulate(
    setup: Setup,
    requests: Sequence[Request],
    dispatch: str,
    progress: Callable[[int, int], None] | None = None,
    make: Callable[[World], Policy] | None = None,
) -> Run:
    """Run ``requests`` through ``dispatch`` (or the rule that ``make`` makes).

    Raises:
        NotFound: there is no such dispatch rule.
    """
    if dispatch == BOUND:
        return _bound(setup, requests)
    if make is None and dispatch not in POLICIES:
        raise NotFound(f"no dispatch rule {dispatch}; there are: {', '.join(DISPATCHES)}", param="dispatch")
    world = World(setup)
    policy = (make or POLICIES[dispatch])(world)
    trips = [Trip(request) for request in requests]
    world.begin(policy, trips)
    outcome = _play(world, policy, trips, progress)
    market = policy if isinstance(policy, Market) else None
    executed = [0] * len(world.nodes)
    for trip in trips:
        if trip.finish_us is not None and trip.executor is not None:
            executed[trip.executor] += 1
    return Run(
        dispatch=dispatch,
        outcome=outcome,
        served=tuple(_served(trip) for trip in trips),
        polled_messages=world.polled_messages,
        earned_micro=() if market is None else tuple(market.ledger.earned_micro(n) for n in range(len(world.nodes))),
        executed=tuple(executed),
        reviews=() if market is None else _reviews(market),
    )


def _reviews(market: Market) -> tuple[Review, ...]:
    found = market.reviewers
    if found is None:
        return ()
    found.time_moved(market.world.loop.now_ms + PATIENCE_MS)
    return tuple(
        Review(wronged=found.wronged[i], proven=found.proven[i], suspected=found.suspected[i])
        for i in range(len(market.world.nodes))
    )


def twice(setup: Setup, requests: Sequence[Request], dispatch: str) -> Outcome:
    """Run it twice from the same seed: Diverged where the histories differ."""
    first, second = (simulate(setup, requests, dispatch).outcome for _ in range(2))
    if isinstance(first, Pass) and isinstance(second, Pass) and first.digest != second.digest:
        return Diverged(first=first.digest, second=second.digest)
    return first


def _play(world: World, policy: Policy, trips: Sequence[Trip], progress: Callable[[int, int], None] | None) -> Outcome:
    loop, last_us = world.loop, round(world.setup.seconds_max * 1e6)
    left = list(trips)
    while True:
        for _ in range(EVENTS_BETWEEN_CHECKS):
            if not loop.step():
                break
        left = [trip for trip in left if not trip.over]
        if progress is not None:
            progress(len(trips) - len(left), len(trips))
        broken = next((node for node in world.nodes if node.engine.over_capacity), None)
        if broken is not None:
            return Violated(checker="engine-capacity", step=loop.done)
        settled = not isinstance(policy, Market) or policy.settled
        if not left and settled:
            break
        if loop.now_us > last_us or not loop.pending:
            return NoProgress(waiting=len(left), step=loop.done)
    if isinstance(policy, Market):
        checker = policy.ledger.broken()
        if checker is not None:
            return Violated(checker=checker, step=loop.done)
    return Pass(digest=_digest(trips, policy))


def _digest(trips: Sequence[Trip], policy: Policy) -> str:
    told = sha256()
    for trip in trips:
        said = (trip.request.number, trip.executor, trip.first_us, trip.finish_us, trip.failed, trip.messages)
        told.update(repr(said).encode())
    if isinstance(policy, Market):
        told.update(policy.ledger.root().encode())
    return told.hexdigest()


def _served(trip: Trip) -> Served:
    at_us = trip.request.at_us
    return Served(
        request=trip.request,
        ttft_us=None if trip.first_us is None else trip.first_us - at_us,
        latency_us=None if trip.finish_us is None else trip.finish_us - at_us,
        messages=trip.messages,
        failed=trip.failed,
        executor=trip.executor,
    )


def _bound(setup: Setup, requests: Sequence[Request]) -> Run:
    """Whoever is in the bound's set counts as answered at its deadline."""
    inside = bound(requests, setup.nodes)
    served = tuple(
        Served(
            request=request,
            ttft_us=None,
            latency_us=request.deadline_us - request.at_us if request.number in inside else None,
            messages=0,
            failed=None if request.number in inside else "no dispatch could serve it in time",
        )
        for request in requests
    )
    return Run(dispatch=BOUND, outcome=Pass(digest="bound"), served=served)

"""Does the live network agree with the simulator? The same requests, at the same moments, at the same nodes, in both.

    python loadtests/live_against_simulated.py [--scenario FILE] [--trace FILE] [--requests 400] [--load 0.9]
        [--slowdown 1] [--seed 1] [--simulations 5] [--json]

Live: one process for each node with its own emulated engine, and one more that orders the ledger, on loopback and in
real time. Simulated: the same fleet and requests under ``--simulations`` seeds of chance. Leaves with 1 where
attainment or messages per request differ by more than is tolerated, for reasons in docs/experiments/live.md.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
from live_fleet import Fleet, LiveNode, open_fleet
from msgspec.structs import replace

from wwwmarket.simulator.marketplace import ALLOWANCE_MS, PATIENCE_PERCENT, RETRIES
from wwwmarket.simulator.report import Row, rows
from wwwmarket.simulator.run import simulate
from wwwmarket.simulator.scenario import Built, build, load_scenario
from wwwmarket.simulator.workload import Request

HERE = Path(__file__).parent
ATTAINMENT_POINTS = 5.0
"""Percentage points between live and simulated attainment that are tolerated."""
MESSAGES_SHARE = 0.10
"""Of the simulated messages per request."""
GIVE_UP_S = 300.0


@dataclass
class Outcome:
    """One live request, in seconds from the moment when it was due; None where there was no answer."""

    request: Request
    first_s: float | None = None
    whole_s: float | None = None
    tries: int = 0
    late_s: float = 0.0
    """How late the load generator itself was."""
    failed: str | None = None
    again_s: float = 1.0
    """How long it was last told to wait."""

    @property
    def in_time(self) -> bool:
        due_s = (self.request.deadline_us - self.request.at_us) / 1e6
        return self.whole_s is not None and self.whole_s <= due_s


@dataclass
class Side:
    """What one of the two came to. Latencies are of answered requests."""

    attainment: float
    messages_per_request: float
    mean_latency_s: float
    p50_s: float
    p99_s: float
    refused: float


def body_of(request: Request, model: str, longest: int) -> bytes:
    """A prompt of as many tokens and bytes as the trace says; a reply of the stated length, unknown to the market."""
    said = {"model": model, "prompt": " ".join(["tok"] * request.input_tokens), "max_tokens": longest, "stream": True}
    return json.dumps({**said, "emulated_output_tokens": request.output_tokens}).encode()


def headers_of(request: Request, node: LiveNode, time_value_micro_per_s: int, elapsed_ms: int) -> dict[str, str] | None:
    """The bid that a simulated client makes; None where its time has passed."""
    ttft_ms = request.slo_ttft_ms * PATIENCE_PERCENT // 100 - elapsed_ms - ALLOWANCE_MS
    tpot_ms = -(-request.slo_tpot_ms * PATIENCE_PERCENT // 100)
    if ttft_ms <= 0:
        return None
    return {
        "authorization": f"Bearer {node.api_key}",
        "content-type": "application/json",
        "x-slo-ttft-ms": str(ttft_ms),
        "x-slo-tpot-ms": str(tpot_ms),
        "x-wwwmarket-max-price": "1000",
        "x-wwwmarket-time-value": f"{time_value_micro_per_s / 1e6:.6f}",
    }


class Replay:
    """Requests of ``built`` at the nodes of ``fleet``, each when it is due."""

    def __init__(self, fleet: Fleet, built: Built, model: str, session: aiohttp.ClientSession) -> None:
        self._fleet = fleet
        self._setup = built.setup
        self._model = model
        self._session = session
        self._begun = time.monotonic()

    async def run(self, requests: Sequence[Request]) -> list[Outcome]:
        return await asyncio.gather(*(self._one(request) for request in requests))

    async def _one(self, request: Request) -> Outcome:
        due_s = self._begun + request.at_us / 1e6
        outcome = Outcome(request)
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        outcome.late_s = time.monotonic() - due_s
        body = body_of(request, self._model, self._setup.output_tokens_max)
        node = self._fleet.nodes[request.origin]
        while outcome.whole_s is None:
            elapsed_ms = round((time.monotonic() - due_s) * 1_000)
            headers = headers_of(request, node, self._setup.time_value_micro_per_s, elapsed_ms)
            if headers is None:
                outcome.failed = f"its time has passed; before: {outcome.failed}"
                break
            outcome.tries += 1
            status = await self._ask(node, body, headers, outcome, due_s)
            if outcome.whole_s is not None:
                outcome.failed = None
            if status == 503 and outcome.tries <= RETRIES:
                await asyncio.sleep(outcome.again_s)
            elif outcome.whole_s is None:
                break
        return outcome

    async def _ask(self, node: LiveNode, body: bytes, headers: dict[str, str], outcome: Outcome, due_s: float) -> int:
        try:
            async with self._session.post(f"{node.gateway}/v1/completions", data=body, headers=headers) as answer:
                last = b""
                outcome.again_s = int(answer.headers.get("retry-after-ms", 1_000)) / 1e3
                async for chunk in answer.content.iter_any():
                    if outcome.first_s is None and answer.status == 200:
                        outcome.first_s = time.monotonic() - due_s
                    last = (last + chunk)[-512:]
                if answer.status == 200 and b"[DONE]" in last:
                    outcome.whole_s = time.monotonic() - due_s
                else:
                    outcome.failed = last.decode(errors="replace")
                return answer.status
        except aiohttp.ClientError as error:
            outcome.failed = str(error)
            return 0


async def replay(fleet: Fleet, built: Built, model: str) -> tuple[list[Outcome], float]:
    """What came of every request, and messages per request: of those that count, by the counters at both ends."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=GIVE_UP_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        before = await asyncio.to_thread(fleet.metric, "dispatch_messages_total")
        outcomes = await Replay(fleet, built, model, session).run(built.requests)
        after = await asyncio.to_thread(fleet.metric, "dispatch_messages_total")
    return outcomes, (after - before) / len(outcomes)


def live_side(outcomes: Sequence[Outcome], measured_from_us: int, messages: float) -> Side:
    measured = [one for one in outcomes if one.request.at_us >= measured_from_us]
    latencies = sorted(one.whole_s for one in measured if one.whole_s is not None)
    return Side(
        attainment=100 * sum(one.in_time for one in measured) / len(measured),
        messages_per_request=messages,
        mean_latency_s=statistics.mean(latencies),
        p50_s=latencies[len(latencies) // 2],
        p99_s=latencies[int(0.99 * len(latencies))],
        refused=100 * sum(one.whole_s is None for one in measured) / len(measured),
    )


def simulated_sides(built: Built, count: int) -> list[Side]:
    """The same requests, ``count`` times under other chance. Messages are of all requests, as they are live."""
    sides = []
    for seed in range(count):
        again = built._replace(setup=replace(built.setup, seed=seed))
        run = simulate(again.setup, again.requests, "market")
        (row,) = rows(run, again, experiment="live", setting="live", load=None, seed=seed)
        sides.append(_side(row, run.served, again.measured_from_us))
    return sides


def _side(row: Row, served, measured_from_us: int) -> Side:  # type: ignore[no-untyped-def]  # noqa: ANN001
    measured = [one for one in served if one.request.at_us >= measured_from_us]
    return Side(
        attainment=100 * row.attainment,
        messages_per_request=sum(one.messages for one in served) / len(served),
        mean_latency_s=row.mean_latency_s or 0.0,
        p50_s=row.p50_s or 0.0,
        p99_s=row.p99_s or 0.0,
        refused=100 * sum(one.latency_us is None for one in measured) / len(measured),
    )


@dataclass
class Comparison:
    live: Side
    simulated: list[Side]
    requests: int
    span_s: float
    generator_late_s: float
    """The 99th percentile of how late the load generator was: what the machine's other work did to this one."""
    cpu_ms_per_request: dict[str, float]
    load_average: float
    """Of the machine, before: what else it had to do."""
    failures: dict[str, int]
    """Live refusals and errors in words, and how many of each."""

    def mean(self, name: str) -> float:
        return statistics.mean(getattr(side, name) for side in self.simulated)

    @property
    def agrees(self) -> bool:
        apart = abs(self.live.attainment - self.mean("attainment"))
        messages = self.mean("messages_per_request")
        return (
            apart <= ATTAINMENT_POINTS and abs(self.live.messages_per_request - messages) <= MESSAGES_SHARE * messages
        )


def compare(options: argparse.Namespace) -> Comparison:
    scenario = replace(load_scenario(str(options.scenario)), requests=options.requests, load=options.load)
    slower = tuple(replace(line, slowdown=line.slowdown * options.slowdown) for line in scenario.node)
    scenario = replace(scenario, node=slower)
    built = build(scenario, options.seed, options.trace)
    simulated = simulated_sides(built, options.simulations)
    busy = os.getloadavg()[0]
    with open_fleet(built.setup.nodes) as fleet:
        before = fleet.cpu_s()
        outcomes, messages = asyncio.run(replay(fleet, built, built.setup.nodes[0].model))
        spent = {kind: seconds - before[kind] for kind, seconds in fleet.cpu_s().items()}
    late = sorted(one.late_s for one in outcomes)
    return Comparison(
        live=live_side(outcomes, built.measured_from_us, messages),
        simulated=simulated,
        requests=len(built.requests),
        span_s=built.requests[-1].at_us / 1e6,
        generator_late_s=late[int(0.99 * len(late))],
        load_average=busy,
        failures=dict(Counter(one.failed for one in outcomes if one.failed is not None).most_common(8)),
        cpu_ms_per_request={kind: 1_000 * seconds / len(outcomes) for kind, seconds in spent.items()},
    )


def show(found: Comparison) -> None:
    print(f"{found.requests} requests in {found.span_s:.0f} s; {len(found.simulated)} simulations\n")
    print(f"{'':28}{'live':>10}{'simulated':>12}{'least':>10}{'most':>10}")
    for name in Side.__dataclass_fields__:
        values = [getattr(side, name) for side in found.simulated]
        row = (getattr(found.live, name), statistics.mean(values), min(values), max(values))
        print(f"{name:28}{row[0]:10.2f}{row[1]:12.2f}{row[2]:10.2f}{row[3]:10.2f}")
    for reason, count in found.failures.items():
        print(f"{count:4} {reason}")
    spent = ", ".join(f"{kind} {value:.1f}" for kind, value in found.cpu_ms_per_request.items())
    print(f"\nCPU ms a request: {spent}; load generator late by {1_000 * found.generator_late_s:.0f} ms (p99)")
    print(f"load average of this machine before: {found.load_average:.1f} on {os.cpu_count()} processors")
    print(f"agrees within {ATTAINMENT_POINTS:g} points and {MESSAGES_SHARE:.0%} of the messages: {found.agrees}")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--scenario", type=Path, default=HERE / "live.toml")
    made.add_argument("--trace", type=Path, default=HERE / "traces" / "azure-conversations-400.csv")
    made.add_argument("--requests", type=int, default=400)
    made.add_argument("--load", type=float, default=0.9)
    made.add_argument("--slowdown", type=float, default=1.0, help="of engines, arrivals and objectives, on both sides")
    made.add_argument("--seed", type=int, default=1, help="of the requests")
    made.add_argument("--simulations", type=int, default=5, help="seeds of the simulator's own chance")
    made.add_argument("--json", action="store_true")
    return made


def main() -> None:
    options = parser().parse_args()
    found = compare(options)
    if options.json:
        json.dump({**asdict(found), "agrees": found.agrees}, sys.stdout)
    else:
        show(found)
    sys.exit(0 if found.agrees else 1)


if __name__ == "__main__":
    main()

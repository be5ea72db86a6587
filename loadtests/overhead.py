"""What the market adds to an engine, side by side in one run: time to first token, requests per second, CPU.

    python loadtests/overhead.py [--providers 3] [--requests 200] [--seconds 5] [--streams 8,32] [--json]

The engine is emulated and shared by all providers; requests go to it directly and through the gateway, in turns.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field

import httpx
from market import MODEL, Market, open_market

PROMPT = "What does a market know that its members do not?"


@dataclass
class Sample:
    """Milliseconds of one request."""

    first_ms: float
    whole_ms: float


@dataclass
class Load:
    """One level of load on the gateway. ``cpu_ms`` is per request, by process."""

    stream: bool
    concurrency: int
    requests_per_s: float
    failed: int
    p50_first_ms: float
    p99_first_ms: float
    cpu_ms: dict[str, float]


@dataclass
class Result:
    direct_first_ms: float
    gateway_first_ms: float
    added_first_ms: float
    direct_whole_ms: float
    gateway_whole_ms: float
    added_whole_ms: float
    loads: list[Load] = field(default_factory=list)


def body(*, stream: bool) -> bytes:
    messages = [{"role": "user", "content": PROMPT}]
    return json.dumps({"model": MODEL, "messages": messages, "max_tokens": 16, "stream": stream}).encode()


async def ask(client: httpx.AsyncClient, base: str, key: str, *, stream: bool = True) -> Sample | None:
    """One request; None if it failed."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    begun, first = time.perf_counter(), None
    async with client.stream(
        "POST", f"{base}/chat/completions", content=body(stream=stream), headers=headers
    ) as answer:
        async for _ in answer.aiter_raw():
            first = first or time.perf_counter()
    if answer.status_code != 200 or first is None:
        return None
    return Sample((first - begun) * 1_000, (time.perf_counter() - begun) * 1_000)


async def alone(client: httpx.AsyncClient, market: Market, requests: int) -> Result:
    """One request at a time, direct and through the gateway in turns, so that both meet the same machine."""
    direct: list[Sample] = []
    through: list[Sample] = []
    for number in range(requests + 20):
        pair = await ask(client, market.engine, "none"), await ask(client, market.gateway, market.api_key)
        assert pair[0] is not None, "the engine failed"
        assert pair[1] is not None, "the gateway failed"
        if number >= 20:
            direct.append(pair[0])
            through.append(pair[1])
    first = [statistics.median(sample.first_ms for sample in samples) for samples in (direct, through)]
    whole = [statistics.median(sample.whole_ms for sample in samples) for samples in (direct, through)]
    return Result(*first, first[1] - first[0], *whole, whole[1] - whole[0])


async def load(client: httpx.AsyncClient, market: Market, *, stream: bool, concurrency: int, seconds: float) -> Load:
    """``concurrency`` clients, each with one request after another."""
    done: list[Sample] = []
    failed = 0
    before, begun = market.cpu_s(), time.perf_counter()

    async def one_client() -> None:
        nonlocal failed
        while time.perf_counter() - begun < seconds:
            sample = await ask(client, market.gateway, market.api_key, stream=stream)
            if sample is None:
                failed += 1
            else:
                done.append(sample)

    await asyncio.gather(*(one_client() for _ in range(concurrency)))
    elapsed, after = time.perf_counter() - begun, market.cpu_s()
    firsts = sorted(sample.first_ms for sample in done)
    return Load(
        stream=stream,
        concurrency=concurrency,
        requests_per_s=len(done) / elapsed,
        failed=failed,
        p50_first_ms=statistics.median(firsts),
        p99_first_ms=firsts[int(len(firsts) * 0.99)],
        cpu_ms={name: (after[name] - before[name]) * 1_000 / len(done) for name in before},
    )


async def measure(arguments: argparse.Namespace) -> Result:
    limits = httpx.Limits(max_connections=512, max_keepalive_connections=512)
    with open_market(providers=arguments.providers, output_tokens=16, engine_arguments=("--speedup", "4")) as market:
        async with httpx.AsyncClient(timeout=60, limits=limits, trust_env=False) as client:
            result = await alone(client, market, arguments.requests)
            for stream in (True, False):
                for concurrency in map(int, arguments.streams.split(",")):
                    level = await load(
                        client, market, stream=stream, concurrency=concurrency, seconds=arguments.seconds
                    )
                    result.loads.append(level)
    return result


def show(result: Result) -> None:
    print("one request at a time (medians)      direct   gateway     added")
    for name, values in (
        ("time to first token, ms", (result.direct_first_ms, result.gateway_first_ms, result.added_first_ms)),
        ("whole answer, ms", (result.direct_whole_ms, result.gateway_whole_ms, result.added_whole_ms)),
    ):
        print(f"{name:36}" + "".join(f"{value:8.1f}  " for value in values))
    print("\nload on the gateway    requests/s  failed  first p50  first p99   CPU ms a request by process")
    for level in result.loads:
        kind = f"{level.concurrency} {'streams' if level.stream else 'whole'}"
        spent = ", ".join(f"{name} {value:.1f}" for name, value in level.cpu_ms.items())
        print(
            f"{kind:22}{level.requests_per_s:11.1f}{level.failed:8}{level.p50_first_ms:11.1f}"
            f"{level.p99_first_ms:11.1f}   {spent}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--providers", type=int, default=3)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--streams", default="8,32")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = asyncio.run(measure(arguments))
    if arguments.json:
        json.dump(asdict(result), sys.stdout)
    else:
        show(result)


if __name__ == "__main__":
    main()

"""The published figures of WWW.Serve beside ours, on the same kind of engine: one that answers whole after 50 ms.

    python loadtests/peer.py [--requests 200] [--concurrency 1,8,32] [--json]

Offloaded as there: the node where requests come in sells nothing, so each is auctioned, awarded on the ledger, executed
by another process and settled. The peer's figures were measured of its published code on two idle cores, on loopback,
and are not measured again here. Ours are of whole answers, beside the same load on the engine alone, in turns.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass

import httpx
from market import Market, open_market
from overhead import ask

ENGINE_MS = 50
PEER = {
    1: "508 ms as shipped, 79 ms without its tick",
    8: "71.5 requests/s without its tick",
    32: "96.6 requests/s, median 333 ms, without its tick",
}
WARM_UP = 10


@dataclass
class Level:
    """``direct`` is the same load on the engine alone."""

    concurrency: int
    direct_p50_ms: float
    p50_ms: float
    p99_ms: float
    requests_per_s: float
    failed: int
    peer: str


async def load(
    client: httpx.AsyncClient, base: str, key: str, concurrency: int, requests: int
) -> tuple[list[float], float]:
    """Milliseconds of each answered request, and requests per second."""
    done: list[float] = []
    left = iter(range(max(requests, 3 * concurrency)))

    async def one_client() -> None:
        for _ in left:
            sample = await ask(client, base, key, stream=False)
            if sample is not None:
                done.append(sample.whole_ms)

    begun = time.perf_counter()
    await asyncio.gather(*(one_client() for _ in range(concurrency)))
    return sorted(done), len(done) / (time.perf_counter() - begun)


async def measure_level(client: httpx.AsyncClient, market: Market, concurrency: int, requests: int) -> Level:
    direct, _ = await load(client, market.engine, "none", concurrency, requests)
    through, rate = await load(client, market.gateway, market.api_key, concurrency, requests)
    return Level(
        concurrency=concurrency,
        direct_p50_ms=statistics.median(direct),
        p50_ms=statistics.median(through),
        p99_ms=through[int(0.99 * len(through))],
        requests_per_s=rate,
        failed=max(requests, 3 * concurrency) - len(through),
        peer=PEER.get(concurrency, ""),
    )


async def measure(options: argparse.Namespace) -> list[Level]:
    limits = httpx.Limits(max_connections=512, max_keepalive_connections=512)
    arguments = ("--fixed-ms", str(ENGINE_MS))
    with open_market(providers=options.providers, output_tokens=16, engine_arguments=arguments) as market:
        async with httpx.AsyncClient(timeout=60, limits=limits, trust_env=False) as client:
            await load(client, market.gateway, market.api_key, 1, WARM_UP)
            levels = [int(one) for one in options.concurrency.split(",")]
            return [await measure_level(client, market, one, options.requests) for one in levels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--providers", type=int, default=3)
    parser.add_argument("--requests", type=int, default=200, help="at each concurrency")
    parser.add_argument("--concurrency", default="1,8,32")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    busy = os.getloadavg()[0]
    found = asyncio.run(measure(options))
    if options.json:
        json.dump([asdict(level) for level in found], sys.stdout)
        return
    print(f"an engine that answers after {ENGINE_MS} ms; {options.providers} providers, none where requests come in")
    print(f"load average of this machine before: {busy:.1f} on {os.cpu_count()} processors\n")
    print("concurrency   engine alone p50     ours p50     p99   requests/s  failed   WWW.Serve")
    for one in found:
        print(
            f"{one.concurrency:11}{one.direct_p50_ms:16.1f} ms{one.p50_ms:10.1f} ms{one.p99_ms:8.0f}"
            f"{one.requests_per_s:13.1f}{one.failed:8}   {one.peer}"
        )


if __name__ == "__main__":
    main()

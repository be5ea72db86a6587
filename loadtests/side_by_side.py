"""What a client pays in time for the market, beside what it pays for LiteLLM's proxy, over one and the same engine.

    python loadtests/side_by_side.py [--litellm PATH] [--rounds 3] [--seconds 4] [--streams 1,8,32,128] [--json]

Three ways to one emulated engine: direct; through a gateway (auction, award, ledger, settlement, recount); through
LiteLLM's proxy, one worker, with its logging off. They take turns in short rounds, so that all meet the same machine;
added times are differences within a round, and what is printed are medians over rounds. Without PATH LiteLLM is
installed, pinned, into ``.clients/litellm``.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
from market import MODEL, Market, open_market

ROOT = Path(__file__).resolve().parent.parent
WAYS = ("direct", "gateway", "litellm")
PROMPT = "What does a market know that its members do not?"
READY_WITHIN_S = 180
MASTER = "sk-of-the-proxy-0123456789abcdef0123456789abcdef"


@dataclass
class Way:
    """Where requests go, and the secret that they carry."""

    base: str
    key: str


@dataclass
class Round:
    """One way's part of one round: median times in milliseconds over its requests."""

    first_ms: float
    whole_ms: float
    requests_per_s: float
    failed: int


@dataclass
class Level:
    """Medians over rounds; ``added_first_ms`` is against the direct way in the same round."""

    streams: int
    way: str
    first_ms: float
    added_first_ms: float
    requests_per_s: float
    failed: int


BODY = json.dumps(
    {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 16, "stream": True}
).encode()


async def ask(session: aiohttp.ClientSession, way: Way) -> tuple[float, float] | None:
    """Milliseconds to the first byte of the answer's body and to its end; None if it failed."""
    headers = {"authorization": f"Bearer {way.key}", "content-type": "application/json"}
    begun, first, last = time.perf_counter(), 0.0, b""
    try:
        async with session.post(f"{way.base}/chat/completions", data=BODY, headers=headers) as answer:
            async for chunk in answer.content.iter_any():
                first = first or time.perf_counter()
                last = chunk
    except aiohttp.ClientError:
        return None
    if answer.status != 200 or b"[DONE]" not in last:
        return None
    return (first - begun) * 1_000, (time.perf_counter() - begun) * 1_000


async def one_round(session: aiohttp.ClientSession, way: Way, streams: int, seconds: float) -> Round:
    """``streams`` clients, each with one request after another."""
    done: list[tuple[float, float]] = []
    failed = 0
    begun = time.perf_counter()

    async def one_client() -> None:
        nonlocal failed
        while time.perf_counter() - begun < seconds:
            sample = await ask(session, way)
            if sample is None:
                failed += 1
                await asyncio.sleep(0.05)  # a refusal costs nothing, and must not count as speed
            else:
                done.append(sample)

    await asyncio.gather(*(one_client() for _ in range(streams)))
    elapsed = time.perf_counter() - begun
    if not done:
        return Round(float("nan"), float("nan"), 0.0, failed)
    return Round(
        statistics.median(first for first, _ in done),
        statistics.median(whole for _, whole in done),
        len(done) / elapsed,
        failed,
    )


async def measure(market: Market, litellm: str, arguments: argparse.Namespace) -> list[Level]:
    ways = dict(
        zip(
            WAYS,
            (Way(market.engine, "none"), Way(market.gateway, market.api_key), Way(litellm, MASTER)),
            strict=True,
        )
    )
    connector = aiohttp.TCPConnector(limit=512)
    levels: list[Level] = []
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:
        for way in ways.values():  # the first requests open connections and compile regular expressions
            await one_round(session, way, 4, 1.0)
        for streams in map(int, arguments.streams.split(",")):
            rounds: dict[str, list[Round]] = {name: [] for name in WAYS}
            for _ in range(arguments.rounds):
                for name, way in ways.items():
                    rounds[name].append(await one_round(session, way, streams, arguments.seconds))
            levels += [summary(streams, name, rounds) for name in WAYS]
    return levels


def summary(streams: int, name: str, rounds: dict[str, list[Round]]) -> Level:
    pairs = zip(rounds[name], rounds["direct"], strict=True)
    return Level(
        streams=streams,
        way=name,
        first_ms=statistics.median(one.first_ms for one in rounds[name]),
        added_first_ms=statistics.median(one.first_ms - direct.first_ms for one, direct in pairs),
        requests_per_s=statistics.median(one.requests_per_s for one in rounds[name]),
        failed=sum(one.failed for one in rounds[name]),
    )


@contextlib.contextmanager
def open_litellm(program: Path, engine: str) -> Iterator[str]:
    """LiteLLM's proxy before the engine: its base address, ending in /v1."""
    with tempfile.TemporaryDirectory(prefix="wwwmarket-litellm-") as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        parameters = {"model": f"openai/{MODEL}", "api_base": engine, "api_key": "none"}
        config = {
            "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
            "litellm_settings": {"telemetry": False, "turn_off_message_logging": True, "num_retries": 0},
        }
        file = Path(folder) / "litellm.json"  # JSON is YAML
        file.write_text(json.dumps(config))
        log = (Path(folder) / "log").open("wb")
        words = [str(program), "--config", str(file.rename(file.with_suffix(".yaml"))), "--host", "127.0.0.1"]
        served = subprocess.Popen(
            [*words, "--port", str(port), "--num_workers", "1"],
            cwd=folder,
            env=os.environ
            | {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": MASTER},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            _wait(served, port, Path(folder) / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            served.terminate()
            served.wait(30)
            log.close()


def _wait(served: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if served.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"LiteLLM did not start:\n{log.read_text()[-2_000:]}")
        time.sleep(0.2)


def installed() -> Path:
    """LiteLLM in an environment of its own, by the same recipe as the tests'."""
    subprocess.run(["make", "--silent", ".clients/litellm/.ready"], cwd=ROOT, check=True)  # noqa: S607
    return ROOT / ".clients" / "litellm" / "bin" / "litellm"


def show(levels: list[Level]) -> None:
    print("streams  way        first token    added   requests/s   failed")
    for level in levels:
        print(
            f"{level.streams:7}  {level.way:9}{level.first_ms:10.1f} ms{level.added_first_ms:7.1f} ms"
            f"{level.requests_per_s:13.1f}{level.failed:9}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm", type=Path)
    parser.add_argument("--providers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--streams", default="1,8,32,128")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    program = (arguments.litellm or installed()).absolute()
    speed = ("--speedup", "4")
    with (
        open_market(providers=arguments.providers, output_tokens=16, engine_arguments=speed) as market,
        open_litellm(program, market.engine) as litellm,
    ):
        levels = asyncio.run(measure(market, litellm, arguments))
    if arguments.json:
        json.dump([asdict(level) for level in levels], sys.stdout)
    else:
        show(levels)


if __name__ == "__main__":
    main()

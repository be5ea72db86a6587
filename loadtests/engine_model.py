"""How well a measured engine is predicted: ``python loadtests/engine_model.py --engine http://127.0.0.1:8000``.

Measures the engine as joining does, then sends requests of other lengths at other loads, predicts each from what is
known when it is sent, and compares. Says which device it ran on: figures of one are nothing for another.
"""

import argparse
import asyncio
import os
import platform
import random
import shutil
import subprocess
import time
from contextlib import aclosing
from statistics import median
from typing import NamedTuple

import msgspec

from wwwmarket.adapters.engines.embedded import EmbeddedEngine
from wwwmarket.adapters.engines.openai_compatible import OpenAiEngine
from wwwmarket.adapters.engines.self_benchmark import Benchmark, benchmark
from wwwmarket.adapters.system import SystemClock
from wwwmarket.dispatch.prediction import LearntLatency, Prediction
from wwwmarket.dispatch.step_time import EngineLimits
from wwwmarket.domain.identity import EntryId
from wwwmarket.node.forecasting import Forecasting
from wwwmarket.ports.engine import Engine, ResponseFinished, ResponsePiece, ServedModel

WORD_BYTES = 5
OUTPUT_TOKENS = (16, 192)
PROMPT_WORDS = (10, 150)


class Outcome(NamedTuple):
    """What was said, and what happened; milliseconds."""

    predicted: Prediction
    ttft_ms: float
    finish_ms: float


def device() -> str:
    """What the engine probably runs on, as far as this machine can tell."""
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        names = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split("\n")
        if names[0]:
            return f"GPU: {names[0]}"
    return f"CPU only, no GPU: {os.cpu_count()} cores, {platform.machine()}"


class Bench:
    """One engine, one model of it that learns or does not, and requests in flight."""

    def __init__(self, engine: Engine, served: ServedModel, model: LearntLatency, bytes_per_token: float) -> None:
        self._engine = engine
        self._served = served
        self._bytes_per_token = bytes_per_token
        self._clock = SystemClock()
        self.forecasting = Forecasting(engine, model, self._clock, poll_ms=100)
        self._chance = random.Random(0)
        self._number = 0

    async def run(self, requests: int, concurrency: int) -> list[Outcome]:
        """``concurrency`` clients, one request after the other each."""
        left = iter(range(requests))

        async def client() -> list[Outcome]:
            return [await self._one() for _ in left]

        found = await asyncio.gather(*(client() for _ in range(concurrency)))
        return [outcome for outcomes in found for outcome in outcomes]

    async def _one(self) -> Outcome:
        words, output_tokens = self._chance.randint(*PROMPT_WORDS), self._chance.randint(*OUTPUT_TOKENS)
        text = " ".join(f"{self._chance.randrange(10_000):04d}" for _ in range(words))
        input_tokens = max(1, round(len(text) / self._bytes_per_token))
        fields = {"model": self._served.name, "prompt": text, "stream": True, "ignore_eos": True}
        forecast = self.forecasting.forecast(input_tokens=input_tokens, output_tokens=output_tokens, held=0)
        assert forecast is not None, "the engine is known and the request fits"
        self._number += 1
        key = EntryId(f"{self._number:064x}")
        self.forecasting.started(
            key, input_tokens=input_tokens, output_tokens=output_tokens, output_tokens_max=output_tokens
        )
        begun, first = time.monotonic(), None
        answer = self._engine.execute("/v1/completions", msgspec.json.encode(fields), output_tokens_max=output_tokens)
        counted = None
        async with aclosing(answer) as events:  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, ResponsePiece) and event.tokens:
                    self.forecasting.said(key)
                    first = first or time.monotonic()
                elif isinstance(event, ResponseFinished):
                    counted = event.usage.output_tokens
        ended = time.monotonic()
        self.forecasting.ended(key, counted)
        predicted = Prediction(ttft_ms=forecast.ttft_ms, finish_ms=forecast.finish_ms)
        return Outcome(predicted, ((first or ended) - begun) * 1_000, (ended - begun) * 1_000)


def report(what: str, outcomes: list[Outcome]) -> None:
    """Median relative errors of both times, and which way they lean."""
    ttft = [one.predicted.ttft_ms / one.ttft_ms - 1 for one in outcomes]
    finish = [one.predicted.finish_ms / one.finish_ms - 1 for one in outcomes]
    print(
        f"{what:24} ttft {median(one.ttft_ms for one in outcomes):8.1f} ms  error {_of(ttft)}   "
        f"finish {median(one.finish_ms for one in outcomes):8.1f} ms  error {_of(finish)}"
    )


def _of(errors: list[float]) -> str:
    return f"{100 * median(map(abs, errors)):4.0f} % (bias {100 * median(errors):+4.0f} %)"


async def measure(engine: Engine, *, sequences: int, requests: int, loads: tuple[int, ...]) -> None:
    description = await engine.describe()
    served = description.models[0]
    measured: Benchmark = await benchmark(engine, description, served, sequences=sequences)
    print(f"device     {device()}")
    print(f"engine     {description.engine} {description.version}, {served.name}, {served.precision}")
    print(f"measured   {measured.fit} in {measured.took_ms} ms")
    limits = EngineLimits(
        kv_tokens_max=description.kv_tokens_max or served.context_tokens * sequences,
        sequences_max=description.sequences_max or sequences,
    )
    probe = msgspec.json.encode({"model": served.name, "prompt": "0123 " * 40, "max_tokens": 1})
    seen = [event async for event in engine.execute("/v1/completions", probe, output_tokens_max=1)]
    assert isinstance(seen[-1], ResponseFinished)
    bytes_per_token = WORD_BYTES * 40 / seen[-1].usage.input_tokens
    for load in loads:
        bench = Bench(engine, served, measured.fit.latency(limits), bytes_per_token)
        await bench.forecasting.poll()
        polling = asyncio.create_task(bench.forecasting.poll_forever())
        outcomes = await bench.run(requests, load)
        polling.cancel()
        half = len(outcomes) // 2
        report(f"{load} at once, at first", outcomes[:half])
        report(f"{load} at once, learnt", outcomes[half:])


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="embedded", help="its base address, or: embedded")
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--requests", type=int, default=64, help="at each load")
    parser.add_argument("--loads", type=int, nargs="+", default=[1, 4, 16])
    options = parser.parse_args()
    embedded = options.engine == "embedded"
    engine: Engine = (
        await EmbeddedEngine.start(sequences=options.sequences) if embedded else OpenAiEngine(options.engine)
    )
    try:
        await measure(engine, sequences=options.sequences, requests=options.requests, loads=tuple(options.loads))
    finally:
        await engine.close()


if __name__ == "__main__":
    asyncio.run(main())

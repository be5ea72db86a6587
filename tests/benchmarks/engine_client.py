"""What passing an engine's answer on costs here: ``python tests/benchmarks/engine_client.py``.

Prints, against an emulated engine in a process of its own: CPU of the client and of the server for each stream, the
time that the client adds before the first byte over a bare socket, and how many streams a core could pass on.
"""

import argparse
import asyncio
import importlib
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import uvloop

from wwwmarket.adapters.engines.emulated import EmulatedEngine
from wwwmarket.ports.engine import ResponseFinished, ResponsePiece

CHAT: Final = "/v1/chat/completions"
TOKENS: Final = 100
REQUEST: Final = msgspec.json.encode(
    {"model": "Qwen3-8B", "messages": [{"role": "user", "content": "What is a fair price?"}], "stream": True}
)
ENGINE: Final = "wwwmarket.adapters.engines.openai_compatible"
ROUNDS: Final = 200
CONCURRENT: Final = 32
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class Load(NamedTuple):
    """CPU of both sides and wall time for each stream, milliseconds."""

    client_ms: float
    server_ms: float
    wall_ms: float


async def stream(engine) -> float:
    """Read one answer; the time to its first piece, in milliseconds."""
    begun, first = time.perf_counter(), 0.0
    async for event in engine.execute(CHAT, REQUEST, output_tokens_max=TOKENS):
        if isinstance(event, ResponsePiece) and not first:
            first = time.perf_counter() - begun
        if isinstance(event, ResponseFinished):
            assert event.usage.output_tokens == TOKENS, "the emulated engine counts as it is told"
    return first * 1e3


async def bare(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    """The same over a bare connection."""
    head = f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: {len(REQUEST)}\r\n\r\n".encode()
    begun = time.perf_counter()
    writer.write(head + REQUEST)
    data = b""
    while b"data:" not in data:
        data += await reader.read(65536)
    first = time.perf_counter() - begun
    while not data.endswith(b"0\r\n\r\n"):
        data += await reader.read(65536)
    return first * 1e3


def cpu_ms(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S * 1e3


async def load(engine, pid: int, streams: int, concurrent: int) -> Load:
    """Costs of ``streams`` answers, ``concurrent`` at a time."""

    async def worker() -> None:
        for _ in range(streams // concurrent):
            await stream(engine)

    await asyncio.gather(*(stream(engine) for _ in range(concurrent)))
    wall, client, server = time.perf_counter(), time.process_time(), cpu_ms(pid)
    await asyncio.gather(*(worker() for _ in range(concurrent)))
    each = streams // concurrent * concurrent
    return Load(
        client_ms=(time.process_time() - client) * 1e3 / each,
        server_ms=(cpu_ms(pid) - server) / each,
        wall_ms=(time.perf_counter() - wall) * 1e3 / each,
    )


async def added_ttft_ms(engine, port: int) -> float:
    """Median of the client's time to the first piece, less that of a bare socket; the two take turns."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(await stream(engine))
        theirs.append(await bare(port, reader, writer))
    writer.close()
    await writer.wait_closed()
    return statistics.median(ours) - statistics.median(theirs)


async def measure(module: str) -> None:
    kind = importlib.import_module(module).OpenAiEngine
    for speedup in ("1", "20"):
        arguments = ["--speedup", speedup, "--output-tokens", str(TOKENS)]
        async with await EmulatedEngine.start("H100-SXM", "Qwen3-8B", arguments=arguments) as server:
            port = server._child.port
            engine = kind(f"http://127.0.0.1:{port}")
            one = await load(engine, server.pid, 20 if speedup == "1" else 100, 1)
            many = await load(engine, server.pid, 8 * CONCURRENT if speedup == "1" else 30 * CONCURRENT, CONCURRENT)
            report(f"speedup {speedup}, 1 at a time", one)
            report(f"speedup {speedup}, {CONCURRENT} at a time", many)
            if speedup == "20":
                report_line(f"added before the first byte: {await added_ttft_ms(engine, port):.2f} ms")
            await engine.close()


def report(name: str, seen: Load) -> None:
    report_line(
        f"{name}: client {seen.client_ms:.2f} ms CPU, server {seen.server_ms:.2f} ms CPU, wall {seen.wall_ms:.2f} ms"
        f" a stream; {1e3 / seen.client_ms:.0f} streams/s per core"
    )


def report_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description="What passing an engine's answer on costs.")
    parser.add_argument("--engine", default=ENGINE, help="module of the OpenAiEngine to measure")
    uvloop.run(measure(parser.parse_args().engine))


if __name__ == "__main__":
    main()

"""Measures the real transport between two processes."""

import asyncio
import sys
import time
from typing import Final

import pytest

from wwwmarket.adapters.transport import IrohTransport
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.records import NodeAddress

pytestmark = pytest.mark.bench

SERVER: Final = """
import asyncio, sys, time
from wwwmarket.adapters.transport import IrohTransport
from wwwmarket.crypto.signing import KeyPair

async def echo(peer, message):
    return message

async def main():
    transport = await IrohTransport.bind(KeyPair(b"k" * 32))
    transport.serve(echo, echo)
    print(transport.address().sockets[0], flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await transport.close()

asyncio.run(main())
"""
REQUESTS: Final = 10_000
AT_ONCE: Final = 64


async def test_round_trips_between_two_processes() -> None:
    """Prints rate, latency and CPU; the bounds are loose, for slow machines."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, stdin=pipe, stdout=pipe)
    assert child.stdout is not None
    socket = (await child.stdout.readline()).decode().strip()
    peer = NodeAddress(node=NodeId(KeyPair(b"k" * 32).account), sockets=(socket,))
    transport, loop = await IrohTransport.bind(KeyPair(b"a" * 32)), asyncio.get_running_loop()
    latencies = []
    for _ in range(500):
        began = loop.time()
        await transport.request(peer, bytes(300), timeout_ms=5000)
        latencies.append(loop.time() - began)

    async def ask_on() -> None:
        for _ in range(REQUESTS // AT_ONCE):
            await transport.request(peer, bytes(300), timeout_ms=5000)

    began, cpu = loop.time(), time.process_time()
    await asyncio.gather(*(ask_on() for _ in range(AT_ONCE)))
    rate, cpu_us = REQUESTS / (loop.time() - began), (time.process_time() - cpu) / REQUESTS * 1e6
    began = loop.time()
    for _ in range(10):
        await transport.request(peer, bytes(1 << 20), timeout_ms=5000)
    megabytes_per_s = 2 * 10 * (1 << 20) / 1e6 / (loop.time() - began)
    await transport.close()
    await child.communicate(b"\n")
    latency_ms = sorted(latencies)[250] * 1000
    print(f"p50 {latency_ms:.2f} ms; {rate:.0f}/s; {cpu_us:.0f} us CPU each; {megabytes_per_s:.0f} MB/s")  # noqa: T201
    assert latency_ms < 20
    assert megabytes_per_s > 10
    assert rate > 500

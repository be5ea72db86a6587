"""From submission to final: a node and four mirrors, each a process with its disk, on loopback.

    python loadtests/finality.py [--rate 500] [--seconds 20] [--mirrors 4]

Signed transfers arrive at a steady rate at the node's HTTP door, each from an author of its own. Measured for each:
until the operator's promise (its entry is durable), and until a quorum has made it final, as the node's status says
when asked every few milliseconds; so the figures are upper bounds by that much. With it, what each process took of the
CPU: where there are fewer cores than processes, that is what the time goes to.
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
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from wwwmarket.adapters.keystore import KeyStore
from wwwmarket.bootstrap_mirror import make_member
from wwwmarket.crypto.canonical import encode
from wwwmarket.crypto.signing import KeyPair, entry_id, sign_entry
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.records import Inclusion, Signed, Transfer
from wwwmarket.node.service import AccountView, NodeStatus

AUTHORS: Final = 64
POLL_S: Final = 0.01
READY_WITHIN_S: Final = 90.0
FINAL_WITHIN_S: Final = 30.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def process(*arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command that leaves in order when its standard input ends."""
    command = [sys.executable, "-m", "wwwmarket", *map(str, arguments), "--end-with-stdin"]
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        assert running.stdin is not None
        running.stdin.close()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def ready(file: Path, running: subprocess.Popen[bytes]) -> dict[str, str]:
    deadline_s = time.monotonic() + READY_WITHIN_S
    while not file.exists():
        if running.poll() is not None or time.monotonic() > deadline_s:
            raise SystemExit(f"{file.stem} did not start: exit status {running.poll()}")
        time.sleep(0.05)
    return dict(json.loads(file.read_bytes()))


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass
class Market:
    gateway: str
    key: KeyPair
    processes: dict[str, subprocess.Popen[bytes]]

    def cpu_s(self) -> dict[str, float]:
        """User and system time of each process so far (``/proc``, proc(5))."""
        spent = {}
        for name, running in self.processes.items():
            fields = Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()
            spent[name] = (int(fields[11]) + int(fields[12])) / _TICKS
        return spent


@contextlib.contextmanager
def market(folder: Path, mirrors: int) -> Iterator[Market]:
    with contextlib.ExitStack() as stack:
        ports, committee = free_ports(mirrors), []
        for number, port in enumerate(ports):
            home = folder / f"mirror{number}"
            home.mkdir()
            member = make_member(home, None, f"http://127.0.0.1:{port}", None)
            (folder / f"mirror{number}.json").write_bytes(msgspec.json.encode(member))
            committee += ["--committee", folder / f"mirror{number}.json"]
        where = ("--data", folder / "node", "--port", "0", "--bind", "127.0.0.1:0")
        node = stack.enter_context(process("node", "run", *where, *committee, "--ready-file", folder / "node.ready"))
        gateway = ready(folder / "node.ready", node)["gateway"].removesuffix("/v1")
        processes = {"node": node}
        for number, port in enumerate(ports):
            listen = ("--data", folder / f"mirror{number}", "--log", gateway, "--listen", f"127.0.0.1:{port}")
            name = f"mirror {number + 1}"
            file = folder / f"{name}.ready"
            processes[name] = stack.enter_context(process("mirror", "run", *listen, "--ready-file", file))
            ready(file, processes[name])
        yield Market(gateway, KeyStore(folder / "node" / "keys").load("node", None), processes)


@dataclass
class Author:
    """Whoever pays; one entry at a time, as an account's chain demands."""

    key: KeyPair
    seq: int
    prev: EntryId

    def pay(self, to: AccountId, amount_micro: int) -> bytes:
        body = Transfer(to=to, amount_micro=amount_micro)
        entry = sign_entry(self.key, seq=self.seq, prev=self.prev, body=body)
        self.seq, self.prev = self.seq + 1, entry_id(entry)
        return encode(entry)


@dataclass
class Measured:
    promised_s: list[float] = field(default_factory=list)
    final_s: list[float] = field(default_factory=list)
    waiting: list[tuple[int, float]] = field(default_factory=list)
    refused: int = 0
    late: int = 0

    def settle(self, final_size: int, now_s: float) -> None:
        self.final_s += [now_s - sent_s for index, sent_s in self.waiting if index < final_size]
        self.waiting = [(index, sent_s) for index, sent_s in self.waiting if index >= final_size]


class Load:
    def __init__(self, http: aiohttp.ClientSession, gateway: str) -> None:
        self._http = http
        self._gateway = gateway
        self.measured = Measured()
        self._moved = asyncio.Condition()

    async def head(self, key: KeyPair) -> Author:
        async with self._http.get(f"{self._gateway}/v1/accounts/{key.account}") as answer:
            view = msgspec.json.decode(await answer.read(), type=AccountView)
        return Author(key, view.next_seq, view.prev)

    async def submit(self, leaf: bytes) -> int:
        """Its index; -1 where it was refused."""
        async with self._http.post(f"{self._gateway}/v1/entries", data=leaf) as answer:
            content = await answer.read()
        return msgspec.json.decode(content, type=Signed[Inclusion]).body.index if answer.status == 200 else -1

    async def final_size(self) -> int:
        async with self._http.get(f"{self._gateway}/v1/status") as answer:
            return msgspec.json.decode(await answer.read(), type=NodeStatus).final_size

    async def watch(self) -> None:
        while True:
            self.measured.settle(await self.final_size(), time.monotonic())
            async with self._moved:
                self._moved.notify_all()
            await asyncio.sleep(POLL_S)

    async def settled(self) -> None:
        """Return once everything that was promised is final."""
        async with self._moved:
            await self._moved.wait_for(lambda: not self.measured.waiting)

    async def send(self, author: Author, to: AccountId, free: asyncio.Queue[Author]) -> None:
        sent_s = time.monotonic()
        index = await self.submit(author.pay(to, 1))
        if index < 0:
            self.measured.refused += 1
            author = await self.head(author.key)
        else:
            self.measured.promised_s.append(time.monotonic() - sent_s)
            self.measured.waiting.append((index, sent_s))
        free.put_nowait(author)

    async def run(self, authors: list[Author], rate: float, seconds: float) -> None:
        """At a steady rate, whatever becomes of those before; ``late`` counts those that found no author free."""
        free: asyncio.Queue[Author] = asyncio.Queue()
        for author in authors:
            free.put_nowait(author)
        begun_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                await asyncio.sleep(begun_s + number / rate - time.monotonic())
                self.measured.late += free.empty()
                author = await free.get()
                group.create_task(self.send(author, authors[number % AUTHORS - 1].key.account, free))


@contextlib.asynccontextmanager
async def watching(load: Load) -> AsyncIterator[None]:
    task = asyncio.create_task(load.watch())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def measure(running: Market, rate: float, seconds: float) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AUTHORS + 4)) as http:
        load = Load(http, running.gateway)
        founder = await load.head(running.key)
        authors = []
        for number in range(AUTHORS):
            key = KeyPair(bytes([number, 0x5A]) * 16)
            assert await load.submit(founder.pay(key.account, 10_000_000)) >= 0, "the founder pays"
            authors.append(key)
        ready_authors = [await load.head(key) for key in authors]
        async with asyncio.timeout(FINAL_WITHIN_S), watching(load):
            await load.run(ready_authors, rate / 5, 2.0)  # everybody has something behind them
            await load.settled()
        load.measured = Measured()
        before, own = running.cpu_s(), time.process_time()
        async with asyncio.timeout(seconds + FINAL_WITHIN_S), watching(load):
            await load.run(ready_authors, rate, seconds)
            await load.settled()
        spent = {name: after - before[name] for name, after in running.cpu_s().items()}
        report(load.measured, rate, seconds, {**spent, "this client": time.process_time() - own})


def report(measured: Measured, rate: float, seconds: float, cpu_s: dict[str, float]) -> None:
    entries = len(measured.final_s)
    print(f"{entries:,} entries at {rate:,.0f}/s; {measured.refused} refused, {measured.late} sent late")
    for name, values in (("promised", measured.promised_s), ("final", measured.final_s)):
        cuts = [1e3 * each for each in statistics.quantiles(values, n=100)]
        print(f"{name:9} median {cuts[49]:6.0f} ms   p90 {cuts[89]:6.0f} ms   p99 {cuts[98]:6.0f} ms")
    for name, spent in cpu_s.items():
        print(f"{name:12} {spent / seconds:5.2f} cores, {spent / entries * 1e6:6.0f} us an entry")
    print(f"{'together':12} {sum(cpu_s.values()) / seconds:5.2f} of {os.cpu_count()} cores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=500.0, help="entries a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--mirrors", type=int, default=4)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, market(Path(folder), chosen.mirrors) as running:
        asyncio.run(measure(running, chosen.rate, chosen.seconds))


if __name__ == "__main__":
    main()

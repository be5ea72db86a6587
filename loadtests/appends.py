"""How many entries one process checks, applies and hashes per CPU second, and what each orderer takes, side by side.

    python loadtests/appends.py [--entries 20000] [--orderers sqlite,postgresql,etcd1,etcd3] [--seconds 5]

Transfers between a few accounts: one signature each. The first figure leaves the disk out: it waits, and takes no CPU
to speak of. Then each orderer, on this machine, with its disk: entries per second in batches of 256 by one leader, and
the time until one entry alone is durable. The orderers take turns within each round, so that what else the machine does
falls on all of them.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

from tests.ports.orderers import servers
from wwwmarket.adapters.orderers import open_orderer
from wwwmarket.crypto.canonical import encode
from wwwmarket.crypto.signing import KeyPair, open_entry, sign_entry, verify_bytes
from wwwmarket.domain.records import Genesis, Grant, NodeAddress, Transfer
from wwwmarket.node.replica import Replica
from wwwmarket.ports.store import ORDER_ENTRIES_MAX, Orderer
from wwwmarket.rules.registry import Registry

ROUNDS: Final = 5


def leaves(registry: Registry, entries: int) -> list[bytes]:
    """A genesis and signed transfers, as they arrive."""
    people = [KeyPair(bytes([number]) * 32) for number in range(1, 9)]
    operator = people[0]
    genesis = Genesis(
        origin="load.test",
        operator=operator.account,
        operator_address=NodeAddress(node=operator.account),  # type: ignore[arg-type] - the operator's own node
        contracts=registry.latest,
        grants=tuple(Grant(account=person.account, amount_micro=10**12) for person in people),
        at_ms=1,
    )
    replica = Replica(registry)
    signed = []
    for number in range(entries):
        author, other = people[number % 8], people[(number + 3) % 8]
        body = genesis if number == 0 else Transfer(to=other.account, amount_micro=1 + number % 100)
        head = replica.state.chain_head(author.account)
        leaf = encode(sign_entry(author, seq=head.next_seq, prev=head.prev, body=body))
        replica.apply(open_entry(leaf))
        signed.append(leaf)
    return signed


@contextmanager
def served(kind: str) -> Iterator[str]:
    """The address of a fresh orderer, which waits for its disk as in earnest."""
    with ExitStack() as stack:
        match kind:
            case "sqlite":
                yield f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/order.db"
            case "postgresql":
                yield stack.enter_context(servers.postgres(durable=True)).database()
            case "etcd1" | "etcd3":
                yield stack.enter_context(servers.etcd(int(kind[-1]))).address
            case _:
                raise SystemExit(f"no orderer is called {kind}")


@dataclass
class Measured:
    orderer: Orderer
    size: int = 0
    entries: int = 0
    spent_s: float = 0.0
    cpu_s: float = 0.0
    alone_s: list[float] = field(default_factory=list)

    async def run(self, signed: list[bytes], seconds: float) -> None:
        """Batches for half the time, then single entries."""
        begun_s, begun_cpu_s = time.monotonic(), time.process_time()
        while time.monotonic() - begun_s < seconds / 2:
            batch = [signed[(self.size + number) % len(signed)] for number in range(ORDER_ENTRIES_MAX)]
            await self.orderer.append(self.size, batch)
            self.size += len(batch)
            self.entries += len(batch)
        self.spent_s += time.monotonic() - begun_s
        self.cpu_s += time.process_time() - begun_cpu_s
        while (sent_s := time.monotonic()) - begun_s < seconds:
            await self.orderer.append(self.size, signed[:1])
            self.size += 1
            self.alone_s.append(time.monotonic() - sent_s)


async def compare(kinds: list[str], signed: list[bytes], seconds: float) -> None:
    with ExitStack() as stack:
        measured: dict[str, Measured] = {}
        for kind in kinds:
            address = stack.enter_context(served(kind))
            orderer = open_orderer(address, origin="load.test", name="one")
            await orderer.campaign()
            measured[kind] = Measured(orderer)
        for _ in range(ROUNDS):
            for one in measured.values():
                await one.run(signed, seconds / ROUNDS)
        for kind, one in measured.items():
            rate, cpu_us = one.entries / one.spent_s, one.cpu_s / one.entries * 1e6
            alone_ms = statistics.median(one.alone_s) * 1e3
            print(f"{kind:11} {rate:9,.0f} entries/s  {cpu_us:5.0f} us CPU each  {alone_ms:6.2f} ms alone (median)")
            await one.orderer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=20_000)
    parser.add_argument("--orderers", default="sqlite,postgresql,etcd1,etcd3", help="empty for none")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each orderer")
    chosen = parser.parse_args()
    registry = Registry.load()
    arriving = leaves(registry, chosen.entries)
    verify_bytes.cache_clear()
    replica, begun = Replica(registry), time.process_time()
    for leaf in arriving:
        replica.apply(open_entry(leaf))
    spent = time.process_time() - begun
    print(
        f"{chosen.entries / spent:,.0f} entries per CPU second ({spent / chosen.entries * 1e6:.0f} microseconds each)"
    )
    kinds = [kind for kind in chosen.orderers.split(",") if kind]
    asyncio.run(compare(kinds, arriving, chosen.seconds))


if __name__ == "__main__":
    main()

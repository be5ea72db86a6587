"""How many entries one process checks, applies and hashes per CPU second, with every signature verified.

    python loadtests/appends.py [--entries 20000]

Transfers between a few accounts: one signature each. The disk is left out: it waits, and takes no CPU to speak of.
"""

import argparse
import time

from wwwmarket.crypto.canonical import encode
from wwwmarket.crypto.signing import KeyPair, open_entry, sign_entry, verify_bytes
from wwwmarket.domain.records import Genesis, Grant, NodeAddress, Transfer
from wwwmarket.node.replica import Replica
from wwwmarket.rules.registry import Registry


def leaves(registry: Registry, entries: int) -> list[bytes]:
    """A genesis and signed transfers, as they arrive."""
    people = [KeyPair(bytes([number]) * 32) for number in range(1, 9)]
    operator = people[0]
    genesis = Genesis(
        origin="load.test",
        operator=operator.account,
        operator_address=NodeAddress(node=operator.account),  # type: ignore[arg-type] - the operator's own node
        contracts=registry.hashes,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=20_000)
    entries = parser.parse_args().entries
    registry = Registry.load()
    arriving = leaves(registry, entries)
    verify_bytes.cache_clear()
    replica, begun = Replica(registry), time.process_time()
    for leaf in arriving:
        replica.apply(open_entry(leaf))
    spent = time.process_time() - begun
    print(f"{entries / spent:,.0f} entries per CPU second ({spent / entries * 1e6:.0f} microseconds each)")


if __name__ == "__main__":
    main()

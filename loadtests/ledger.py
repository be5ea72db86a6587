"""How fast a ledger is verified and audited, and what limits it, in one run.

    python loadtests/ledger.py [--entries 20000] [--rounds 3]

For each of two mixes, *requests* (an award and its settlement, six signatures between them) and *transfers* (one
signature each):

- what one process spends on an entry, step by step: its signatures, reading and checking it, following it in the state,
  hashing it into the tree; and so how many entries it appends per CPU second, beside what Ed25519 alone would allow;
- `wwwmarket audit` of the same log from disk, in one process and on all cores: entries per second, CPU seconds over all
  processes, and the most memory that any of them took, at two sizes of log.

Other work on the machine falls on all of it, which is why everything is also told as a share of what the signatures
alone cost in the same round.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from loadtests.made_logs import Maker, Mix, write_files
from wwwmarket.cli.auditing import cores
from wwwmarket.crypto.signing import KeyPair, open_entry, verify_bytes
from wwwmarket.ledger.merkle import leaf_hash
from wwwmarket.ledger.tiles import Tiler
from wwwmarket.rules.check import check
from wwwmarket.rules.registry import Registry
from wwwmarket.rules.state import State

SIGNATURES: Final[dict[Mix, float]] = {"requests": 3.0, "transfers": 1.0}
SAMPLE_S: Final = 0.02
STEP: Final = 2_000
"""Entries between two looks at the clock: enough to measure, few enough that each step sees the same machine."""


class Spent(NamedTuple):
    """CPU seconds of one process."""

    signatures: float
    opening: float
    following: float
    hashing: float

    @property
    def total(self) -> float:
        return self.opening + self.following + self.hashing


class Audited(NamedTuple):
    entries: int
    wall_s: float
    cpu_s: float
    peak_mib: float


def timed(work: Callable[[], object]) -> tuple[float, object]:
    begun = time.process_time()
    done = work()
    return time.process_time() - begun, done


def measure_append(registry: Registry, leaves: Sequence[bytes], mix: Mix) -> Spent:
    """What a node does with each entry that it takes into its copy, but for the disk."""
    key = KeyPair(bytes(32))
    message = bytes(32)
    signature, raw = key.sign_bytes(message), verify_bytes.__wrapped__
    state, tiler, totals = State(registry), Tiler(), [0.0] * 4
    for start in range(0, len(leaves), STEP):
        some = leaves[start : start + STEP]
        verify_bytes.cache_clear()
        opening, checked = timed(lambda some=some: [check(open_entry(leaf)) for leaf in some])
        following, _ = timed(lambda checked=checked: [state.apply(each) for each in checked])
        hashing, _ = timed(lambda some=some: [tiler.append(leaf_hash(leaf)) for leaf in some])
        count = round(len(some) * SIGNATURES[mix])
        signing, _ = timed(lambda count=count: [raw(key.account, message, signature) for _ in range(count)])
        for place, spent in enumerate((signing, opening, following, hashing)):
            totals[place] += spent
    return Spent(*totals)


def measure_audit(folder: Path, processes: int, entries: int) -> Audited:
    command = [sys.executable, "-m", "wwwmarket", "audit", str(folder), "--json", "--processes", str(processes)]
    begun_s = time.monotonic()
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak_kib, pid = 0, 0
    while pid == 0:
        peak_kib = max(peak_kib, _peak_kib(running.pid))
        time.sleep(SAMPLE_S)
        pid, status, usage = os.wait4(running.pid, os.WNOHANG)
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        raise SystemExit(f"the audit of {folder} left with {running.returncode}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return Audited(entries, time.monotonic() - begun_s, cpu_s, peak_kib / 1024)


def _peak_kib(pid: int) -> int:
    """The most memory that a process or one of its children has had so far (``VmHWM``, proc(5)); not ``ru_maxrss``,
    in which this process counts, of which it was forked.
    """
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        said = [Path(f"/proc/{each}/status").read_text() for each in (str(pid), *children)]
    except OSError:
        return 0
    return max((int(text.partition("VmHWM:")[2].split()[0]) for text in said if "VmHWM:" in text), default=0)


def tell_append(mix: Mix, entries: int, spent: Spent) -> None:
    rate, limit = entries / spent.total, entries / spent.signatures
    each = 1e6 / entries
    print(f"\n{mix}: {rate:,.0f} entries per CPU second; the signatures alone: {limit:,.0f} ({rate / limit:.0%} of it)")
    rows = (
        (f"{SIGNATURES[mix]:.0f} Ed25519 verifications", spent.signatures),
        ("read, canonical, digests", spent.opening - spent.signatures),
        ("contracts, state and its root", spent.following),
        ("tree", spent.hashing),
    )
    for name, seconds in rows:
        print(f"  {name:32} {seconds * each:7.1f} us  {seconds / spent.total:5.0%}")


def tell_audit(name: str, done: Audited, spent: Spent, entries: int) -> None:
    signatures_s = spent.signatures / entries * done.entries
    print(
        f"  {name:26} {done.entries / done.wall_s:8,.0f} entries/s  {done.entries / done.cpu_s:7,.0f} per CPU second"
        f"  {signatures_s / done.cpu_s:5.0%} of it signatures  {done.peak_mib:6.0f} MiB at most in a process"
    )


def measure(entries: int, rounds: int) -> dict[tuple[Mix, int, int], Audited]:
    """Print everything; gives the best audit of each mix, size and number of processes."""
    registry, best = Registry.load(), {}
    for mix in SIGNATURES:
        with tempfile.TemporaryDirectory() as name:
            logs = {}
            for size in (entries // 4, entries):
                maker = Maker(registry)
                maker.make(mix, size)
                logs[size] = (maker.leaves, write_files(maker, Path(name) / str(size)))
            leaves = logs[entries][0]
            spent = min((measure_append(registry, leaves, mix) for _ in range(rounds)), key=lambda one: one.total)
            tell_append(mix, len(leaves), spent)
            for size, (made, folder) in logs.items():
                for processes in sorted({1, cores()}):
                    runs = [measure_audit(folder, processes, len(made)) for _ in range(rounds)]
                    done = best[mix, size, processes] = min(runs, key=lambda one: one.wall_s)
                    tell_audit(f"audit {len(made):,} in {processes}", done, spent, len(leaves))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=20_000, help="of the larger log; the smaller has a quarter")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best is told")
    chosen = parser.parse_args()
    measure(chosen.entries, chosen.rounds)


if __name__ == "__main__":
    main()

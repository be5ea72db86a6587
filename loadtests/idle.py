"""What nodes cost that have nothing to do: processor time and bytes on the wire, of so many node processes on loopback.

    python loadtests/idle.py [--nodes 30] [--settle 60] [--seconds 60] [--selling] [--json]

One node founds, the others join it as gateways, or with ``--selling`` as providers that share one emulated engine; then
nobody asks for anything. Run by root the nodes get a network namespace of their own, so that all bytes counted on its
loopback are theirs; else the machine's own loopback is counted, whoever else uses it, and the output says so.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
from live_fleet import Fleet, ready, start, start_engine

from wwwmarket.simulator.fleet import NodeSpec

APART = "WWWMARKET_IDLE_APART"
TRIAL = ("unshare", "--net", "true")
SPEC = NodeSpec(gpu="H100-SXM", model="Qwen3-0.6B", slots=64)


@dataclass
class Idle:
    """``cores`` is processor time over time, of all nodes; bytes are of IP packets, each counted once."""

    nodes: int
    selling: bool
    cores: float
    cpu_ms_per_node_s: float
    kib_per_s: float
    packets_per_s: float
    mib_per_node: float
    alone_on_the_wire: bool


def apart() -> bool:
    """Whether this process has a network of its own; tries to start itself again with one where it has not."""
    if os.environ.get(APART):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # noqa: S607 - wherever iproute2 is
        return True
    if os.geteuid() == 0 and subprocess.run(TRIAL, check=False).returncode == 0:
        os.execvpe("unshare", ["unshare", "--net", sys.executable, *sys.argv], os.environ | {APART: "1"})  # noqa: S606, S607
    return False


def loopback() -> tuple[int, int]:
    """Bytes and packets sent on loopback so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            fields = counts.split()
            return int(fields[8]), int(fields[9])
    raise SystemExit("there is no loopback interface")


@contextlib.contextmanager
def open_nodes(count: int, *, selling: bool) -> Iterator[Fleet]:
    fleet = Fleet()
    with tempfile.TemporaryDirectory(prefix="wwwmarket-idle-") as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        spec = ("--spec", msgspec.json.encode(SPEC).decode())
        engine = ("--engine", start_engine(stack, fleet, 0, SPEC), *spec) if selling else ()
        founder = ready(home, fleet, start(stack, home, fleet, "node-0"))
        for place in range(1, count):
            start(stack, home, fleet, f"node-{place}", "--market", founder.gateway, *engine)
        for place in range(1, count):
            ready(home, fleet, f"node-{place}")
        yield fleet


def resident_mib(fleet: Fleet) -> float:
    sizes = []
    for name, process in fleet.processes.items():
        if name.startswith("node"):
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            sizes.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    return sum(sizes) / len(sizes)


def measure(options: argparse.Namespace, *, alone: bool) -> Idle:
    with open_nodes(options.nodes, selling=options.selling) as fleet:
        time.sleep(options.settle)
        spent, wire, begun = fleet.cpu_s()["node"], loopback(), time.monotonic()
        time.sleep(options.seconds)
        elapsed_s = time.monotonic() - begun
        spent, after = fleet.cpu_s()["node"] - spent, loopback()
        return Idle(
            nodes=options.nodes,
            selling=options.selling,
            cores=spent / elapsed_s,
            cpu_ms_per_node_s=1_000 * spent / elapsed_s / options.nodes,
            kib_per_s=(after[0] - wire[0]) / 1_024 / elapsed_s,
            packets_per_s=(after[1] - wire[1]) / elapsed_s,
            mib_per_node=resident_mib(fleet),
            alone_on_the_wire=alone,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=30)
    parser.add_argument("--settle", type=float, default=60, help="seconds before anything is counted")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--selling", action="store_true", help="all but the founder sell one emulated engine's answers")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options, alone=apart())
    if options.json:
        json.dump(asdict(found), sys.stdout)
        return
    print(f"{found.nodes} idle node processes, {'selling' if found.selling else 'as gateways'}")
    print(f"processor    {found.cores:.2f} cores, {found.cpu_ms_per_node_s:.1f} ms per second and node")
    others = "" if found.alone_on_the_wire else ", with whatever else uses this machine's loopback"
    print(f"wire         {found.kib_per_s:.0f} KiB/s in {found.packets_per_s:.0f} packets/s over all nodes{others}")
    print(f"memory       {found.mib_per_node:.0f} MiB a node")


if __name__ == "__main__":
    main()

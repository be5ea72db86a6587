"""The nodes of a scenario as processes on this machine: an emulated engine and a node for each, and one that orders."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import httpx
import msgspec

from wwwmarket.bootstrap import load_or_create_key
from wwwmarket.simulator.fleet import NodeSpec

READY_WITHIN_S = 300
KEY_MICRO = 10**12
"""Budget of the one API key at each node, as much as a simulated client has."""
HERE = Path(__file__).parent
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class LiveNode:
    """``gateway`` ends in no slash; ``api_key`` buys there."""

    gateway: str
    api_key: str


@dataclass
class Fleet:
    nodes: list[LiveNode] = field(default_factory=list)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def cpu_s(self) -> dict[str, float]:
        """User and system seconds so far, by kind of process."""
        spent: dict[str, float] = {}
        for name, process in self.processes.items():
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            kind = name.partition("-")[0]
            spent[kind] = spent.get(kind, 0.0) + (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
        return spent

    def metric(self, name: str) -> float:
        """The sum of a counter over all nodes."""
        return sum(_metric(node.gateway, name) for node in self.nodes)


@contextlib.contextmanager
def open_fleet(specs: Sequence[NodeSpec]) -> Iterator[Fleet]:
    """Everything started, every offer known everywhere; ended, whatever happens."""
    fleet = Fleet()
    with tempfile.TemporaryDirectory(prefix="wwwmarket-live-") as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        names = [f"node-{place}" for place in range(len(specs))]
        accounts = [load_or_create_key(home / name, None).account for name in names]
        engines = [start_engine(stack, fleet, place, spec) for place, spec in enumerate(specs)]
        paid = [word for account in accounts for word in ("--pay", account)]
        founder = ready(home, fleet, start(stack, home, fleet, "operator", *paid))
        for name, engine, spec in zip(names, engines, specs, strict=True):
            words = ("--market", founder.gateway, "--engine", engine, "--spec", msgspec.json.encode(spec).decode())
            start(stack, home, fleet, name, *words)
        for name in names:
            node = ready(home, fleet, name)
            fleet.nodes.append(LiveNode(node.gateway, _new_key(node.gateway, node.admin_token)))
        _until(lambda: all(_metric(node.gateway, "offers") == len(specs) for node in fleet.nodes), "offers are known")
        yield fleet


def start_engine(stack: contextlib.ExitStack, fleet: Fleet, place: int, spec: NodeSpec) -> str:
    context = spec.limits().kv_tokens_max - 1
    words = ("--gpu", spec.gpu, "--model", spec.model, "--precision", spec.precision)
    limits = ("--sequences-max", str(spec.slots), "--context-tokens", str(context))
    command = [sys.executable, "-m", "wwwmarket.adapters.engines.emulated", *words, *limits]
    process = subprocess.Popen([*command, "--speedup", str(1 / spec.slowdown)], stdout=subprocess.PIPE)
    stack.callback(_end, process)
    fleet.processes[f"engine-{place}"] = process
    assert process.stdout is not None
    port = "".join(filter(str.isdigit, process.stdout.readline().decode()))
    return f"http://127.0.0.1:{port}"


def start(stack: contextlib.ExitStack, home: Path, fleet: Fleet, name: str, *words: str) -> str:
    command = [
        sys.executable,
        str(HERE / "live_node.py"),
        "--data",
        str(home / name),
        "--ready",
        str(home / f"{name}.json"),
    ]
    with (home / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([*command, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    stack.callback(_end, process)
    fleet.processes[name] = process
    return name


def ready(home: Path, fleet: Fleet, name: str) -> SimpleNamespace:
    ready, process = home / f"{name}.json", fleet.processes[name]
    _until(lambda: ready.exists() or process.poll() is not None, f"{name} serves")
    if not ready.exists():
        raise SystemExit(f"{name} did not start:\n{(home / f'{name}.log').read_text()}")
    return SimpleNamespace(**json.loads(ready.read_text()))


def _until(look, what: str) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    deadline = time.monotonic() + READY_WITHIN_S
    while not look():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {READY_WITHIN_S} s: {what}")
        time.sleep(0.1)


def _new_key(gateway: str, token: str) -> str:
    answer = httpx.post(
        f"{gateway}/v1/keys",
        json={"name": "load", "budget_micro": KEY_MICRO},
        headers={"authorization": f"Bearer {token}"},
        timeout=30,
        trust_env=False,
    )
    answer.raise_for_status()
    key: str = answer.json()["key"]
    return key


def _metric(gateway: str, name: str) -> float:
    text = httpx.get(f"{gateway}/metrics", timeout=30, trust_env=False).text
    return next((float(line.split()[1]) for line in text.splitlines() if line.startswith(f"wwwmarket_{name} ")), 0.0)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

"""A market of real processes for measurements: one founding node, providers that share one emulated engine.

The engine is emulated (its step times follow a published GPU's), so that what is measured is the market.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

READY_WITHIN_S = 60
MODEL = "Qwen3-0.6B"
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Market:
    """Addresses and processes. ``engine`` and ``gateway`` are base addresses ending in /v1."""

    engine: str
    gateway: str
    api_key: str
    ledger: str
    vkey: str
    processes: dict[str, subprocess.Popen[bytes]]

    def cpu_s(self) -> dict[str, float]:
        """User and system seconds of each process so far."""
        return {name: _cpu_s(process.pid) for name, process in self.processes.items()}


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


@contextlib.contextmanager
def open_market(*, providers: int, output_tokens: int, engine_arguments: tuple[str, ...] = ()) -> Iterator[Market]:
    """Everything started and ready; ended, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="wwwmarket-load-") as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        engine_port, engine = _start_engine(stack, output_tokens, engine_arguments)
        address = f"http://127.0.0.1:{engine_port}"
        node = _start(stack, home, "node", "node", "run", "--port", "0", "--origin", "load.test")
        processes = {"engine": engine, "node": node.process}
        for number in range(providers):
            name = f"provider-{number + 1}"
            price = f"{0.1 + number / 100:.2f}"
            arguments = ("--market", node.gateway, "--engine", address, "--model", MODEL, "--price-input", price)
            terms = ("--price-output", price, "--ttft-ms", "2000", "--tpot-ms", "100", "--capacity", "256")
            provider = _start(stack, home, name, "provider", "join", *arguments, *terms)
            processes[name] = provider.process
        key = json.loads(_run(home, node, "node", "keys", "create", "--name", "load", "--budget", "100000", "--json"))
        yield Market(
            engine=f"{address}/v1",
            gateway=f"{node.gateway}/v1",
            api_key=key["key"],
            ledger=f"{node.gateway}/ledger",
            vkey=node.vkey,
            processes=processes,
        )


def _start_engine(
    stack: contextlib.ExitStack, output_tokens: int, arguments: tuple[str, ...]
) -> tuple[int, subprocess.Popen[bytes]]:
    command = ["-m", "wwwmarket.adapters.engines.emulated", "--gpu", "H100-SXM", "--model", MODEL, "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, *command, "--output-tokens", str(output_tokens), *arguments], stdout=subprocess.PIPE
    )
    stack.callback(_end, process)
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    return int("".join(filter(str.isdigit, line))), process


def _start(stack: contextlib.ExitStack, home: Path, name: str, *command: str) -> SimpleNamespace:
    ready = home / f"{name}.json"
    words = [sys.executable, "-m", "wwwmarket", *command, "--data", str(home / name), "--ready-file", str(ready)]
    with (home / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    stack.callback(_end, process)
    deadline = time.monotonic() + READY_WITHIN_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{name} did not start:\n{(home / f'{name}.log').read_text()}")
        time.sleep(0.05)
    return SimpleNamespace(**json.loads(ready.read_text()), process=process)


def _run(home: Path, node: SimpleNamespace, *command: str) -> str:
    token = ("--admin-token-file", str(home / "node" / "admin.token"), "--gateway", node.gateway)
    done = subprocess.run(
        [sys.executable, "-m", "wwwmarket", *command, *token], cwd=home, capture_output=True, text=True, check=True
    )
    return done.stdout


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

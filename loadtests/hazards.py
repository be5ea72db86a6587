"""A market whose processes are killed and started again: a founding node, providers, and an engine that outlives them.

Everything lives under one temporary folder and ends with the program that opened it.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Final

from wwwmarket.cli.demo.processes import Child
from wwwmarket.cli.serving import Serving
from wwwmarket.domain.errors import Unavailable

MODEL: Final = "Qwen3-8B"
PRICE: Final = "20"
"""Credits per million tokens, so that a short answer costs hundreds of micro-credits and rounding shows."""
SLOWED: Final = "0.1"
"""Answers of some seconds, as a large model's: there is a middle of a stream in which to leave or to die."""
READY_WITHIN_S: Final = 240.0
SETTLING_S: Final = 3.0
"""After a node serves again: connections of clients to the old one still break."""


class Hazards:
    """``kill_some`` kills a provider, and each fourth time the node that founded the market, and starts it again."""

    def __init__(self, providers: int, *, seed: int) -> None:
        self._stack = ExitStack()
        self._home = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="wwwmarket-hazards-")))
        self._names = [f"provider-{number + 1}" for number in range(providers)]
        self._children: dict[str, Child] = {}
        self._chance = Random(seed)
        self._engine = ""
        self._down_since = 0.0
        self._up_since = 0.0
        self.node: Serving
        self.kills: dict[str, int] = {}

    def open(self) -> None:
        """Start everything. Raises Unavailable where something does not come up."""
        try:
            self._start_engine()
            self._start_node("0")
            for name in self._names:
                self._start_provider(name)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Providers leave before the node, so that they can leave in order."""
        for name in reversed(list(self._children)):
            child = self._children.pop(name)
            child.end()
            child.wait()
        self._stack.close()

    @property
    def admin_token(self) -> str:
        return Path(self.node.admin_token_file).read_text().strip()

    def was_away(self, since_s: float) -> bool:
        """Whether the founding node was down at some moment after ``since_s`` (monotonic), or has only just come up."""
        return self._down_since > self._up_since or self._up_since + SETTLING_S > since_s

    def kill_some(self, turn: int) -> None:
        if turn % 4 == 3:
            self._down_since = time.monotonic()
            self._kill("node")
            time.sleep(self._chance.uniform(0.2, 2.0))
            self._start_node(self.node.gateway.rpartition(":")[2])
            self._up_since = time.monotonic()
        else:
            name = self._chance.choice(self._names)
            self._kill(name)
            time.sleep(self._chance.uniform(0.2, 5.0))
            self._start_provider(name)

    def _kill(self, name: str) -> None:
        child = self._children.pop(name)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        self.kills[name] = self.kills.get(name, 0) + 1

    def _start_engine(self) -> None:
        options = ["--gpu", "H100-SXM", "--model", MODEL, "--speedup", SLOWED]
        process = subprocess.Popen(
            [sys.executable, "-m", "wwwmarket.adapters.engines.emulated", *options], stdout=subprocess.PIPE, text=True
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        assert process.stdout is not None
        self._engine = f"http://127.0.0.1:{process.stdout.readline().rpartition('=')[2].strip()}"

    def _start_node(self, port: str) -> None:
        self.node = self._start("node", "node", "run", "--port", port, "--origin", "load.test")

    def _start_provider(self, name: str) -> None:
        dearer = self._names.index(name)
        terms = ("--price-input", f"{PRICE}.{dearer}", "--price-output", f"8{dearer}", "--no-benchmark")
        self._start(
            *(name, "provider", "join", "--market", self.node.gateway, "--engine", self._engine, "--port", "0"),
            *(*terms, "--ttft-ms", "5000", "--tpot-ms", "500", "--capacity", "256", "--ask-floor", "0.7"),
        )

    def _start(self, name: str, *arguments: str) -> Serving:
        """Raises Unavailable where it ends by itself; a loaded machine is waited for."""
        child = self._children[name] = Child(name, [*arguments, "--json"], self._home / name)
        deadline_s = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                return child.ready()
            except Unavailable:
                if child.returncode is not None or time.monotonic() > deadline_s:
                    raise

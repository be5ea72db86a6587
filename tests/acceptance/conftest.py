"""The program as its users run it, and a market of real processes to run it against."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import httpx
import pytest

Program = Callable[..., subprocess.CompletedProcess[str]]

PYTHON = os.environ.get("WWWMARKET_PYTHON", sys.executable)
"""Whose wwwmarket is tested: this checkout's, or an installed one's."""
PATIENCE_S = 60
POLL_S = 0.02


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("WWWMARKET_")}


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter whose wwwmarket is tested."""
    return PYTHON


@pytest.fixture(scope="session")
def program() -> Program:
    """Runs one command to its end; keyword arguments are settings in the environment."""

    def run(*arguments: str, typed: str | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PYTHON, "-P", "-m", "wwwmarket", *arguments],
            capture_output=True,
            text=True,
            input=typed or "",
            timeout=PATIENCE_S,
            env=environment() | {f"WWWMARKET_{name.upper()}": value for name, value in settings.items()},
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def until() -> Callable[..., object]:
    """Waits until ``look`` finds something true, and gives it; fails after ``timeout_s``."""

    def wait(look: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> object:
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            if found := look():
                return found
            time.sleep(POLL_S)
        raise AssertionError(f"not within {timeout_s} s: {what}")

    return wait


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory, until) -> Iterator[SimpleNamespace]:
    """What the demo's ready file says of a market of three providers, and the directory with their data."""
    directory = tmp_path_factory.mktemp("market")
    ready = directory / "ready.json"
    command = ["demo", "--stay", "--requests", "0", "--ready-file", ready, "--dir", directory / "data"]
    with (directory / "log").open("wb") as log:
        demo = subprocess.Popen(
            [PYTHON, "-P", "-m", "wwwmarket", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(),
        )
    try:
        until(lambda: ready.exists() or demo.poll() is not None, "the market serves")
        assert ready.exists(), (directory / "log").read_text()
        told = json.loads(ready.read_text())
        yield SimpleNamespace(**told, base=told["gateway"].removesuffix("/v1"), data=directory / "data")
        until(lambda: "stays open" in (directory / "log").read_text(), "the demo has looked at its market")
    finally:
        demo.send_signal(signal.SIGTERM)
        left_with = demo.wait(PATIENCE_S)
    assert left_with == 0, (directory / "log").read_text()


@pytest.fixture
def http(market) -> Iterator[httpx.Client]:
    """The market's gateway."""
    with httpx.Client(base_url=market.base, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def new_key(market, program) -> Callable[[str], dict[str, object]]:
    """Makes an API key with some credits."""

    def make(credit: str) -> dict[str, object]:
        done = program(
            *("node", "keys", "create", "--name", "test", "--budget", credit, "--json"),
            gateway=market.base,
            admin_token_file=market.admin_token_file,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return make

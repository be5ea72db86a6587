"""Nodes that are killed in the middle of it: nothing is paid twice, nothing stays locked, and the ledger still adds up."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import httpx
import openai
import pytest

from wwwmarket.cli.demo.processes import Child

pytestmark = pytest.mark.slow

BUDGET_MICRO = 1_000_000
HELLO = [{"role": "user", "content": "Count the boats on the river."}]
ANSWER_TOKENS = 60


class Site:
    """A founding node and one provider before a slow engine, each of which can be killed and started again."""

    def __init__(self, directory: Path, engine: str, stack: ExitStack) -> None:
        self._directory = directory
        self._engine = engine
        self._stack = stack
        self._port = "0"
        self.start_node()
        self.start_provider()

    def start_node(self) -> None:
        self.node, told = self._start("node", "node", "run", "--port", self._port)
        self.base = told.gateway
        self._port = self.base.rpartition(":")[2]

    def start_provider(self) -> None:
        self.provider, _ = self._start(
            *("provider", "provider", "join", "--market", self.base, "--engine", self._engine),
            *("--price-input", "20", "--price-output", "80", "--ttft-ms", "2000", "--tpot-ms", "500"),
            *("--capacity", "4", "--port", "0"),
        )

    def _start(self, name: str, *arguments: str) -> tuple[Child, object]:
        child = self._stack.enter_context(Child(name, [*arguments, "--json"], self._directory / name))
        return child, child.ready()

    @property
    def admin_token(self) -> Path:
        return self._directory / "node" / "admin.token"


def kill(child: Child) -> None:
    os.kill(child.pid, signal.SIGKILL)
    child.wait()


@pytest.fixture
def engine() -> Iterator[str]:
    """An engine that takes seconds for an answer, in a process that outlives its provider."""
    command = ("--gpu", "H100-SXM", "--model", "Qwen3-8B", "--speedup", "0.1", "--output-tokens", str(ANSWER_TOKENS))
    with subprocess.Popen(
        [sys.executable, "-m", "wwwmarket.adapters.engines.emulated", *command],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().rpartition('=')[2].strip()}"
        process.terminate()


@pytest.fixture
def site(engine, program, tmp_path) -> Iterator[SimpleNamespace]:
    with ExitStack() as stack:
        site = Site(tmp_path, engine, stack)
        made = program(
            *("node", "keys", "create", "--name", "test", "--budget", "1", "--json"),
            gateway=site.base,
            admin_token_file=str(site.admin_token),
        )
        key = json.loads(made.stdout)
        site.key, site.account = key["key"], key["account"]
        site.http = stack.enter_context(httpx.Client(trust_env=False, timeout=30))
        yield site
        site.provider.end()  # before the node, so that it can leave in order
        site.provider.wait()


def stream_of(site) -> Iterator[object]:
    client = openai.OpenAI(base_url=f"{site.base}/v1", api_key=site.key, max_retries=0, timeout=60)
    return client.chat.completions.create(
        model="Qwen3-8B", messages=HELLO, max_tokens=ANSWER_TOKENS, stream=True, stream_options={"include_usage": True}
    )


def balance(site) -> dict[str, int]:
    return site.http.get(f"{site.base}/v1/accounts/{site.account}").json()["balance"]


def buy(site) -> int:
    """One answer; what it cost in micro-credits."""
    return list(stream_of(site))[-1].wwwmarket["cost_micro"]


def audited(site, program, directory: Path) -> str:
    """The last line of an audit of the whole ledger."""
    vkey = site.http.get(f"{site.base}/ledger/vkey").text.strip()
    exported = program("ledger", "export", str(directory), "--ledger", site.base)
    assert exported.returncode == 0, exported.stderr
    return program("audit", str(directory), "--vkey", vkey).stdout.splitlines()[-1]


def is_free(site) -> bool:
    return balance(site)["locked_micro"] == 0


def test_a_provider_killed_in_the_middle_of_a_stream_costs_nothing(site, program, until, tmp_path):
    """The client hears that its answer broke off; once the provider is back, all is unlocked and it sells again."""
    answer = stream_of(site)
    assert next(answer).choices is not None
    kill(site.provider)
    with pytest.raises(openai.APIError, match="stopped in the middle"):
        list(answer)
    site.start_provider()
    until(lambda: is_free(site), "what was locked is free")
    assert balance(site)["available_micro"] == BUDGET_MICRO
    cost_micro = buy(site)
    until(lambda: is_free(site), "the new answer is settled")
    assert balance(site)["available_micro"] == BUDGET_MICRO - cost_micro
    assert audited(site, program, tmp_path / "ledger") == "audit: pass"


def test_a_founding_node_killed_in_the_middle_of_a_request_pays_once(site, program, until, tmp_path):
    """Back with the same data, its ledger goes on where it was, and nothing is paid for twice."""
    paid_micro = buy(site)
    until(lambda: is_free(site), "the first answer is settled")
    answer = stream_of(site)
    assert next(answer).choices is not None
    kill(site.node)
    with pytest.raises((openai.APIError, httpx.HTTPError)):
        list(answer)
    site.start_node()
    until(lambda: is_free(site), "what was locked is free", timeout_s=240)
    left_micro = balance(site)["available_micro"]
    earned_micro = BUDGET_MICRO - left_micro
    assert paid_micro <= earned_micro <= 3 * paid_micro
    cost_micro = buy(site)
    until(lambda: is_free(site), "the new answer is settled")
    assert balance(site)["available_micro"] == left_micro - cost_micro
    assert audited(site, program, tmp_path / "ledger") == "audit: pass"

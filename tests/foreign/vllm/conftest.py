"""A real vLLM with a small random model, and a market in which it and a llama.cpp sell the same name."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec
import pytest

from wwwmarket.cli.demo.processes import Child

T = TypeVar("T")

ROOT = Path(__file__).parents[3]
MODEL = "wwwmarket-tiny"
PYTHON = Path(os.environ.get("VLLM_ENV", ROOT / ".vllm-env")) / "bin" / "python"
OPTIONS = ("--served-model-name", MODEL, "--dtype", "bfloat16", "--max-model-len", "4096", "--enforce-eager")
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # one core for the model, so that its front end gets to send what it says
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
TERMS = ("--price-input", "50", "--price-output", "200", "--ttft-ms", "5000", "--tpot-ms", "500", "--capacity", "8")
READY_WITHIN_S = 300


def shown() -> str:
    """The documented configuration; the command line comes before it."""
    (found,) = re.findall(r"```yaml\n# vllm\.yaml\n(.*?)```", (ROOT / "docs/engines.md").read_text(), re.DOTALL)
    return found


def until(condition: Callable[[], T], within_s: float) -> T:
    """What ``condition`` gives, once it gives something true."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


class VllmServer:
    """One server under the product's own supervisor. ``metric`` sums a gauge or counter."""

    def __init__(self, model: Path, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "vllm.log"
        (config := folder / "vllm.yaml").write_text(shown())
        serve = (PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--config", config, "--model", model)
        supervised = (sys.executable, "-m", "wwwmarket.adapters.engines.supervised", "--port", self.port, "--")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in (*supervised, *serve, "--host", "127.0.0.1", "--port", self.port, *OPTIONS)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | ENVIRONMENT,
            )

    def healthy(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-2_000:]
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=2).status_code == 200
        return False

    def warm_up(self) -> None:
        """Its first logprobs take seconds, longer than a client waits for a first token: they are compiled then."""
        asked = {"model": MODEL, "prompt": "Hello", "max_tokens": 2, "logprobs": 2}
        assert httpx.post(f"{self.url}/v1/completions", json=asked, timeout=60).status_code == 200

    def metric(self, name: str) -> float:
        lines = httpx.get(f"{self.url}/metrics", timeout=5).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0] == f"vllm:{name}")

    def kill(self) -> None:
        """The server is gone at once, its engine with it: nothing is said to anybody."""
        (child,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        os.killpg(int(child), signal.SIGKILL)
        self.process.wait(30)

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)


class Market:
    """The node's doors, and the accounts of both providers."""

    def __init__(self, gateway: str, made: dict, vllm: str, llama: str) -> None:
        key, self.account = made["key"], made["account"]
        self.http = httpx.Client(base_url=gateway, headers={"authorization": f"Bearer {key}"}, timeout=60)
        self.providers = {"vllm": vllm, "llama.cpp": llama}

    def request(self, engine: str | None, **fields) -> dict:
        """Of one engine alone, or of any."""
        chosen = {} if engine is None else {"provider": {"only": [self.providers[engine]]}}
        return {"model": MODEL, "max_tokens": 16} | chosen | fields

    def post(self, path: str, engine: str | None, **fields) -> httpx.Response:
        return self.http.post(path, json=self.request(engine, **fields))

    def receipt(self, award: str) -> dict:
        """Once it is settled."""

        def settled():
            got = self.http.get(f"/v1/receipts/{award}").json()
            return got if got.get("settlement_index") is not None else None

        return until(settled, 30)

    def balance(self) -> dict:
        return self.http.get(f"/v1/accounts/{self.account}").json()["balance"]


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    if not PYTHON.exists():
        pytest.skip("vLLM is not installed: `make vllm-env`")
    folder = tmp_path_factory.mktemp("llama") / "tiny"
    script = Path(__file__).with_name("tiny_llama.py")
    subprocess.run([str(PYTHON), str(script), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def vllm(tiny_llama, tmp_path_factory) -> Iterator[VllmServer]:
    server = VllmServer(tiny_llama, tmp_path_factory.mktemp("vllm"))
    try:
        until(server.healthy, READY_WITHIN_S)
        server.warm_up()
        yield server
    finally:
        server.end()


@pytest.fixture(scope="module")
def market(vllm, tmp_path_factory) -> Iterator[Market]:
    folder = tmp_path_factory.mktemp("market")
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(Child("node", ["node", "run", "--port", "0"], folder / "node")).ready()
        accounts = []
        for name, engine in (("a", vllm.url), ("b", "embedded")):
            words = ["provider", "join", "--market", node.gateway, "--engine", engine, *TERMS]
            accounts.append(stack.enter_context(Child(name, words, folder / name)).ready().account)
        token = Path(node.admin_token_file).read_text().strip()
        made = httpx.post(
            f"{node.gateway}/v1/keys",
            headers={"authorization": f"Bearer {token}"},
            content=msgspec.json.encode({"name": "ada", "budget_micro": 5_000_000}),
        )
        market = Market(node.gateway, made.json(), *accounts)
        until(lambda: len(market.http.get("/v1/offers").json()["data"]) == 2, 30)
        with contextlib.closing(market.http):
            yield market

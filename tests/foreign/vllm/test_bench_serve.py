"""vLLM's own benchmark of servers, by the command that docs/clients.md shows, against the gateway: none fails."""

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from tests.foreign.clients.conftest import FAST, TERMS, emulated
from tests.foreign.vllm.conftest import PYTHON, ROOT, until
from wwwmarket.cli.demo.processes import Child, environment

pytestmark = pytest.mark.vllm

REQUESTS = 96
BENCH = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""What ``vllm bench serve`` does: the CPU build's own program asks for a distribution named vllm, and is another."""


def shown() -> list[str]:
    """The documented options."""
    (found,) = re.findall(r"vllm bench serve (.*)", (ROOT / "docs/clients.md").read_text())
    return found.split()


@pytest.fixture
def site(tmp_path) -> Iterator[SimpleNamespace]:
    """A gateway behind which an emulated engine has room for many."""
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(emulated())
        node = stack.enter_context(Child("node", ["node", "run", "--port", "0"], tmp_path / "node")).ready()
        words = ["provider", "join", "--market", node.gateway, "--engine", engine, *TERMS, "--capacity", "256"]
        stack.enter_context(Child("fast", words, tmp_path / "fast")).ready()
        token = Path(node.admin_token_file).read_text().strip()
        with httpx.Client(base_url=node.gateway, headers={"authorization": f"Bearer {token}"}, timeout=30) as http:
            made = http.post("/v1/keys", json={"name": "ada", "budget_micro": 50_000_000}).json()
            until(lambda: http.get("/v1/models").json()["data"], 30)
            yield SimpleNamespace(base=node.gateway, key=made["key"], http=http)


def test_vllm_bench_serve_runs_without_a_failure(site, tiny_llama, tmp_path):
    """32 streams at once: 96 of 96 are answered and billed; GET /metrics and POST /tokenize do not disturb it."""
    given = {"http://127.0.0.1:8080": site.base, "MODEL": FAST, "TOKENIZER": str(tiny_llama)}
    options = [given.get(word, word) for word in shown()]
    assert {"--max-concurrency", "32", "--num-prompts", str(REQUESTS)} <= set(options)
    saved = ("--save-result", "--result-dir", str(tmp_path), "--result-filename", "told.json", "--disable-tqdm")
    done = subprocess.run(
        [PYTHON, "-c", BENCH, *options, *saved],
        cwd=tmp_path,
        env=environment() | {"OPENAI_API_KEY": site.key, "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["completed"], told["failed"]) == (REQUESTS, 0)
    assert told["total_output_tokens"] == REQUESTS * 16
    metrics = site.http.get("/metrics").text.splitlines()
    bought = sum(int(float(one.split()[-1])) for one in metrics if one.startswith("wwwmarket_requests_total"))
    assert bought >= REQUESTS

"""A market for other projects' clients: a node, an emulated engine with room for many, and a real llama.cpp."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import httpx
import msgspec
import pytest

from wwwmarket.cli.demo.processes import Child, environment

ROOT = Path(__file__).parents[3]
CLIENTS = ROOT / ".clients"
FAST, TINY, CALLER = "Qwen3-0.6B", "wwwmarket-tiny", "calls-a-tool"
READY_WITHIN_S = 90
TERMS = ("--price-input", "0.1", "--price-output", "0.4", "--ttft-ms", "5000", "--tpot-ms", "500", "--no-benchmark")


def until(condition: Callable[[], object], within_s: float) -> object:
    """What ``condition`` gives, once it gives something true."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def emulated() -> Iterator[str]:
    """The address of an emulated engine with an H100's step times."""
    command = ["-m", "wwwmarket.adapters.engines.emulated", "--gpu", "H100-SXM", "--model", FAST, "--speedup", "4"]
    engine = subprocess.Popen(
        [sys.executable, *command, "--end-with-stdin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        port = "".join(filter(str.isdigit, engine.stdout.readline().decode()))
        yield f"http://127.0.0.1:{port}"
    finally:
        engine.stdin.close()
        engine.stdout.close()
        engine.wait(30)


CALL = [
    {
        "role": "assistant",
        "tool_calls": [{"index": 0, "id": "call-1", "type": "function", "function": {"name": "price"}}],
    },
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"of": '}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '"tea"}'}}]},
]
"""A model that calls a tool, as vLLM streams it. No model of this size calls tools of its own."""


class _Caller(BaseHTTPRequestHandler):
    """An OpenAI-compatible server whose every answer is that call."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send(200 if self.path == "/v1/models" else 404, {"data": [{"id": CALLER, "max_model_len": 4096}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        usage = {"prompt_tokens": 40, "completion_tokens": 20, "total_tokens": 60}
        if not asked.get("tools"):
            self._send(400, {"error": {"message": "no tools arrived"}})
        elif asked.get("stream"):
            chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in CALL]
            events = [*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}]
            lines = [json.dumps(event) for event in [*events, {"choices": [], "usage": usage}]] + ["[DONE]"]
            self._send(200, "".join(f"data: {line}\n\n" for line in lines), "text/event-stream")
        else:
            function = {"name": "price", "arguments": '{"of": "tea"}'}
            message = {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": function}],
            }
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
            self._send(200, {"choices": [choice], "usage": usage})

    def _send(self, status: int, body: object, kind: str = "application/json") -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def calling() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Caller) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def market(tmp_path_factory) -> Iterator[SimpleNamespace]:
    """``base``, ``openai`` and ``key`` of a gateway behind which both models are on offer."""
    folder = tmp_path_factory.mktemp("market")
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(emulated())
        node = stack.enter_context(Child("node", ["node", "run", "--port", "0"], folder / "node")).ready()
        caller = stack.enter_context(calling())
        for name, address, more in (
            ("fast", engine, ("--capacity", "256")),
            ("tiny", "embedded", ("--capacity", "8")),
            ("caller", caller, ("--capacity", "8", "--blind")),
        ):
            words = ["provider", "join", "--market", node.gateway, "--engine", address, *TERMS, *more]
            stack.enter_context(Child(name, words, folder / name)).ready()
        token = Path(node.admin_token_file).read_text().strip()
        made = httpx.post(
            f"{node.gateway}/v1/keys",
            headers={"authorization": f"Bearer {token}"},
            content=msgspec.json.encode({"name": "ada", "budget_micro": 50_000_000}),
        ).json()
        http = stack.enter_context(
            httpx.Client(base_url=node.gateway, headers={"authorization": f"Bearer {made['key']}"}, timeout=60)
        )
        until(lambda: len(http.get("/v1/models").json()["data"]) == 3, READY_WITHIN_S)
        yield SimpleNamespace(
            base=node.gateway, openai=node.openai, key=made["key"], http=http, account=made["account"]
        )


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Path:
    """A tokenizer for benchmarks that make their own prompts: byte-level, as those of real models."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(["the river runs down to the sea and asks nobody"] * 10, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "model_max_length": 8192}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def run(tmp_path) -> Callable[..., str]:
    """Runs another project's program in a directory of its own, and gives what it said."""

    def run_it(*words: object, timeout_s: float = 400, **settings: str) -> str:
        done = subprocess.run(
            [str(word) for word in words],
            cwd=tmp_path,
            env=environment() | settings,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
        return done.stdout

    return run_it

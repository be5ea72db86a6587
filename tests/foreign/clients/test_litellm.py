"""LiteLLM before the market, with the configuration that docs/clients.md shows."""

import contextlib
import re
import socket
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tests.foreign.clients.conftest import CLIENTS, ROOT, TINY, until
from wwwmarket.cli.demo.processes import environment

LITELLM = CLIENTS / "litellm" / "bin" / "litellm"
pytestmark = [pytest.mark.slow, pytest.mark.foreign(str(LITELLM))]

MASTER = "sk-of-the-proxy-0123456789abcdef0123456789abcdef"
KEY = {"authorization": f"Bearer {MASTER}"}
ASKED = {
    "model": "market/tiny",
    "messages": [{"role": "user", "content": "Tell me about the river."}],
    "max_tokens": 16,
}


def shown() -> str:
    """The documented configuration."""
    (found,) = re.findall(r"```yaml\n# litellm\.yaml\n(.*?)```", (ROOT / "docs/clients.md").read_text(), re.DOTALL)
    return found


@contextlib.contextmanager
def proxy(market, folder) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "litellm.yaml").write_text(shown())
    settings = {
        "WWWMARKET_GATEWAY": market.openai,
        "WWWMARKET_API_KEY": market.key,
        "NO_PROXY": "*",
        "LITELLM_MASTER_KEY": MASTER,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    with (folder / "log").open("wb") as log:
        served = subprocess.Popen(
            [
                LITELLM,
                "--config",
                folder / "litellm.yaml",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                "--telemetry",
                "False",
            ],
            cwd=folder,
            env=environment() | settings,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        address = f"http://127.0.0.1:{port}"

        def alive() -> bool:
            assert served.poll() is None, (folder / "log").read_text()[-3_000:]
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{address}/health/liveliness", timeout=5).status_code == 200
            return False

        until(alive, 180)
        yield address
    finally:
        served.terminate()
        served.wait(30)


def test_the_documented_configuration_serves(market, tmp_path):
    """Whole and streamed answers through LiteLLM's proxy; an unknown model is refused."""
    with proxy(market, tmp_path) as address, httpx.Client(base_url=address, timeout=60, headers=KEY) as http:
        answer = http.post("/v1/chat/completions", json=ASKED)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]
        assert answer.json()["usage"]["completion_tokens"] > 0
        with http.stream("POST", "/v1/chat/completions", json={**ASKED, "stream": True}) as streamed:
            lines = [line for line in streamed.iter_lines() if line.startswith("data: ")]
        assert len(lines) > 2
        assert lines[-1] == "data: [DONE]"
        assert http.post("/v1/chat/completions", json={**ASKED, "model": "nobody/has-it"}).status_code >= 400
    assert TINY in shown()

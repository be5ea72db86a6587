"""Benchmarks of other projects run against the gateway as against any server, 32 streams at once, and none fails."""

import json

import pytest

from tests.foreign.clients.conftest import CLIENTS, FAST

pytestmark = pytest.mark.slow

STREAMS, REQUESTS = 32, 96
GUIDELLM, AIPERF = CLIENTS / "guidellm/bin/guidellm", CLIENTS / "aiperf/bin/aiperf"


def awards(market) -> int:
    metrics = market.http.get("/metrics").text.splitlines()
    return sum(int(float(line.split()[-1])) for line in metrics if line.startswith("wwwmarket_requests_total"))


@pytest.mark.foreign(str(GUIDELLM))
def test_guidellm_runs_without_a_failure(market, tokenizer, run, tmp_path):
    """GET /health, content parts, max_completion_tokens, usage with every chunk, ignore_eos: all of it is answered."""
    before, report = awards(market), tmp_path / "report.json"
    run(
        *(GUIDELLM, "run", "--disable-console"),
        *("--backend", f"kind=openai_http,target={market.base},api_key={market.key},model={FAST}"),
        *("--profile", f"kind=concurrent,streams={STREAMS}"),
        *("--constraint", f"kind=max_requests,count={REQUESTS}"),
        *("--tokenizer", f"kind=huggingface_auto,model={tokenizer}"),
        *("--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=16"),
        *("--output", f"kind=json,path={report}"),
        HF_HUB_OFFLINE="1",
    )
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    requests = benchmark["requests"]
    assert [one["info"].get("error") for one in requests["errored"]] == []
    assert len(requests["successful"]) == REQUESTS
    assert awards(market) - before >= REQUESTS


@pytest.mark.foreign(str(AIPERF))
def test_aiperf_runs_without_a_failure(market, tokenizer, run, tmp_path):
    """HEAD and GET /metrics, X-Request-ID and X-Correlation-ID, the server's own token counts in every chunk."""
    run(
        *(AIPERF, "profile", "-m", FAST, "-u", market.base, "--api-key", market.key, "--streaming"),
        *("--concurrency", STREAMS, "--request-count", REQUESTS, "--isl", 32, "--osl", 16, "--workers-max", 1),
        *("--tokenizer", tokenizer, "--use-server-token-count", "--per-chunk-usage"),
        *("--ui", "none", "--no-gpu-telemetry", "--artifact-dir", tmp_path / "out"),
    )
    told = json.loads((tmp_path / "out" / "profile_export_aiperf.json").read_text())
    assert told["request_count"]["avg"] == REQUESTS
    assert told.get("error_request_count", {}).get("avg", 0) == 0
    assert told["output_sequence_length"]["avg"] == 16

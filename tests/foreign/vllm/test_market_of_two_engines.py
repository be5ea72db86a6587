"""A real vLLM and a real llama.cpp sell the same name in one market of real processes."""

import json
import threading
import time

import pytest

from wwwmarket.adapters.engines.openai_compatible import OpenAiEngine
from wwwmarket.adapters.engines.self_benchmark import benchmark

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore::ResourceWarning")]

ENGINES = ["vllm", "llama.cpp"]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello there"}]
SCHEMA = {
    "type": "object",
    "properties": {"fair": {"type": "boolean"}},
    "required": ["fair"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "price", "parameters": {"type": "object", "properties": {"of": {"type": "string"}}}},
}


def events_of(text: str) -> list[dict]:
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def until(condition, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"


def counted(receipt: dict) -> tuple[int, int]:
    usage = receipt["attestation"]["body"]["usage"]
    return usage["input_tokens"], usage["output_tokens"]


async def test_vllm_says_what_it_is(vllm, market):
    """Its kind, version, context and KV cache come from the server; its tokenizer answers by the port."""
    engine = OpenAiEngine(vllm.url)
    description = await engine.describe()
    assert (description.engine, description.models[0].context_tokens) == ("vllm", 4096)
    assert description.version.startswith("0.")
    assert description.kv_tokens_max > 100_000
    assert len(await engine.tokenize("wwwmarket-tiny", "hello")) == 5
    await engine.close()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_both_answer_and_are_paid_what_they_counted(market, engine, path, stream):
    """Chat and completions, streamed and not: the usage of the answer is what the provider signed for."""
    asked = {"messages": HELLO} if path == CHAT else {"prompt": "Hello there"}
    if stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    answer = market.post(path, engine, ignore_eos=True, **asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-wwwmarket-provider"] == market.providers[engine]
    usage = (events_of(answer.text)[-1] if stream else answer.json())["usage"]
    receipt = market.receipt(answer.headers["x-wwwmarket-award"])
    assert counted(receipt) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert usage["completion_tokens"] > 0


def test_usage_is_that_of_vllms_own_counters(vllm, market):
    """What is settled is what the engine's own metrics counted, over streams and whole answers, also with n."""
    names = ("prompt_tokens_total", "generation_tokens_total")
    before = [vllm.metric(name) for name in names]
    awards = []
    for fields in ({"stream": True}, {"stream": False}, {"n": 3}):
        answer = market.post(TEXT, "vllm", prompt="Name three rivers", seed=1, ignore_eos=True, **fields)
        awards.append(answer.headers["x-wwwmarket-award"])
    settled = [counted(market.receipt(award)) for award in awards]
    after = [vllm.metric(name) for name in names]
    assert sum(output for _, output in settled) == after[1] - before[1] == 16 * 5
    # vLLM's counter has the prompt once for each choice; its usage, and so the bill, once
    assert sum(source for source, _ in settled) == 3 * len("Name three rivers") <= after[0] - before[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_fields_reach_the_engine_unchanged(market, engine):
    """Seeds repeat an answer, logprobs come back, n gives choices."""
    asked = {"messages": HELLO, "seed": 7, "temperature": 1.0, "logprobs": True, "top_logprobs": 2, "n": 2}
    answers = [market.post(CHAT, engine, ignore_eos=True, **asked) for _ in range(2)]
    assert [one.status_code for one in answers] == [200, 200], answers[0].text
    first, second = (one.json()["choices"] for one in answers)
    assert len(first) == 2
    assert first[0]["logprobs"]["content"][0]["top_logprobs"]
    if engine == "vllm":
        assert [one["message"]["content"] for one in first] == [one["message"]["content"] for one in second]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_json_schema_binds_both(market, engine):
    """A random model obeys the schema, because its engine makes it."""
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA, "strict": True}}
    answer = market.post(CHAT, engine, messages=HELLO, response_format=form, max_tokens=64).json()
    text = answer["choices"][0]["message"]["content"]
    assert set(json.loads(text)) == {"fair"} if answer["choices"][0]["finish_reason"] == "stop" else "{" in text


@pytest.mark.parametrize("engine", ENGINES)
def test_tools_are_passed_on(market, engine):
    """A request with tools is answered, in words or with a call, or refused in the engine's own words."""
    answer = market.post(CHAT, engine, messages=HELLO, tools=[TOOL], tool_choice="auto")
    assert answer.status_code in {200, 400}, answer.text
    assert answer.json().get("choices") or answer.json()["error"]["message"]


@pytest.mark.parametrize("engine", ENGINES)
def test_embeddings_that_an_engine_cannot_make_cost_nothing(market, engine):
    """Neither model embeds: both say so, and no credit moves."""
    before = market.balance()
    answer = market.http.post("/v1/embeddings", json=market.request(engine, input="Hello"))
    assert answer.status_code >= 400
    assert answer.json()["error"]["message"]
    assert market.balance()["available_micro"] + market.balance()["locked_micro"] == sum(
        before[name] for name in ("available_micro", "locked_micro")
    )


def test_cancelling_reaches_vllm_within_a_second(vllm, market):
    """The client hangs up, and its sequence is gone from the engine's metrics."""
    asked = market.request("vllm", prompt="Go on", max_tokens=3_000, stream=True, ignore_eos=True)
    with market.http.stream("POST", TEXT, json=asked) as answer:
        assert answer.status_code == 200, answer.read()
        award = answer.headers["x-wwwmarket-award"]
        pieces = answer.iter_bytes()
        next(pieces)
        until(lambda: vllm.metric("num_requests_running") == 1, 5)
        left = time.monotonic()
    while vllm.metric("num_requests_running"):
        assert time.monotonic() - left < 1
    print(f"\ncancelled in vLLM after {time.monotonic() - left:.3f} s")  # noqa: T201 - a measurement
    receipt = market.receipt(award)
    assert receipt["attestation"]["body"]["outcome"] == "cancelled"
    assert counted(receipt)[1] < 3_000


async def test_vllm_measures_itself(vllm, market):
    """A few requests fit its latency, to within what this machine scatters."""
    engine = OpenAiEngine(vllm.url)
    description = await engine.describe()
    measured = await benchmark(engine, description, description.models[0], sequences=8)
    await engine.close()
    print(f"\n{measured.fit} in {measured.took_ms} ms")  # noqa: T201 - a measurement
    assert measured.fit.ttft_ms > 0
    assert measured.took_ms < 31_000


def test_a_killed_vllm_is_no_provider(vllm, market):
    """Killed in the middle of answers it ends them with an error and no charge, and whoever has no word yet is answered
    by the other engine; after that it asks nothing.
    """
    before = market.balance()
    asked = market.request("vllm", prompt="Go on", max_tokens=3_500, stream=True, ignore_eos=True)
    with market.http.stream("POST", TEXT, json=asked) as answer:
        assert answer.status_code == 200, answer.read()
        award = answer.headers["x-wwwmarket-award"]
        pieces = answer.iter_lines()
        next(pieces)
        vllm.kill()
        rest = "\n".join(pieces)
    assert '"error"' in rest
    assert "[DONE]" not in rest
    receipt = market.receipt(award)
    assert receipt["attestation"]["body"]["outcome"] == "failed"
    assert receipt["cost_micro"] == 0
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(market.post(CHAT, None, messages=HELLO))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.status_code for one in answers] == [200] * 4, [one.text for one in answers]
    assert {one.headers["x-wwwmarket-provider"] for one in answers} == {market.providers["llama.cpp"]}
    cost = sum(market.receipt(one.headers["x-wwwmarket-award"])["cost_micro"] for one in answers)
    assert before["available_micro"] - market.balance()["available_micro"] <= cost

"""The official client, stream and not, against a scripted market behind a real server."""

import asyncio
import json

import openai as sdk
import pytest

from wwwmarket.domain.errors import Exhausted, NotFound, Unavailable
from wwwmarket.domain.quantity import Slo
from wwwmarket.ports.engine import EngineRefused


async def test_a_whole_answer_carries_its_cost_award_receipt_and_provider(openai, chat, scripts):
    """What a request cost comes back in the answer and in its headers, and the answer itself is unchanged."""
    raw = await openai.chat.completions.with_raw_response.create(**chat, extra_headers={"x-request-id": "mine-1"})
    answer = raw.parse()
    assert answer.choices[0].message.content == "Hello"
    assert answer.usage.total_tokens == 7
    assert answer.usage.cost == 0.00125
    receipt = f"/v1/receipts/{scripts.award}"
    assert answer.wwwmarket == {
        "award": scripts.award,
        "receipt": receipt,
        "provider": scripts.provider,
        "cost_micro": 1_250,
    }
    assert raw.headers["x-wwwmarket-award"] == scripts.award
    assert raw.headers["x-wwwmarket-receipt"] == receipt
    assert raw.headers["x-wwwmarket-provider"] == scripts.provider
    assert raw.headers["x-wwwmarket-cost-micro"] == "1250"
    assert raw.headers["x-request-id"] == "mine-1"


async def test_splicing_leaves_all_other_bytes_of_the_answer(doors, chat):
    """Numbers keep their spelling and nested values their white space."""
    answer = await doors.post("/v1/chat/completions", json=chat)
    assert b'"seed":1.50e1' in answer.content
    assert b'"extra":[1,  2],"cost":0.00125}' in answer.content


async def test_an_answer_that_is_no_object_is_passed_on(doors, market, chat, scripts):
    """What cannot be spliced is delivered as it is."""
    market.script = [scripts.awarded, scripts.started, scripts.piece(b"[1, "), scripts.piece(b"2]"), scripts.delivered]
    assert (await doors.post("/v1/chat/completions", json=chat)).content == b"[1, 2]"


async def test_the_exact_bytes_of_the_request_are_bought(doors, market):
    """Unknown fields, order, white space and the provider object all stay in what is bought."""
    body = b'{ "zz":  [1.0e5], "provider":{"sort":"price"},"model":"tiny","messages":[{"role":"user","content":"\\u00e9"}]}'
    answer = await doors.post("/v1/chat/completions", content=body)
    assert answer.status_code == 200
    assert market.purchases[0].request == body
    assert market.purchases[0].prompt_bytes == 2


async def test_a_stream_is_forwarded_without_its_usage_by_default(openai, chat):
    """A client that did not ask for usage sees text and the end, nothing else."""
    stream = await openai.chat.completions.create(**chat, stream=True)
    chunks = [one async for one in stream]
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "Hello"
    assert all(one.usage is None for one in chunks)


async def test_the_usage_of_a_stream_is_its_last_event_and_carries_the_cost(openai, chat, scripts):
    """With include_usage, the last chunk has no choices, the usage, its cost and the award."""
    stream = await openai.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True})
    last = [one async for one in stream][-1]
    assert last.choices == []
    assert last.usage.completion_tokens == 2
    assert last.usage.cost == 0.00125
    assert last.wwwmarket["award"] == scripts.award


async def test_a_stream_has_its_headers_at_the_start_and_done_at_the_end(http, chat, scripts):
    """Award and provider are known with the first byte; proxies are told not to buffer; exact bytes in between."""
    answer = await http.post("/v1/chat/completions", json=chat | {"stream": True})
    assert answer.headers["x-wwwmarket-award"] == scripts.award
    assert answer.headers["x-wwwmarket-provider"] == scripts.provider
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.content == scripts.chunk() + scripts.chunk("Hel") + scripts.chunk("lo") + b"data: [DONE]\n\n"


async def test_usage_so_far_passes_in_every_chunk(doors, market, chat, scripts):
    """Continuous usage (vLLM's ``continuous_usage_stats``) reaches the client as the engine said it."""
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
    chunks = [scripts.chunk(text, usage=usage) for text in ("Hel", "lo")]
    end = scripts.piece(scripts.usage_chunk + b"data: [DONE]\n\n", tokens=False)
    market.script = [scripts.awarded, scripts.started, *map(scripts.piece, chunks), end, scripts.delivered]
    options = {"include_usage": True, "continuous_usage_stats": True}
    answer = await doors.post("/v1/chat/completions", json=chat | {"stream": True, "stream_options": options})
    assert answer.content.startswith(b"".join(chunks))
    assert json.loads(market.purchases[0].request)["stream_options"] == options
    assert b'"cost":0.00125' in answer.content


@pytest.mark.parametrize(
    "field",
    [
        {"logprobs": True, "top_logprobs": 5},
        {"seed": 7, "n": 2, "temperature": 0.0},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], "tool_choice": "auto"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]},
        {"ignore_eos": True, "min_tokens": 3, "chat_template_kwargs": {"enable_thinking": False}},
    ],
)
async def test_what_an_engine_may_know_reaches_it_as_it_is(openai, market, chat, field):
    """Tools, schemas, logprobs, seeds, parts, and what only one engine has: the SDK's bytes are what is bought."""
    await openai.chat.completions.create(**(chat | {"max_tokens": 4}), extra_body=field)
    assert json.loads(market.purchases[0].request) == chat | {"max_tokens": 4} | field


async def test_pieces_are_forwarded_before_the_next_ones_exist(openai, market, chat, scripts):
    """The first chunk reaches the client while the engine is still at the second."""
    more = asyncio.Event()
    market.script = [
        scripts.awarded,
        scripts.started,
        scripts.piece(scripts.chunk("a")),
        more,
        scripts.piece(scripts.chunk("b")),
        scripts.delivered,
    ]
    stream = await openai.chat.completions.create(**chat, stream=True)
    texts = []
    async for one in stream:
        texts.append(one.choices[0].delta.content)
        more.set()
    assert texts == ["a", "b"]


async def test_completions_are_bought_the_same_way(openai, market):
    """The older interface has the same path through the market."""
    await openai.completions.create(model="tiny", prompt=["ab", "cde"], max_tokens=7, n=2)
    bought = market.purchases[0]
    assert (bought.path, bought.prompt_bytes, bought.messages) == ("/v1/completions", 5, 2)
    assert bought.max_output_tokens == 28


@pytest.mark.parametrize(("texts", "bound"), [("Hello", (1, 5)), (["Hello", "you"], (2, 8)), ([1, 2, 3], (1, 12))])
async def test_embeddings_are_bought_for_their_input_alone(doors, market, scripts, texts, bound):
    """The exact request is bought, with no output to pay for."""
    answer = b'{"object":"list","data":[{"index":0,"embedding":[0.5]}],"usage":{"prompt_tokens":5,"total_tokens":5}}'
    market.script = [scripts.awarded, scripts.started, scripts.piece(answer), scripts.delivered]
    got = await doors.post("/v1/embeddings", json={"model": "tiny", "input": texts, "dimensions": 1})
    assert got.json()["data"][0]["embedding"] == [0.5]
    bought = market.purchases[-1]
    assert (bought.messages, bought.prompt_bytes) == bound
    assert (bought.path, bought.max_output_tokens) == ("/v1/embeddings", 0)


@pytest.mark.parametrize("change", [{"input": []}, {"input": [1, "a"]}, {"input": None}, {"stream": True}])
async def test_embeddings_of_nothing_sensible_are_refused(doors, change):
    """What is neither text nor token ids is the client's fault, and so is a stream of vectors."""
    got = await doors.post("/v1/embeddings", json={"model": "tiny", "input": "Hello"} | change)
    assert got.status_code == 400
    assert got.json()["error"]["param"] in {"input", "stream"}


@pytest.mark.parametrize(
    ("refusal", "error", "retry_after"),
    [
        (Exhausted("full", retry_after_ms=1_200), sdk.RateLimitError, "2"),
        (Unavailable("nobody meets it", retry_after_ms=10), sdk.InternalServerError, "1"),
        (NotFound("no offer"), sdk.NotFoundError, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_before_the_first_byte_have_their_http_codes(
    *, openai, market, chat, scripts, refusal, error, retry_after, stream
):
    """Streamed or not, a refusal is a status, with Retry-After where waiting helps."""
    market.script = [scripts.awarded, refusal]
    with pytest.raises(error) as caught:
        await openai.chat.completions.create(**chat, stream=stream)
    assert caught.value.body["message"] == refusal.message
    assert caught.value.code == refusal.reason
    assert caught.value.response.headers.get("retry-after") == retry_after


async def test_an_unknown_key_is_401_and_an_empty_one_402(openai, chat, scripts):
    """Who is asking and whether they can pay are told apart."""
    with pytest.raises(sdk.AuthenticationError) as caught:
        await openai.with_options(api_key="sk-unknown").chat.completions.create(**chat)
    assert caught.value.response.headers["www-authenticate"].startswith("Bearer")
    with pytest.raises(sdk.APIStatusError) as empty:
        await openai.with_options(api_key=scripts.empty_key).chat.completions.create(**chat)
    assert (empty.value.status_code, empty.value.code) == (402, "insufficient_credit")


async def test_a_model_that_nobody_offers_is_404(openai, chat):
    """OpenAI's clients see NotFoundError with code model_not_found."""
    with pytest.raises(sdk.NotFoundError) as caught:
        await openai.chat.completions.create(**(chat | {"model": "other"}))
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_an_engines_own_refusal_is_passed_on_as_it_is(doors, market, chat):
    """The engine knows best what is wrong with a request's details."""
    market.script = [EngineRefused(422, b'{"error":{"message":"bad schema"}}')]
    answer = await doors.post("/v1/chat/completions", json=chat)
    assert (answer.status_code, answer.content) == (422, b'{"error":{"message":"bad schema"}}')


@pytest.mark.parametrize("refused", [EngineRefused(400, b"<html>"), EngineRefused(200, b"{}")])
async def test_an_engine_cannot_make_the_gateway_speak_anything_but_a_json_error(doors, market, chat, refused):
    """A page, or a success that is none, becomes a 502 in the one form."""
    market.script = [refused]
    answer = await doors.post("/v1/chat/completions", json=chat)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_refused")


async def test_an_error_within_a_stream_is_its_last_event(openai, market, chat, scripts):
    """After the first byte there is no status left to say it with."""
    market.script = [
        scripts.awarded,
        scripts.started,
        scripts.piece(scripts.chunk("a")),
        Unavailable("the provider is gone", retry_after_ms=1_000),
    ]
    stream = await openai.chat.completions.create(**chat, stream=True)
    with pytest.raises(sdk.APIError, match="the provider is gone"):
        [one async for one in stream]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_that_fails_part_of_the_way_is_an_error_not_an_answer(openai, market, chat, scripts, stream):
    """Half an answer is never passed off as a whole one."""
    failed = scripts.delivered.__class__(
        **{name: getattr(scripts.delivered, name) for name in scripts.delivered.__struct_fields__}
        | {"outcome": "failed", "cost_micro": 0}
    )
    market.script = [scripts.awarded, scripts.started, scripts.piece(scripts.chunk("a")), failed]
    with pytest.raises(sdk.APIError, match="failed before its answer was complete"):
        await _read(openai, chat, stream=stream)


async def _read(openai, chat, *, stream):
    answer = await openai.chat.completions.create(**chat, stream=stream)
    return [one async for one in answer] if stream else answer


async def test_cancelling_the_client_closes_the_purchase(openai, market, chat, scripts):
    """A cancelled call aborts at the provider, also before its first byte."""
    reached = asyncio.Event()
    market.script = [scripts.awarded, scripts.started, _Reached(reached), asyncio.Event()]
    call = asyncio.create_task(openai.chat.completions.create(**chat))
    await asyncio.wait_for(reached.wait(), 5)
    call.cancel()
    await asyncio.wait_for(market.closed.wait(), 5)


class _Reached(asyncio.Event):
    """An event that tells that it was waited for, and does not hold."""

    def __init__(self, reached):
        super().__init__()
        self._reached = reached

    async def wait(self):
        self._reached.set()


@pytest.mark.parametrize(
    ("headers", "provider", "field", "value"),
    [
        ({"x-slo-ttft-ms": "500", "x-slo-tpot-ms": "50"}, None, "slo", Slo(ttft_ms=500, tpot_ms=50)),
        ({"x-slo-tpot-ms": "50"}, None, "slo", Slo(ttft_ms=3_600_000, tpot_ms=50)),
        ({"x-wwwmarket-max-price": "0.000001"}, None, "max_price_micro", 1),
        ({"x-wwwmarket-max-price": "12.5"}, None, "max_price_micro", 12_500_000),
        ({"x-wwwmarket-time-value": "0.25"}, {"sort": "latency"}, "time_value_micro_per_s", 250_000),
        ({}, {"sort": "latency"}, "time_value_micro_per_s", 1_000_000),
        ({}, {"sort": {"by": "throughput"}}, "time_value_micro_per_s", 1_000_000),
        ({}, {"sort": "price"}, "time_value_micro_per_s", 0),
        ({}, {"preferred_max_latency": 1.5}, "slo", Slo(ttft_ms=1_500, tpot_ms=60_000)),
        ({}, {"preferred_max_latency": {"p50": 2, "p90": 1}}, "slo", Slo(ttft_ms=1_000, tpot_ms=60_000)),
        ({}, {"preferred_min_throughput": {"p50": 50, "p90": 20}}, "slo", Slo(ttft_ms=3_600_000, tpot_ms=20)),
        ({}, {"quantizations": ["fp8", "bf16"]}, "precisions", ("fp8", "bf16")),
        ({}, {"only": ["ab" * 32]}, "only", ("ab" * 32,)),
        ({}, {"ignore": ["ab" * 32]}, "ignore", ("ab" * 32,)),
        ({}, {"allow_fallbacks": False}, "allow_fallbacks", False),
        ({}, {"require_parameters": True, "data_collection": "allow"}, "allow_fallbacks", True),
    ],
)
async def test_preferences_are_read_from_headers_and_from_openrouters_object(
    *, doors, market, chat, headers, provider, field, value
):
    """What clients of other markets already send is understood here."""
    body = chat if provider is None else chat | {"provider": provider}
    answer = await doors.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert getattr(market.purchases[0].preferences, field) == value


@pytest.mark.parametrize(
    ("headers", "provider", "param"),
    [
        ({"x-slo-ttft-ms": "0"}, None, "x-slo-ttft-ms"),
        ({"x-slo-ttft-ms": "fast"}, None, "x-slo-ttft-ms"),
        ({"x-wwwmarket-max-price": "1e3"}, None, "x-wwwmarket-max-price"),
        ({"x-wwwmarket-max-price": "0.0000001"}, None, "x-wwwmarket-max-price"),
        ({"x-wwwmarket-max-price": "-1"}, None, "x-wwwmarket-max-price"),
        ({}, {"order": ["someone"]}, "order"),
        ({}, {"data_collection": "deny"}, "provider.data_collection"),
        ({}, {"zdr": True}, "provider.zdr"),
        ({}, {"only": ["someone"]}, "provider.only[0]"),
        ({}, {"max_price": {"prompt": "NaN"}}, "provider.max_price.prompt"),
        ({}, {"max_price": {"completion": "1e999999"}}, "provider.max_price.completion"),
        ({}, {"max_price": {"completion": -1}}, "provider.max_price.completion"),
    ],
)
async def test_preferences_that_cannot_be_kept_are_refused(*, doors, market, chat, headers, provider, param):
    """A wish is kept or refused by name, never dropped in silence."""
    body = chat if provider is None else chat | {"provider": provider}
    answer = await doors.post("/v1/chat/completions", json=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert market.purchases == []


async def test_max_price_leaves_out_every_provider_with_a_dearer_offer(doors, market, chat, scripts):
    """A class price is held on the listed ceilings, exactly."""
    cheap = "b1" * 32
    market.listed.append(("c1" * 32, scripts.listed(cheap, output=200_000)))
    for cap, only in ((0.2, (cheap,)), ("0.4", tuple(sorted((cheap, scripts.provider))))):
        body = chat | {"provider": {"max_price": {"prompt": 0.1, "completion": cap}}}
        assert (await doors.post("/v1/chat/completions", json=body)).status_code == 200
        assert market.purchases[-1].preferences.only == only
    body = chat | {"provider": {"max_price": {"completion": 0.199999}}}
    refused = await doors.post("/v1/chat/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (503, "provider.max_price")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 9}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"model": "no such name!"}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages"),
        ({"stream": "yes"}, "stream"),
    ],
)
async def test_a_field_out_of_its_bounds_is_refused_by_name(doors, chat, change, param):
    """OpenAI's error form names the field at fault."""
    answer = await doors.post("/v1/chat/completions", json=chat | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_missing_model_is_named(doors):
    """The commonest mistake has a clear answer."""
    answer = await doors.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}]})
    assert answer.json()["error"] == {
        "message": "Object missing required field `model`",
        "type": "invalid_request_error",
        "param": "model",
        "code": "malformed",
    }


@pytest.mark.parametrize(
    ("change", "bound"),
    [
        ({}, None),
        ({"max_tokens": 10}, 10),
        ({"max_tokens": 10, "max_completion_tokens": 20}, 20),
        ({"max_completion_tokens": 20, "n": 3}, 60),
        ({"n": 2}, 1_024),
    ],
)
async def test_the_output_bound_covers_all_choices(doors, market, chat, change, bound):
    """Credits are locked for everything that may be generated; one choice without a maximum is the node's default."""
    assert (await doors.post("/v1/chat/completions", json=chat | change)).status_code == 200
    assert market.purchases[0].max_output_tokens == bound


async def test_prompt_bytes_count_text_parts_tools_and_calls(doors, market):
    """Everything that a template can turn into tokens is counted."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    tools = [{"type": "function", "function": {"name": "f"}}]
    messages = [
        {"role": "system", "content": "né"},
        {"role": "user", "content": [{"type": "text", "text": "a\nb"}, image]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    ]
    body = json.dumps({"model": "tiny", "messages": messages, "tools": tools}, separators=(",", ":"))
    assert (await doors.post("/v1/chat/completions", content=body)).status_code == 200
    sizes = [len(json.dumps(one, separators=(",", ":"))) for one in (image, [{"id": "1"}], tools)]
    assert market.purchases[0].prompt_bytes == 3 + 3 + sum(sizes)
    assert market.purchases[0].messages == 3


async def test_an_answer_over_the_limit_is_refused(doors, market, chat, scripts, config):
    """A provider cannot fill the gateway's memory."""
    object.__setattr__(config, "response_bytes_max", 10)
    answer = await doors.post("/v1/chat/completions", json=chat)
    assert answer.status_code == 503

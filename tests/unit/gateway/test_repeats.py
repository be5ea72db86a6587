"""A named request is bought once, however often and however soon it is repeated."""

import asyncio

import openai as sdk
import pytest
from msgspec.structs import replace

from wwwmarket.domain.errors import Unavailable

NAMED = {"idempotency-key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_repeat_gets_the_same_answer_and_is_not_bought_again(doors, market, chat, stream):
    """After the first is done, the same bytes and headers come back, as a stream where it was one."""
    body = chat | {"stream": stream, "stream_options": {"include_usage": True}}
    first, again = [await doors.post(CHAT, json=body, headers=NAMED) for _ in range(2)]
    assert len(market.purchases) == 1
    assert first.status_code == 200
    assert again.content == first.content
    assert {**again.headers, "x-request-id": ""} == {**first.headers, "x-request-id": ""}


@pytest.mark.parametrize(
    ("path", "more"),
    [("/v1/completions", {"prompt": "Hello"}), ("/v1/embeddings", {"input": "Hello"})],
)
async def test_every_door_that_sells_keeps_names(doors, market, path, more):
    """Completions and embeddings are bought once, too."""
    for _ in range(2):
        assert (await doors.post(path, json={"model": "tiny"} | more, headers=NAMED)).status_code == 200
    assert len(market.purchases) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_repeat_while_the_first_is_in_flight_follows_it(doors, market, chat, scripts, stream):
    """Both get the one answer, which is bought once."""
    go_on = asyncio.Event()
    answer = scripts.chunk("Hello") if stream else scripts.whole
    market.script = [scripts.awarded, scripts.started, go_on, scripts.piece(answer), scripts.delivered]
    calls = [asyncio.create_task(doors.post(CHAT, json=chat | {"stream": stream}, headers=NAMED)) for _ in range(3)]
    await market.begun.acquire()
    go_on.set()
    answers = {(await call).content for call in calls}
    assert len(answers) == len(market.purchases) == 1
    assert b"Hello" in answers.pop()


async def test_a_stream_is_followed_from_its_beginning_as_it_comes(openai, market, chat, scripts):
    """A repeat in flight does not wait for the end of what there is to read."""
    end = asyncio.Event()
    market.script = [
        *(scripts.awarded, scripts.started, scripts.piece(scripts.chunk("a")), scripts.piece(scripts.chunk("b"))),
        *(end, scripts.delivered),
    ]
    for _ in range(2):
        stream = await openai.chat.completions.create(**chat, stream=True, extra_headers=NAMED)
        texts = []
        async for one in stream:
            texts.append(one.choices[0].delta.content)
            if len(texts) == 2:
                break
        assert texts == ["a", "b"]
    end.set()
    assert len(market.purchases) == 1


@pytest.mark.parametrize("in_flight", [False, True])
async def test_a_name_stands_for_one_request(doors, market, chat, scripts, in_flight):
    """Another body, door or term under the same name is 422, which clients do not repeat, and says what to do."""
    end = asyncio.Event()
    market.script = [scripts.awarded, scripts.started, end, scripts.piece(scripts.whole), scripts.delivered]
    first = asyncio.create_task(doors.post(CHAT, json=chat, headers=NAMED))
    await market.begun.acquire()
    if not in_flight:
        end.set()
        await first
    for path, body, headers in (
        (CHAT, chat | {"seed": 1}, {}),
        ("/v1/completions", {"model": "tiny", "prompt": "Hello"}, {}),
        (CHAT, chat, {"x-wwwmarket-max-price": "0.1"}),
    ):
        refused = await doors.post(path, json=body, headers=NAMED | headers)
        assert refused.status_code == 422
        assert refused.json()["error"]["code"] == "idempotency_key_reused"
        assert "send a new key" in refused.json()["error"]["message"]
    end.set()
    assert (await first).status_code == 200
    assert len(market.purchases) == 1


async def test_names_of_one_key_are_no_others(doors, market, chat):
    """What one client calls its request is nothing to another."""
    market.key_views["sk-eve"] = replace(market.key_views["sk-ada"], id="eve", name="eve")
    for secret in ("sk-ada", "sk-eve"):
        headers = NAMED | {"authorization": f"Bearer {secret}"}
        assert (await doors.post(CHAT, json=chat, headers=headers)).status_code == 200
    assert len(market.purchases) == 2


async def test_a_named_purchase_goes_on_without_its_client(openai, market, chat, scripts):
    """A connection lost is no purchase lost: the repeat finds the answer, and nothing is paid twice."""
    go_on = asyncio.Event()
    market.script = [scripts.awarded, scripts.started, go_on, scripts.piece(scripts.whole), scripts.delivered]
    call = asyncio.create_task(openai.chat.completions.create(**chat, extra_headers=NAMED))
    await market.begun.acquire()
    call.cancel()
    await asyncio.wait([call])
    again = asyncio.create_task(openai.chat.completions.create(**chat, extra_headers=NAMED))
    go_on.set()
    assert (await again).choices[0].message.content == "Hello"
    assert len(market.purchases) == 1
    assert not market.closed.is_set()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("begun", [False, True])
async def test_what_came_to_nothing_may_be_tried_again(*, doors, market, chat, scripts, stream, begun):
    """A refusal, or a provider that failed on the way, is not kept: the same name then buys."""
    failed = replace(scripts.delivered, outcome="failed", cost_micro=0)
    market.script = (
        [scripts.awarded, scripts.started, scripts.piece(scripts.chunk("a")), failed]
        if begun
        else [scripts.awarded, Unavailable("nobody meets it", retry_after_ms=10)]
    )
    first = await doors.post(CHAT, json=chat | {"stream": stream}, headers=NAMED)
    assert (first.status_code == 503) == (not (stream and begun))
    market.script = None
    again = await doors.post(CHAT, json=chat | {"stream": stream}, headers=NAMED)
    assert again.status_code == 200
    assert b"lo" in again.content
    assert len(market.purchases) == 2


async def test_an_answer_too_long_to_keep_is_not_bought_again(doors, config, market, chat, scripts):
    """The repeat hears what was delivered and charged, by a code that no client repeats."""
    object.__setattr__(config, "repeat_bytes_max", 10)
    assert (await doors.post(CHAT, json=chat, headers=NAMED)).status_code == 200
    again = await doors.post(CHAT, json=chat, headers=NAMED)
    assert (again.status_code, again.json()["error"]["code"]) == (410, "answer_not_kept")
    assert scripts.award in again.json()["error"]["message"]
    assert len(market.purchases) == 1


@pytest.mark.parametrize(("limit", "value"), [("repeats_max", 2), ("repeats_bytes_max", 600), ("repeat_kept_s", 0.0)])
async def test_what_is_kept_is_bounded_in_number_bytes_and_time(*, doors, config, market, chat, limit, value):
    """Beyond a bound the oldest names are forgotten, and would be bought anew."""
    object.__setattr__(config, limit, value)
    for name in ("a", "b", "c"):
        await doors.post(CHAT, json=chat, headers={"idempotency-key": name})
    await doors.post(CHAT, json=chat, headers={"idempotency-key": "a"})
    assert len(market.purchases) == 4


async def test_named_purchases_in_flight_are_bounded(doors, config, market, chat, scripts):
    """Purchases that go on without their clients cannot be piled up."""
    object.__setattr__(config, "in_flight_max", 2)
    end = asyncio.Event()
    market.script = [scripts.awarded, end, scripts.started, scripts.piece(scripts.whole), scripts.delivered]
    calls = [asyncio.create_task(doors.post(CHAT, json=chat, headers={"idempotency-key": name})) for name in "ab"]
    for _ in calls:
        await market.begun.acquire()
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert (await doors.post(CHAT, json=chat, headers={"idempotency-key": "c"})).status_code == 429
    end.set()
    assert (await doors.post(CHAT, json=chat, headers={"idempotency-key": "a"})).status_code == 200


@pytest.mark.parametrize("name", ["", "a b", "x" * 256, "caf\u00e9"])
async def test_a_name_is_plain(doors, market, chat, name):
    """What no log could show is refused by name."""
    answer = await doors.post(CHAT, json=chat, headers={b"idempotency-key": name.encode("latin-1")})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "idempotency-key")
    assert market.purchases == []


async def test_without_a_name_every_request_is_bought(openai, market, chat):
    """Nothing is guessed to be a repeat, and a client that leaves cancels as before."""
    for _ in range(2):
        await openai.chat.completions.create(**chat)
    assert len(market.purchases) == 2


async def test_the_sdk_does_not_repeat_a_reused_name_by_itself(openai, market, chat):
    """A mistake of the caller is shown at once."""
    await openai.chat.completions.create(**chat, extra_headers=NAMED)
    with pytest.raises(sdk.UnprocessableEntityError):
        await openai.with_options(max_retries=2).chat.completions.create(**(chat | {"seed": 1}), extra_headers=NAMED)
    assert len(market.purchases) == 1

"""What every engine behind the port does."""

import asyncio
import re

import msgspec
import pytest

from wwwmarket.domain.errors import Malformed, TooLarge
from wwwmarket.ports.engine import EngineRefused, ResponseFinished, ResponsePiece, ResponseStarted

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


async def model_of(engine) -> str:
    return (await engine.describe()).models[0].name


async def chat(engine, **fields) -> bytes:
    messages = [{"role": "user", "content": fields.pop("content", "What is a fair price?")}]
    return msgspec.json.encode({"model": await model_of(engine), "messages": messages, **fields})


async def collect(engine, path, request, output_tokens_max=64):
    return [event async for event in engine.execute(path, request, output_tokens_max=output_tokens_max)]


def body_of(events) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, ResponsePiece))


def payloads(body: bytes) -> list[dict]:
    lines = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ") and b"[DONE]" not in line]
    return [msgspec.json.decode(line) for line in lines]


async def until_idle(engine) -> None:
    async with asyncio.timeout(10):
        while (state := await engine.state()).running or state.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0)  # the engine tells its state only when asked


async def test_an_engine_describes_itself(engine):
    """The description names the engine, its version and its models, and an emulated engine says that it is one."""
    description = await engine.describe()
    assert description.emulated == ("emulated" in description.engine)
    assert description.engine in {"llama.cpp", "wwwmarket-emulated"}
    assert description.version != "unknown" or description.engine == "llama.cpp"
    assert description.models[0].context_tokens == 4096
    assert description.models[0].precision != "unknown"
    assert description.gpu_class == ("H100-SXM" if description.emulated else "cpu")


async def test_an_idle_engine_says_so(engine):
    """State comes from the engine's own metrics."""
    await until_idle(engine)


async def test_a_chat_streams_whole_events(engine):
    """A stream is its start, pieces of whole events that end with [DONE], and the usage that its last event told."""
    events = await collect(engine, CHAT, await chat(engine, stream=True))
    assert events[0] == ResponseStarted(content_type=events[0].content_type)
    assert events[0].content_type.startswith("text/event-stream")
    pieces = events[1:-1]
    assert all(piece.data.endswith(b"\n\n") for piece in pieces)
    assert any(piece.tokens for piece in pieces)
    assert body_of(events).endswith(b"data: [DONE]\n\n")
    usage = payloads(body_of(events))[-1]["usage"]
    assert events[-1] == ResponseFinished(usage=events[-1].usage)
    assert events[-1].usage.output_tokens == usage["completion_tokens"] > 0
    assert events[-1].usage.input_tokens == usage["prompt_tokens"] > 0


async def test_a_chat_answers_whole(engine):
    """Without ``stream`` the answer is one piece of JSON with its usage."""
    started, piece, finished = await collect(engine, CHAT, await chat(engine))
    assert started.content_type.startswith("application/json")
    answer = msgspec.json.decode(piece.data)
    assert answer["choices"][0]["message"]["content"].split()
    assert finished.usage.output_tokens == answer["usage"]["completion_tokens"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_completion_continues_its_prompt(engine, stream):
    """The older interface works too."""
    request = msgspec.json.encode({"model": await model_of(engine), "prompt": "Once upon a time", "stream": stream})
    events = await collect(engine, TEXT, request)
    answers = payloads(body_of(events)) if stream else [msgspec.json.decode(body_of(events))]
    assert "".join(choice["text"] for answer in answers for choice in answer["choices"]).split()
    assert events[-1].usage.output_tokens > 0


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"max_tokens": 500},
        {"max_completion_tokens": 500},
        {"n_predict": 500},
        {"max_tokens": -1},
        {"max_tokens": 500.5},
    ],
)
async def test_the_output_never_exceeds_its_bound(engine, asked):
    """Whatever the client asks for, and in whatever words, no more is generated than its credits are locked for."""
    request = await chat(engine, ignore_eos=True, stream=True, **asked)
    events = await collect(engine, CHAT, request, output_tokens_max=7)
    assert events[-1].usage.output_tokens == 7


async def test_a_lower_bound_of_the_client_is_kept(engine):
    """The client's own bound counts where it is the lower one."""
    events = await collect(engine, CHAT, await chat(engine, ignore_eos=True, max_tokens=3), output_tokens_max=9)
    assert events[-1].usage.output_tokens == 3


async def test_an_unknown_model_is_refused(engine):
    """A request for a model that is not served is refused with 404 in OpenAI's form."""
    request = msgspec.json.encode({"model": "nobody/nothing", "messages": [{"role": "user", "content": "?"}]})
    with pytest.raises(EngineRefused) as refused:
        await collect(engine, CHAT, request)
    assert refused.value.status == 404
    assert "error" in msgspec.json.decode(refused.value.body)


async def test_a_prompt_over_the_context_is_refused(engine):
    """A prompt that does not fit is the client's fault, and the engine's own words are passed on."""
    with pytest.raises(EngineRefused) as refused:
        await collect(engine, CHAT, await chat(engine, content="word " * 9000, stream=True))
    assert refused.value.status == 400
    assert "error" in msgspec.json.decode(refused.value.body)


async def test_what_is_no_request_never_reaches_the_engine(engine):
    """Bytes that are no JSON object, and more choices than the bound has tokens, are refused at the door."""
    with pytest.raises(Malformed):
        await collect(engine, CHAT, b"[1]")
    with pytest.raises(TooLarge):
        await collect(engine, CHAT, await chat(engine, n=8), output_tokens_max=7)


async def test_closing_the_iterator_frees_the_slot(engine):
    """An abort reaches the engine: what it was generating stops."""
    request = await chat(engine, ignore_eos=True, stream=True)
    answers = engine.execute(CHAT, request, output_tokens_max=3500)
    assert isinstance(await anext(answers), ResponseStarted)
    assert isinstance(await anext(answers), ResponsePiece)
    assert (await engine.state()).running == 1
    await answers.aclose()
    await until_idle(engine)


async def test_many_streams_run_at_once(engine):
    """More streams than slots all finish; the same connections serve more than a hundred requests."""
    request = await chat(engine, stream=True, max_tokens=4)
    answers = await asyncio.gather(*(collect(engine, CHAT, request) for _ in range(120)))
    assert all(1 <= events[-1].usage.output_tokens <= 4 for events in answers)
    await until_idle(engine)


async def test_the_usage_is_that_of_the_text(engine):
    """Usage equals what was streamed: the emulated engine sends one event per token; llama.cpp at most one."""
    events = await collect(engine, CHAT, await chat(engine, stream=True))
    texts = len(re.findall(rb'"content":"[^"]', body_of(events)))
    output = events[-1].usage.output_tokens
    emulated = (await engine.describe()).emulated
    assert texts == output if emulated else 0 < texts <= output

"""Engines that are gone, go away, or say strange things: never idle, never half an answer passed off as whole."""

import asyncio
import contextlib
import os
import signal
from contextlib import asynccontextmanager

import msgspec
import pytest

from wwwmarket.adapters.engines.child import ChildServer
from wwwmarket.adapters.engines.embedded import EmbeddedEngine
from wwwmarket.adapters.engines.emulated import EmulatedEngine
from wwwmarket.adapters.engines.engine_listing import EngineFacts
from wwwmarket.adapters.engines.openai_compatible import OpenAiEngine
from wwwmarket.domain.errors import Unavailable
from wwwmarket.domain.quantity import Usage
from wwwmarket.ports.engine import EngineRefused, EngineState, ResponseFinished, ResponsePiece, ResponseStarted

CHAT = "/v1/chat/completions"
STREAM = b'{"model":"m","messages":[{"role":"user","content":"one two"}],"stream":true}'
WHOLE = b'{"model":"m","messages":[{"role":"user","content":"one two"}]}'
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


def http(body: bytes, *, status="200 OK", content_type="text/event-stream", length=None, more="") -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {size}\r\n{more}\r\n".encode() + body


@asynccontextmanager
async def engine_that(answers, **options):
    """An engine that answers each path with fixed bytes, as many times as asked; a list is one answer per connection."""
    seen = []

    connections = set()

    async def serve(reader, writer):
        while head := await reader.readuntil(b"\r\n\r\n"):
            path = head.split()[1].decode()
            length = next(
                (int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length")), 0
            )
            seen.append((path, await reader.readexactly(length)))
            answer = answers.get(path, http(b"", status="404 Not Found"))
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            writer.write(answer)
            await writer.drain()
            if not answer or b"broken: yes" in answer:
                return

    async def guarded(reader, writer):
        connections.add(asyncio.current_task())
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    engine = OpenAiEngine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", **options)
    engine.seen = seen
    try:
        yield engine
    finally:
        await engine.close()
        server.close()
        await asyncio.gather(*connections)


async def collect(engine, request=STREAM, path=CHAT, output_tokens_max=100):
    return [event async for event in engine.execute(path, request, output_tokens_max=output_tokens_max)]


async def test_an_unreachable_engine_is_unavailable_everywhere():
    """Nothing listens there: no description, no state (not even a blind one), no answer."""
    for blind in (False, True):
        engine = OpenAiEngine("http://127.0.0.1:1", blind=blind)
        with pytest.raises(Unavailable):
            await engine.describe()
        with pytest.raises(Unavailable):
            await engine.state()
        with pytest.raises(Unavailable) as refused:
            await collect(engine)
        assert refused.value.retry_after_ms > 0
        await engine.close()


@pytest.mark.parametrize("start", [EmbeddedEngine.start, lambda: EmulatedEngine.start("RTX3090", "Qwen3-8B")])
async def test_an_engine_killed_during_its_answer_is_unavailable(start):
    """The pieces so far arrive, then Unavailable, and the same for every later question."""
    async with await start() as engine:
        name = (await engine.describe()).models[0].name
        request = msgspec.json.encode(
            {"model": name, "messages": [{"role": "user", "content": "go on"}], "stream": True, "ignore_eos": True}
        )
        answer = engine.execute(CHAT, request, output_tokens_max=3000)
        assert isinstance(await anext(answer), ResponseStarted)
        assert isinstance(await anext(answer), ResponsePiece)
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(Unavailable):
            [event async for event in answer]
        with pytest.raises(Unavailable):
            await engine.state()
        with pytest.raises(Unavailable):
            await collect(engine, request)


async def test_a_child_ends_with_its_parents_pipe():
    """Without its parent a server does not stay behind."""
    for engine in (await EmbeddedEngine.start(), await EmulatedEngine.start("RTX3090", "Qwen3-8B")):
        engine._child._process.stdin.close()
        async with asyncio.timeout(10):
            assert await engine._child._process.wait() == 0
        await engine.close()


async def test_a_failed_start_says_why():
    """The error of a server that ends or hangs at its start carries its last words."""
    with pytest.raises(Unavailable, match="no step-time constants"):
        await EmulatedEngine.start("Abacus", "Qwen3-8B")
    with pytest.raises(Unavailable, match=r"not ready in 0\.2 s"):
        await ChildServer.start("asyncio", [], ready_timeout_s=0.2)  # a prompt that waits for input


async def test_a_stale_connection_is_tried_once_more():
    """A connection closed before the first byte costs one retry on a fresh one; a second closing is Unavailable."""
    async with engine_that({CHAT: [b"", http(EVENT + DONE)]}) as engine:
        events = await collect(engine)
        assert isinstance(events[-1], ResponseFinished)
    async with engine_that({CHAT: b""}) as engine:
        with pytest.raises(Unavailable):
            await collect(engine)
        assert len(engine.seen) == 2


@pytest.mark.parametrize(
    "answer",
    [
        http(EVENT),
        http(EVENT, length=10_000, more="broken: yes\r\n"),
        http(EVENT + b'data: {"error": {"message": "out of memory"}}\n\n' + DONE),
        http(EVENT + DONE + b"data: half an eve"),
        http(b"data: " + b"x" * (1024 * 1024 + 1)),
        http(b"", status="500 Internal Server Error"),
        http(b"", status="401 Unauthorized"),
        http(b"", status="302 Found", more="location: http://127.0.0.1:1/\r\n"),
        b"HTTP/1.1 what\r\n\r\n",
    ],
)
async def test_half_an_answer_is_no_answer(answer):
    """An answer that ends early, breaks, reports an error or has no end is Unavailable, whatever came before."""
    async with engine_that({CHAT: answer}) as engine:
        with pytest.raises(Unavailable):
            await collect(engine)


async def test_a_silent_engine_is_unavailable():
    """An engine that accepts a request and says nothing is given up after the silence timeout."""
    async with engine_that({CHAT: http(EVENT, length=999)}, silence_timeout_s=0.1) as engine:
        with pytest.raises(Unavailable):
            await collect(engine)


async def test_a_refusal_is_passed_on_as_it_is():
    """Status and body of an engine's 4xx reach the client unchanged."""
    async with engine_that({CHAT: http(b'{"error": "no"}', status="422 Unprocessable Entity")}) as engine:
        with pytest.raises(EngineRefused) as refused:
            await collect(engine)
        assert (refused.value.status, refused.value.body) == (422, b'{"error": "no"}')


async def test_missing_usage_is_counted_by_the_tokenizer_then_by_pieces():
    """No usage in the stream: the tokenizer counts; without one the pieces do; and the adapter says which."""
    tokens = http(b'{"tokens":[1,2,3]}', content_type="application/json")
    async with engine_that({CHAT: http(EVENT * 5 + DONE), "/tokenize": tokens}) as engine:
        events = await collect(engine)
        assert events[-1].usage == Usage(input_tokens=3, cached_input_tokens=0, output_tokens=3)
        assert engine.usage_source == "tokenize"
        assert b"wordwordword" in engine.seen[1][1]
    async with engine_that({CHAT: http(EVENT * 5 + DONE)}) as engine:
        assert (await collect(engine))[-1].usage.output_tokens == 5
        assert engine.usage_source == "pieces"
    body = b'{"choices":[{"message":{"content":"abcdefgh"}}]}'
    async with engine_that({CHAT: http(body, content_type="application/json")}) as engine:
        assert (await collect(engine, WHOLE))[-1].usage.output_tokens == 2


METRICS = b'# HELP x\nvllm:num_requests_running{engine="0"} 2.0\nvllm:num_requests_running{engine="1"} 1.0\n'
WAITING = b'vllm:num_requests_waiting{engine="0"} 4\n'


@pytest.mark.parametrize(
    ("metrics", "state"),
    [
        (
            METRICS + WAITING + b"vllm:kv_cache_usage_perc 0.25\n",
            EngineState(running=3, waiting=4, kv_usage_ppm=250_000),
        ),
        (METRICS + WAITING, EngineState(running=3, waiting=4)),
        (
            b"sglang:num_running_reqs 1\nsglang:num_queue_reqs 0\nsglang:token_usage 0.5\n",
            EngineState(running=1, waiting=0, kv_usage_ppm=500_000),
        ),
        (b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 7\n", EngineState(running=1, waiting=7)),
        (METRICS, None),
        (METRICS + b"vllm:num_requests_waiting NaN\n", None),
        (METRICS + b"vllm:num_requests_waiting -1\n", None),
        (METRICS + b"vllm:num_requests_waiting many\n", None),
        (b"go_goroutines 8\n", None),
        (b"", None),
        (b"x" * (4 * 1024 * 1024 + 1), None),
    ],
)
async def test_state_is_what_the_metrics_say_or_unknown(metrics, state):
    """Gauges of every known kind are read; missing, senseless, foreign or endless ones are Unavailable, not idle."""
    async with engine_that({"/metrics": http(metrics, content_type="text/plain")}) as engine:
        if state is None:
            with pytest.raises(Unavailable):
                await engine.state()
        else:
            assert await engine.state() == state


async def test_an_engine_without_metrics_is_unknown_unless_declared_blind():
    """Without metrics the state is Unavailable; a blind adapter counts for itself, and its description says so."""
    listing = http(b'{"data":[{"id":"m","max_model_len":100}]}', content_type="application/json")
    answers = {"/v1/models": listing, CHAT: http(EVENT + DONE)}
    async with engine_that(answers) as engine:
        with pytest.raises(Unavailable):
            await engine.state()
    async with engine_that(answers, blind=True) as engine:
        assert (await engine.describe()).engine == "openai-compatible blind"
        answer = engine.execute(CHAT, STREAM, output_tokens_max=9)
        await anext(answer)
        assert await engine.state() == EngineState(running=1, waiting=0)
        await answer.aclose()
        assert await engine.state() == EngineState(running=0, waiting=0)


@pytest.mark.parametrize(
    "listing", [b"{}", b'{"data":[{"id":"m"}]}', b'{"data":[{"id":"/srv/m","max_model_len":9}]}', b"[", b"\xff"]
)
async def test_an_engine_that_cannot_be_described_is_unavailable(listing):
    """No model, no context length, no usable name, or no sense."""
    async with engine_that({"/v1/models": http(listing, content_type="application/json")}) as engine:
        with pytest.raises(Unavailable):
            await engine.describe()


async def test_the_operator_states_what_no_interface_tells():
    """Revision, precision, GPU class and, where missing, the context length come from the operator."""
    facts = EngineFacts(revision="r7", precision="fp8", gpu_class="L40S", context_tokens=2048)
    listing = http(b'{"data":[{"id":"m","owned_by":"vllm"}]}', content_type="application/json")
    version = http(b'{"version":"0.32.0"}', content_type="application/json")
    async with engine_that({"/v1/models": listing, "/version": version}, facts=facts) as engine:
        description = await engine.describe()
    assert (description.engine, description.version, description.gpu_class) == ("vllm", "0.32.0", "L40S")
    model = description.models[0]
    assert (model.revision, model.precision, model.context_tokens) == ("r7", "fp8", 2048)


async def test_emulated_answers_can_take_a_fixed_time():
    """With ``--fixed-ms`` an answer comes whole after that time, of the stated length."""
    async with await EmulatedEngine.start(
        "L40S", "Qwen3-8B", arguments=["--fixed-ms", "50", "--output-tokens", "9", "--name", "m"]
    ) as engine:
        loop = asyncio.get_running_loop()
        began = loop.time()
        events = await collect(engine, WHOLE)
        assert loop.time() - began >= 0.05
        assert events[-1].usage.output_tokens == 9
        assert (await collect(engine, STREAM))[-1].usage.output_tokens == 9

"""Several engines behind one port, and engines that this program starts itself."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys

import msgspec
import pytest

from tests.integration.node.town import LoopClock
from wwwmarket.adapters.engines.child import ChildServer
from wwwmarket.adapters.engines.embedded import EmbeddedEngine
from wwwmarket.adapters.engines.launch import command_of, parse_launch
from wwwmarket.adapters.engines.opening import EngineTerms, open_engines
from wwwmarket.adapters.engines.pool import EnginePool, alike
from wwwmarket.adapters.engines.self_benchmark import benchmark
from wwwmarket.adapters.engines.supervised import healthy
from wwwmarket.dispatch.prediction import LearntLatency
from wwwmarket.dispatch.step_time import EngineLimits
from wwwmarket.domain.errors import Conflict, Malformed, NotFound, Unavailable
from wwwmarket.domain.quantity import Slo
from wwwmarket.ports.engine import (
    EngineRefused,
    EngineState,
    ResponseFinished,
    ResponsePiece,
    ResponseStarted,
    ServedModel,
)
from wwwmarket.simulator.engine import Begin, Break, Pause, PlayingEngine, Refuse, Say

MODEL = ServedModel(name="m", revision="1", precision="bf16", context_tokens=4_096)
CHAT = "/v1/chat/completions"
SERVER = (
    "import http.server, sys\n"
    "class Answers(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        self.send_response(200); self.end_headers()\n"
    "    log_message = lambda *_: None\n"
    "print('loading weights', flush=True)\n"
    "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Answers).serve_forever()\n"
)


def latency() -> LearntLatency:
    return LearntLatency.from_promise(
        Slo(ttft_ms=100, tpot_ms=10), EngineLimits(kv_tokens_max=100_000, sequences_max=8)
    )


def request(text="hello") -> bytes:
    return msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": text}]})


async def pool_of(*plays):
    """A described and polled pool of engines that play, one for each of ``plays``."""
    engines = [PlayingEngine(LoopClock(), MODEL, *([lambda _, play=play: play] if play else [])) for play in plays]
    pool = EnginePool(engines, [latency() for _ in engines])
    await pool.describe()
    await pool.state()
    return pool, engines


async def collect(pool, body):
    return [event async for event in pool.execute(CHAT, body, output_tokens_max=50)]


async def test_a_pool_spreads_requests_over_its_engines():
    """What was sent since the last poll counts as load, so a burst does not end at one engine."""
    busy = (Begin(), Pause(duration_ms=50), Say(data=b"x"))
    pool, engines = await pool_of(busy, busy, busy)
    await asyncio.gather(*(collect(pool, request(str(number) * 300)) for number in range(9)))
    assert [len(engine.requests) for engine in engines] == [3, 3, 3]


async def test_a_beginning_seen_before_goes_where_it_was():
    """A conversation stays with the engine whose cache has it."""
    pool, engines = await pool_of(None, None)
    story = "once upon a time " * 400
    await collect(pool, request("another " * 100))
    await collect(pool, request(story))
    first = next(engine for engine in engines if any(b"once" in one for one in engine.requests))
    for turn in range(4):
        await collect(pool, request(story + str(turn)))
    assert sum(b"once" in one for one in first.requests) == 5


async def test_the_state_of_a_pool_is_the_sum_of_what_is_known():
    """An unknown engine is left out; where none is known, the pool is unknown."""
    pool, engines = await pool_of(None, None)
    streams = [engine.execute(CHAT, request(), output_tokens_max=9) for engine in engines]
    for stream in streams:
        await anext(stream)
    assert await pool.state() == EngineState(running=2, waiting=0)
    engines[0].down = True
    assert await pool.state() == EngineState(running=1, waiting=0)
    engines[1].down = True
    with pytest.raises(Unavailable):
        await pool.state()
    with pytest.raises(Unavailable):
        await collect(pool, request())
    for stream in streams:
        await stream.aclose()


async def test_an_engine_that_is_gone_is_replaced_before_its_first_word_only():
    """Nothing came: another answers. Something came: the answer is broken, and says so."""
    pool, engines = await pool_of(None, None)
    engines[0].down = True
    assert isinstance((await collect(pool, request()))[-1], ResponseFinished)
    assert len(engines[1].requests) == 1
    broken, _ = await pool_of((Begin(), Say(data=b"x"), Break()), (Begin(), Say(data=b"x"), Break()))
    answer = broken.execute(CHAT, request(), output_tokens_max=9)
    assert isinstance(await anext(answer), ResponseStarted)
    assert isinstance(await anext(answer), ResponsePiece)
    with pytest.raises(Unavailable):
        await anext(answer)


async def test_a_refusal_is_not_tried_elsewhere():
    """What one engine refuses, those alike would refuse as well."""
    pool, engines = await pool_of((Refuse(status=400, body=b"no"),), (Refuse(status=400, body=b"no"),))
    with pytest.raises(EngineRefused):
        await collect(pool, request())
    assert sum(len(engine.requests) for engine in engines) == 1


async def test_leaving_a_pools_answer_reaches_the_engine():
    """Closing aborts upstream, and frees the load that it counted for."""
    pool, engines = await pool_of((Begin(), Say(data=b"x"), Pause(duration_ms=60_000)))
    stream = pool.execute(CHAT, request(), output_tokens_max=9)
    await anext(stream)
    await stream.aclose()
    assert engines[0].aborted == 1
    assert (await pool.state()).running == 0
    assert await pool.tokenize("m", "ab") == (97, 98)


async def test_engines_that_differ_are_no_pool():
    """An attestation names one engine: kinds, versions and precisions are not mixed; the shorter context counts."""
    description = await PlayingEngine(LoopClock(), MODEL).describe()
    short = msgspec.structs.replace(MODEL, context_tokens=1_024)
    both = alike([description, msgspec.structs.replace(description, models=(short,))])
    assert both.models == (short,)
    other = msgspec.structs.replace(MODEL, precision="fp8")
    for change in ({"version": "2"}, {"engine": "vllm"}, {"models": (other,)}, {"models": ()}):
        with pytest.raises(Conflict):
            alike([description, msgspec.structs.replace(description, **change)])


async def test_two_real_engines_are_sold_as_one():
    """Two llama.cpp servers, measured one after the other, behind one port."""
    terms = EngineTerms(addresses=("embedded", "embedded"), sequences=2)
    seen = []

    async def measure(engine, description, served):
        measured = await benchmark(
            engine, description, served, sequences=2, tell=lambda done, total: seen.append((done, total))
        )
        return measured.fit

    guess = lambda _description, _served, fit: fit.latency(latency().limits)  # noqa: E731 - a port of one line
    async with open_engines(terms, guess, measure) as opened:
        body = msgspec.json.encode({"model": opened.served.name, "prompt": "Once", "max_tokens": 8})
        answers = await asyncio.gather(
            *(_all(opened.engine.execute("/v1/completions", body, output_tokens_max=8)) for _ in range(6))
        )
        assert all(isinstance(one[-1], ResponseFinished) for one in answers)
        assert opened.description.sequences_max == 4
    assert opened.fit.tpot_ms > 0
    assert seen[-1][0] == seen[-1][1] > 0


async def test_a_real_engine_embeds():
    """Embeddings pass whole, their input is counted, and the same engine goes on answering."""
    async with await EmbeddedEngine.start(embeddings=True) as engine:
        model = (await engine.describe()).models[0].name
        body = msgspec.json.encode({"model": model, "input": ["Every river", "Our market"]})
        events = await _all(engine.execute("/v1/embeddings", body, output_tokens_max=0))
        answer = msgspec.json.decode(events[1].data)
        assert len(answer["data"]) == 2
        assert len(answer["data"][0]["embedding"]) > 1
        assert events[-1].usage.input_tokens == answer["usage"]["prompt_tokens"] > 0
        assert events[-1].usage.output_tokens == 0
        body = msgspec.json.encode({"model": model, "prompt": "Every", "max_tokens": 4})
        assert (await _all(engine.execute("/v1/completions", body, output_tokens_max=4)))[-1].usage.output_tokens > 0


async def _all(events):
    return [event async for event in events]


async def test_an_engine_that_answers_nothing_is_not_measured():
    """Measuring ends with its time, and one that refuses or breaks is unavailable."""
    silent = PlayingEngine(LoopClock(), MODEL, lambda _: (Begin(), Pause(duration_ms=60_000)))
    refusing = PlayingEngine(LoopClock(), MODEL, lambda _: (Refuse(status=400, body=b""),))
    broken = PlayingEngine(LoopClock(), MODEL, lambda _: (Begin(), Break()))
    for engine in (silent, refusing, broken):
        with pytest.raises(Unavailable):
            await benchmark(engine, await engine.describe(), MODEL, sequences=2, budget_s=0.1)


@pytest.mark.parametrize("text", ["vllm", "vllm:", "ollama:x", ":x", "vllm:--trust-remote-code", ""])
def test_what_is_no_launch_is_refused(text):
    """A kind and a model, and no option in the place of a model."""
    with pytest.raises(Malformed):
        parse_launch(text)


def test_launches_are_command_lines():
    """Each kind by its own command, on this machine alone, with its metrics on and the operator's options last."""
    vllm = command_of(parse_launch("vllm:Qwen/Qwen3-8B", ["--max-model-len", "4096"]), 8123, python="/env/python")
    assert vllm == [
        *("/env/python", "-m", "vllm.entrypoints.openai.api_server", "--model", "Qwen/Qwen3-8B"),
        *("--host", "127.0.0.1", "--port", "8123", "--max-model-len", "4096"),
    ]
    sglang = command_of(parse_launch("sglang:Qwen/Qwen3-8B"), 8123, python="/env/python")
    assert sglang[2:5] == ["sglang.launch_server", "--model-path", "Qwen/Qwen3-8B"]
    assert "--enable-metrics" in sglang


def test_an_engine_that_is_not_installed_says_what_to_do(monkeypatch):
    """The refusal names the package, or the option that finds it elsewhere."""
    monkeypatch.setenv("PATH", "/nowhere")
    for text in ("sglang:m", "llama-server:m.gguf"):
        with pytest.raises(NotFound, match="install"):
            command_of(parse_launch(text), 1)


async def supervised(*command, heard=None):
    port = _free_port()
    words = ["--port", str(port), "--", *(word.replace("PORT", str(port)) for word in command)]
    started = ChildServer.start(
        "wwwmarket.adapters.engines.supervised", words, ready_timeout_s=20, stop_timeout_s=15, heard=heard
    )
    return await started


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_a_launched_server_is_awaited_and_ended():
    """It is ready when it is healthy, its log is heard, and closing it ends it."""
    heard = []
    server = await supervised(sys.executable, "-c", SERVER, "PORT", heard=heard.append)
    assert healthy(server.port)
    assert "loading weights" in heard
    await server.close()
    assert not healthy(server.port)


async def test_a_launched_server_that_fails_shows_its_last_words():
    """The end of its log is in the refusal; so is a program that is not there."""
    with pytest.raises(Unavailable, match="no such model") as told:
        await supervised(sys.executable, "-c", "import sys; sys.exit('no such model')")
    assert "code 1" in told.value.message
    with pytest.raises(Unavailable, match="cannot be started"):
        await supervised("/nowhere/engine")


async def test_a_launched_server_does_not_outlive_a_killed_parent():
    """Whoever started it is killed outright: the server, which knows nothing of that, ends all the same."""
    port = _free_port()
    program = (
        "import asyncio, sys\nfrom wwwmarket.adapters.engines.child import ChildServer\n"
        "async def main():\n"
        f"    words = ['--port', '{port}', '--', sys.executable, '-c', {SERVER!r}, '{port}']\n"
        "    await ChildServer.start('wwwmarket.adapters.engines.supervised', words, ready_timeout_s=20)\n"
        "    print('up', flush=True)\n    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)  # noqa: ASYNC220 - returns at once
    with contextlib.closing(parent.stdout):
        assert await asyncio.to_thread(parent.stdout.readline) == b"up\n"
        assert healthy(port)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    async with asyncio.timeout(15):
        while await asyncio.to_thread(healthy, port):  # noqa: ASYNC110 - another process's end
            await asyncio.sleep(0.05)

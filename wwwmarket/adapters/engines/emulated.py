"""An emulated engine: an OpenAI-compatible server with the timing of a given GPU and model, and no meaning.

``python -m wwwmarket.adapters.engines.emulated --gpu H100-SXM --model Qwen3-8B`` serves on its own;
``EmulatedEngine`` starts one as a child and speaks to it.
"""

import argparse
import socket
from collections.abc import Sequence
from typing import Final, Self, get_args

import uvicorn

from wwwmarket.adapters.engines.child import ChildServer, announce, watch_parent
from wwwmarket.adapters.engines.child_engine import ChildEngine
from wwwmarket.adapters.engines.emulated_driver import Driver, FixedDriver
from wwwmarket.adapters.engines.emulated_replies import Speaker
from wwwmarket.adapters.engines.emulated_server import application
from wwwmarket.adapters.engines.engine_listing import EngineFacts
from wwwmarket.dispatch.batching import BatchingEngine
from wwwmarket.dispatch.calibration import MODEL_SHAPES
from wwwmarket.dispatch.step_time import limits_for, step_time_model
from wwwmarket.domain.model import Precision

READY_TIMEOUT_S: Final = 30.0
STOP_GRACE_S: Final = 1
BACKLOG: Final = 2048


class EmulatedEngine(ChildEngine):
    """An emulated server, owned."""

    @classmethod
    async def start(cls, gpu: str, model: str, *, precision: Precision = "bf16", arguments: Sequence[str] = ()) -> Self:
        """Start a server; ``arguments`` are further options of the command.

        Raises:
            Unavailable: it did not come up; the message carries its last log lines.
        """
        options = ["--gpu", gpu, "--model", model, "--precision", precision, "--end-with-stdin", *arguments]
        child = await ChildServer.start("wwwmarket.adapters.engines.emulated", options, ready_timeout_s=READY_TIMEOUT_S)
        return cls(child, EngineFacts(revision="1", precision=precision))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="An OpenAI-compatible server with the timing of a GPU and a model.")
    parser.add_argument("--gpu", required=True, help="a GPU of the step-time table, such as H100-SXM")
    parser.add_argument("--model", required=True, help="a model of the table, such as Qwen3-8B")
    parser.add_argument("--name", help="the name that it is served under; the model's by default")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--precision", choices=get_args(Precision), default="bf16")
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument("--sequences-max", type=int, default=256)
    parser.add_argument("--context-tokens", type=int, help="the model's own, or what fits, by default")
    parser.add_argument("--output-tokens", type=int, help="length of every reply; a seeded draw by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speedup", type=float, default=1.0, help="divides every duration")
    parser.add_argument("--fixed-ms", type=float, help="answer whole after this time, whatever the load")
    parser.add_argument("--end-with-stdin", action="store_true", help="end when standard input does")
    return parser


def main() -> None:
    options = _parser().parse_args()
    hardware = {"precision": options.precision, "tensor_parallel": options.tensor_parallel}
    model = step_time_model(options.gpu, options.model, **hardware)
    limits = limits_for(options.gpu, options.model, **hardware, sequences_max=options.sequences_max)
    context_tokens = min(options.context_tokens or MODEL_SHAPES[options.model].context_tokens, limits.kv_tokens_max - 1)
    speaker = Speaker(
        model=options.name or options.model,
        context_tokens=context_tokens,
        output_tokens=options.output_tokens,
        seed=options.seed,
    )
    engine = BatchingEngine(model, limits)
    driver = (
        Driver(engine, front_end_ms=model.front_end_ms, speedup=options.speedup)
        if options.fixed_ms is None
        else FixedDriver(engine, fixed_ms=options.fixed_ms)
    )
    if options.end_with_stdin:
        watch_parent()
    # protocol named, so that asyncio turns Nagle's algorithm off on what it accepts
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind((options.host, options.port))
        listener.listen(BACKLOG)
        port = listener.getsockname()[1]
        app = application(driver, speaker, options.gpu, on_ready=lambda: announce(port))
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            timeout_graceful_shutdown=STOP_GRACE_S,
            timeout_keep_alive=75,
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()

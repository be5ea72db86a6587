"""Starting an engine that somebody else wrote: which command, which port, and when it is ready."""

import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, get_args

from wwwmarket.adapters.engines.child import ChildServer
from wwwmarket.adapters.engines.supervised import STOP_GRACE_S
from wwwmarket.domain.errors import Malformed, NotFound
from wwwmarket.domain.shape import Value

Kind = Literal["vllm", "sglang", "llama-server"]

READY_TIMEOUT_S: Final = 900.0
"""Weights may have to be fetched and kernels compiled first."""
_STOP_TIMEOUT_S: Final = STOP_GRACE_S + 5.0


class Launch(Value):
    """An engine to be started: its kind, its model (a repository, a folder, a file), further options of its own."""

    kind: Kind
    model: str
    arguments: tuple[str, ...] = ()


def parse_launch(text: str, arguments: Sequence[str] = ()) -> Launch:
    """``KIND:MODEL``, as in ``vllm:Qwen/Qwen3-8B``.

    Raises:
        Malformed: no such kind, or no model.
    """
    kind, _, model = text.partition(":")
    for known in get_args(Kind):
        if kind == known and model and not model.startswith("-"):
            return Launch(kind=known, model=model, arguments=tuple(arguments))
    raise Malformed(f"{text!r} is not KIND:MODEL, where KIND is one of {', '.join(get_args(Kind))}", param="launch")


def command_of(launch: Launch, port: int, *, python: str | None = None) -> list[str]:
    """The command line that serves ``launch`` at ``port`` of this machine; ``python`` is another environment's.

    Raises:
        NotFound: the engine is not installed.
    """
    listen = ("--host", "127.0.0.1", "--port", str(port))
    if launch.kind == "llama-server":
        program = shutil.which("llama-server")
        if program is None:
            raise NotFound("llama-server is not on the PATH: build or install llama.cpp", param="launch")
        return [program, "--model", launch.model, *listen, "--metrics", "--slots", *launch.arguments]
    module, model_option = {
        "vllm": ("vllm.entrypoints.openai.api_server", "--model"),
        "sglang": ("sglang.launch_server", "--model-path"),
    }[launch.kind]
    if python is None and find_spec(launch.kind) is None:
        raise NotFound(
            f"{launch.kind} is not installed here: pip install {launch.kind}, or name the Python that has it "
            "with --engine-python",
            param="launch",
        )
    metrics = ("--enable-metrics",) if launch.kind == "sglang" else ()
    return [python or sys.executable, "-m", module, model_option, launch.model, *listen, *metrics, *launch.arguments]


async def start(
    launch: Launch,
    *,
    python: Path | None = None,
    ready_timeout_s: float = READY_TIMEOUT_S,
    heard: Callable[[str], None] | None = None,
) -> ChildServer:
    """Start it and wait until it is healthy; ``heard`` gets each line of its log.

    Raises:
        NotFound: it is not installed.
        Unavailable: it ended, or was not healthy in time; the message carries its last log lines.
    """
    port = _free_port()
    command = command_of(launch, port, python=None if python is None else str(python))
    return await ChildServer.start(
        "wwwmarket.adapters.engines.supervised",
        ["--port", str(port), "--", *command],
        ready_timeout_s=ready_timeout_s,
        stop_timeout_s=_STOP_TIMEOUT_S,
        heard=heard,
    )


def _free_port() -> int:
    """One that is free now. Who takes it in between makes the engine fail to bind, which its log then says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

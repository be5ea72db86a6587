"""Engines at joining: started if asked for, and measured, with what a person wants to see of both."""

import contextlib
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec

from wwwmarket.cli.options import option
from wwwmarket.cli.output import printable, say
from wwwmarket.cli.progress import progress
from wwwmarket.cli.serving import write_whole
from wwwmarket.domain.errors import Malformed

if TYPE_CHECKING:
    from wwwmarket.adapters.engines.opening import Measure
    from wwwmarket.adapters.engines.self_benchmark import Benchmark
    from wwwmarket.dispatch.fitting import Fit
    from wwwmarket.ports.engine import Engine, EngineDescription, ServedModel

BENCHMARK: Final = "benchmark.json"
"""The latest measurement, in the provider's data directory."""
_LOG_COLUMNS: Final = 100

Launches: TypeAlias = Annotated[
    list[str] | None,
    option(
        "--launch",
        "Start an engine as well: vllm:MODEL, sglang:MODEL or llama-server:FILE. Ends with this command.",
        metavar="KIND:MODEL",
    ),
]
LaunchOptions: TypeAlias = Annotated[
    str,
    option("--launch-options", "Further options of the launched engine, as one quoted text.", metavar="OPTIONS"),
]
EnginePython: TypeAlias = Annotated[
    Path | None,
    option("--engine-python", "Python of the environment that has vllm or sglang; else this one.", metavar="FILE"),
]
NoBenchmark: TypeAlias = Annotated[
    bool, option("--no-benchmark", "Do not measure the engine; take what was measured last, or the promise.")
]


@dataclass(frozen=True)
class Sources:
    """Where a provider's engines come from, as the command line says."""

    engines: tuple[str, ...]
    launches: tuple[str, ...] = ()
    options: str = ""
    python: Path | None = None
    measure: bool = True

    def check(self) -> None:
        """Raises Malformed: nothing to sell from."""
        if not self.engines and not self.launches:
            raise Malformed("give the address of an --engine, or one to --launch", param="engine")

    @contextlib.asynccontextmanager
    async def addresses(self) -> AsyncIterator[tuple[str, ...]]:
        """All engines for the block, those to be launched among them. Raises what ``launched`` does."""
        async with launched(self.launches, self.options, self.python) as started:
            yield (*self.engines, *started)

    def measuring(self, data: Path, sequences: int) -> "Measure | None":
        return measuring(data, sequences) if self.measure else remembering(data)


@contextlib.asynccontextmanager
async def launched(launches: Sequence[str], options: str, python: Path | None) -> AsyncIterator[tuple[str, ...]]:
    """Addresses of engines started for the block, each healthy; ended after it.

    Raises:
        Malformed: a launch that cannot be read.
        NotFound: an engine that is not installed.
        Unavailable: one that did not come up; the message carries its last log lines.
    """
    from wwwmarket.adapters.engines.launch import parse_launch, start

    try:
        arguments = shlex.split(options)
    except ValueError as error:
        raise Malformed(f"--launch-options: {error}", param="launch_options") from None
    wanted = [parse_launch(text, arguments) for text in launches]
    async with contextlib.AsyncExitStack() as stack:
        addresses = []
        for launch in wanted:
            with _waiting(f"Starting {launch.kind} with {launch.model}") as heard:
                child = await start(launch, python=python, heard=heard)
            stack.push_async_callback(child.close)
            addresses.append(f"http://127.0.0.1:{child.port}")
            say(f"{launch.kind} serves {printable(launch.model)} at {addresses[-1]}.")
        yield tuple(addresses)


@contextlib.contextmanager
def _waiting(what: str) -> Iterator[Callable[[str], None]]:
    """A line that shows what the engine logs last, and for how long it has been starting; gone when it is ready."""
    if not sys.stderr.isatty():
        say(f"{what} …")
        yield lambda _line: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda line: shown.update(task, description=f"{what}: {printable(line[-_LOG_COLUMNS:])}")


def measuring(data: Path, sequences: int) -> "Measure":
    """Measures an engine with a bar, says what came of it, and keeps it in ``data``."""

    async def measure(engine: "Engine", description: "EngineDescription", served: "ServedModel") -> "Fit":
        from wwwmarket.adapters.engines.self_benchmark import benchmark

        with progress(f"Measuring {description.engine}") as tell:
            measured = await benchmark(engine, description, served, sequences=sequences, tell=tell)
        say(sentence_of(measured))
        write_whole(data / BENCHMARK, msgspec.json.format(msgspec.json.encode(measured), indent=2) + b"\n")
        return measured.fit

    return measure


def remembering(data: Path) -> "Measure | None":
    """What was measured last of the same engine, if anything was; never measures."""
    from wwwmarket.adapters.engines.self_benchmark import Benchmark

    try:
        known = msgspec.json.decode((data / BENCHMARK).read_bytes(), type=Benchmark)
    except (OSError, msgspec.DecodeError):
        return None

    async def recall(_engine: "Engine", description: "EngineDescription", served: "ServedModel") -> "Fit | None":
        same = (description.engine, description.version, served.name) == (known.engine, known.version, known.model)
        return known.fit if same else None

    return recall


def sentence_of(measured: "Benchmark") -> str:
    """What was measured, for a person."""
    fit = measured.fit
    return (
        f"Measured {printable(measured.model)} on {printable(measured.engine)} in {measured.took_ms / 1_000:.1f} s: "
        f"first token after {fit.ttft_ms:.1f} ms and {fit.ttft_ms_per_token * 1_000:.1f} ms per 1,000 prompt tokens; "
        f"{fit.tpot_ms + fit.tpot_ms_per_sequence:.2f} ms per token alone, {fit.tpot_ms_per_sequence:.2f} ms more for "
        f"each further sequence (errors of the fit {fit.ttft_error_ppm / 10_000:.0f} % and "
        f"{fit.tpot_error_ppm / 10_000:.0f} %)."
    )

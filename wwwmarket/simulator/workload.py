"""Requests: when they come, where, how long they are, and by when they should be answered."""

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import datetime
from math import log
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from wwwmarket.domain.errors import Malformed
from wwwmarket.domain.shape import Value

TRACE_ROWS_MAX: Final = 5_000_000


class Request(NamedTuple):
    """One request. ``slo_ttft_ms`` + ``slo_tpot_ms`` x its output tokens is the latency that it should have at most."""

    number: int
    at_us: int
    origin: int
    model: str
    input_tokens: int
    output_tokens: int
    slo_ttft_ms: int
    slo_tpot_ms: int

    @property
    def deadline_us(self) -> int:
        return self.at_us + (self.slo_ttft_ms + self.slo_tpot_ms * self.output_tokens) * 1_000


class Arrival(NamedTuple):
    """A row of a trace: seconds since its beginning, and tokens."""

    at_s: float
    input_tokens: int
    output_tokens: int


class Piece(Value):
    """A node's rate of arrivals from a moment on."""

    from_s: float
    per_s: float


class Lengths(Value):
    """Log-normal output lengths, cut at ``output_tokens_max``; prompts log-normal too."""

    output_median: float
    output_sigma: float
    output_tokens_max: int
    input_median: float = 200.0
    input_sigma: float = 0.5
    input_tokens_max: int = 4_096

    def draw(self, chance: Random) -> tuple[int, int]:
        """Input and output tokens."""
        tokens = chance.lognormvariate(log(self.input_median), self.input_sigma)
        output = chance.lognormvariate(log(self.output_median), self.output_sigma)
        return (
            max(2, min(self.input_tokens_max, round(tokens))),
            max(1, min(self.output_tokens_max, round(output))),
        )


def piecewise_poisson(pieces: Sequence[Piece], until_s: float, chance: Random) -> list[float]:
    """Moments of arrival in seconds, by thinning at the highest rate."""
    highest = max(piece.per_s for piece in pieces)
    starts = [piece.from_s for piece in pieces]
    moments: list[float] = []
    now = 0.0
    while highest > 0:
        now += chance.expovariate(highest)
        if now >= until_s:
            break
        if chance.random() * highest < pieces[max(0, bisect_right(starts, now) - 1)].per_s:
            moments.append(now)
    return moments


def read_trace(path: Path) -> list[Arrival]:
    """A trace in the Azure form (CSV) or the Mooncake form (JSON lines), in order of time.

    Raises:
        Malformed: it is neither, or a row of it cannot be read.
    """
    with path.open(encoding="utf-8") as file:
        first = file.readline()
        file.seek(0)
        read = _mooncake if first.lstrip().startswith("{") else _azure
        try:
            arrivals = sorted(read(file))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Malformed(f"{path} is no trace in the Azure or the Mooncake form: {error}") from error
    if not arrivals:
        raise Malformed(f"{path} has no requests")
    begin = arrivals[0].at_s
    return [arrival._replace(at_s=arrival.at_s - begin) for arrival in arrivals]


def _azure(lines: Iterable[str]) -> list[Arrival]:
    """Columns TIMESTAMP, ContextTokens, GeneratedTokens; timestamps have seven digits of a second."""
    arrivals = []
    for number, line in enumerate(lines):
        if number == 0 or not line.strip():
            continue
        stamp, tokens, output = line.strip().split(",")
        whole, _, fraction = stamp.partition(".")
        at_s = datetime.fromisoformat(whole + "+00:00").timestamp() + float("0." + (fraction or "0"))
        arrivals.append(Arrival(at_s, max(2, int(tokens)), max(1, int(output))))
    return arrivals


def _mooncake(lines: Iterable[str]) -> list[Arrival]:
    rows = [json.loads(line) for line in lines if line.strip()]
    return [
        Arrival(row["timestamp"] / 1_000, max(2, int(row["input_length"])), max(1, int(row["output_length"])))
        for row in rows
    ]


def repeated(trace: Sequence[Arrival], count: int) -> list[Arrival]:
    """The first ``count`` arrivals of the trace, begun again at its end as often as needed."""
    span_s = trace[-1].at_s + trace[-1].at_s / max(1, len(trace) - 1)
    rounds = -(-count // len(trace))
    return [row._replace(at_s=row.at_s + i * span_s) for i in range(rounds) for row in trace][:count]


def poisson(count: int, lengths: Lengths, chance: Random) -> list[Arrival]:
    """``count`` arrivals at one per second on average."""
    now, arrivals = 0.0, []
    for _ in range(count):
        now += chance.expovariate(1.0)
        arrivals.append(Arrival(now, *lengths.draw(chance)))
    return arrivals

"""What engines say of themselves at ``/metrics``, in the Prometheus text format (version 0.0.4), or at ``/slots``."""

import math
import re
from typing import Final, NamedTuple

import msgspec

from wwwmarket.domain.errors import Unavailable
from wwwmarket.ports.engine import EngineState

COUNT_MAX: Final = 2**31


class MetricNames(NamedTuple):
    """One kind of engine's gauges. Several KV names are one gauge under older and newer names."""

    running: str
    waiting: str
    kv_usage: tuple[str, ...]


METRICS: Final[dict[str, MetricNames]] = {
    "vllm": MetricNames(
        running="vllm:num_requests_running",
        waiting="vllm:num_requests_waiting",
        kv_usage=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    ),
    "sglang": MetricNames(
        running="sglang:num_running_reqs", waiting="sglang:num_queue_reqs", kv_usage=("sglang:token_usage",)
    ),
    "llamacpp": MetricNames(
        running="llamacpp:requests_processing",
        waiting="llamacpp:requests_deferred",
        kv_usage=("llamacpp:kv_cache_usage_ratio",),
    ),
}

_NAMES: Final = {name for kind in METRICS.values() for name in (kind.running, kind.waiting, *kind.kv_usage)}
_SAMPLE: Final = re.compile(
    rb"^(" + b"|".join(re.escape(name).encode() for name in sorted(_NAMES)) + rb")(?:\{[^\n]*\})?[ \t]+(\S+)",
    re.MULTILINE,
)


_VLLM_CACHE: Final = re.compile(rb"^vllm:cache_config_info\{([^\n]*)\}", re.MULTILINE)
_LABEL: Final = re.compile(rb'(\w+)="(\d{1,12})"')


class _Slot(msgspec.Struct):
    """One of ``GET /slots`` of llama.cpp."""

    is_processing: bool


def kind_of(text: bytes) -> str | None:
    """Which engine wrote this, by the prefix of its gauges; None for none that is known."""
    found = _SAMPLE.search(text)
    return None if found is None else found[1].decode().split(":", 1)[0]


def read_state(text: bytes) -> EngineState:
    """The state in an engine's metrics. Series of several models or ranks add up; of KV usages the highest counts.

    Raises:
        Unavailable: the gauges are missing or make no sense: nothing is known, which is not idleness.
    """
    kind = kind_of(text)
    if kind is None:
        raise Unavailable("the engine's metrics are of no known kind", retry_after_ms=60_000)
    samples: dict[str, list[float]] = {}
    for name, value in _SAMPLE.findall(text):
        samples.setdefault(name.decode(), []).append(_number(value))
    names = METRICS[kind]
    usages = [ratio for name in names.kv_usage for ratio in samples.get(name, ())]
    return EngineState(
        running=_count(samples, names.running),
        waiting=_count(samples, names.waiting),
        kv_usage_ppm=round(min(1.0, max(0.0, *usages, 0.0)) * 1_000_000) if usages else None,
    )


def read_slots(text: bytes, *, in_flight: int) -> EngineState:
    """The state in a llama.cpp's slots. It does not say who waits for one: of this provider's own requests, the rest.

    Raises:
        Unavailable: it makes no sense.
    """
    try:
        slots = msgspec.json.decode(text, type=list[_Slot])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Unavailable("the engine's slots make no sense", retry_after_ms=1_000) from None
    running = sum(slot.is_processing for slot in slots)
    return EngineState(running=running, waiting=max(0, in_flight - running))


def read_kv_tokens(text: bytes) -> int | None:
    """How many tokens vLLM's KV caches hold, all ranks together; None where its metrics do not say."""
    total = 0
    for labels in _VLLM_CACHE.findall(text):
        sizes = {name: int(value) for name, value in _LABEL.findall(labels)}
        paged = sizes.get(b"num_gpu_blocks", 0) * sizes.get(b"block_size", 0)
        total += sizes.get(b"kv_cache_size_tokens", paged)
    return total if 0 < total <= COUNT_MAX else None


def _number(text: bytes) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Unavailable("the engine's metrics hold no number where one belongs", retry_after_ms=1_000)
    return value


def _count(samples: dict[str, list[float]], name: str) -> int:
    if name not in samples:
        raise Unavailable(f"the engine's metrics lack {name}", retry_after_ms=1_000)
    total = sum(samples[name])
    if not 0 <= total <= COUNT_MAX:
        raise Unavailable(f"{name} is out of range", retry_after_ms=1_000)
    return round(total)

"""What an engine says that it is: ``/v1/models`` of each kind, and what only its operator knows."""

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from wwwmarket.domain.errors import Unavailable
from wwwmarket.domain.model import Label, ModelName, Precision
from wwwmarket.domain.quantity import Tokens
from wwwmarket.domain.shape import Value
from wwwmarket.ports.engine import EngineDescription, ServedModel

EMULATED: Final = "wwwmarket-emulated"
"""``owned_by`` of the emulated engine's models."""
_RETRY_MS: Final = 60_000
_KINDS: Final = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp", EMULATED: EMULATED}


_PRECISION_NAMES: Final[tuple[tuple[Precision, str], ...]] = (
    ("fp4", "(?:nv|mx)?fp4"),
    ("int4", "awq|gptq|int4|w4a16|i?q4(?:_[0-9a-z]+)*|4bit"),
    ("fp8", "fp8(?:_(?:dynamic|e4m3|e5m2))?"),
    ("int8", "int8|w8a8|q8(?:_[0-9a-z]+)*|8bit"),
    ("bf16", "bf16|bfloat16"),
    ("fp16", "fp16|f16|float16|half"),
    ("fp32", "fp32|f32|float32"),
)
"""How repositories, files and options say it; quantization before the data type that is computed with."""
_PRECISIONS: Final = tuple(
    (precision, re.compile(rf"(?<![a-z0-9])(?:{names})(?![a-z0-9])", re.IGNORECASE))
    for precision, names in _PRECISION_NAMES
)


class EngineFacts(Value):
    """What an operator states of its engine, because no interface tells it."""

    revision: Label = "unknown"
    precision: Precision = "unknown"
    gpu_class: Label = "unknown"
    context_tokens: Tokens | None = None
    """Overrides what the engine says; needed where it says nothing."""


_Positive = Annotated[int, Meta(ge=1, le=2**32)]


class _Meta(Struct):
    n_ctx: _Positive | None = None


class _Listed(Struct):
    id: str
    owned_by: str = ""
    root: str | None = None
    """Where vLLM found the weights: often a repository whose name says how they are quantized."""
    max_model_len: _Positive | None = None
    meta: _Meta | None = None


class Listing(Struct, frozen=True):
    """``GET /v1/models``."""

    data: Annotated[tuple[_Listed, ...], Meta(max_length=256)] = ()


class Version(Struct, frozen=True):
    """``GET /version``; ``gpu`` and ``sequences_max`` are the emulated engine's."""

    version: str = ""
    gpu: str = ""
    sequences_max: _Positive | None = None


class Props(Struct, frozen=True):
    """``GET /props`` of llama.cpp."""

    build_info: str = ""
    model_path: str = ""
    total_slots: _Positive | None = None


class ServerInfo(Struct, frozen=True):
    """``GET /get_server_info`` of SGLang."""

    version: str = ""
    dtype: str | None = None
    quantization: str | None = None
    max_running_requests: _Positive | None = None
    max_total_num_tokens: _Positive | None = None


class Told(Struct, frozen=True):
    """All that an engine said of itself; what it has no path for is left as it is here."""

    listing: Listing
    version: Version = Version()
    props: Props = Props()
    server: ServerInfo = ServerInfo()
    kv_tokens_max: int | None = None


def describe(told: Told, facts: EngineFacts, *, blind: bool) -> EngineDescription:
    """Put together what was said, and what the operator states.

    Raises:
        Unavailable: no model, a model without a usable name, or without a context length.
    """
    listing, version, props, server = told.listing, told.version, told.props, told.server
    if not listing.data:
        raise Unavailable("the engine serves no model", retry_after_ms=_RETRY_MS)
    engine = _KINDS.get(listing.data[0].owned_by, "openai-compatible")
    return EngineDescription(
        engine=f"{engine} blind" if blind else engine,
        version=_label(version.version or server.version or props.build_info),
        gpu_class=_label(version.gpu) if engine == EMULATED else facts.gpu_class,
        models=tuple(_served(listed, told, facts) for listed in listing.data),
        emulated=engine == EMULATED,
        sequences_max=props.total_slots or server.max_running_requests or version.sequences_max,
        kv_tokens_max=told.kv_tokens_max or server.max_total_num_tokens,
    )


def _served(listed: _Listed, told: Told, facts: EngineFacts) -> ServedModel:
    context = facts.context_tokens or listed.max_model_len or (listed.meta.n_ctx if listed.meta else None)
    if context is None:
        raise Unavailable(f"the engine tells no context length of {listed.id}: state it", retry_after_ms=_RETRY_MS)
    try:
        name = msgspec.convert(listed.id, ModelName)
    except msgspec.ValidationError:
        raise Unavailable(
            f"{listed.id[:128]!r} cannot be a model's name on the market: serve it under another",
            retry_after_ms=_RETRY_MS,
        ) from None
    precision = facts.precision
    if precision == "unknown":
        dtype = (told.server.quantization, told.server.dtype)
        precision = precision_in(*filter(None, (*dtype, listed.root, told.props.model_path, listed.id)))
    return ServedModel(name=name, revision=facts.revision, precision=precision, context_tokens=context)


def precision_in(*texts: str) -> Precision:
    """The precision that the first telling one of these names: a data type, a repository, a file."""
    for text in texts:
        for precision, pattern in _PRECISIONS:
            if pattern.search(text):
                return precision
    return "unknown"


def _label(text: str) -> Label:
    try:
        return msgspec.convert(text[:64], Label)
    except msgspec.ValidationError:
        return "unknown"

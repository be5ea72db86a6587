"""What an engine says that it is: ``/v1/models`` of each kind, and what only its operator knows."""

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
    max_model_len: _Positive | None = None
    meta: _Meta | None = None


class Listing(Struct):
    """``GET /v1/models``."""

    data: Annotated[tuple[_Listed, ...], Meta(max_length=256)] = ()


class Version(Struct):
    """``GET /version``; ``gpu`` is the emulated engine's."""

    version: str = ""
    gpu: str = ""


class Props(Struct):
    """``GET /props`` of llama.cpp."""

    build_info: str = ""


def describe(listing: Listing, version: Version, props: Props, facts: EngineFacts, *, blind: bool) -> EngineDescription:
    """Put together what was said, and what the operator states.

    Raises:
        Unavailable: no model, a model without a usable name, or without a context length.
    """
    if not listing.data:
        raise Unavailable("the engine serves no model", retry_after_ms=_RETRY_MS)
    engine = _KINDS.get(listing.data[0].owned_by, "openai-compatible")
    return EngineDescription(
        engine=f"{engine} blind" if blind else engine,
        version=_label(version.version or props.build_info),
        gpu_class=_label(version.gpu) if engine == EMULATED else facts.gpu_class,
        models=tuple(_served(listed, facts) for listed in listing.data),
        emulated=engine == EMULATED,
    )


def _served(listed: _Listed, facts: EngineFacts) -> ServedModel:
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
    return ServedModel(name=name, revision=facts.revision, precision=facts.precision, context_tokens=context)


def _label(text: str) -> Label:
    try:
        return msgspec.convert(text[:64], Label)
    except msgspec.ValidationError:
        return "unknown"

"""What a bid needs to know of a request: its model, its bounds, and whether it is streamed."""

from typing import Final

import msgspec

from wwwmarket.domain.errors import Malformed
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.shape import Value
from wwwmarket.market.bid import TokenBounds, estimate
from wwwmarket.market.recount import Prompt, byte_split, read_prompt
from wwwmarket.ports.engine import PATHS

OUTPUT_TOKENS_DEFAULT: Final = 512
"""What each choice is bounded by, where the request says nothing."""
TOKEN_ID_BYTES: Final = 4


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Fields(msgspec.Struct):
    model: ModelName
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None


_FIELDS: Final = msgspec.json.Decoder(_Fields)


class Wanted(Value):
    """``request`` is bought byte for byte."""

    path: str
    request: bytes
    model: ModelName
    stream: bool
    include_usage: bool
    prompt: Prompt
    bounds: TokenBounds


def read_wanted(path: str, request: bytes) -> Wanted:
    """Raises Malformed."""
    if path not in PATHS:
        raise Malformed(f"{path} is not sold here; {', '.join(PATHS)} are", param="path")
    try:
        fields = _FIELDS.decode(request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the request: {error}", param="request") from None
    prompt = read_prompt(request)
    # what is no text may become as many tokens as the request has bytes, and no more is known of it
    size = sum(map(byte_split, prompt.texts)) + TOKEN_ID_BYTES * prompt.token_ids
    parts = max(1, prompt.parts)
    choices = max(fields.n or 1, fields.best_of or 1) * (parts if path == "/v1/completions" else 1)
    most = (fields.max_completion_tokens or fields.max_tokens or OUTPUT_TOKENS_DEFAULT) * choices
    most = 0 if path == "/v1/embeddings" else most
    if most < 0:
        raise Malformed("max_tokens is a positive number", param="max_tokens")
    bounds = estimate(
        prompt_bytes=len(request) if prompt.opaque else size,
        messages=parts,
        expected_output_tokens=most,
        max_output_tokens=most,
    )
    return Wanted(
        path=path,
        request=request,
        model=fields.model,
        stream=bool(fields.stream) and path != "/v1/embeddings",
        include_usage=bool(fields.stream_options and fields.stream_options.include_usage),
        prompt=prompt,
        bounds=bounds,
    )

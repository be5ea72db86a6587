"""How much: integers only, each with its unit last in its name.

2^53 - 1 is the largest integer that every JSON reader holds exactly (RFC 8785, section 3.2.2.3; RFC 7493).
"""

from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from wwwmarket.domain.shape import Value

INTEGER_MAX: Final = 2**53 - 1

MicroCredits: TypeAlias = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
"""A millionth of a credit; the only form in which money exists here."""

Tokens: TypeAlias = Annotated[int, Meta(ge=0, le=2**32)]
Millis: TypeAlias = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
"""A duration, or an instant since 1970-01-01 UTC, in milliseconds; the field's name says which."""
PartsPerMillion: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]

TOKENS_PER_PRICE_UNIT: Final = 1_000_000
"""Prices are micro-credits per this many tokens."""

_Price: TypeAlias = Annotated[int, Meta(ge=0, le=10**12)]
"""At most a million credits per million tokens: with 2^32 tokens a cost stays far inside 64 bits."""


class Prices(Value):
    """Micro-credits per 1,000,000 tokens of each class."""

    input_micro_per_mtok: _Price
    cached_input_micro_per_mtok: _Price
    output_micro_per_mtok: _Price


class Usage(Value):
    """Counted tokens. ``cached_input_tokens`` are part of ``input_tokens``, as in OpenAI's usage object."""

    input_tokens: Tokens
    cached_input_tokens: Tokens
    output_tokens: Tokens


NO_USAGE: Final = Usage(input_tokens=0, cached_input_tokens=0, output_tokens=0)


class Slo(Value):
    """A latency objective: time to first token, and time per output token after it, in milliseconds."""

    ttft_ms: Millis
    tpot_ms: Millis

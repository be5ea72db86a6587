"""What a bid estimates and bounds, from what the door could read of a request.

Every byte-level tokenizer makes at most one token of a byte, so bytes bound tokens whatever the model; the estimates
are only for scores and predictions, and are improved by whoever knows the model.
"""

from typing import Final

from wwwmarket.domain.quantity import Tokens
from wwwmarket.domain.shape import Value

BYTES_PER_TOKEN: Final = 4
"""English prose and code, over common tokenizers."""
TEMPLATE_TOKENS_PER_MESSAGE_MAX: Final = 32
"""Role markers and separators of a chat template, for each message and once more for the answer's opening."""
TEMPLATE_TOKENS_PER_MESSAGE: Final = 6
TOKENS_MAX: Final = 2**32


class TokenBounds(Value):
    """Estimates and bounds, in the terms of ``domain.records.Bid``."""

    input_tokens: Tokens
    max_input_tokens: Tokens
    expected_output_tokens: Tokens
    max_output_tokens: Tokens


def estimate(*, prompt_bytes: int, messages: int, expected_output_tokens: int, max_output_tokens: int) -> TokenBounds:
    """Tokens of a prompt of ``prompt_bytes`` in ``messages`` parts, answered with at most ``max_output_tokens``."""
    most = min(max_output_tokens, TOKENS_MAX)
    bound = prompt_bytes + TEMPLATE_TOKENS_PER_MESSAGE_MAX * (messages + 1)
    likely = -(-prompt_bytes // BYTES_PER_TOKEN) + TEMPLATE_TOKENS_PER_MESSAGE * (messages + 1)
    return TokenBounds(
        input_tokens=min(likely, bound, TOKENS_MAX),
        max_input_tokens=min(bound, TOKENS_MAX),
        expected_output_tokens=min(expected_output_tokens, most),
        max_output_tokens=most,
    )

"""Where a text is split into a model's tokens: by the own engine, else by one of those who offer the model.

It costs nothing, and is bounded in bytes and in number instead. Whoever is asked reads the text.
"""

from collections.abc import Sequence
from typing import Final

from wwwmarket.crypto import canonical
from wwwmarket.domain.errors import Exhausted, Refusal, TooLarge, Unavailable
from wwwmarket.domain.model import ModelName
from wwwmarket.market.auction import Candidate
from wwwmarket.node import messages
from wwwmarket.ports.transport import Transport

FREE_PER_S: Final = 100
"""What an engine tokenizes for nothing: some percent of a core."""
ASKED_MAX: Final = 3
"""Providers that are tried, one after the other."""
TIMEOUT_MS: Final = 3_000


class Free:
    """Counts what is given for nothing, by the second."""

    def __init__(self) -> None:
        self._begun_ms = 0.0
        self._count = 0

    def take(self, at_ms: float) -> None:
        """Raises Exhausted: ``FREE_PER_S`` have been given in this second."""
        if at_ms - self._begun_ms >= 1_000:
            self._begun_ms, self._count = at_ms, 0
        if self._count >= FREE_PER_S:
            raise Exhausted(f"at most {FREE_PER_S} texts a second are tokenized for nothing", retry_after_ms=1_000)
        self._count += 1


def request_of(model: ModelName, text: str) -> messages.Tokenize:
    """Raises TooLarge: more text than fits into a message."""
    if len(text.encode()) > messages.TEXT_BYTES_MAX:
        raise TooLarge(f"at most {messages.TEXT_BYTES_MAX} bytes of text are tokenized at once", param="prompt")
    return messages.Tokenize(model=model, text=text)


async def ask_around(
    transport: Transport, candidates: Sequence[Candidate], request: messages.Tokenize
) -> tuple[int, ...]:
    """The token ids from the first of ``candidates`` that gives them.

    Raises:
        Exhausted, Unavailable: as the last of those who were asked refused.
    """
    refused: Refusal = Unavailable("nobody who offers this model could tokenize", retry_after_ms=1_000)
    for candidate in candidates[:ASKED_MAX]:
        try:
            reply = await transport.request(
                candidate.listed.offer.address, canonical.encode(request), timeout_ms=TIMEOUT_MS
            )
            answer = messages.read_answer(reply)
        except Refusal as refusal:
            refused = refusal
            continue
        if isinstance(answer, messages.Tokenized):
            return answer.tokens
        if isinstance(answer, messages.Refused) and answer.code == Exhausted.code:
            refused = messages.as_refusal(answer)
    raise refused if isinstance(refused, Exhausted) else Unavailable(refused.message, retry_after_ms=1_000)

"""One delivery's own count: the text of its answer as it arrives, split once it is whole.

Whose split, the best first: a tokenizer that this node's operator pinned; this node's own engine, where it sells the
model itself; else nobody's, and bytes bound tokens. The seller's own ``/tokenize`` would be the seller's word, and that
of another provider would show the answer to a third party who may wish the seller ill: neither is asked.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.records import Attestation
from wwwmarket.market import recount
from wwwmarket.market.recount import Counts, Recount
from wwwmarket.node.selling import Selling
from wwwmarket.ports.tokenizer import Tokenizers

INLINE_CHARACTERS_MAX: Final = 8_192
"""What is split at once, in about a millisecond; more of it goes to a thread."""
OWN_ENGINE_TIMEOUT_S: Final = 2.0
"""An engine that is busy must not delay an answer's end; then bytes count."""

_Split = Callable[[str], int]


class Recounting:
    """Of one request. ``node`` is this one: what its own engine served is not recounted."""

    def __init__(
        self, node: NodeId, model: ModelName, request: bytes, tokenizers: Tokenizers, selling: Selling | None
    ) -> None:
        self._node = node
        self._model = model
        self._request = request
        self._tokenizer = tokenizers.get(model)
        self._selling = selling if selling is not None and model in selling.models() else None
        self._answer: recount.Answer | None = None

    def begin(self, content_type: str) -> None:
        """An answer begins, whatever came before."""
        self._answer = recount.Answer(stream=content_type.startswith("text/event-stream"))

    def feed(self, piece: bytes) -> None:
        if self._answer is not None:
            self._answer.feed(piece)

    async def against(self, said: Attestation, winner: NodeId) -> Recount | None:
        """What this node can stand by of the provider's word; None where there is nothing to count."""
        answer = self._answer
        if answer is None or winner == self._node or said.outcome == "failed":
            return None
        counts = await self._count(answer)
        return counts.against(said.usage, cancelled=said.outcome == "cancelled")

    async def _count(self, answer: recount.Answer) -> Counts:
        prompt = recount.read_prompt(self._request)
        if self._tokenizer is not None:
            by_file = self._tokenizer.count
            if len(self._request) + sum(map(len, answer.texts)) <= INLINE_CHARACTERS_MAX:
                return recount.count(prompt, answer, by_file, "tokenizer")
            return await asyncio.to_thread(recount.count, prompt, answer, by_file, "tokenizer")
        if self._selling is not None:
            engine = self._selling.desk.engine
            try:
                async with asyncio.timeout(OWN_ENGINE_TIMEOUT_S):
                    texts = {*answer.texts, *prompt.texts}
                    split = await _split_by(lambda text: engine.tokenize(self._model, text), texts)
            except (Refusal, TimeoutError):
                pass
            else:
                return recount.count(prompt, answer, split, "own_engine")
        return recount.count(prompt, answer, recount.byte_split, "bytes")


async def _split_by(tokenize: Callable[[str], Awaitable[tuple[int, ...] | None]], texts: set[str]) -> _Split:
    """Raises whatever ``tokenize`` does, and TimeoutError where it cannot say."""
    counts: dict[str, int] = {}
    for text in texts:
        tokens = await tokenize(text)
        if tokens is None:
            raise TimeoutError("the engine cannot tokenize")
        counts[text] = len(tokens)
    return counts.__getitem__

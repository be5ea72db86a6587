"""Which of a provider's own engines answers a request: filter, score, pick.

Filtered out is what does not serve the model, is unknown, or could never fit the request. The score is the predicted
finish in milliseconds, on each engine as it is now, with the part of the prompt left out that it has seen before.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated, Final

from msgspec import Meta

from wwwmarket.dispatch.prediction import LatencyModel, Load
from wwwmarket.domain.errors import TooLarge
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.quantity import Millis, Tokens
from wwwmarket.domain.shape import Value

BLOCK_BYTES: Final = 256
"""Prompts are compared in blocks of this size: some 64 tokens, near the blocks of engines' own caches."""
BLOCKS_PER_PROMPT_MAX: Final = 512
BLOCKS_REMEMBERED_MAX: Final = 65_536
BYTES_PER_TOKEN: Final = 4
"""The usual length of English text."""


class Wanted(Value):
    """A request as far as choosing needs it. ``output_tokens`` is its bound."""

    model: ModelName
    input_tokens: Tokens
    output_tokens: Tokens


class Candidate(Value):
    """One engine as it is now. ``load`` None: it could not be polled. ``known_tokens`` of the prompt it has seen."""

    key: Annotated[int, Meta(ge=0)]
    models: frozenset[ModelName]
    context_tokens: Tokens
    latency: LatencyModel
    load: Load | None
    known_tokens: Tokens = 0


def eligible(candidates: Sequence[Candidate], wanted: Wanted) -> list[Candidate]:
    """Those that could answer at all."""
    return [
        one
        for one in candidates
        if one.load is not None
        and wanted.model in one.models
        and wanted.input_tokens + wanted.output_tokens <= one.context_tokens
    ]


def score(candidate: Candidate, wanted: Wanted) -> Millis | None:
    """Predicted milliseconds until the request has ended; None where it could never fit."""
    assert candidate.load is not None, "an unknown engine is not scored"
    fresh = max(1, wanted.input_tokens - candidate.known_tokens)
    try:
        seen = candidate.latency.predict(candidate.load, input_tokens=fresh, output_tokens=max(1, wanted.output_tokens))
    except TooLarge:
        return None
    return seen.finish_ms


def pick(candidates: Sequence[Candidate], wanted: Wanted) -> list[Candidate]:
    """The eligible engines, the best first; equals by how little they have to do, then by key."""
    scored = [(score(one, wanted), one) for one in eligible(candidates, wanted)]
    ranked = sorted((ms, _sequences(one), one.key) for ms, one in scored if ms is not None)
    by_key = {one.key: one for _, one in scored}
    return [by_key[key] for _, _, key in ranked]


def _sequences(candidate: Candidate) -> int:
    return 0 if candidate.load is None else candidate.load.running + candidate.load.waiting


def blocks_of(prompt: bytes) -> tuple[bytes, ...]:
    """Digests of the prompt's whole blocks, each over all bytes before it: equal digests are equal beginnings."""
    running, found = blake2b(digest_size=8), []
    for end in range(BLOCK_BYTES, min(len(prompt), BLOCK_BYTES * BLOCKS_PER_PROMPT_MAX) + 1, BLOCK_BYTES):
        running.update(prompt[end - BLOCK_BYTES : end])
        found.append(running.digest())
    return tuple(found)


class Prefixes:
    """Beginnings of prompts that one engine has computed, the latest ones."""

    def __init__(self, blocks_max: int = BLOCKS_REMEMBERED_MAX) -> None:
        self._blocks: OrderedDict[bytes, None] = OrderedDict()
        self._blocks_max = blocks_max

    def __len__(self) -> int:
        return len(self._blocks)

    def known_tokens(self, blocks: Sequence[bytes]) -> Tokens:
        """About how many tokens of a prompt the engine has seen before."""
        known = 0
        for block in blocks:
            if block not in self._blocks:
                break
            known += 1
        return known * BLOCK_BYTES // BYTES_PER_TOKEN

    def remember(self, blocks: Sequence[bytes]) -> None:
        """The engine computes them now. The end of a prompt is forgotten before its beginning."""
        for block in reversed(blocks):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._blocks_max:
            self._blocks.popitem(last=False)

"""Several engines of one kind behind one port, as if they were one: ``dispatch.selection`` says which answers.

They must be alike, because an attestation names one engine: what differs in more than its address joins the market as
a provider of its own.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from msgspec.structs import replace

from wwwmarket.adapters.engines.openai_request import prompt_of
from wwwmarket.dispatch.prediction import LatencyModel, Load
from wwwmarket.dispatch.selection import BYTES_PER_TOKEN, Candidate, Prefixes, Wanted, blocks_of, pick
from wwwmarket.domain.errors import Conflict, Refusal, Unavailable
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.quantity import Tokens
from wwwmarket.ports.engine import Engine, EngineDescription, EngineEvent, EngineState, Path, ServedModel

ENGINES_MAX: Final = 64
_RETRY_MS: Final = 1_000


class _Member:
    """One engine, what it was last seen doing, and what was sent to it since."""

    def __init__(self, engine: Engine, latency: LatencyModel) -> None:
        self.engine = engine
        self.latency = latency
        self.prefixes = Prefixes()
        self.models: frozenset[ModelName] = frozenset()
        self.context_tokens: Tokens = 0
        self.state: EngineState | None = None
        self.since = 0
        """Requests begun less those ended since the state was read."""

    async def poll(self) -> EngineState | None:
        try:
            self.state = await self.engine.state()
        except Refusal:
            self.state = None
        self.since = 0
        return self.state

    def load(self) -> Load | None:
        if self.state is None:
            return None
        state, waiting = self.state, max(0, self.since)
        running = max(0, state.running + min(0, self.since))
        return Load(running=running, waiting=state.waiting + waiting, kv_usage_ppm=state.kv_usage_ppm)


class EnginePool:
    """Implements ``ports.engine.Engine`` over engines that are alike. ``latencies`` has a model for each."""

    def __init__(self, engines: Sequence[Engine], latencies: Sequence[LatencyModel]) -> None:
        assert 1 <= len(engines) == len(latencies) <= ENGINES_MAX, "a model for each of a few engines"
        self._members = [_Member(engine, latency) for engine, latency in zip(engines, latencies, strict=True)]

    async def describe(self) -> EngineDescription:
        """What all of them are. Their room adds up; the shortest context counts.

        Raises:
            Unavailable: one of them does not answer.
            Conflict: they are not alike.
        """
        descriptions = await asyncio.gather(*(member.engine.describe() for member in self._members))
        together = alike(descriptions)
        for member, description in zip(self._members, descriptions, strict=True):
            member.models = frozenset(model.name for model in description.models)
            member.context_tokens = max(model.context_tokens for model in description.models)
        return together

    async def state(self) -> EngineState:
        """The sum over those that are known.

        Raises:
            Unavailable: none is.
        """
        states = await asyncio.gather(*(member.poll() for member in self._members))
        known = [state for state in states if state is not None]
        if not known:
            raise Unavailable("no engine's state is known", retry_after_ms=_RETRY_MS)
        usages = [state.kv_usage_ppm for state in known if state.kv_usage_ppm is not None]
        return EngineState(
            running=sum(state.running for state in known),
            waiting=sum(state.waiting for state in known),
            kv_usage_ppm=sum(usages) // len(usages) if usages else None,
        )

    async def execute(
        self, path: Path, request: bytes, *, output_tokens_max: Tokens
    ) -> AsyncGenerator[EngineEvent, None]:
        """As the port says. One that is gone before its first word is unknown, and the next best takes its place."""
        model, prompt = prompt_of(request)
        blocks, gone = blocks_of(prompt), Unavailable("no engine's state is known", retry_after_ms=_RETRY_MS)
        wanted = Wanted(model=model, input_tokens=-(-len(prompt) // BYTES_PER_TOKEN), output_tokens=output_tokens_max)
        for member in self._ranked(wanted, blocks):
            begun = False
            member.prefixes.remember(blocks)
            member.since += 1
            try:
                async with aclosing(
                    member.engine.execute(path, request, output_tokens_max=output_tokens_max)  # type: ignore[type-var]
                ) as events:
                    async for event in events:
                        begun = True
                        yield event
            except Unavailable as unavailable:
                member.state = None
                if begun:
                    raise
                gone = unavailable
            else:
                return
            finally:
                member.since -= 1
        raise gone

    async def tokenize(self, model: ModelName, text: str) -> tuple[int, ...] | None:
        """They are alike: the first that is known says it for all."""
        for member in self._members:
            if member.state is not None:
                return await member.engine.tokenize(model, text)
        return None

    async def close(self) -> None:
        await asyncio.gather(*(member.engine.close() for member in self._members))

    def _ranked(self, wanted: Wanted, blocks: Sequence[bytes]) -> list[_Member]:
        candidates = [
            Candidate(
                key=key,
                models=member.models,
                context_tokens=member.context_tokens,
                latency=member.latency,
                load=member.load(),
                known_tokens=member.prefixes.known_tokens(blocks),
            )
            for key, member in enumerate(self._members)
        ]
        # what fits none of them is for the engine to refuse, in its own words
        ranked = pick(candidates, wanted) or [candidate for candidate in candidates if candidate.load is not None]
        return [self._members[candidate.key] for candidate in ranked]


def alike(descriptions: Sequence[EngineDescription]) -> EngineDescription:
    """One description for several engines.

    Raises:
        Conflict: they differ in more than room and context, or serve no model in common.
    """
    first = descriptions[0]
    for other in descriptions[1:]:
        for field in ("engine", "version", "gpu_class", "emulated"):
            here, there = getattr(first, field), getattr(other, field)
            if here != there:
                raise Conflict(
                    f"engines of one provider must be alike, and their {field} is {here} and {there}: join each kind "
                    "as a provider of its own",
                    param="engine",
                )
    models = tuple(model for name in first.models if (model := _common(name, descriptions)) is not None)
    if not models:
        raise Conflict("the engines serve no model in common at one precision and revision", param="engine")
    return replace(
        first,
        models=models,
        sequences_max=_sum([one.sequences_max for one in descriptions]),
        kv_tokens_max=_sum([one.kv_tokens_max for one in descriptions]),
    )


def _common(model: ServedModel, descriptions: Sequence[EngineDescription]) -> ServedModel | None:
    contexts = []
    for description in descriptions:
        same = [
            one.context_tokens
            for one in description.models
            if (one.name, one.revision, one.precision) == (model.name, model.revision, model.precision)
        ]
        if not same:
            return None
        contexts.append(same[0])
    return replace(model, context_tokens=min(contexts))


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None

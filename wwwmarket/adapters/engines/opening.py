"""The engine behind an offer, from its addresses: one, or several alike as one, measured if wanted."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeAlias

import msgspec

from wwwmarket.adapters.engines.embedded import MODEL_NAME, EmbeddedEngine
from wwwmarket.adapters.engines.engine_listing import EngineFacts
from wwwmarket.adapters.engines.openai_compatible import OpenAiEngine
from wwwmarket.adapters.engines.pool import EnginePool
from wwwmarket.dispatch.fitting import Fit, together
from wwwmarket.dispatch.prediction import LatencyModel
from wwwmarket.domain.errors import Malformed, NotFound
from wwwmarket.domain.model import Precision
from wwwmarket.domain.shape import Value
from wwwmarket.ports.engine import Engine, EngineDescription, ServedModel

EMBEDDED: Final = "embedded"

Measure: TypeAlias = Callable[[Engine, EngineDescription, ServedModel], Awaitable[Fit | None]]
"""Measures one engine, or remembers; None where nothing is known."""
Guess: TypeAlias = Callable[[EngineDescription, ServedModel, Fit | None], LatencyModel]
"""How fast one engine is taken to be, from what was measured or else from what it is."""


class EngineTerms(Value):
    """Where engines are, and what their operator states of them. An address is a base URL, or ``embedded``."""

    addresses: tuple[str, ...]
    model: str | None = None
    """Which of its models; None is the first."""
    sequences: int = 4
    precision: str | None = None
    api_key: str | None = None
    blind: bool = False
    priority: int | None = None
    seed: int = 0


class OpenEngine(msgspec.Struct, frozen=True):
    """An engine at hand, and the model of it that is sold. ``fit`` is what was measured."""

    engine: Engine
    description: EngineDescription
    served: ServedModel
    fit: Fit | None


@contextlib.asynccontextmanager
async def open_engines(terms: EngineTerms, guess: Guess, measure: Measure | None) -> AsyncIterator[OpenEngine]:
    """Engines that answer, whose state can be read, and that serve the model.

    Raises:
        Unavailable: one does not answer, or its state cannot be read.
        NotFound: one does not serve the model.
        Conflict: they are not alike.
        Malformed: no such precision.
    """
    async with contextlib.AsyncExitStack() as stack:
        engines, latencies, fits = [], [], []
        for address in terms.addresses:
            engine = await _engine_at(address, terms)
            stack.push_async_callback(engine.close)
            description = await engine.describe()
            served = _served(description, terms.model)
            await engine.state()
            fit = None if measure is None else await measure(engine, description, served)
            engines.append(engine)
            latencies.append(guess(description, served, fit))
            fits.append(fit)
        known = [fit for fit in fits if fit is not None]
        fitted = together(known) if known else None
        whole: Engine = engines[0] if len(engines) == 1 else EnginePool(engines, latencies)
        description = await whole.describe()
        await whole.state()
        yield OpenEngine(whole, description, _served(description, terms.model), fitted)


async def _engine_at(address: str, terms: EngineTerms) -> Engine:
    if address == EMBEDDED:
        return await EmbeddedEngine.start(seed=terms.seed, sequences=terms.sequences, name=terms.model or MODEL_NAME)
    try:
        facts = EngineFacts(precision=msgspec.convert(terms.precision or "unknown", Precision))
    except msgspec.ValidationError:
        raise Malformed(f"{terms.precision} is no precision that the market knows", param="precision") from None
    return OpenAiEngine(address, terms.api_key, facts=facts, blind=terms.blind, priority=terms.priority)


def _served(description: EngineDescription, wanted: str | None) -> ServedModel:
    for model in description.models:
        if wanted in {None, model.name}:
            return model
    served = ", ".join(model.name for model in description.models)
    raise NotFound(f"the engine does not serve {wanted}; it serves {served}", param="model")

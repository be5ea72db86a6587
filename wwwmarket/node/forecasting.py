"""What this provider knows of its engine (``dispatch.knowledge``), told by its clock, its polls and its own executions.

While the engine cannot be polled it is unknown, and an unknown engine is not offered.
"""

import logging
from typing import Final

from wwwmarket.dispatch.knowledge import Knowledge, Request
from wwwmarket.dispatch.prediction import LearningModel
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.quantity import Count, MicroCredits, Millis
from wwwmarket.market.offer import Forecast
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.engine import Engine

_log = logging.getLogger("wwwmarket.forecasting")

POLLS_MISSED_MAX: Final = 4
"""Polls that may fail in a row before the engine is unknown: one lost answer is not a dead engine."""


class Forecasting:
    """Implements ``market.offer.Forecaster``. ``others_*`` count sequences that came from elsewhere."""

    def __init__(self, engine: Engine, model: LearningModel, clock: Clock, *, poll_ms: int) -> None:
        self._engine = engine
        self._clock = clock
        self._poll_ms = poll_ms
        self._knowledge: Knowledge[EntryId] = Knowledge(model)
        self._known_until_ms = 0.0

    @property
    def known(self) -> bool:
        """Whether the engine's state is known now."""
        return self._clock.monotonic_ms() <= self._known_until_ms

    @property
    def others_running(self) -> Count:
        return self._knowledge.others_running

    @property
    def others_waiting(self) -> Count:
        return self._knowledge.others_waiting

    async def poll_forever(self) -> None:
        while True:
            await self.poll()
            await self._clock.sleep_until_ms(self._clock.monotonic_ms() + self._poll_ms)

    async def poll(self) -> None:
        known, in_hand = self.known, self._knowledge.in_hand
        try:
            state = await self._engine.state()
        except Refusal as refusal:
            if known and not self.known:
                _log.warning("the engine's state is unknown, no asks are made: %s", refusal.message)
            return
        self._knowledge.polled(
            running=state.running, waiting=state.waiting, kv_usage_ppm=state.kv_usage_ppm, in_hand=in_hand
        )
        self._known_until_ms = self._clock.monotonic_ms() + (POLLS_MISSED_MAX + 1) * self._poll_ms

    def forecast(self, *, input_tokens: int, output_tokens: int, held: int) -> Forecast | None:
        """Predict a request if it arrived now. None while the engine is unknown, or could never fit it."""
        if not self.known:
            return None
        seen = self._knowledge.forecast(input_tokens=input_tokens, output_tokens=output_tokens, held=held)
        if seen is None:
            return None
        return Forecast(ttft_ms=seen.ttft_ms, finish_ms=seen.finish_ms, burden_micro=seen.burden_micro)

    def next_end_ms(self) -> Millis | None:
        return self._knowledge.next_end_ms()

    def started(
        self,
        award: EntryId,
        *,
        input_tokens: int,
        output_tokens: int,
        output_tokens_max: int,
        time_value_micro_per_s: MicroCredits = 0,
    ) -> None:
        """As ``dispatch.knowledge.Request``."""
        request = Request(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            output_tokens_max=output_tokens_max,
            time_value_micro_per_s=time_value_micro_per_s,
        )
        self._knowledge.started(award, request, self._clock.monotonic_ms())

    def said(self, award: EntryId) -> None:
        """A piece with tokens has come; a token a piece, as engines stream."""
        self._knowledge.said(award, 1, self._clock.monotonic_ms())

    def ended(self, award: EntryId, output_tokens: int | None) -> None:
        """The execution is over; ``output_tokens`` where it ran to its end, so that it can be learnt from."""
        self._knowledge.ended(award, output_tokens, self._clock.monotonic_ms())

"""One execution at its provider: its stream, its channel, its engine, its machine.

Performs the effects of ``market.execution``: an award is durable before its first byte leaves, an attestation before it
is sent.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Final, Protocol

from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.sealing import Channel
from wwwmarket.crypto.signing import Verified
from wwwmarket.domain.errors import (
    Malformed,
    Refusal,
    TooLarge,
    Unavailable,
)
from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.records import Award, Inclusion
from wwwmarket.market import execution, offer
from wwwmarket.market.advance import Advances
from wwwmarket.node import messages, spans
from wwwmarket.node.desk import Desk
from wwwmarket.ports.engine import PATHS, EngineRefused, ResponseFinished, ResponsePiece, ResponseStarted
from wwwmarket.ports.tracing import Span
from wwwmarket.ports.transport import Stream

_log = logging.getLogger("wwwmarket.serving")

START, TOKENS, PIECE, ATTESTED = b"s", b"t", b"p", b"a"
"""First byte of each unsealed frame from provider to gateway."""

_EVENTS_MAX: Final = 256
_ENGINE_BODY_BYTES_MAX: Final = 32_768
"""Of an engine's refusal: escaped in JSON it still fits into a message."""
_RECEIPT_WAIT_MS: Final = 5_000


class Books(Protocol):
    """Where an execution's beginning and end are written down."""

    @property
    def desk(self) -> Desk: ...
    @property
    def advances(self) -> Advances: ...
    async def keep(self, award_id: EntryId, award: Award) -> None: ...
    async def claim(self, award_id: EntryId, award: Award, attest: execution.Attest) -> None: ...
    async def receipt(self, given: messages.ReceiptGiven, award_id: EntryId, award: Award) -> None: ...


class Serving:
    """One execution: its stream, its channel, its machine."""

    def __init__(  # noqa: PLR0913, PLR0917 - what one execution is about
        self,
        books: Books,
        stream: Stream,
        channel: Channel,
        opening: messages.Execute | messages.ExecuteUnderTab,
        award_id: EntryId,
        award: Award,
    ) -> None:
        self._books = books
        self._desk = desk = books.desk
        self._stream = stream
        self._channel = channel
        self._sealed = opening.sealed
        self._promise = opening.promise if isinstance(opening, messages.Execute) else None
        self._under_tab = isinstance(opening, messages.ExecuteUnderTab)
        self._id = award_id
        self._award = award
        self._events: asyncio.Queue[execution.Event] = asyncio.Queue(_EVENTS_MAX)
        self._engine_task: asyncio.Task[None] | None = None
        self._receipt_seen = asyncio.Event()
        self._piece_due_ms = 0.0
        self._first: execution.Ordered | None = None
        self._span: Span | None = None
        self._has_token = False
        self.promised = (
            self._under_tab
            or desk.open_award(award_id) is not None
            or (self._promise is not None and self._is_promised(signing.verify(self._promise)))
        )
        """Whether the ledger's word was here before the work began."""
        self._machine = execution.Executor(
            desk.key,
            award_id,
            award,
            desk.fingerprint,
            desk.ledger,
            started_ms=desk.clock.now_ms(),
            promised=self._under_tab,
        )

    async def wait(self) -> None:
        """Read the order and wait for the ledger's promise, while nothing is held for it.

        Raises:
            Malformed: it ended, or something else came.
            TimeoutError: no promise came in time.
        """
        async with asyncio.timeout(self._desk.config.execution.promise_timeout_ms / 1_000):
            self._first = await self._read_order(self._sealed)
            while not self.promised:
                frame = await self._stream.receive()
                said = None if frame is None else messages.read_gateway_frame(frame)
                if not isinstance(said, messages.Promise):
                    raise Malformed("this award has to wait for its promise, and something else came")
                self._promise = said.inclusion
                self.promised = self._is_promised(signing.verify(said.inclusion))

    def _is_promised(self, inclusion: Verified[Inclusion]) -> bool:
        return self._desk.ledger.promises(inclusion, self._id)

    async def run(self) -> None:
        try:
            await self._run()
        finally:
            if self._span is not None:
                self._span.end()

    async def _run(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            with self._slot():
                first = self._first
                if first is None:
                    async with asyncio.timeout(self._desk.config.execution.promise_timeout_ms / 1_000):
                        first = await self._read_order(self._sealed)
                await stack.enter_async_context(_background(self._listen()))
                await self._work(first)
            if self._under_tab:
                self._receipt_seen.set()  # it comes with the voucher, by another way
            with contextlib.suppress(TimeoutError, Unavailable):
                async with asyncio.timeout(_RECEIPT_WAIT_MS / 1_000):
                    await self._receipt_seen.wait()
                await self._stream.finish()

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        """One of the sequences on offer, from the award to the attestation."""
        bid = self._award.bid
        if not self.promised:
            self._books.advances.begun(self._id, bid.client, self._award.locked_micro)
        self._desk.seller.step(offer.ExecutionStarted(bid=self._award.winner.body.bid))
        self._desk.forecasting.started(
            self._id,
            input_tokens=bid.input_tokens,
            output_tokens=bid.expected_output_tokens,
            output_tokens_max=bid.max_output_tokens,
            time_value_micro_per_s=bid.time_value_micro_per_s,
        )
        try:
            yield
        finally:
            self._desk.forecasting.ended(self._id, None)
            self._desk.seller.step(offer.ExecutionEnded())
            on_ledger, now_ms = self._desk.open_award(self._id) is not None, self._desk.clock.now_ms()
            self._books.advances.ended(self._id, on_ledger=on_ledger, now_ms=now_ms)

    async def _work(self, first: execution.Ordered) -> None:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(_background(self._deadlines()))
            stack.push_async_callback(self._stop_engine)
            effects = self._machine.step(first)
            if self._promise is not None:
                promised = signing.verify(self._promise)
                effects += self._machine.step(execution.Promised(at_ms=first.at_ms, inclusion=promised))
            await self._perform_all(effects)
            while not self._machine.over:
                effects = self._machine.step(await self._events.get())
                if any(isinstance(effect, execution.SendPiece) for effect in effects):
                    await self._gather()
                while not self._events.empty():
                    effects += self._machine.step(self._events.get_nowait())
                await self._perform_all(execution.coalesced(effects))

    async def _gather(self) -> None:
        """Let pieces that come faster than anybody reads travel together; the first one never waits."""
        clock = self._desk.clock
        await clock.sleep_until_ms(self._piece_due_ms)
        self._piece_due_ms = clock.monotonic_ms() + self._desk.config.execution.piece_interval_ms

    async def _stop_engine(self) -> None:
        if self._engine_task is not None:
            self._engine_task.cancel()
            await asyncio.wait((self._engine_task,))

    async def _read_order(self, sealed: bytes) -> execution.Ordered:
        limit = self._desk.config.execution.request_bytes_max
        head, _, part = self._channel.open(sealed)[0].partition(b"\n")
        order = canonical.decode(head, messages.Order)
        if order.request_bytes > limit:
            raise TooLarge(f"a request of {order.request_bytes} bytes where at most {limit} are accepted")
        request = bytearray(part)
        while len(request) < order.request_bytes:
            piece = await self._unseal()
            if not piece:
                raise Malformed("an empty piece of a request")
            request += piece
        self._span = self._desk.tracer.begin("execution", "server", order.traceparent, {"wwwmarket.award.id": self._id})
        return execution.Ordered(
            at_ms=self._desk.clock.now_ms(), path=order.path, salt=bytes.fromhex(order.salt), request=bytes(request)
        )

    async def _unseal(self) -> bytes:
        frame = await self._stream.receive()
        if frame is None:
            raise Malformed("the order ended before its request")
        return self._channel.open(frame)[0]

    async def _listen(self) -> None:
        """What the gateway says while the engine works. Its silence after the end is its right."""
        try:
            while (frame := await self._stream.receive()) is not None:
                await self._heard(messages.read_gateway_frame(frame))
        except Refusal as refusal:
            _log.debug("execution %s: %s", self._id, refusal.message)
        await self._events.put(execution.CancelAsked(at_ms=self._desk.clock.now_ms()))

    async def _heard(self, frame: messages.GatewayFrame) -> None:
        now_ms = self._desk.clock.now_ms()
        match frame:
            case messages.Promise():
                inclusion = signing.verify(frame.inclusion)
                if self._is_promised(inclusion):
                    self._books.advances.promised(self._id)
                await self._events.put(execution.Promised(at_ms=now_ms, inclusion=inclusion))
            case messages.CancelExecution():
                await self._events.put(execution.CancelAsked(at_ms=now_ms))
            case messages.ReceiptGiven():
                await self._books.receipt(frame, self._id, self._award)
                self._receipt_seen.set()

    async def _deadlines(self) -> None:
        clock, config = self._desk.clock, self._desk.config.execution
        begun = clock.monotonic_ms()
        await clock.sleep_until_ms(begun + config.promise_timeout_ms)
        await self._events.put(execution.PromiseOverdue(at_ms=clock.now_ms()))
        left_ms = self._award.claim_after_ms - clock.now_ms()
        await clock.sleep_until_ms(clock.monotonic_ms() + left_ms)
        await self._events.put(execution.CancelAsked(at_ms=clock.now_ms()))

    async def _perform_all(self, effects: list[execution.Effect]) -> None:
        for effect in effects:
            await self._perform(effect)

    async def _perform(self, effect: execution.Effect) -> None:
        match effect:
            case execution.RunEngine():
                self._engine_task = asyncio.create_task(self._run_engine(effect))
            case execution.KeepAward():
                await self._books.keep(self._id, self._award)
            case execution.SendStart():
                await self._send(START, effect.content_type.encode())
            case execution.SendPiece():
                await self._send(TOKENS if effect.tokens else PIECE, effect.data)
            case execution.AbortEngine():
                if self._engine_task is not None:
                    self._engine_task.cancel()
            case execution.Attest():
                await self._books.claim(self._id, self._award, effect)
                await self._send(ATTESTED, canonical.encode(_given(effect)), last=True)

    async def _send(self, kind: bytes, data: bytes, *, last: bool = False) -> None:
        """The client may be gone: the machine hears of it from the listener, and its attestation stands.

        Who stops reading is gone as well: a slot is not held for it.
        """
        config = self._desk.config.execution
        try:
            for start in range(0, max(len(data), 1), config.piece_bytes_max):
                piece = data[start : start + config.piece_bytes_max]
                async with asyncio.timeout(config.silence_ms / 1_000):
                    await self._stream.send(self._channel.seal(kind + piece, last=last))
        except Unavailable as gone:
            _log.debug("execution %s: %s", self._id, gone.message)
        except TimeoutError:
            await self._stream.abort()

    async def _run_engine(self, effect: execution.RunEngine) -> None:
        now_ms, put = self._desk.clock.now_ms, self._events.put
        path = next((known for known in PATHS if known == effect.path), PATHS[0])
        answer = self._desk.engine.execute(path, effect.request, output_tokens_max=effect.output_tokens_max)
        finished, model = False, self._award.bid.model.name
        span = self._desk.tracer.begin(
            spans.name_of(path, model),
            "client",
            None if self._span is None else self._span.traceparent,
            spans.asked(path, model, effect.output_tokens_max),
        )
        ended_by: str | None = "cancelled"
        try:
            async with contextlib.aclosing(answer) as events:  # type: ignore[type-var]
                async for said in events:
                    match said:
                        case ResponseStarted():
                            await put(execution.EngineStarted(at_ms=now_ms(), content_type=said.content_type))
                        case ResponsePiece():
                            if said.tokens:
                                self._heard_token(span)
                            await put(execution.EngineSaid(at_ms=now_ms(), data=said.data, tokens=said.tokens))
                        case ResponseFinished():
                            finished, ended_by = True, None
                            span.tell({"gen_ai.usage.output_tokens": said.usage.output_tokens})
                            # now, and not with the attestation: that may wait for the ledger's promise
                            self._desk.forecasting.ended(self._id, said.usage.output_tokens)
                            await put(execution.EngineFinished(at_ms=now_ms(), usage=said.usage))
        except EngineRefused as refused:
            ended_by = refused.code
            await put(execution.EngineRefusedIt(at_ms=now_ms(), status=refused.status, body=refused.body))
        except Refusal as refusal:
            ended_by = refusal.code
            await put(execution.EngineBroke(at_ms=now_ms(), reason=refusal.message))
        else:
            if not finished:
                await put(execution.EngineBroke(at_ms=now_ms(), reason="the engine stopped before its end"))
        finally:
            span.end(ended_by)

    def _heard_token(self, span: Span) -> None:
        if not self._has_token:
            self._has_token = True
            span.mark(spans.FIRST_TOKEN)
        self._desk.forecasting.said(self._id)


@contextlib.asynccontextmanager
async def _background(doing: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Runs beside the body, and never longer."""
    task = asyncio.create_task(doing)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


def _given(effect: execution.Attest) -> messages.AttestationGiven:
    status, body = effect.engine or (None, b"")
    return messages.AttestationGiven(
        attestation=effect.attestation,
        reason=effect.reason[:512],
        engine_status=status,
        engine_body=body[:_ENGINE_BODY_BYTES_MAX].decode("utf-8", "replace"),
    )

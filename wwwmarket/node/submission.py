"""Hands this node's entries to the operator: each account's in order, several at once, again until each is answered."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeAlias

from wwwmarket.config import NodeConfig
from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.signing import Verified, VerifiedEntry
from wwwmarket.domain.errors import Exhausted, Malformed, Refusal, Unavailable
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.records import Inclusion, NodeAddress
from wwwmarket.ledger.note import VerifierKey
from wwwmarket.node import messages
from wwwmarket.node.author import Included
from wwwmarket.node.sequencer import Sequencer
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.transport import Transport

RETRY_FIRST_MS: Final = 100
RETRY_MAX_MS: Final = 2_000
_MESSAGE_BYTES_MAX: Final = 128 * 1024

Answer: TypeAlias = Verified[Inclusion] | Refusal


@dataclass(frozen=True)
class _Waiting:
    entry: VerifiedEntry
    future: Included


class RemoteSubmission:
    """While one message of an account is under way, what its author signs meanwhile waits, and goes with the next one.
    So a round trip carries as many entries as come in its time, and no entry overtakes the one that it follows.

    ``operators`` are the sequencers that are known: when one does not answer, or does not lead, the next is asked.
    """

    durable: Final = False

    def __init__(  # noqa: PLR0913, PLR0917 - how to reach whom, and what to make of the answer
        self,
        operators: Callable[[], Sequence[NodeAddress]],
        transport: Transport,
        clock: Clock,
        config: NodeConfig,
        log: Callable[[], VerifierKey],
        on_promise: Callable[[Verified[Inclusion]], None],
    ) -> None:
        """``log`` is the key by which promises are signed, ``on_promise`` is told of each."""
        self._log = log
        self._on_promise = on_promise
        self._operators = operators
        self._turn = 0
        self._transport = transport
        self._clock = clock
        self._config = config
        self._queues: dict[AccountId, deque[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, entry: VerifiedEntry) -> Included:
        future: Included = asyncio.get_running_loop().create_future()
        account = entry.entry.account
        queue = self._queues.get(account)
        if queue is None:
            queue = self._queues[account] = deque()
            task = asyncio.ensure_future(self._deliver(account, queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        queue.append(_Waiting(entry, future))
        return future

    async def close(self) -> None:
        """What is not answered stays in the outbox."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _deliver(self, account: AccountId, queue: deque[_Waiting]) -> None:
        """What waits, to its end."""
        try:
            while queue:
                for answer in await self._until_answered(_first(queue)):
                    _resolve(queue.popleft().future, answer)
        finally:
            del self._queues[account]
            for waiting in queue:
                waiting.future.cancel()

    async def _until_answered(self, entries: Sequence[VerifiedEntry]) -> Sequence[Answer]:
        """The operator's word on the first of them at least."""
        pause_ms = RETRY_FIRST_MS
        while True:
            try:
                return await self._once(entries)
            except Exhausted:  # and Unavailable: the operator has not answered
                self._turn += 1
                if self._turn % max(1, len(self._operators())):
                    continue
                await self._clock.sleep_until_ms(self._clock.monotonic_ms() + pause_ms)
                pause_ms = min(2 * pause_ms, RETRY_MAX_MS)
            except Refusal as refusal:
                return [refusal] * len(entries)

    async def _once(self, entries: Sequence[VerifiedEntry]) -> Sequence[Answer]:
        """Raises Exhausted, or its kind Unavailable, where another try may go otherwise."""
        operators = self._operators()
        if not operators:
            raise Unavailable("nobody is known to order this ledger now", retry_after_ms=RETRY_FIRST_MS)
        operator, timeout_ms = operators[self._turn % len(operators)], self._config.submit_timeout_ms
        message = canonical.encode(messages.Submit(leaves=tuple(entry.leaf.decode("ascii") for entry in entries)))
        said = messages.read_answer(await self._transport.request(operator, message, timeout_ms=timeout_ms))
        match said:
            case messages.Submitted() if len(said.answers) == len(entries):
                return settled(map(self._read, said.answers, entries))
            case messages.Refused():
                raise messages.as_refusal(said)
            case _:
                raise Malformed("the operator answered entries with something else")

    def _read(self, answer: messages.Promise | messages.Refused, entry: VerifiedEntry) -> Answer:
        if isinstance(answer, messages.Refused):
            return messages.as_refusal(answer)
        try:
            promise = signing.verify(answer.inclusion)
            self._check(promise, entry)
        except Refusal as refusal:
            return refusal
        self._on_promise(promise)
        return promise

    def _check(self, promise: Verified[Inclusion], entry: VerifiedEntry) -> None:
        """Raises Malformed: it is no promise of this log's for this entry."""
        log = self._log()
        if (promise.by, promise.body.origin, promise.body.entry) != (log.account, log.name, entry.id):
            raise Malformed("the operator answered an entry with a promise that is not its own, or of another entry")


async def answer_submit(sequencer: Sequencer, request: messages.Submit) -> messages.Submitted:
    """The operator's side: admit in order, and answer once all are durable or refused."""
    admitted = [_admit(sequencer, leaf) for leaf in request.leaves]
    answers = [await answer_of(one) if isinstance(one, asyncio.Future) else one for one in admitted]
    return messages.Submitted(
        answers=tuple(
            messages.refused(one) if isinstance(one, Refusal) else messages.Promise(inclusion=one.signed)
            for one in answers
        )
    )


def _admit(sequencer: Sequencer, leaf: str) -> "Included | Refusal":
    try:
        return sequencer.submit(signing.open_entry(leaf.encode()))
    except Refusal as refusal:
        return refusal


async def answer_of(included: Included) -> Answer:
    try:
        return await included
    except Refusal as refusal:
        return refusal


def settled(answers: Iterable[Answer]) -> Sequence[Answer]:
    """Those that are an end to it: what follows an entry that has to be sent again was refused for that alone.

    Raises Exhausted, or its kind, where the first has to be sent again.
    """
    found: list[Answer] = []
    for answer in answers:
        if isinstance(answer, Exhausted):
            if not found:
                raise answer
            break
        found.append(answer)
    return found


def _first(queue: deque[_Waiting]) -> Sequence[VerifiedEntry]:
    """As many as one message carries."""
    entries: list[VerifiedEntry] = []
    size = 0
    for waiting in islice(queue, messages.SUBMITTED_MAX):
        size += len(waiting.entry.leaf)
        if entries and size > _MESSAGE_BYTES_MAX:
            break
        entries.append(waiting.entry)
    return entries


def _resolve(future: Included, answer: Answer) -> None:
    if future.done():
        return
    if isinstance(answer, Refusal):
        future.set_exception(answer)
    else:
        future.set_result(answer)

"""An engine that plays what it is told to: answers, silences, refusals and deaths, in the clock's own time."""

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, TypeAlias

from wwwmarket.domain.errors import Unavailable
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.quantity import Usage
from wwwmarket.domain.shape import Value
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.engine import (
    EngineDescription,
    EngineEvent,
    EngineRefused,
    EngineState,
    Path,
    ResponseFinished,
    ResponsePiece,
    ResponseStarted,
    ServedModel,
)


class Begin(Value):
    """The head of the answer."""

    content_type: str = "text/event-stream"


class Say(Value):
    """One piece; where it carries text it counts as one token."""

    data: bytes
    tokens: bool = True


class Pause(Value):
    duration_ms: int


class Refuse(Value):
    status: int
    body: bytes


class Break(Value):
    """The engine is gone in the middle of its answer."""


class End(Value):
    """Finish with other counts than its own."""

    usage: Usage


Act: TypeAlias = Begin | Say | Pause | Refuse | Break | End
Play: TypeAlias = Sequence[Act]

HELLO: Final[Play] = (Begin(), Say(data=b"data: hello\n\n"), Say(data=b"data: world\n\n"), Say(data=b"data: !\n\n"))
_RETRY_MS: Final = 1_000


class PlayingEngine:
    """Implements ``ports.engine.Engine``. ``play`` gives the acts of each request's answer."""

    def __init__(
        self, clock: Clock, model: ServedModel, play: Callable[[bytes], Play] = lambda _request: HELLO
    ) -> None:
        self._clock = clock
        self._model = model
        self.play = play
        self.down = False
        """While set nothing answers: neither its state nor a new request."""
        self.requests: Final[list[bytes]] = []
        self.aborted = 0
        self._running = 0

    async def describe(self) -> EngineDescription:
        self._check()
        return EngineDescription(engine="playing", version="1", gpu_class="none", models=(self._model,), emulated=True)

    async def state(self) -> EngineState:
        self._check()
        return EngineState(running=self._running, waiting=0)

    async def execute(self, path: Path, request: bytes, *, output_tokens_max: int) -> AsyncGenerator[EngineEvent]:  # noqa: ARG002 - it plays the same on every path
        self._check()
        self.requests.append(request)
        self._running += 1
        try:
            async for event in self._perform(self.play(request), len(request), output_tokens_max):
                yield event
        except GeneratorExit:
            self.aborted += 1
            raise
        finally:
            self._running -= 1

    async def _perform(self, play: Play, input_tokens: int, output_tokens_max: int) -> AsyncGenerator[EngineEvent]:
        said = 0
        for act in play:
            match act:
                case Begin():
                    yield ResponseStarted(content_type=act.content_type)
                case Say():
                    if said + act.tokens > output_tokens_max:
                        break
                    said += act.tokens
                    yield ResponsePiece(data=act.data, tokens=act.tokens)
                case Pause():
                    await self._clock.sleep_until_ms(self._clock.monotonic_ms() + act.duration_ms)
                case Refuse():
                    raise EngineRefused(act.status, act.body)
                case Break():
                    raise Unavailable("the engine is gone", retry_after_ms=_RETRY_MS)
                case End():
                    yield ResponseFinished(usage=act.usage)
                    return
        yield ResponseFinished(usage=Usage(input_tokens=input_tokens, cached_input_tokens=0, output_tokens=said))

    async def tokenize(self, model: ModelName, text: str) -> tuple[int, ...] | None:  # noqa: ARG002 - one for every model
        """A token for each byte."""
        return tuple(text.encode())

    async def close(self) -> None:
        """Nothing to let go of."""

    def _check(self) -> None:
        if self.down:
            raise Unavailable("the engine does not answer", retry_after_ms=_RETRY_MS)

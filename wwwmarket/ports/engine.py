"""An inference engine: vLLM, SGLang, llama.cpp, or anything that speaks OpenAI's HTTP interface."""

from collections.abc import AsyncIterator
from typing import Annotated, Final, Literal, Protocol, TypeAlias, get_args

from msgspec import Meta

from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.model import Label, ModelName, Precision
from wwwmarket.domain.quantity import Tokens, Usage
from wwwmarket.domain.shape import Value

Path: TypeAlias = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
PATHS: Final[tuple[Path, ...]] = get_args(Path)


class ServedModel(Value):
    name: ModelName
    revision: Label
    precision: Precision
    context_tokens: Tokens


class EngineDescription(Value):
    """What an engine is, asked once at joining. ``emulated`` engines say so wherever they show.

    ``sequences_max`` are run at once, the KV cache holds ``kv_tokens_max``; None where the engine does not say.
    """

    engine: Label
    version: Label
    gpu_class: Label
    models: tuple[ServedModel, ...]
    emulated: bool = False
    sequences_max: Annotated[int, Meta(ge=1)] | None = None
    kv_tokens_max: Tokens | None = None


class EngineState(Value):
    """What an engine is doing. Fields that an engine does not tell are None, never guessed as idle."""

    running: Annotated[int, Meta(ge=0)]
    waiting: Annotated[int, Meta(ge=0)]
    kv_usage_ppm: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None


class ResponseStarted(Value):
    """The engine accepted the request: what follows is its body."""

    content_type: str


class ResponsePiece(Value):
    """Exact bytes as the engine sent them; for streams always whole server-sent events. ``tokens`` says whether any
    of its events carry generated text.
    """

    data: bytes
    tokens: bool


class ResponseFinished(Value):
    """The engine is done. ``usage`` is what it counted."""

    usage: Usage


EngineEvent: TypeAlias = ResponseStarted | ResponsePiece | ResponseFinished


class EngineRefused(Refusal):
    """The engine answered with an error of its own: ``status`` and ``body`` are passed on as they are."""

    code = "engine_refused"

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"the engine answered {status}")
        self.status = status
        self.body = body


class Engine(Protocol):
    async def describe(self) -> EngineDescription:
        """Raises Unavailable: nothing answers there, or it serves no model."""
        ...

    async def state(self) -> EngineState:
        """Raises Unavailable: an engine that cannot be polled is unknown, and must not be offered."""
        ...

    def execute(self, path: Path, request: bytes, *, output_tokens_max: int) -> AsyncIterator[EngineEvent]:
        """Run the client's exact JSON request; unknown fields are passed on. Closing the iterator aborts it upstream.

        ``output_tokens_max`` is enforced: it is what the client's credits are locked for. Usage is always obtained,
        also from streams whose client did not ask for it; the events are those of ``include_usage``.
        Embeddings generate nothing, so nothing bounds them.

        Raises:
            EngineRefused: the engine refused it (status 4xx), before anything was generated.
            Unavailable: the engine is gone, before or during the answer.
        """
        ...

    async def tokenize(self, model: ModelName, text: str) -> tuple[int, ...] | None:
        """The token ids of ``text``, nothing added to it; None where the engine cannot say."""
        ...

    async def close(self) -> None: ...

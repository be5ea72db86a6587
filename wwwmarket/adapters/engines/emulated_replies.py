"""What an emulated engine says: how many tokens, and which. A token is a word of at most eight letters, or a sign."""

import random
import re
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from wwwmarket.domain.errors import Malformed, NotFound, TooLarge
from wwwmarket.ports.engine import Path

REPLY_TOKENS_MEDIAN: Final = 180
REPLY_TOKENS_SPREAD: Final = 0.8
"""Standard deviation of the logarithm: chat replies are about that skewed."""
MESSAGE_TOKENS: Final = 4
"""What a chat template puts around each message."""
WORDS: Final = (
    *("the", "price", "of", "an", "answer", "is", "what", "the", "next", "best", "engine", "would", "have", "asked"),
    *("and", "a", "promise", "of", "time", "is", "kept", "by", "whoever", "knows", "how", "long", "the", "queue", "is"),
)

_FOLLOWING: Final = tuple(f" {word}" for word in WORDS)
_TOKEN: Final = re.compile(r"\w{1,8}|[^\w\s]")
_Positive = Annotated[int, Meta(ge=0, le=2**32)]


class _Message(Struct):
    content: str | list[dict[str, Any]] | None = None


class _StreamOptions(Struct):
    include_usage: bool | None = None


class CompletionRequest(Struct):
    """The fields of chat and completion requests that are heeded; others are ignored, as engines do."""

    model: str = ""
    messages: list[_Message] = []
    prompt: str | list[int | str] = ""
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: _Positive | None = None
    max_completion_tokens: _Positive | None = None
    ignore_eos: bool = False
    n: int | None = None
    seed: int | None = None
    emulated_output_tokens: _Positive | None = None
    """How long the reply is, said by whoever replays a trace: a real engine does not know this field."""


class Speaker(Struct, frozen=True):
    """The served model, and how it replies: with ``output_tokens`` always, or by a draw from ``seed`` where None."""

    model: str
    context_tokens: int
    output_tokens: int | None
    seed: int


class Reply(Struct, frozen=True):
    """What will be generated for a request: token counts, and the word it begins with."""

    input_tokens: int
    output_tokens: int
    first_word: int
    finish_reason: str


_decoder: Final = msgspec.json.Decoder(CompletionRequest)


def decode(body: bytes) -> CompletionRequest:
    """Raises Malformed: not a completion request."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from None


def token_count(text: str) -> int:
    return len(_TOKEN.findall(text))


def words_from(first: int, count: int) -> list[str]:
    """``count`` words of the endless text, from its ``first`` on, each after a space."""
    return [_FOLLOWING[i % len(_FOLLOWING)] for i in range(first, first + count)]


def plan(path: Path, request: CompletionRequest, speaker: Speaker) -> Reply:
    """Decide the reply: the same request under the same seed has the same one.

    Its length is fixed or drawn, and cut as the request and the context say.

    Raises:
        NotFound: another model.
        TooLarge: the prompt leaves no room in the context.
        Malformed: more than one choice or prompt.
    """
    if request.model != speaker.model:
        raise NotFound(f"The model `{request.model}` does not exist.", param="model")
    if (request.n or 1) != 1:
        raise Malformed("one choice only", param="n")
    prompt, input_tokens = _prompt(path, request)
    room = speaker.context_tokens - input_tokens
    if room < 1:
        raise TooLarge(
            f"This model's maximum context length is {speaker.context_tokens} tokens, the prompt has {input_tokens}.",
            param="messages" if request.messages else "prompt",
        )
    chance = random.Random(f"{speaker.seed}/{request.seed}/{prompt}")  # noqa: S311 - a seeded draw, nothing secret
    drawn = max(1, round(REPLY_TOKENS_MEDIAN * chance.lognormvariate(0, REPLY_TOKENS_SPREAD)))
    wanted = request.emulated_output_tokens or speaker.output_tokens or drawn
    asked = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
    limit = max(1, min(room, asked if asked is not None else room))
    cut = request.ignore_eos or wanted > limit
    return Reply(
        input_tokens=input_tokens,
        output_tokens=limit if cut else wanted,
        first_word=chance.randrange(len(WORDS)),
        finish_reason="length" if cut else "stop",
    )


def prompt_tokens(path: Path, request: CompletionRequest) -> int:
    """How many tokens the request's prompt has."""
    return _prompt(path, request)[1]


def _prompt(path: Path, request: CompletionRequest) -> tuple[str, int]:
    """The text that is continued, and its length in tokens."""
    if path == "/v1/chat/completions":
        texts = [_text(message) for message in request.messages]
        return "\n".join(texts), sum(token_count(text) + MESSAGE_TOKENS for text in texts)
    prompt = request.prompt
    if isinstance(prompt, str):
        return prompt, max(1, token_count(prompt))
    if len(prompt) == 1 and isinstance(prompt[0], str):
        return prompt[0], max(1, token_count(prompt[0]))
    if any(isinstance(part, str) for part in prompt):
        raise Malformed("one prompt only", param="prompt")
    return str(prompt), max(1, len(prompt))


def _text(message: _Message) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    return "\n".join(str(part.get("text", "")) for part in message.content)

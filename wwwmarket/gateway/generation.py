"""An OpenAI request as far as a purchase needs it. Everything else in it is the engine's affair.

The exact bytes of the request are what is bought and sealed, ``provider`` included: engines ignore the fields that they
do not know, and a client that signs for its request must find its own bytes in it.
"""

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct

from wwwmarket.domain.errors import Malformed
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.model import ModelName
from wwwmarket.gateway.preferences import Routing
from wwwmarket.gateway.request import decode
from wwwmarket.node.service import Preferences, Purchase
from wwwmarket.ports.engine import Path

_TOKEN_ID_BYTES: Final = 4
"""What a prompt's token counts for when it is given by number: about the bytes that it stands for."""

_PROMPTS_MAX: Final = 64

_Choices: TypeAlias = Annotated[int, Meta(ge=1, le=8)] | None
_MaxTokens: TypeAlias = Annotated[int, Meta(ge=1, le=2**24)] | None
_NOTHING: Final = Raw(b"")


class StreamOptions(Struct):
    include_usage: bool | None = None


class _Fields(Struct, kw_only=True):
    model: ModelName
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _MaxTokens = None
    n: _Choices = None
    provider: Routing | None = None


class ChatRequest(_Fields, kw_only=True):
    messages: Annotated[list[dict[str, Raw]], Meta(min_length=1, max_length=16_384)]
    max_completion_tokens: _MaxTokens = None
    tools: Raw = msgspec.field(default_factory=Raw)
    functions: Raw = msgspec.field(default_factory=Raw)


class CompletionRequest(_Fields, kw_only=True):
    prompt: str | Annotated[list[str | int | list[int]], Meta(min_length=1)]
    best_of: _Choices = None


class EmbeddingRequest(_Fields, kw_only=True):
    input: str | Annotated[list[str | int | list[int]], Meta(min_length=1)]


class Generation(Struct, frozen=True, kw_only=True):
    """What was read. ``max_output_tokens`` is over all choices; None takes the node's default."""

    path: Path
    request: bytes
    model: ModelName
    stream: bool
    include_usage: bool
    prompt_bytes: int
    messages: int
    max_output_tokens: int | None
    routing: Routing | None

    def purchase(self, account: AccountId, preferences: Preferences) -> Purchase:
        return Purchase(
            account=account,
            path=self.path,
            request=self.request,
            model=self.model,
            prompt_bytes=self.prompt_bytes,
            messages=self.messages,
            max_output_tokens=self.max_output_tokens,
            preferences=preferences,
        )


_CHAT: Final = msgspec.json.Decoder(ChatRequest)
_COMPLETION: Final = msgspec.json.Decoder(CompletionRequest)
_EMBEDDING: Final = msgspec.json.Decoder(EmbeddingRequest)
_TEXT: Final = msgspec.json.Decoder(str)
_PARTS: Final = msgspec.json.Decoder(list[Raw])
_PART: Final = msgspec.json.Decoder(dict[str, Raw])


def read_generation(path: Path, request: bytes, *, output_tokens_default: int) -> Generation:
    """Read the exact JSON of a request for ``path``. Raises Malformed."""
    if path == "/v1/chat/completions":
        chat = decode(request, _CHAT)
        prompt_bytes = sum(_message_bytes(message) for message in chat.messages) + len(chat.tools) + len(chat.functions)
        choices, prompts = chat.n or 1, len(chat.messages)
        per_choice = chat.max_completion_tokens or chat.max_tokens
        fields: _Fields = chat
    elif path == "/v1/embeddings":
        return _embedding(request)
    else:
        completion = decode(request, _COMPLETION)
        prompts, prompt_bytes = _prompts(completion.prompt, "prompt")
        choices = max(completion.n or 1, completion.best_of or 1) * prompts
        per_choice = completion.max_tokens
        fields = completion
    if per_choice is None and choices > 1:
        per_choice = output_tokens_default
    options = fields.stream_options
    return Generation(
        path=path,
        request=request,
        model=fields.model,
        stream=bool(fields.stream),
        include_usage=bool(options and options.include_usage),
        prompt_bytes=prompt_bytes,
        messages=prompts,
        max_output_tokens=None if per_choice is None else per_choice * choices,
        routing=fields.provider,
    )


def _embedding(request: bytes) -> Generation:
    """Embeddings have input alone, and answer whole."""
    fields = decode(request, _EMBEDDING)
    if fields.stream:
        raise Malformed("embeddings are not streamed", param="stream")
    inputs, input_bytes = _prompts(fields.input, "input")
    return Generation(
        path="/v1/embeddings",
        request=request,
        model=fields.model,
        stream=False,
        include_usage=False,
        prompt_bytes=input_bytes,
        messages=inputs,
        max_output_tokens=0,
        routing=fields.provider,
    )


def _message_bytes(message: dict[str, Raw]) -> int:
    """Bytes of a message that can become tokens: its text, and the JSON of all that is neither text nor role."""
    total = 0
    for field, raw in message.items():
        if field == "content":
            total += _content_bytes(raw)
        elif field != "role":
            total += len(raw)
    return total


def _content_bytes(raw: Raw) -> int:
    match bytes(raw)[:1]:
        case b'"':
            return len(decode(raw, _TEXT).encode())
        case b"[":
            return sum(_part_bytes(part) for part in decode(raw, _PARTS))
        case b"n":
            return 0
        case _:
            raise Malformed("a message's content is a string, a list of parts, or null", param="messages")


def _part_bytes(raw: Raw) -> int:
    part = decode(raw, _PART)
    text = part.get("text")
    if text is not None and bytes(part.get("type", _NOTHING)) == b'"text"':
        return len(decode(text, _TEXT).encode())
    return len(raw)


def _prompts(prompt: str | list[str | int | list[int]], field: str) -> tuple[int, int]:
    """How many prompts there are in ``field``, and their bytes. A list of numbers is one prompt of token ids."""
    if isinstance(prompt, str):
        return 1, len(prompt.encode())
    if all(isinstance(item, int) for item in prompt):
        return 1, len(prompt) * _TOKEN_ID_BYTES
    if all(isinstance(item, str) for item in prompt) or all(isinstance(item, list) for item in prompt):
        if len(prompt) > _PROMPTS_MAX:
            raise Malformed(f"at most {_PROMPTS_MAX} texts in one request", param=field)
        return len(prompt), sum(_prompt_bytes(item) for item in prompt)
    raise Malformed(f"{field} is text or token ids, or a list of either", param=field)


def _prompt_bytes(prompt: str | int | list[int]) -> int:
    if isinstance(prompt, str):
        return len(prompt.encode())
    return _TOKEN_ID_BYTES * (len(prompt) if isinstance(prompt, list) else 1)

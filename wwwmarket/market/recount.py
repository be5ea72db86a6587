"""The buyer's own count of an answer: what was asked for and what was delivered, as text, split by a tokenizer that the
buyer chose, and held against what the provider says that it counted.

It promises that an honest provider is paid what it counted, and that nobody is paid for tokens that did not arrive. It
does not know where a tokenizer comes from; whose word a count rests on is told by ``Source``.

What an engine counts and no reader sees is allowed for, not guessed:

- ``OUTPUT_MARKS`` tokens for each choice and each tool call: the end of a turn, marks around reasoning, the wrapping
  of a call, which servers take out of the text;
- ``TEMPLATE_MARKS`` for each message and once more, and ``TOOLS_MARKS`` where there are tools: what a chat template
  adds;
- ``TOLERANCE_PPM`` on top: tokens as sampled are not always the tokens that the same text would be split into.

Up to there the provider's count stands. Beyond it the buyer's own does, which is a finding. What the client asked not
to be shown (reasoning left out of the answer) and what is no text (images) cannot be counted by anybody but the engine:
there the provider's count stands, within the bounds of the bid. A provider cannot choose that: what of its answer is no
OpenAI answer counts as the text that its bytes are.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct

from wwwmarket.domain.quantity import Tokens, Usage
from wwwmarket.domain.shape import Value

Source: TypeAlias = Literal["tokenizer", "own_engine", "bytes"]
"""Whose split it is: a tokenizer that this buyer pinned; its own engine with the same model; or nobody's, where each
byte of text counts as one token, the most that any byte-level tokenizer makes of it."""

Splitter: TypeAlias = Callable[[str], int]
"""How many tokens a text is."""

TOLERANCE_PPM: Final = 100_000
"""Of the own count. Seen between sampled and canonical tokens: below 1 % in prose, some percent in rare scripts."""
OUTPUT_MARKS: Final = 24
"""For each choice and each tool call; the dearest common form (a call in Hermes' or Harmony's marks) takes about 20."""
TEMPLATE_MARKS: Final = 32
"""For each message and once more, as the bid's bound on input has it."""
TOOLS_MARKS: Final = 256
"""What templates say around a list of tools; the longest common one takes about 200."""
TEMPLATE_USUAL: Final = 6
"""What a message's marks are paid as, where the count is the buyer's own."""

_WHOLE_PPM: Final = 1_000_000
_CHOICES_MAX: Final = 128
_CALLS_MAX: Final = 1_024
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Prompt(Value):
    """What of a request can be counted. ``parts``: messages, or prompts. ``opaque``: some of it is no text.
    ``hidden``: some of the answer will not be shown, by the client's own wish.
    """

    texts: tuple[str, ...] = ()
    token_ids: Tokens = 0
    parts: Tokens = 0
    tools: bool = False
    opaque: bool = False
    hidden: bool = False
    templated: bool = False


class Recount(Value):
    """One answer's own count beside the provider's, and what comes of both. None: not to be counted by a buyer."""

    source: Source
    input_tokens: Tokens | None
    output_tokens: Tokens | None
    agreed: Usage
    beyond: Annotated[bool, Meta(description="Whether the provider counted more than the tolerance allows.")]


class Counts(Value):
    """The own count, with what no reader sees: the most that is plausible on top of it."""

    source: Source
    input_tokens: Tokens | None
    input_marks: Tokens
    input_usual: Tokens
    output_tokens: Tokens | None
    output_marks: Tokens

    def against(self, said: Usage, *, cancelled: bool = False) -> Recount:
        """``said`` as far as it is plausible. The input of a cancelled answer is the bid's estimate, by convention."""
        output = _judged(said.output_tokens, self.output_tokens, self.output_marks, 0)
        own_input = None if cancelled else self.input_tokens
        read = _judged(said.input_tokens, own_input, self.input_marks, self.input_usual)
        agreed = Usage(input_tokens=read, cached_input_tokens=min(said.cached_input_tokens, read), output_tokens=output)
        return Recount(
            source=self.source,
            input_tokens=own_input,
            output_tokens=self.output_tokens,
            agreed=agreed,
            beyond=agreed != said,
        )


def _judged(said: Tokens, own: Tokens | None, marks: Tokens, usual: Tokens) -> Tokens:
    if own is None or said <= own + own * TOLERANCE_PPM // _WHOLE_PPM + marks:
        return said
    return own + usual


def count(prompt: Prompt, answer: "Answer", split: Splitter, source: Source) -> Counts:
    """Both sides of one execution, split by ``split``."""
    texts = answer.texts
    read = None
    if not prompt.opaque and source != "bytes":  # the bid's own bound on input is that of bytes
        read = sum(map(split, prompt.texts)) + prompt.token_ids
    template = prompt.parts + 1 if prompt.templated else 1
    return Counts(
        source=source,
        input_tokens=read,
        input_marks=TEMPLATE_MARKS * template + (TOOLS_MARKS if prompt.tools else 0),
        input_usual=TEMPLATE_USUAL * template,
        output_tokens=sum(map(split, texts)) if not prompt.hidden else None,
        output_marks=OUTPUT_MARKS * (answer.choices + answer.calls),
    )


def byte_split(text: str) -> int:
    """The most tokens that a byte-level tokenizer makes of a text."""
    return len(text.encode("utf-8", "replace"))


# What was asked for


class _Asked(Struct):
    messages: list[dict[str, Raw]] = []
    prompt: Raw = msgspec.field(default_factory=Raw)
    input: Raw = msgspec.field(default_factory=Raw)
    tools: Raw = msgspec.field(default_factory=Raw)
    functions: Raw = msgspec.field(default_factory=Raw)
    include_reasoning: Raw = msgspec.field(default_factory=Raw)
    reasoning: Raw = msgspec.field(default_factory=Raw)


class _Reasoning(Struct):
    exclude: bool = False


_ASKED: Final = msgspec.json.Decoder(_Asked)
_REASONING: Final = msgspec.json.Decoder(_Reasoning)
_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text", "refusal"})


def read_prompt(request: bytes) -> Prompt:
    """The countable part of an OpenAI request; opaque where it cannot be read."""
    try:
        asked = _ASKED.decode(request)
        reader = _Reader()
        for message in asked.messages:
            reader.message(message)
        for raw in (asked.prompt, asked.input):
            if bytes(raw):
                reader.prompts(msgspec.json.decode(raw))
        given = (bytes(asked.tools), bytes(asked.functions))
        tools = [listed.decode() for listed in given if listed not in {b"", b"null"}]
    except _UNREADABLE:
        return Prompt(opaque=True)
    return Prompt(
        texts=(*reader.texts, *tools),
        token_ids=reader.token_ids,
        parts=len(asked.messages) or reader.prompts_seen,
        tools=bool(tools),
        opaque=reader.opaque,
        hidden=_hides(asked),
        templated=bool(asked.messages),
    )


def _hides(asked: _Asked) -> bool:
    """The ways of vLLM and OpenRouter to ask that reasoning be left out of the answer."""
    if bytes(asked.include_reasoning) == b"false":
        return True
    return bytes(asked.reasoning)[:1] == b"{" and _REASONING.decode(asked.reasoning).exclude


class _Reader:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self.token_ids = 0
        self.prompts_seen = 0
        self.opaque = False

    def message(self, message: dict[str, Raw]) -> None:
        for name, raw in message.items():
            if name == "content":
                self._content(msgspec.json.decode(raw))
            elif name != "role" and bytes(raw) != b"null":
                self.texts.append(bytes(raw).decode())

    def prompts(self, given: Any) -> None:
        """A text, token ids, or a list of either."""
        match given:
            case str():
                self.prompts_seen += 1
                self.texts.append(given)
            case [int(), *_]:
                self.prompts_seen += 1
                self.token_ids += len(given)
            case [*several]:
                for one in several:
                    self.prompts(one)
            case _:
                self.opaque = self.opaque or given is not None

    def _content(self, content: Any) -> None:
        match content:
            case None:
                pass
            case str():
                self.texts.append(content)
            case [*parts]:
                for part in parts:
                    self._part(part)
            case _:
                self.opaque = True

    def _part(self, part: Any) -> None:
        match part:
            case {"type": kind, **rest} if kind in _TEXT_PARTS:
                self.texts += [text for text in rest.values() if isinstance(text, str)]
            case str():
                self.texts.append(part)
            case _:
                self.opaque = True


# What was delivered


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(Struct):
    index: int = 0
    function: _Function | None = None


class _Message(Struct):
    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


class _Choice(Struct):
    index: int = 0
    text: str | None = None
    delta: _Message | None = None
    message: _Message | None = None


class _Chunk(Struct):
    choices: list[_Choice] = []


_CHUNK: Final = msgspec.json.Decoder(_Chunk)


class Answer:
    """The text of an answer, gathered from the pieces in which it arrived: of a stream whole events, else a JSON
    document in any number of pieces. Reading never fails: what is not understood is text as it stands.
    """

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream
        self._whole: list[bytes] = []
        self._texts: dict[tuple[int, str], list[str]] = {}
        self._seen: set[int] = set()
        self._calls: set[tuple[int, int]] = set()
        self._closed = False

    def feed(self, data: bytes) -> None:
        """The next piece."""
        if not self._stream:
            self._whole.append(data)
            return
        for line in data.splitlines():
            if line.startswith(b"data:"):
                payload = line[5:].strip()
                if payload != b"[DONE]":
                    self._read(payload)

    @property
    def texts(self) -> tuple[str, ...]:
        """Each choice's words, reasoning, refusal and calls, by themselves, so that no token spans two of them."""
        self._close()
        return tuple("".join(pieces) for pieces in self._texts.values())

    @property
    def choices(self) -> int:
        self._close()
        return max(1, len(self._seen))

    @property
    def calls(self) -> int:
        self._close()
        return len(self._calls)

    def _close(self) -> None:
        if self._whole and not self._closed:
            self._closed = True
            self._read(b"".join(self._whole))
            self._whole.clear()

    def _read(self, payload: bytes) -> None:
        try:
            chunk = _CHUNK.decode(payload)
        except _UNREADABLE:
            self._say(0, "unread", payload.decode(errors="replace"))
            return
        for choice in chunk.choices:
            if len(self._seen) < _CHOICES_MAX:
                self._seen.add(choice.index)
            if choice.text:
                self._say(choice.index, "text", choice.text)
            for message in (choice.delta, choice.message):
                if message is not None:
                    self._message(choice.index, message)

    def _message(self, index: int, message: _Message) -> None:
        if isinstance(message.content, str):
            self._say(index, "content", message.content)
        elif message.content:
            for part in message.content:
                if isinstance(part, dict) and isinstance(text := part.get("text"), str):
                    self._say(index, "content", text)
        # both names of reasoning carry the same text where a server sends both
        self._say(index, "reasoning", message.reasoning_content or message.reasoning)
        self._say(index, "refusal", message.refusal)
        for call in message.tool_calls or ():
            if len(self._calls) < _CALLS_MAX:
                self._calls.add((index, call.index))
            self._call(index, f"call {call.index}", call.function)
        self._call(index, "function", message.function_call)

    def _call(self, index: int, field: str, function: _Function | None) -> None:
        if function is not None:
            self._say(index, f"{field} name", function.name)
            self._say(index, f"{field} arguments", function.arguments)

    def _say(self, index: int, field: str, text: str | None) -> None:
        if text:
            self._texts.setdefault((index, field), []).append(text)

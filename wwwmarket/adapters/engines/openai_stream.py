"""Reading an engine's answer without decoding it: whole server-sent events, the text in them, the usage at the end.

An answer of a thousand tokens is a thousand events; all but one are passed on after a look with a regular expression.
Inside JSON strings every quotation mark is escaped, so ``"usage":{`` can only be the field itself.
"""

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from wwwmarket.domain.errors import Unavailable
from wwwmarket.domain.quantity import Usage

EVENT_BYTES_MAX: Final = 1024 * 1024

_HAS_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
_HAS_TEXT: Final = re.compile(
    rb'"(?:content|text|reasoning_content|reasoning|refusal|arguments|name)"\s*:\s*"(?=[^"])'
    rb'|"token_ids"\s*:\s*\[(?=[^\]])'
)
_HAS_ERROR: Final = re.compile(rb'^(?:data|error):\s*\{\s*"error"\s*:|^event:\s*error', re.MULTILINE)
_DONE: Final = re.compile(rb"^data:\s*\[DONE\]\s*$", re.MULTILINE)

_Count = Annotated[int, Meta(ge=0, le=2**32)]


class _PromptDetails(Struct):
    cached_tokens: _Count | None = None


class _Usage(Struct):
    prompt_tokens: _Count
    completion_tokens: _Count = 0
    prompt_tokens_details: _PromptDetails | None = None


class _WithUsage(Struct):
    usage: _Usage | None = None


class _Choice(Struct):
    text: str = ""
    delta: dict[str, Raw] = {}
    message: dict[str, Raw] = {}


class _WithChoices(Struct):
    choices: tuple[_Choice, ...] = ()


_usage_decoder: Final = msgspec.json.Decoder(_WithUsage)
_choices_decoder: Final = msgspec.json.Decoder(_WithChoices)


class EventSplitter:
    """Cuts a stream of bytes after blank lines (WHATWG HTML, section 9.2.6), with LF or CRLF; nothing is altered."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """All events that are whole now, as one piece; empty where none is.

        Raises:
            Unavailable: an event is over the limit.
        """
        pending = self._pending
        searched = max(0, len(pending) - 3)
        pending += chunk
        end = max(_end_of(pending, b"\n\n", searched), _end_of(pending, b"\n\r\n", searched))
        piece = bytes(pending[:end])
        del pending[:end]
        if len(pending) > EVENT_BYTES_MAX:
            raise Unavailable(f"an event of the engine is over {EVENT_BYTES_MAX} bytes", retry_after_ms=1_000)
        return piece

    @property
    def rest(self) -> bytes:
        """Bytes after the last whole event."""
        return bytes(self._pending)


def _end_of(data: bytearray, boundary: bytes, start: int) -> int:
    at = data.rfind(boundary, start)
    return 0 if at < 0 else at + len(boundary)


def count_texts(piece: bytes) -> int:
    """How many of the piece's fields carry generated text: about the number of its tokens."""
    return len(_HAS_TEXT.findall(piece))


def has_usage(piece: bytes) -> bool:
    return _HAS_USAGE.search(piece) is not None


def has_error(piece: bytes) -> bool:
    return b"error" in piece and _HAS_ERROR.search(piece) is not None


def is_done(piece: bytes) -> bool:
    return b"[DONE]" in piece and _DONE.search(piece) is not None


def events(piece: bytes) -> list[bytes]:
    """The ``data`` fields of a piece, one for each event that has one."""
    return [line[5:].strip() for line in piece.splitlines() if line.startswith(b"data:")]


def usage_of_stream(piece: bytes) -> Usage | None:
    """The last usage in a piece of a stream."""
    found = [usage for event in events(piece) if has_usage(event) and (usage := usage_of(event)) is not None]
    return found[-1] if found else None


def usage_of(body: bytes) -> Usage | None:
    """The usage in a JSON answer; None where it has none that makes sense."""
    try:
        usage = _usage_decoder.decode(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if usage is None:
        return None
    details = usage.prompt_tokens_details
    cached = (details.cached_tokens if details is not None else None) or 0
    return Usage(
        input_tokens=usage.prompt_tokens,
        cached_input_tokens=min(cached, usage.prompt_tokens),
        output_tokens=usage.completion_tokens,
    )


def text_of(body: bytes) -> str:
    """The generated text in a JSON answer or one event of a stream, all choices joined."""
    try:
        choices = _choices_decoder.decode(body).choices
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return "".join(choice.text + _text_in(choice.delta) + _text_in(choice.message) for choice in choices)


def _text_in(message: dict[str, Raw]) -> str:
    fields = (message.get(name, Raw(b"null")) for name in ("reasoning_content", "reasoning", "content"))
    return "".join(text for text in map(msgspec.json.decode, fields) if isinstance(text, str))

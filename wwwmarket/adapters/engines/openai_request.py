"""The few edits that a client's request gets on its way to an engine. What is not named here travels byte for byte."""

from typing import Any, Final

import msgspec
from msgspec import Raw

from wwwmarket.domain.errors import Malformed, TooLarge
from wwwmarket.domain.quantity import Tokens
from wwwmarket.domain.shape import Value
from wwwmarket.ports.engine import Path

REQUEST_BYTES_MAX: Final = 16 * 1024 * 1024
CHOICES_MAX: Final = 128
LIMIT_FIELDS: Final = ("max_tokens", "max_completion_tokens", "n_predict")
"""Names under which engines take a bound on the output; ``n_predict`` is llama.cpp's and beats the others there."""

_decoder: Final = msgspec.json.Decoder(dict[str, Raw])
_encode: Final = msgspec.json.Encoder().encode


class PreparedRequest(Value):
    """A request as it goes to the engine, and what has to be known of it here."""

    body: bytes
    model: str
    stream: bool


def prepare(path: Path, request: bytes, *, output_tokens_max: Tokens, priority: int | None = None) -> PreparedRequest:
    """Bound the output of all choices together, and ask for usage in streams.

    ``priority`` takes the place of the client's own, which would let it jump the queue of an engine that has them.

    Field order is kept; a field given twice is sent once, as its last value, so that no two readers differ.

    Raises:
        Malformed: not a JSON object, or a field that is read here is not of its type.
        TooLarge: more bytes than the limit, or more choices than the bound has tokens.
    """
    if len(request) > REQUEST_BYTES_MAX:
        raise TooLarge(f"a request has at most {REQUEST_BYTES_MAX} bytes")
    try:
        fields = _decoder.decode(request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the request is not a JSON object: {error}") from None
    fields.pop("priority", None)
    if priority is not None:
        fields["priority"] = Raw(b"%d" % priority)
    model = _read(fields, "model", str | None) or ""
    if path == "/v1/embeddings":
        return PreparedRequest(body=_encode(fields), model=model, stream=False)
    stream = _read(fields, "stream", bool | None) or False
    choices = _choices(path, fields)
    limit = output_tokens_max // choices
    if limit < 1 <= output_tokens_max:
        raise TooLarge(f"{choices} choices are more than {output_tokens_max} output tokens", param="n")
    _bound_output(fields, limit)
    if stream:
        options = _read(fields, "stream_options", dict[str, Raw] | None) or {}
        options["include_usage"] = Raw(b"true")
        fields["stream_options"] = Raw(_encode(options))
    return PreparedRequest(body=_encode(fields), model=model, stream=stream)


def prompt_of(request: bytes) -> tuple[str, bytes]:
    """The model's name, and the bytes of what the request gives to read; empty where it says neither."""
    try:
        fields = _decoder.decode(request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", b""
    source = next((fields[name] for name in ("messages", "prompt", "input") if name in fields), Raw(b""))
    try:
        return _read(fields, "model", str | None) or "", bytes(source)
    except Malformed:
        return "", bytes(source)


def _bound_output(fields: dict[str, Raw], limit: Tokens) -> None:
    """Lower every bound that is given; ``max_tokens``, which every engine knows, is always there after this.

    What is no whole number is no bound.
    """
    lowest = limit
    for name in LIMIT_FIELDS:
        if name not in fields or bytes(fields[name]) == b"null":
            continue
        given = _whole_number(fields[name])
        if given is None or not 0 <= given <= limit:
            fields[name] = Raw(b"%d" % limit)
        else:
            lowest = min(lowest, given)
    if bytes(fields.get("max_tokens", Raw(b"null"))) == b"null":
        fields["max_tokens"] = Raw(b"%d" % lowest)


def _whole_number(raw: Raw) -> int | None:
    try:
        return msgspec.json.decode(raw, type=int)
    except msgspec.DecodeError:
        return None


def _choices(path: Path, fields: dict[str, Raw]) -> int:
    """How many texts the engine will generate: ``n``, times the number of prompts."""
    choices = 1
    for name in ("n", "best_of", "n_cmpl"):
        choices = max(choices, _read(fields, name, int | None) or 1)
    if path == "/v1/completions" and bytes(fields.get("prompt", Raw(b"null")))[:1] == b"[":
        prompts = _read(fields, "prompt", list[Raw]) or []
        if not all(bytes(prompt)[:1].isdigit() for prompt in prompts):  # else it is one prompt, as token ids
            choices *= len(prompts)
    if choices > CHOICES_MAX:
        raise TooLarge(f"a request asks for at most {CHOICES_MAX} choices", param="n")
    return choices


def _read(fields: dict[str, Raw], name: str, kind: Any) -> Any:
    """The field's value, or None where it is absent."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"{name}: {error}", param=name) from None

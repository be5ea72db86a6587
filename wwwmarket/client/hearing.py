"""What a client hears of an answer: exact bytes for the digest, whole events for the count, its own times."""

from typing import Final

import msgspec
from msgspec import Raw

from wwwmarket.client.buying import Heard
from wwwmarket.client.calls import ANSWER_BYTES_MAX
from wwwmarket.crypto.digest import ResponseHasher
from wwwmarket.domain.errors import TooLarge, Unavailable
from wwwmarket.domain.quantity import Millis
from wwwmarket.market.recount import Answer

_ENDS: Final = (b"\n\n", b"\r\n\r\n")
_ERROR: Final = b'data: {"error"'
_OBJECT: Final = msgspec.json.Decoder(dict[str, Raw])


class Ear:
    """``at_ms`` is any clock that only goes forward; ``begun_ms`` is when the award was handed over."""

    def __init__(self, *, stream: bool, begun_ms: Millis) -> None:
        self._stream = stream
        self._begun_ms = begun_ms
        self._first_ms: Millis | None = None
        self._hasher = ResponseHasher()
        self._pending = bytearray()
        self._size = 0
        self._broken: bytes | None = None
        self.text: Final = Answer(stream=stream)

    def hear(self, chunk: bytes, at_ms: Millis) -> bytes:
        """What of ``chunk``, and of what was pending, is whole now: events of a stream, or just bytes.

        Raises:
            TooLarge: more than any answer is.
        """
        self._size += len(chunk)
        if self._size > ANSWER_BYTES_MAX:
            raise TooLarge(f"the answer is over the limit of {ANSWER_BYTES_MAX} bytes")
        if self._first_ms is None and chunk:
            self._first_ms = at_ms
        self._hasher.update(chunk)
        if not self._stream:
            self.text.feed(chunk)
            return chunk
        self._pending += chunk
        end = max((at + len(mark) for mark in _ENDS if (at := self._pending.rfind(mark)) >= 0), default=0)
        whole = bytes(self._pending[:end])
        del self._pending[:end]
        if _ERROR in whole:
            whole, self._broken = whole[: whole.rfind(_ERROR)], whole[whole.rfind(_ERROR) :]
        self.text.feed(whole)
        return whole

    def heard(self, at_ms: Millis) -> Heard:
        first = self._first_ms
        return Heard(
            response_digest=self._hasher.digest(),
            ttft_ms=None if first is None else first - self._begun_ms,
            latency_ms=at_ms - self._begun_ms,
            arrived=first is not None,
        )

    def check(self) -> None:
        """Raises Unavailable when the answer ended with the gateway's word that it is broken."""
        if self._broken is None:
            return
        try:
            told = msgspec.json.decode(self._broken.removeprefix(b"data: "))["error"]["message"]
        except (msgspec.DecodeError, KeyError, TypeError):
            told = "the answer broke off"
        raise Unavailable(str(told), retry_after_ms=1_000)


def without_usage(events: bytes) -> bytes:
    """The same events but for those that carry usage alone, for a client that did not ask for them."""
    if b'"usage"' not in events:
        return events
    kept = [event for event in events.split(b"\n\n") if event and not _is_usage(event)]
    return b"".join(event + b"\n\n" for event in kept)


def _is_usage(event: bytes) -> bool:
    try:
        fields = _OBJECT.decode(event.removeprefix(b"data:").strip())
        return bytes(fields.get("choices", Raw(b""))).replace(b" ", b"") == b"[]" and "usage" in fields
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False

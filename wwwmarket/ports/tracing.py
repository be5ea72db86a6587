"""Following one request over nodes: spans, whose names and attributes are OpenTelemetry's, where an operator opts in.

A span's ``traceparent`` (W3C Trace Context, level 1) goes with the request: in the client's header, and sealed to the
winner. Nothing that was asked or answered is ever in a span.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Protocol, TypeAlias

from msgspec import Meta

TRACEPARENT: Final = r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z"
TraceParent: TypeAlias = Annotated[str, Meta(pattern=TRACEPARENT)]
Kind: TypeAlias = Literal["server", "client", "internal"]
Attributes: TypeAlias = Mapping[str, str | int | float]


class Span(Protocol):
    @property
    def traceparent(self) -> TraceParent | None:
        """What a part of this span names as its parent; None where nothing is traced."""
        ...

    def tell(self, attributes: Attributes) -> None: ...

    def mark(self, name: str) -> None:
        """Something happened now."""
        ...

    def end(self, error: str | None = None) -> None:
        """It is over now; ``error`` is the code of what ended it, never a message."""
        ...


class Tracer(Protocol):
    def begin(self, name: str, kind: Kind, parent: TraceParent | None, attributes: Attributes) -> Span: ...


class _NoSpan:
    traceparent: Final = None

    def tell(self, attributes: Attributes) -> None:
        """Untraced."""

    def mark(self, name: str) -> None:
        """Untraced."""

    def end(self, error: str | None = None) -> None:
        """Untraced."""


class _NoTracer:
    def begin(self, name: str, kind: Kind, parent: TraceParent | None, attributes: Attributes) -> Span:  # noqa: ARG002
        return _NO_SPAN


_NO_SPAN: Final = _NoSpan()
NO_TRACES: Final[Tracer] = _NoTracer()
"""What a node traces with unless told otherwise."""

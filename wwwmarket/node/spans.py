"""What the spans of a request say, by OpenTelemetry's GenAI conventions: names, counts, times, never its words."""

from typing import Final

from wwwmarket.domain.model import ModelName
from wwwmarket.node.service import Awarded, Delivered, DeliveryEvent
from wwwmarket.ports.engine import ResponsePiece
from wwwmarket.ports.tracing import Attributes, Span

FIRST_TOKEN: Final = "first token"  # noqa: S105 - an event's name
_OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}


def operation_of(path: str) -> str:
    return _OPERATIONS.get(path, "unknown")


def name_of(path: str, model: ModelName) -> str:
    """A span's name: operation and model."""
    return f"{operation_of(path)} {model}"


def asked(path: str, model: ModelName, output_tokens_max: int | None) -> Attributes:
    """What is known at the beginning."""
    known: dict[str, str | int | float] = {
        "gen_ai.operation.name": operation_of(path),
        "gen_ai.provider.name": "wwwmarket",
        "gen_ai.request.model": model,
    }
    return known if output_tokens_max is None else known | {"gen_ai.request.max_tokens": output_tokens_max}


class Told:
    """Tells a span what a request comes to, event by event."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._has_token = False

    def hear(self, event: DeliveryEvent) -> None:
        match event:
            case Awarded():
                self._span.tell(
                    {
                        "wwwmarket.award.id": event.award,
                        "wwwmarket.provider.id": event.provider,
                        "wwwmarket.attempt": event.attempt,
                        "wwwmarket.auction.duration_ms": event.auction_ms,
                    }
                )
            case ResponsePiece() if event.tokens and not self._has_token:
                self._has_token = True
                self._span.mark(FIRST_TOKEN)
            case Delivered():
                self._span.tell(
                    {
                        "gen_ai.usage.input_tokens": event.usage.input_tokens,
                        "gen_ai.usage.output_tokens": event.usage.output_tokens,
                        "wwwmarket.outcome": event.outcome,
                        "wwwmarket.cost_micro": event.cost_micro,
                    }
                )
            case _:
                pass

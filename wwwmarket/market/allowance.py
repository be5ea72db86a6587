"""What an API key may do, beside what its balance lets it: which models, how dear, how often, how many tokens.

It promises that no minute sees more than a limit of requests, and that tokens over their limit are waited for before
the next request is let in. It knows neither keys nor balances; time arrives with each call.

A limit of L a minute is a bucket that holds L and drains by L in a minute (a leaky bucket as a meter, ITU-T I.371,
GCRA): a burst of L is let in at once, and then one every 60 s / L. How many tokens a request takes is known only at its
end, so they are poured in then, above the rim if need be.
"""

from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from wwwmarket.domain.errors import Exhausted, Forbidden, Unauthorised
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.quantity import MicroCredits, Millis
from wwwmarket.domain.shape import Value

MINUTE_MS: Final = 60_000

_PerMinute: TypeAlias = Annotated[int, Meta(ge=1, le=10**9)]


class Period(Value):
    """At the start of each period, counted from the key's making, the budget is filled up to ``budget_micro``."""

    budget_micro: MicroCredits
    length_ms: Annotated[int, Meta(ge=60_000, le=366 * 86_400_000)]


class Limits(Value):
    """None, and no models at all, mean no limit."""

    models: Annotated[tuple[ModelName, ...], Meta(max_length=64)] = ()
    price_max_micro: MicroCredits | None = None
    requests_per_minute: _PerMinute | None = None
    tokens_per_minute: _PerMinute | None = None
    period: Period | None = None
    expires_ms: Millis | None = None


NO_LIMITS: Final = Limits()


class Bucket:
    """Holds ``limit`` units and drains as many in a minute. Kept in 60,000ths of a unit, so that nothing is rounded."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._level = 0
        self._at_ms = 0

    def wait_ms(self, now_ms: int) -> int:
        """How long until one more unit fits; 0 if it does now."""
        over = self._drained(now_ms) + MINUTE_MS - self._limit * MINUTE_MS
        return max(0, -(-over // self._limit))

    def pour(self, now_ms: int, units: int) -> None:
        self._level = self._drained(now_ms) + units * MINUTE_MS
        self._at_ms = max(now_ms, self._at_ms)

    def _drained(self, now_ms: int) -> int:
        return max(0, self._level - max(0, now_ms - self._at_ms) * self._limit)


class Allowance:
    """One key's limits at work. It is forgotten with its node: a restart begins with empty buckets."""

    def __init__(self, limits: Limits) -> None:
        self.limits: Final = limits
        self._requests = None if limits.requests_per_minute is None else Bucket(limits.requests_per_minute)
        self._tokens = None if limits.tokens_per_minute is None else Bucket(limits.tokens_per_minute)

    def admit(self, now_ms: int, model: str) -> None:
        """Let one request in, or refuse it and count nothing.

        Raises:
            Unauthorised: the key has expired.
            Forbidden: it is not for this model.
            Exhausted: its requests or tokens of this minute are used up, with when to come back.
        """
        limits = self.limits
        if limits.expires_ms is not None and now_ms >= limits.expires_ms:
            raise Unauthorised("this API key has expired; ask the node's operator for another", reason="key_expired")
        if limits.models and model not in limits.models:
            raise Forbidden(
                f"this API key is for {', '.join(limits.models)}; ask the node's operator to allow more",
                param="model",
                reason="model_not_allowed",
            )
        self._wait(self._requests, now_ms, f"{limits.requests_per_minute} requests", "requests_per_minute")
        self._wait(self._tokens, now_ms, f"{limits.tokens_per_minute} tokens", "tokens_per_minute")
        if self._requests is not None:
            self._requests.pour(now_ms, 1)

    def used(self, now_ms: int, tokens: int) -> None:
        """A request has ended: these were its tokens, read and written."""
        if self._tokens is not None:
            self._tokens.pour(now_ms, tokens)

    def cap_micro(self, asked_micro: MicroCredits | None) -> MicroCredits | None:
        """The most that one request may cost, given what its client says; None for no bound."""
        given = [cap for cap in (asked_micro, self.limits.price_max_micro) if cap is not None]
        return min(given, default=None)

    def _wait(self, bucket: Bucket | None, now_ms: int, what: str, reason: str) -> None:
        wait_ms = 0 if bucket is None else bucket.wait_ms(now_ms)
        if wait_ms:
            raise Exhausted(f"this API key has {what} a minute, all used", retry_after_ms=wait_ms, reason=reason)

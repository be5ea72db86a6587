"""What a client prefers, from headers and from OpenRouter's ``provider`` object.

``max_price`` there is credits per million tokens of each class. An auction's cap is a total, so the classes are
enforced on the listed offers, whose prices are ceilings: a provider with any dearer offer for the model is left out.
What a provider here does not promise (``data_collection: deny``, ``zdr``, ``order``) is refused rather than ignored.
"""

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, Struct
from starlette.datastructures import Headers

from wwwmarket.domain.book import ListedOffer
from wwwmarket.domain.errors import Malformed, Unavailable
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.model import Precision
from wwwmarket.domain.quantity import Slo
from wwwmarket.gateway.amounts import credits_micro
from wwwmarket.node.service import Preferences

SPEED_VALUE_MICRO_PER_S: Final = 1_000_000
"""A credit for each second saved: what ``sort: latency`` or ``throughput`` says; it outweighs any usual price."""

ANY_TTFT_MS: Final = 3_600_000
ANY_TPOT_MS: Final = 60_000
"""The half of an objective that a client left open, when it gave the other."""

_PRICE_DIGITS_MAX: Final = 12
"""Before the point; what is dearer is a mistake, and exponents like 1e999999 must not become long integers."""

_Accounts: TypeAlias = Annotated[list[AccountId], Meta(max_length=64)]
_Cutoff: TypeAlias = Annotated[float, Meta(gt=0, le=1e6)]
_Cutoffs: TypeAlias = _Cutoff | dict[Literal["p50", "p75", "p90", "p99"], _Cutoff] | None
_By: TypeAlias = Literal["price", "latency", "throughput"]


class MaxPrice(Struct, forbid_unknown_fields=True, frozen=True):
    """Credits per million tokens; no offer here has a price per request or per image, so those always hold."""

    prompt: Decimal | None = None
    completion: Decimal | None = None
    request: Decimal | None = None
    image: Decimal | None = None


class _Sort(Struct, forbid_unknown_fields=True, frozen=True):
    by: _By
    partition: Literal["model", "none"] | None = None


class Routing(Struct, forbid_unknown_fields=True, frozen=True):
    """OpenRouter's ``provider`` object, as far as this market can keep it. Providers are named by account."""

    max_price: MaxPrice | None = None
    sort: _By | _Sort | None = None
    only: _Accounts | None = None
    ignore: _Accounts | None = None
    allow_fallbacks: bool | None = None
    quantizations: Annotated[list[Precision], Meta(max_length=8)] | None = None
    preferred_max_latency: _Cutoffs = None
    preferred_min_throughput: _Cutoffs = None
    require_parameters: bool | None = None
    """Kept for every request: all its fields reach the engine."""
    data_collection: Literal["allow"] | None = None
    zdr: Literal[False] | None = None


_NO_ROUTING: Final = Routing()


def read_preferences(
    headers: Headers, routing: Routing | None, offers: Callable[[], Sequence[tuple[EntryId, ListedOffer]]]
) -> Preferences:
    """Headers win over ``routing``. ``offers`` gives those for the model, under a ``max_price``.

    Raises:
        Malformed: a header or an amount that is none.
        Unavailable: offers exist, and all are dearer than ``max_price``.
    """
    routing = routing or _NO_ROUTING
    price = headers.get("x-wwwmarket-max-price")
    only = tuple(routing.only or ())
    if routing.max_price is not None and (listed := offers()):
        only = _affordable(listed, routing.max_price, only)
    return Preferences(
        max_price_micro=None if price is None else credits_micro(price, param="x-wwwmarket-max-price"),
        time_value_micro_per_s=_time_value(headers, routing),
        slo=_slo(headers, routing),
        precisions=tuple(routing.quantizations or ()),
        only=only,
        ignore=tuple(routing.ignore or ()),
        allow_fallbacks=routing.allow_fallbacks is not False,
    )


def _time_value(headers: Headers, routing: Routing) -> int:
    text = headers.get("x-wwwmarket-time-value")
    if text is not None:
        return credits_micro(text, param="x-wwwmarket-time-value")
    by = routing.sort.by if isinstance(routing.sort, _Sort) else routing.sort
    return SPEED_VALUE_MICRO_PER_S if by in {"latency", "throughput"} else 0


def _slo(headers: Headers, routing: Routing) -> Slo | None:
    ttft_ms = _millis(headers, "x-slo-ttft-ms")
    tpot_ms = _millis(headers, "x-slo-tpot-ms")
    if ttft_ms is None and (latency_s := _strictest(routing.preferred_max_latency, min)):
        ttft_ms = min(ANY_TTFT_MS, max(1, int(latency_s * 1000)))
    if tpot_ms is None and (tokens_per_s := _strictest(routing.preferred_min_throughput, max)):
        tpot_ms = min(ANY_TPOT_MS, max(1, int(1000 / tokens_per_s)))
    if ttft_ms is None and tpot_ms is None:
        return None
    return Slo(ttft_ms=ANY_TTFT_MS if ttft_ms is None else ttft_ms, tpot_ms=ANY_TPOT_MS if tpot_ms is None else tpot_ms)


def _millis(headers: Headers, name: str) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= len(text) <= 9 and int(text) > 0):
        raise Malformed(f"{name} is a whole number of milliseconds, such as 500", param=name)
    return int(text)


def _strictest(cutoffs: _Cutoffs, pick: Callable[[Iterable[float]], float]) -> float | None:
    """One figure for all percentiles: an objective here has none, so the strictest of those given holds."""
    if isinstance(cutoffs, dict):
        return pick(cutoffs.values()) if cutoffs else None
    return cutoffs


def _affordable(
    offers: Sequence[tuple[EntryId, ListedOffer]], cap: MaxPrice, only: tuple[AccountId, ...]
) -> tuple[AccountId, ...]:
    input_cap, output_cap = _per_mtok(cap.prompt, "prompt"), _per_mtok(cap.completion, "completion")
    dear = {
        listed.provider
        for _, listed in offers
        if Decimal(listed.offer.prices.input_micro_per_mtok) > input_cap
        or Decimal(listed.offer.prices.output_micro_per_mtok) > output_cap
    }
    kept = {listed.provider for _, listed in offers} - dear
    if only:
        kept &= set(only)
    if not kept:
        raise Unavailable(
            "no listed offer is within provider.max_price", retry_after_ms=10_000, param="provider.max_price"
        )
    return tuple(sorted(kept))


def _per_mtok(price: Decimal | None, field: str) -> Decimal:
    """Credits per million tokens as micro-credits per million tokens, exactly; no price is no bound."""
    if price is None:
        return Decimal("Infinity")
    if not price.is_finite() or price < 0 or price.adjusted() > _PRICE_DIGITS_MAX:
        raise Malformed("a price is decimal credits per million tokens", param=f"provider.max_price.{field}")
    return price.scaleb(6)

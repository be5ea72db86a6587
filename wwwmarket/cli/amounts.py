"""Credits as people write them, micro-credits as everything else does; exact both ways."""

import re
from typing import Final

import typer

from wwwmarket.domain.quantity import INTEGER_MAX

MICRO_PER_CREDIT: Final = 1_000_000

_AMOUNT: Final = re.compile(r"(?P<whole>[0-9]{1,10})(?:\.(?P<part>[0-9]{1,6}))?", re.ASCII)


def credits_text(micro: int) -> str:
    """``micro`` micro-credits as an exact decimal of credits: 1500000 is "1.50", 12 is "0.000012"."""
    whole, part = divmod(abs(micro), MICRO_PER_CREDIT)
    digits = f"{part:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micro < 0 else ''}{whole:,}.{digits}"


def parse_credits(text: str) -> int:
    """Micro-credits from a plain decimal of credits, at most six places: the ``parser`` of every amount's option.

    Raises:
        typer.BadParameter: not a decimal, finer than a micro-credit, or beyond 2^53 - 1 micro-credits.
    """
    amount = _AMOUNT.fullmatch(text)
    if amount is None:
        raise typer.BadParameter(f"{text!r} is not an amount of credits: write digits, with at most six after the dot")
    micro = int(amount["whole"]) * MICRO_PER_CREDIT + int((amount["part"] or "").ljust(6, "0"))
    if micro > INTEGER_MAX:
        raise typer.BadParameter(f"{text} credits are more than any account holds")
    return micro

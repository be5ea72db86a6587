"""Money as people and OpenRouter's clients write it: exact decimals, never floats."""

import re
from decimal import Decimal
from typing import Final

from wwwmarket.domain.errors import Malformed
from wwwmarket.domain.quantity import MicroCredits

_CREDITS: Final = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,6}))?", re.ASCII)


def credits_text(amount_micro: MicroCredits) -> str:
    """Credits as a JSON number: 1_250_000 is ``1.25``."""
    whole, part = divmod(amount_micro, 1_000_000)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".") if part else str(whole)


def credits_micro(text: str, *, param: str) -> MicroCredits:
    """Micro-credits from decimal credits. Raises Malformed: signs, exponents, over 6 decimals, a billion or more."""
    match = _CREDITS.fullmatch(text)
    if match is None:
        raise Malformed("an amount is decimal credits with at most six decimals, such as 0.25", param=param)
    whole, part = match.groups(default="")
    return int(whole) * 1_000_000 + int(part.ljust(6, "0"))


def price_per_token(micro_per_mtok: int) -> str:
    """Credits per token as a decimal string, as OpenRouter's catalogue writes prices."""
    text = format(Decimal(micro_per_mtok).scaleb(-12), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text

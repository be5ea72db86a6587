"""A provider's policy as people write it: a preset's name, or a TOML file whose keys are those of ``PolicyFile``."""

import re
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import typer
from msgspec.structs import replace

from wwwmarket.cli.options import parse_share
from wwwmarket.domain.errors import Malformed
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.quantity import Count
from wwwmarket.domain.shape import Value
from wwwmarket.market.policy import PRESETS, Curve, Policy, Window, daily

FILE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Enough for every account that a policy may name."""
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY: Final = "|".join(_DAYS)
_WINDOW: Final = re.compile(
    rf"(?P<first>{_DAY})(?:-(?P<last>{_DAY}))? (?P<from>[0-9]{{2}}:[0-9]{{2}})-(?P<until>[0-9]{{2}}:[0-9]{{2}})",
    re.ASCII,
)


class PolicyFile(Value):
    """The keys of a policy file, each of them optional; shares are decimals from 0 to 1, hours are UTC.

    ``schedule`` holds windows such as "mon-fri 20:00-06:00", which end on the next day where they end before they
    begin. What a file does not say is as in its ``preset``.
    """

    preset: str = "always"
    schedule: list[str] | None = None
    only: frozenset[AccountId] | None = None
    never: frozenset[AccountId] | None = None
    share: Decimal | None = None
    target: Decimal | None = None
    own_running_max: Count | None = None
    own_waiting_max: Count | None = None
    accept: Decimal | None = None
    floor: Decimal | None = None
    cap: Decimal | None = None
    curve: Curve | None = None


_SHARES: Final = ("share", "target", "accept", "floor", "cap")


def parse_policy(text: str) -> Policy:
    """The policy of a preset or a file: the ``parser`` of the option.

    Raises:
        typer.BadParameter: it is neither, or the file cannot be read, with the key at fault.
    """
    if text in PRESETS:
        return PRESETS[text]
    try:
        with Path(text).open("rb") as file:
            written = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        presets = ", ".join(PRESETS)
        raise typer.BadParameter(f"{text!r} is no preset ({presets}), and no file: {error.strerror}") from None
    try:
        return read_policy(written)
    except Malformed as refusal:
        raise typer.BadParameter(f"{text}: {refusal.message}") from None


def read_policy(written: bytes) -> Policy:
    """The policy that a TOML file says.

    Raises:
        Malformed: it is too long, no TOML, or says what a policy cannot be; names the key or the line.
    """
    if len(written) > FILE_BYTES_MAX:
        raise Malformed(f"a policy has at most {FILE_BYTES_MAX} bytes")
    try:
        said = msgspec.convert(tomllib.loads(written.decode(), parse_float=Decimal), PolicyFile)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Malformed(f"not a policy: {error}") from None
    if said.preset not in PRESETS:
        raise Malformed(f"no preset {said.preset!r}; there are {', '.join(PRESETS)}", param="preset")
    changes: dict[str, Any] = {f"{name}_ppm": _share(name, getattr(said, name)) for name in _SHARES}
    for name in ("only", "never", "own_running_max", "own_waiting_max", "curve"):
        changes[name] = getattr(said, name)
    if said.schedule is not None:
        changes["schedule"] = tuple(window for line in said.schedule for window in _windows(line))
    return replace(PRESETS[said.preset], **{name: value for name, value in changes.items() if value is not None})


def _share(name: str, value: Decimal | None) -> int | None:
    if value is None:
        return None
    try:
        return parse_share(str(value))
    except typer.BadParameter as mistake:
        raise Malformed(f"{name}: {mistake.message}", param=name) from None


def _windows(line: str) -> tuple[Window, ...]:
    """One window a day. Raises Malformed."""
    said = _WINDOW.fullmatch(line)
    if said is None:
        raise Malformed(f'schedule: {line!r} is no window; write "mon-fri 20:00-06:00", in UTC', param="schedule")
    first = _DAYS.index(said["first"])
    last = _DAYS.index(said["last"] or said["first"])
    if last < first:
        raise Malformed(f"schedule: {line!r} ends before it begins; weeks begin on Monday", param="schedule")
    return daily(_minute(said["from"]), _minute(said["until"]), range(first, last + 1))


def _minute(text: str) -> int:
    """Of the day. Raises Malformed."""
    hours, minutes = int(text[:2]), int(text[3:])
    if minutes >= 60 or hours * 60 + minutes > 24 * 60:
        raise Malformed(f"schedule: {text} is no time of the day", param="schedule")
    return hours * 60 + minutes

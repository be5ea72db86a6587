"""What a person or a program reads: data on stdout, as tables or as JSON; messages on stderr.

What strangers wrote (names, reasons) is shown with its control characters escaped, so that it cannot steer a terminal,
and never read as markup.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

import msgspec

from wwwmarket.cli.amounts import credits_text

_INSTANT_FROM_MS: Final = 100_000_000_000
"""A count of milliseconds from here on (March 1973; as a duration, three years) is shown as an instant."""

_PIPE_COLUMNS: Final = 10_000
"""Wide enough that no line is folded for a program that reads them."""

_UNITS: Final = {
    "_micro_per_mtok": "credits per 1M tokens",
    "_micro_per_s": "credits per second",
    "_micro": "credits",
    "_tokens": "tokens",
    "_ms": "ms",
    "_bytes": "bytes",
}
"""The unit that a field's name ends with, longest first, and how people read it."""


def emit(value: object, json: bool) -> None:  # noqa: FBT001 - every command passes its own --json
    """Print ``value`` on stdout: a domain value, a mapping, a sequence of either, or plain text.

    As JSON it is the value itself, integers in the units of their names. For people, one record is a list of its
    fields, several are a table, and integer micro-credits are credits.
    """
    if json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
        return
    plain = msgspec.to_builtins(value)
    if isinstance(plain, Mapping):
        _print_record(plain)
    elif isinstance(plain, Sequence) and not isinstance(plain, str):
        _print_table("", plain)
    else:
        sys.stdout.write(f"{plain}\n")


def say(message: str) -> None:
    """Tell the person at the terminal ``message``; no program reads it."""
    sys.stderr.write(printable(message) + "\n")


def fail(message: str, code: int = 1) -> NoReturn:
    """Say in one line why not, and leave with ``code``."""
    say(f"wwwmarket: {message}")
    sys.exit(code)


def printable(text: str) -> str:
    """``text`` on one line, with everything that could steer a terminal written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _print_record(record: Mapping[str, Any]) -> None:
    from rich.table import Table

    fields = dict(_flatten(record))
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")  # a key cut short would be no key
    for name, value in fields.items():
        if not _is_records(value):
            heading, cell = _cell(name, value)
            table.add_row(_text(heading, "bold"), _text(cell))
    _print(table)
    for name, value in fields.items():
        if _is_records(value):
            _print_table(_words(name), value)


def _print_table(title: str, rows: Sequence[Any]) -> None:
    if not rows:
        say("Nothing to show.")
        return
    if not _is_records(rows):
        sys.stdout.write("".join(f"{printable(str(row))}\n" for row in rows))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    flat = [dict(_flatten(row)) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    table = Table(title=_text(title, "bold") if title else None, title_justify="left", box=SIMPLE_HEAD)
    for name in names:
        numeric = all(isinstance(row.get(name), int | float | None) for row in flat)
        table.add_column(_text(_with_unit(name)), justify="right" if numeric else "left", overflow="fold")
    for row in flat:
        table.add_row(*(_text(_quantity(name, row.get(name))) for name in names))
    _print(table)


def _print(table: Any) -> None:
    """Print for the width of a terminal, or whole lines where a program reads."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_COLUMNS
    Console(width=width, highlight=False, emoji=False, markup=False).print(table)


def _text(content: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(content, style)


def _is_records(value: object) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _flatten(record: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Fields of fields become fields: ``{"slo": {"ttft_ms": 1}}`` is ``slo.ttft_ms``."""
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _cell(name: str, value: object) -> tuple[str, str]:
    """A field of one record: its heading, and its value with the unit behind it."""
    unit = _unit(name)
    quantity = _quantity(name, value)
    shows_unit = unit is not None and isinstance(value, int) and not _is_instant(name, value)
    return _words(name), f"{quantity} {_UNITS[unit]}" if unit and shows_unit else quantity


def _with_unit(name: str) -> str:
    """A column's heading: units stand here once, credits and milliseconds by name."""
    unit = _unit(name)
    words = _words(name)
    return f"{words} ({_UNITS[unit]})" if unit else words


def _quantity(name: str, value: object) -> str:
    match value:
        case None | []:
            text = "-"
        case bool():
            text = "yes" if value else "no"
        case int() if "_micro" in (_unit(name) or ""):
            text = credits_text(value)
        case int() if _is_instant(name, value):
            text = _instant(value)
        case int():
            text = f"{value:,}"
        case list():
            text = ", ".join(_quantity(name, item) for item in value)
        case _:
            text = printable(str(value))
    return text


def _instant(ms: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    return moment.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")


def _is_instant(name: str, value: int) -> bool:
    return _unit(name) == "_ms" and _INSTANT_FROM_MS <= value < 100 * _INSTANT_FROM_MS


def _unit(name: str) -> str | None:
    return next((suffix for suffix in _UNITS if name.endswith(suffix)), None)


def _words(name: str) -> str:
    return name.removesuffix(_unit(name) or "").replace("_", " ").replace(".", " ")

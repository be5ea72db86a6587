"""An account's statement: replayed here from the ledger's entries, so it equals the ledger whatever any node says."""

import csv
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from html import escape
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import msgspec
import typer

from wwwmarket.adapters.log_reader import open_log
from wwwmarket.cli.amounts import credits_text
from wwwmarket.cli.ledger import LedgerAddress, entries, read_checkpoint
from wwwmarket.cli.options import option
from wwwmarket.cli.output import emit, say
from wwwmarket.cli.progress import progress
from wwwmarket.crypto.signing import open_entry
from wwwmarket.domain.book import Account
from wwwmarket.domain.errors import Conflict, Malformed, Refusal
from wwwmarket.domain.identity import AccountId
from wwwmarket.ledger.checkpoint import open_checkpoint, parse_checkpoint
from wwwmarket.ledger.merkle import Frontier, leaf_hash
from wwwmarket.ledger.note import NOTE_BYTES_MAX, VerifierKey, parse_note
from wwwmarket.ledger.quorum import check_quorum, cosigner_keys
from wwwmarket.market.statement import Grouping, Line, Reader, Total, balance_of, totals, within
from wwwmarket.rules.check import check
from wwwmarket.rules.registry import Registry
from wwwmarket.rules.state import State

FINAL_PATH: Final = "final"
"""Where a node serves its latest final checkpoint; a folder has none, and its checkpoint may be final itself."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

__all__ = ["By", "CsvFile", "From", "LedgerAddress", "Page", "Until", "print_statement", "read_statement"]


def _instant(text: str) -> int:
    """Milliseconds from a date or a time of ISO 8601; UTC where it does not say. The parser of --from and --until."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date like 2026-11-01 or a time like 2026-11-01T12:00Z") from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(milliseconds=1)


From: TypeAlias = Annotated[int | None, option("--from", "From this date or time on.", parser=_instant, metavar="DATE")]
Until: TypeAlias = Annotated[
    int | None, option("--until", "Up to this date or time, itself left out.", parser=_instant, metavar="DATE")
]
By: TypeAlias = Annotated[Grouping | None, option("--by", "Totals instead of lines.")]
CsvFile: TypeAlias = Annotated[
    Path | None, option("--csv", "Write the lines or totals as CSV; - is standard output.", metavar="FILE")
]
Page: TypeAlias = Annotated[Path | None, option("--page", "Write a page to print (HTML).", metavar="FILE")]


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--json`` prints. ``opening`` and ``closing`` are the balances around ``lines`` (or ``totals``).

    The replayed log's own state root was compared at each of its marks, up to ``checkpoint_size`` entries. The first
    ``final_size`` of them are final: a quorum of the committee has cosigned them. The rest is pending.
    """

    account: AccountId
    log: str
    checkpoint_size: int
    final_size: int
    opening: Account
    closing: Account
    lines: list[Line]
    totals: list[Total] | None


def read_statement(
    account: AccountId, ledger: str, from_ms: int | None, until_ms: int | None, by: Grouping | None
) -> Statement:
    """Replay the log at ``ledger`` up to its checkpoint.

    Raises:
        Refusal: the log cannot be read, an entry does not follow, or the entries are not those of the checkpoint.
    """
    reader, tree, lines, final_size = Reader(account, State(Registry.load())), Frontier(), [], 0
    with closing(open_log(ledger)) as log, progress("Reading the ledger") as tell:
        served = log.read(FINAL_PATH, bytes_max=NOTE_BYTES_MAX)  # first, so that the checkpoint is no older
        note, checkpoint = read_checkpoint(log)
        final = served or note
        until_final = parse_checkpoint(parse_note(final).text).size
        for index, leaf in entries(log, checkpoint, 0):
            tree.append(leaf_hash(leaf))
            line = reader.follow(check(open_entry(leaf)))
            if line is not None:
                lines.append(line)
            if tree.size == until_final and _is_final(final, tree.root(), reader.state):
                final_size = tree.size
            tell(index + 1, checkpoint.size)
    if tree.root() != checkpoint.root:
        raise Conflict("the entries are not those of the log's checkpoint: audit this ledger")
    if balance_of(lines) != reader.state.account(account):
        raise AssertionError("a statement is its account's balance")
    shown = list(within(lines, from_ms, until_ms))
    first = next((at for at, line in enumerate(lines) if from_ms is None or line.at_ms >= from_ms), len(lines))
    return Statement(
        account=account,
        log=checkpoint.origin,
        checkpoint_size=checkpoint.size,
        final_size=final_size,
        opening=balance_of(lines[:first]),
        closing=balance_of(lines[: first + len(shown)]),
        lines=shown if by is None else [],
        totals=None if by is None else totals(shown, by, _day),
    )


def _is_final(note: bytes, root: bytes, state: State) -> bool:
    """Whether a quorum of the committee in office has cosigned the tree with that root."""
    committee = state.governance.committee
    try:
        opened = open_checkpoint(note, VerifierKey(name=state.origin, account=state.operator), cosigner_keys(committee))
        check_quorum(opened, committee)
    except Refusal:
        return False
    return opened.checkpoint.root == root


def print_statement(statement: Statement, ledger: str, *, csv_file: Path | None, page: Path | None, json: bool) -> None:
    """To the places that were asked for; as tables to stdout where none was."""
    if page is not None:
        page.write_text(_page(statement, ledger), encoding="utf-8")
        say(f"Written to {page}")
    if csv_file is not None:
        text = _csv(statement)
        if str(csv_file) == "-":
            sys.stdout.write(text)
        else:
            csv_file.write_text(text, encoding="utf-8")
            say(f"Written to {csv_file}")
    if json:
        emit(statement, json=True)
    elif page is None and csv_file is None:
        _print_tables(statement)


def parse_account(text: str) -> AccountId:
    try:
        return AccountId(msgspec.convert(text, AccountId))
    except msgspec.ValidationError:
        raise Malformed("an account is named by its public key: 64 hexadecimal digits") from None


def _print_tables(statement: Statement) -> None:
    rows: list[Any] = [_plain(line) for line in statement.lines] if statement.totals is None else statement.totals
    emit(rows, json=False)
    emit({"opening": statement.opening, "closing": statement.closing, "entries": statement.checkpoint_size}, json=False)
    if statement.final_size:
        emit(f"Final up to entry {statement.final_size - 1}: a quorum of mirrors has cosigned it.", json=False)


def _plain(line: Line) -> dict[str, Any]:
    usage = line.usage
    return {
        "index": line.index,
        "at_ms": line.at_ms,
        "kind": line.kind,
        "counterparty": (line.counterparty or "")[:12],
        "model": line.model,
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "answers": line.answers,
        "net_micro": line.net_micro,
        "available_micro": line.available_micro,
        "locked_micro": line.locked_micro,
        "bonded_micro": line.bonded_micro,
    }


def _day(at_ms: int) -> str:
    """The day in UTC."""
    return _moment(at_ms)[:10]


_LINE_COLUMNS: Final = (
    *("index", "at", "kind", "counterparty", "model", "award", "input_tokens", "output_tokens"),
    *("net_micro", "available_micro", "locked_micro", "bonded_micro", "tab", "answers"),
)


def _csv(statement: Statement) -> str:
    """RFC 4180. Names of models are strangers' words: none begins like a formula, which a spreadsheet would run."""
    out = StringIO()
    writer = csv.writer(out)
    if statement.totals is not None:
        writer.writerow(Total.__struct_fields__)
        writer.writerows(msgspec.structs.astuple(total) for total in statement.totals)
    else:
        writer.writerow(_LINE_COLUMNS)
        writer.writerows(_cells(line) for line in statement.lines)
    return out.getvalue()


def _cells(line: Line) -> tuple[Any, ...]:
    usage = line.usage
    counts = (usage.input_tokens, usage.output_tokens) if usage else ("", "")
    named = (line.kind, line.counterparty or "", line.model or "", line.award or "")
    parts = (line.net_micro, line.available_micro, line.locked_micro, line.bonded_micro)
    answers = "" if line.answers is None else line.answers
    return (line.index, _moment(line.at_ms), *named, *counts, *parts, line.tab or "", answers)


def _moment(at_ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_STYLE: Final = (
    "body{font:14px/1.4 system-ui,sans-serif;margin:2rem;color:#111}table{border-collapse:collapse;width:100%}"
    "th,td{padding:.25rem .5rem;border-bottom:1px solid #ccc;text-align:left}td.n,th.n{text-align:right;"
    "font-variant-numeric:tabular-nums}@media print{body{margin:0}a{color:inherit;text-decoration:none}}"
)


def _page(statement: Statement, ledger: str) -> str:
    """One page that needs nothing else. Each line links to its proof, and to its receipt where it has one."""
    linked = ledger.startswith(("http://", "https://"))
    base = ledger.rstrip("/").removesuffix("/v1").removesuffix("/ledger") if linked else None
    if statement.totals is None:
        heads = ["entry", "time", "kind", "counterparty", "model", "tokens in", "tokens out", "credits", "available"]
        rows = "".join(_row(line, base) for line in statement.lines)
    else:
        heads = ["group", "lines", "earned", "spent", "net", "tokens in", "tokens out"]
        rows = "".join(_total_row(total) for total in statement.totals)
    closing = statement.closing
    return (
        f"<!doctype html><meta charset=utf-8><title>Statement of {statement.account[:12]}</title>"
        f"<style>{_STYLE}</style>"
        f"<h1>Statement</h1><p>Account {statement.account}<br>Ledger {escape(statement.log)}, replayed up to "
        f"{statement.checkpoint_size} entries</p><p>Opening balance {_all(statement.opening)} credits; closing "
        f"{_all(closing)}, of which {credits_text(closing.available_micro)} available, "
        f"{credits_text(closing.locked_micro)} locked, {credits_text(closing.bonded_micro)} bonded.</p>"
        f"<table><tr>{''.join(f'<th>{head}' for head in heads)}{rows}</table>\n"
    )


def _row(line: Line, base: str | None) -> str:
    entry, kind = str(line.index), escape(_kind(line))
    if base is not None:
        entry = f'<a href="{escape(base)}/ledger/proof/entry/{line.index}">{line.index}</a>'
        if line.award is not None:
            kind = f'<a href="{escape(base)}/v1/receipts/{line.award}">{kind}</a>'
    usage = line.usage
    counts = (f"{usage.input_tokens:,}", f"{usage.output_tokens:,}") if usage else ("", "")
    amounts = (credits_text(line.net_micro), credits_text(line.available_micro))
    words = (entry, _moment(line.at_ms), kind, (line.counterparty or "")[:12], escape(line.model or ""))
    return f"<tr>{''.join(f'<td>{word}' for word in words)}{''.join(f'<td class=n>{n}' for n in (*counts, *amounts))}"


def _kind(line: Line) -> str:
    """What the entry is; for a tab, for how many answers, each of which its receipt's proof explains."""
    return line.kind if line.answers is None else f"{line.kind} of {line.answers:,} answers"


def _total_row(total: Total) -> str:
    amounts = [credits_text(micro) for micro in (total.earned_micro, total.spent_micro, total.net_micro)]
    numbers = (f"{total.lines:,}", *amounts, f"{total.input_tokens:,}", f"{total.output_tokens:,}")
    return f"<tr><td>{escape(total.group)}{''.join(f'<td class=n>{n}' for n in numbers)}"


def _all(account: Account) -> str:
    return credits_text(account.available_micro + account.locked_micro + account.bonded_micro)

"""``wwwmarket ledger``: the log as files, and its entries for people."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import msgspec
import typer

from wwwmarket.adapters.log_reader import open_log
from wwwmarket.cli.entries import says
from wwwmarket.cli.governance import decree, propose_app, succeed
from wwwmarket.cli.options import GATEWAY, Json, option
from wwwmarket.cli.output import emit, say
from wwwmarket.cli.progress import progress
from wwwmarket.cli.proofs import policy, prove
from wwwmarket.crypto.signing import open_entry
from wwwmarket.domain.errors import Conflict, Malformed, NotFound
from wwwmarket.ledger.bundles import decode_bundle
from wwwmarket.ledger.checkpoint import Checkpoint, parse_checkpoint
from wwwmarket.ledger.export import CHECKPOINT_PATH
from wwwmarket.ledger.merkle import HASH_BYTES, Frontier, leaf_hash
from wwwmarket.ledger.note import NOTE_BYTES_MAX, parse_note
from wwwmarket.ledger.proofs import inclusion_proof, verify_inclusion
from wwwmarket.ledger.tiles import TILE_WIDTH, BundleId, TileId, TileReader, bundle_ids, path_of, tile_ids
from wwwmarket.market.audit.reading import Log, read_bundle, read_tile
from wwwmarket.rules.check import check

VKEY_PATH: Final = "vkey"
VKEY_BYTES_MAX: Final = 1_024
TAIL_MAX: Final = 10_000

_HELP: Final = """The ledger as files, and its entries for people.

\b
  wwwmarket ledger export ./log                    the whole log, to keep or to audit
  wwwmarket ledger show --tail 20                  the latest entries
  wwwmarket ledger show 17 --ledger ./log --json   one entry, for a program
  wwwmarket ledger policy > market.policy          whom to believe, for 'verify'
  wwwmarket ledger prove 17 > 17.tlog-proof        one entry or balance, for those without a copy
  wwwmarket ledger propose --help                  what a committee decides, and how
"""

app = typer.Typer(help=_HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(propose_app, name="propose")
app.command()(decree)
app.command()(policy)
app.command()(prove)
app.command()(succeed)

LedgerAddress: TypeAlias = Annotated[
    str, option("--ledger", "A node's or mirror's address, or a folder of 'ledger export'.", metavar="URL|DIR")
]


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.", file_okay=False)],
    *,
    ledger: LedgerAddress = GATEWAY,
    force: Annotated[
        bool, typer.Option("--force", help="Go on in a folder that holds a part of this log already.")
    ] = False,
    json: Json = False,
) -> None:
    """Copy a log's files (C2SP tlog-tiles) into a folder, byte for byte; the checkpoint is written last.

    \b
      wwwmarket ledger export ./log --ledger http://127.0.0.1:8080
      wwwmarket ledger export ./log --force        only what is new since last time
      wwwmarket audit ./log
    """  # noqa: D301 - \b keeps the examples' lines
    if folder.exists() and any(folder.iterdir()) and not force:
        raise Conflict(f"{folder} is not empty: --force goes on with a part of the same log")
    with closing(open_log(ledger)) as log, progress("Exporting") as tell:
        note, checkpoint = read_checkpoint(log)
        _keep_key(log, folder)
        tree, copied = Frontier(), 0
        for bundle in bundle_ids(checkpoint.size):
            content, fresh = _copy_bundle(log, folder, bundle)
            copied += fresh
            for leaf in _leaves(content, bundle):
                tree.append(leaf)
            tell(bundle.number * TILE_WIDTH + bundle.width, checkpoint.size)
        for tile in tile_ids(checkpoint.size):
            copied += _copy_tile(log, folder, tile)
    # Also where it does not add up: then the files are evidence.
    _write(folder / CHECKPOINT_PATH, note)
    if tree.root() != checkpoint.root:
        raise Conflict(f"the files in {folder} do not add up to their checkpoint: audit them, or begin anew elsewhere")
    emit({"folder": str(folder), "log": checkpoint.origin, "entries": checkpoint.size, "files_copied": copied}, json)


@app.command()
def show(
    index: Annotated[int | None, typer.Argument(metavar="[INDEX]", help="Which entry.", min=0)] = None,
    *,
    tail: Annotated[int, typer.Option("--tail", help="The latest entries.", min=1, max=TAIL_MAX)] = 10,
    ledger: LedgerAddress = GATEWAY,
    json: Json = False,
) -> None:
    """Show an entry, proven to be in the log's tree, or the latest ones.

    \b
      wwwmarket ledger show 0
      wwwmarket ledger show --tail 50 --json
    """  # noqa: D301 - \b keeps the examples' lines
    with closing(open_log(ledger)) as log:
        _, checkpoint = read_checkpoint(log)
        if index is None:
            shown = [_told(at, leaf) for at, leaf in entries(log, checkpoint, max(0, checkpoint.size - tail))]
            emit(shown if json else [_row(each) for each in shown], json)
            return
        if index >= checkpoint.size:
            raise NotFound(f"the log has {checkpoint.size} entries; there is no entry {index}")
        leaf = next(leaf for _, leaf in entries(log, checkpoint, index))
        _prove(log, checkpoint, index, leaf)
    emit(_told(index, leaf), json)


def read_checkpoint(log: Log) -> tuple[bytes, Checkpoint]:
    """What the log says of itself; who says it is for an audit to find."""
    note = log.read(CHECKPOINT_PATH, bytes_max=NOTE_BYTES_MAX)
    if note is None:
        raise NotFound("there is no checkpoint: this is not a log")
    return note, parse_checkpoint(parse_note(note).text)


def _keep_key(log: Log, folder: Path) -> None:
    """The key first, so that a folder is never filled from two logs."""
    key = log.read(VKEY_PATH, bytes_max=VKEY_BYTES_MAX)
    if key is None:
        say("The log's verifier key is not served there: the audit of this folder needs --vkey.")
        return
    kept = folder / VKEY_PATH
    if kept.exists() and kept.read_bytes() != key:
        raise Conflict(f"{folder} holds another log")
    _write(kept, key)


def _copy_bundle(log: Log, folder: Path, bundle: BundleId) -> tuple[bytes, bool]:
    """The bundle, and whether it had to be copied: full ones never change."""
    target = folder / path_of(bundle)
    if bundle.width == TILE_WIDTH and target.is_file():
        return target.read_bytes(), False
    content = read_bundle(log, bundle)
    if content is None:
        raise NotFound(f"the log lacks {path_of(bundle)}")
    _write(target, content)
    return content, True


def _leaves(content: bytes, bundle: BundleId) -> list[bytes]:
    """The leaf hashes of a bundle; none of what is no bundle."""
    try:
        return [leaf_hash(entry) for entry in decode_bundle(content, width=bundle.width)]
    except Malformed:
        return []


def _copy_tile(log: Log, folder: Path, tile: TileId) -> bool:
    target = folder / path_of(tile)
    if tile.width == TILE_WIDTH and target.is_file() and target.stat().st_size == TILE_WIDTH * HASH_BYTES:
        return False
    content = read_tile(log, tile)
    if content is None:
        raise NotFound(f"the log lacks {path_of(tile)}")
    _write(target, content)
    return True


def _write(target: Path, content: bytes) -> None:
    """Whole or not at all: an export that was cut off leaves no half of a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.write_bytes(content)
    part.replace(target)


def entries(log: Log, checkpoint: Checkpoint, start: int) -> Iterator[tuple[int, bytes]]:
    """The entries from ``start`` on, with their indices."""
    for number in range(start // TILE_WIDTH, -(-checkpoint.size // TILE_WIDTH)):
        first = number * TILE_WIDTH
        bundle = BundleId(number=number, width=min(TILE_WIDTH, checkpoint.size - first))
        content = read_bundle(log, bundle)
        if content is None:
            raise NotFound(f"the log lacks {path_of(bundle)}")
        for at, leaf in enumerate(decode_bundle(content, width=bundle.width), first):
            if at >= start:
                yield at, leaf


def _prove(log: Log, checkpoint: Checkpoint, index: int, leaf: bytes) -> None:
    """Raises Malformed when the log's tiles do not lead from the entry to the checkpoint's root."""

    def fetch(tile: TileId) -> bytes:
        content = read_tile(log, tile)
        if content is None:
            raise Malformed(f"the log lacks {path_of(tile)}")
        return content

    proof = inclusion_proof(index, checkpoint.size, TileReader(checkpoint.size, fetch))
    verify_inclusion(index, checkpoint.size, leaf_hash(leaf), proof, checkpoint.root)


def _told(index: int, leaf: bytes) -> Mapping[str, Any]:
    """An entry whose signatures hold. Raises Malformed, Unauthorised."""
    checked = check(open_entry(leaf))
    return {
        "index": index,
        "id": checked.id,
        "account": checked.account,
        "seq": checked.seq,
        "prev": checked.prev,
        "body": msgspec.to_builtins(checked.body),
    }


def _row(told: Mapping[str, Any]) -> Mapping[str, Any]:
    body = told["body"]
    return {
        "index": told["index"],
        "kind": body["kind"],
        "account": told["account"][:12],
        "seq": told["seq"],
        "id": told["id"][:12],
        "says": says(body),
    }

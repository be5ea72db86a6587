"""The order in which a log's files are read for an audit, each once, so that nothing has to be kept."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from wwwmarket.domain.errors import Malformed, NotFound
from wwwmarket.ledger.bundles import BUNDLE_BYTES_MAX, decode_bundle, encode_bundle
from wwwmarket.ledger.export import CHECKPOINT_PATH
from wwwmarket.ledger.merkle import HASH_BYTES
from wwwmarket.ledger.note import NOTE_BYTES_MAX
from wwwmarket.ledger.tiles import TILE_HEIGHT, TILE_LEVELS, TILE_WIDTH, BundleId, TileId, partial_ids, path_of
from wwwmarket.market.audit.auditor import Auditor
from wwwmarket.market.audit.events import BundleRead, CheckpointRead, StretchRead, TileRead
from wwwmarket.market.audit.opening import Here, Opened, Opener


class Log(Protocol):
    """A log's files by their names in C2SP tlog-tiles."""

    def read(self, path: str, *, bytes_max: int) -> bytes | None:
        """A file, of which no more than ``bytes_max + 1`` bytes are read; None where there is none.

        Raises:
            Unavailable: it cannot be read now.
        """
        ...


def read_note(log: Log) -> bytes:
    """The log's checkpoint. Raises NotFound, Unavailable."""
    note = log.read(CHECKPOINT_PATH, bytes_max=NOTE_BYTES_MAX)
    if note is None:
        raise NotFound("there is no checkpoint: this is not a log")
    return note


def follow(auditor: Auditor, log: Log, opener: Opener | None = None, *, note: bytes | None = None) -> Iterator[int]:
    """Audit ``log`` up to its checkpoint, from where ``auditor`` is; gives the number of entries read, as it grows.

    ``opener`` opens bundles ahead, in other processes; without one the auditor does it itself. ``note`` is the
    checkpoint, where it was read already.

    Raises:
        NotFound: there is no checkpoint.
        Unavailable: the log cannot be read now.
    """
    opener = Here() if opener is None else opener
    auditor.step(CheckpointRead(note=read_note(log) if note is None else note))
    ahead: deque[_Bundle] = deque()
    for bundle in _bundles(auditor.size, auditor.target):
        content = read_bundle(log, bundle)
        ahead.append(_Bundle(bundle, content, None if content is None else opener.submit(content, bundle.width)))
        if content is None:
            break
        if len(ahead) > opener.ahead:
            yield _take(auditor, log, ahead.popleft())
    while ahead:
        yield _take(auditor, log, ahead.popleft())
    if auditor.size == auditor.target:
        for tile in (*partial_ids(auditor.size), *auditor.lacking()):
            auditor.step(TileRead(tile=tile, content=read_tile(log, tile)))
    auditor.step(StretchRead())


class _Bundle(NamedTuple):
    bundle: BundleId
    content: bytes | None
    opened: Callable[[], Opened | None] | None


def _bundles(size: int, target: int) -> Iterator[BundleId]:
    for number in range(size // TILE_WIDTH, -(-target // TILE_WIDTH)):
        yield BundleId(number=number, width=min(TILE_WIDTH, target - number * TILE_WIDTH))


def _take(auditor: Auditor, log: Log, read: _Bundle) -> int:
    opened = None if read.opened is None else read.opened()
    auditor.step(BundleRead(bundle=read.bundle, content=read.content, opened=opened))
    if read.content is not None:
        for tile in _full_tiles(read.bundle):
            auditor.step(TileRead(tile=tile, content=read_tile(log, tile)))
    return auditor.size


def _full_tiles(bundle: BundleId) -> Iterator[TileId]:
    """The tiles that the last entry of a bundle makes full, from below."""
    number = bundle.number
    if bundle.width < TILE_WIDTH:
        return
    for level in range(TILE_LEVELS):
        yield TileId(level=level, number=number)
        number, place = number >> TILE_HEIGHT, number % TILE_WIDTH
        if place != TILE_WIDTH - 1:
            return


def read_bundle(log: Log, bundle: BundleId) -> bytes | None:
    """A partial bundle is the beginning of the full one, which alone may be left (tlog-tiles, "Partial Tiles")."""
    content = log.read(path_of(bundle), bytes_max=BUNDLE_BYTES_MAX)
    if content is not None or bundle.width == TILE_WIDTH:
        return content
    full = log.read(path_of(BundleId(number=bundle.number)), bytes_max=BUNDLE_BYTES_MAX)
    if full is None:
        return None
    try:
        return encode_bundle(decode_bundle(full, width=TILE_WIDTH)[: bundle.width])
    except Malformed:
        return full


def read_tile(log: Log, tile: TileId) -> bytes | None:
    """A partial tile, likewise, is the beginning of the full one."""
    content = log.read(path_of(tile), bytes_max=TILE_WIDTH * HASH_BYTES)
    if content is not None or tile.width == TILE_WIDTH:
        return content
    full = log.read(path_of(TileId(level=tile.level, number=tile.number)), bytes_max=TILE_WIDTH * HASH_BYTES)
    return None if full is None else full[: tile.width * HASH_BYTES]

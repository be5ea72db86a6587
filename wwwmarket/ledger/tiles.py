"""Tiles: the tree's hashes as static files of fixed width (C2SP tlog-tiles).

Tile ``(level, number)`` holds the 256 nodes ``(8 * level, 256 * number)`` onwards; the levels between are hashed anew
by whoever needs them. A tile is full, with 256 hashes, or the partial one at the right edge of its level.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from wwwmarket.domain.errors import Malformed
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.merkle import HASH_BYTES, SIZE_MAX, Frontier, complete_root, node_hash, peaks_of

TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
TILE_LEVELS: Final = 8
"""Levels 0 to 7 hold every node of a tree below 2^63 leaves."""

PATH_CHARACTERS_MAX: Final = 64
"""The longest real path, of the last bundle of the largest tree, has 43."""

_PATH: Final = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([0-9]{1,3}))?", re.ASCII)


class TileId(Value):
    """Names a tile of hashes: ``width`` is 256 for a full one, less for a partial one."""

    level: int
    number: int
    width: int = TILE_WIDTH


class BundleId(Value):
    """Names an entry bundle, whose entries are those of the tile ``(0, number)`` of that width."""

    number: int
    width: int = TILE_WIDTH


class Tile(Value):
    """A tile of hashes: ``level``, ``number``, and 1 to 256 hashes of 32 bytes, joined."""

    level: int
    number: int
    hashes: bytes

    @property
    def id(self) -> TileId:
        return TileId(level=self.level, number=self.number, width=len(self.hashes) // HASH_BYTES)


FetchTile = Callable[[TileId], bytes]
"""Gives a tile's hashes, joined: exactly ``width`` of them."""


def path_of(name: TileId | BundleId) -> str:
    """Such as ``tile/0/x001/x234/067``, ``tile/1/000.p/17`` or ``tile/entries/002``."""
    assert 1 <= name.width <= TILE_WIDTH, "a tile holds 1 to 256 hashes"
    kind = str(name.level) if isinstance(name, TileId) else "entries"
    digits = f"{name.number:03d}"
    digits = digits.rjust(-(-len(digits) // 3) * 3, "0")
    *high, low = (digits[place : place + 3] for place in range(0, len(digits), 3))
    partial = "" if name.width == TILE_WIDTH else f".p/{name.width}"
    return f"tile/{kind}/{''.join(f'x{each}/' for each in high)}{low}{partial}"


def parse_path(path: str) -> TileId | BundleId:
    """Read a path, of which each tile and bundle has exactly one.

    Raises:
        Malformed: not the path of a tile or bundle.
    """
    match = _PATH.fullmatch(path) if len(path) <= PATH_CHARACTERS_MAX else None
    if match is None:
        raise Malformed("not the path of a tile or an entry bundle")
    kind, digits, partial = match.groups()
    number, width = int(re.sub("[x/]", "", digits)), int(partial or TILE_WIDTH)
    if not 1 <= width <= TILE_WIDTH:
        raise Malformed(f"a partial tile has 1 to {TILE_WIDTH - 1} hashes")
    if number > SIZE_MAX >> TILE_HEIGHT:
        raise Malformed("no tree is so large")
    name = BundleId(number=number, width=width) if kind == "entries" else _tile(int(kind), number, width)
    if path_of(name) != path:
        raise Malformed(f"not the canonical path, which is {path_of(name)}")
    return name


def _tile(level: int, number: int, width: int) -> TileId:
    if level >= 64:
        raise Malformed("tile levels go from 0 to 63")
    return TileId(level=level, number=number, width=width)


def tile_ids(size: int) -> Iterator[TileId]:
    """Every tile of the tree of ``size`` leaves: level by level, from the left, the partial one last."""
    for level in range(TILE_LEVELS):
        hashes = size >> (TILE_HEIGHT * level)
        for number in range(hashes >> TILE_HEIGHT):
            yield TileId(level=level, number=number)
        yield from _partial(level, hashes)


def partial_ids(size: int) -> Iterator[TileId]:
    """The partial tiles of the tree of ``size`` leaves, at most one a level, from below."""
    for level in range(TILE_LEVELS):
        yield from _partial(level, size >> (TILE_HEIGHT * level))


def _partial(level: int, hashes: int) -> Iterator[TileId]:
    if width := hashes % TILE_WIDTH:
        yield TileId(level=level, number=hashes >> TILE_HEIGHT, width=width)


def bundle_ids(size: int) -> Iterator[BundleId]:
    """Every entry bundle of the tree of ``size`` leaves, from the left."""
    for start in range(0, size, TILE_WIDTH):
        yield BundleId(number=start >> TILE_HEIGHT, width=min(TILE_WIDTH, size - start))


def tiles_holding(nodes: Iterable[tuple[int, int]], size: int) -> list[TileId]:
    """The tiles, each once, from which the nodes ``(level, index)`` of a tree of ``size`` leaves are read."""
    return list(dict.fromkeys(_locate(level, index, size)[0] for level, index in nodes))


def _locate(level: int, index: int, size: int) -> tuple[TileId, int, int]:
    """The tile that holds a node, and the places in it, from and to, of the hashes below that node."""
    if index < 0 or level < 0 or (index + 1) << level > size or size > SIZE_MAX:
        raise Malformed(f"there is no complete node {index} at level {level} in a tree of size {size}")
    tile_level, height = divmod(level, TILE_HEIGHT)
    number, start = divmod(index << height, TILE_WIDTH)
    width = min(TILE_WIDTH, (size >> (TILE_HEIGHT * tile_level)) - number * TILE_WIDTH)
    return TileId(level=tile_level, number=number, width=width), start, start + (1 << height)


def split_hashes(tile: TileId, hashes: bytes) -> list[bytes]:
    """The hashes of a tile, one by one.

    Raises:
        Malformed: not as many bytes as the tile has.
    """
    if len(hashes) != tile.width * HASH_BYTES:
        raise Malformed(f"{len(hashes)} bytes are not the {tile.width} hashes of {path_of(tile)}")
    return [hashes[place : place + HASH_BYTES] for place in range(0, len(hashes), HASH_BYTES)]


class TileReader:
    """Reads the nodes of a tree of ``size`` leaves from its tiles, each fetched and hashed once: a ``NodeReader``.

    It believes the tiles; what is proven from them is checked against a root.
    """

    def __init__(self, size: int, fetch: FetchTile) -> None:
        self._size = size
        self._fetch = fetch
        self._tiles: dict[TileId, list[bytes]] = {}
        self._nodes: dict[tuple[int, int], bytes] = {}

    def __call__(self, level: int, index: int) -> bytes:
        """Raises Malformed where the tree has no such complete node, or its tile has the wrong length."""
        node = self._nodes.get((level, index))
        if node is None:
            tile, start, end = _locate(level, index, self._size)
            hashes = self._tiles.get(tile)
            if hashes is None:
                hashes = self._tiles[tile] = split_hashes(tile, self._fetch(tile))
            if end - start == 1:
                node = hashes[start]
            else:
                node = node_hash(self(level - 1, 2 * index), self(level - 1, 2 * index + 1))
            self._nodes[level, index] = node
        return node


class Tiler:
    """A frontier that gives each tile as it becomes full, and holds the partial ones."""

    __slots__ = ("_frontier", "_rows")

    def __init__(self) -> None:
        self._frontier = Frontier()
        self._rows = [bytearray() for _ in range(TILE_LEVELS)]

    @staticmethod
    def needs(size: int) -> Iterator[TileId]:
        """The full tiles that ``resume`` reads: those whose roots stand in the partial tiles one level above."""
        for tile in partial_ids(size):
            if tile.level:
                first = tile.number * TILE_WIDTH
                for number in range(first, first + tile.width):
                    yield TileId(level=tile.level - 1, number=number)

    @classmethod
    def resume(cls, size: int, fetch: FetchTile, leaves: Sequence[bytes]) -> "Tiler":
        """Take up a tree of ``size`` leaves from its full tiles and its last ``size % 256`` leaf hashes.

        Raises:
            Malformed: a tile of the wrong length, or another number of leaf hashes.
        """
        if len(leaves) != size % TILE_WIDTH:
            raise Malformed(f"a tree of size {size} ends in {size % TILE_WIDTH} leaves after its last full tile")
        tiler = cls()
        tiler._rows[0] += b"".join(leaves)
        for below in cls.needs(size):
            tiler._rows[below.level + 1] += complete_root(split_hashes(below, fetch(below)))
        tiler._frontier = tiler._read_frontier(size)
        return tiler

    @classmethod
    def at(cls, size: int, rows: Sequence[bytes]) -> "Tiler":
        """Take up a tree of ``size`` leaves from the hashes of its partial tiles, level by level from below.

        Whether they are that tree's its root says: every hash in them is under a peak.

        Raises:
            Malformed: not as many hashes as partial tiles of that size have.
        """
        tiler = cls()
        if size > SIZE_MAX or len(rows) != TILE_LEVELS:
            raise Malformed(f"a tree has at most {SIZE_MAX} leaves, and partial tiles on {TILE_LEVELS} levels")
        for level, row in enumerate(rows):
            if len(row) != (size >> (TILE_HEIGHT * level)) % TILE_WIDTH * HASH_BYTES:
                raise Malformed(f"{len(row)} bytes are not the partial tile on level {level} of a tree of size {size}")
            tiler._rows[level] += row
        tiler._frontier = tiler._read_frontier(size)
        return tiler

    def _read_frontier(self, size: int) -> Frontier:
        """Every peak lies in a partial tile: were its tile full, a larger complete node would cover it."""
        rows = {tile.id: tile.hashes for tile in self._partials(size)}
        return Frontier.read(size, TileReader(size, rows.__getitem__))

    @property
    def rows(self) -> tuple[bytes, ...]:
        """The hashes of the partial tiles, level by level from below: what ``at`` takes."""
        return tuple(map(bytes, self._rows))

    @property
    def size(self) -> int:
        return self._frontier.size

    def root(self) -> bytes:
        return self._frontier.root()

    def frontier(self) -> Frontier:
        """A copy of the right edge, to try entries on."""
        return Frontier(self._frontier.size, self._frontier.peaks)

    def append(self, leaf: bytes) -> list[Tile]:
        """Add a leaf hash; gives the tiles that it makes full, from below."""
        completed = self._frontier.append(leaf)
        full: list[Tile] = []
        for level, node in enumerate(completed[::TILE_HEIGHT]):
            row = self._rows[level]
            row += node
            if len(row) == TILE_WIDTH * HASH_BYTES:
                number = (self._frontier.size >> (TILE_HEIGHT * (level + 1))) - 1
                full.append(Tile(level=level, number=number, hashes=bytes(row)))
                row.clear()
        return full

    def partials(self) -> list[Tile]:
        """The partial tiles of the tree as it is, from below."""
        return self._partials(self.size)

    def _partials(self, size: int) -> list[Tile]:
        return [
            Tile(level=each.level, number=each.number, hashes=bytes(self._rows[each.level]))
            for each in partial_ids(size)
        ]


def peak_tiles(size: int) -> list[TileId]:
    """The tiles that hold the peaks of the tree of ``size`` leaves, and so its root."""
    return tiles_holding(peaks_of(0, size), size)

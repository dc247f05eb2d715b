"""The files of a log in the tlog-tiles layout (c2sp.org/tlog-tiles): where hashes and entries stand, and how bundles are written.

A tile holds up to 256 hashes of one level (height 8); an entry bundle holds up to 256 entries, each a big-endian uint16 length and
its octets. Paths end with three-digit groups, all but the last prefixed `x`; partial tiles end with `.p/WIDTH`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from struct import Struct

from securepacs.audit.merkle import HASH_SIZE, Frontier, NodeReader, fold_peaks
from securepacs.errors import MalformedError, UsageError

HEIGHT = 8
WIDTH = 1 << HEIGHT
MAX_ENTRY = 0xFFFF
_LENGTH = Struct(">H")
_STANDARD = "C2SP tlog-tiles"
TileReader = Callable[[int, int, int], bytes]  # level, number, width -> the hashes


def tile_path(level: int, number: int, width: int = WIDTH) -> str:
    """Return the path of a hash tile."""
    return f"tile/{level}/{_numbered(number, width)}"


def bundle_path(number: int, width: int = WIDTH) -> str:
    """Return the path of an entry bundle."""
    return f"tile/entries/{_numbered(number, width)}"


def _numbered(number: int, width: int) -> str:
    text = f"{number % 1000:03d}"
    while number := number // 1000:
        text = f"x{number % 1000:03d}/{text}"
    return text if width == WIDTH else f"{text}.p/{width}"


def tiles_of(size: int) -> Iterable[tuple[int, int, int]]:
    """Yield level, number and width of every hash tile of a tree of `size` leaves."""
    level = 0
    while size:
        for number in range(size // WIDTH):
            yield level, number, WIDTH
        if size % WIDTH:
            yield level, size // WIDTH, size % WIDTH
        level, size = level + 1, size // WIDTH


def bundles_of(size: int) -> Iterable[tuple[int, int]]:
    """Yield number and width of every entry bundle of a log of `size` entries."""
    for number in range(-(-size // WIDTH)):
        yield number, min(WIDTH, size - number * WIDTH)


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """Return entries as they stand in a bundle."""
    bundle = bytearray()
    for entry in entries:
        if len(entry) > MAX_ENTRY:
            raise UsageError(f"an entry of this log has at most {MAX_ENTRY} octets", standard=_STANDARD)
        bundle += _LENGTH.pack(len(entry)) + entry
    return bytes(bundle)


def decode_bundle(bundle: bytes, width: int) -> list[bytes]:
    """Return the entries of a bundle, exactly `width` of them; MalformedError for anything else."""
    entries, offset = list[bytes](), 0
    while offset < len(bundle):
        start = offset + _LENGTH.size
        end = start + _LENGTH.unpack_from(bundle, offset)[0] if start <= len(bundle) else start
        if end > len(bundle):
            raise MalformedError("an entry bundle is cut off", offset=offset, standard=_STANDARD)
        entries.append(bundle[start:end])
        offset = end
    if len(entries) != width:
        raise MalformedError(f"an entry bundle holds {len(entries)} entries instead of {width}", standard=_STANDARD)
    return entries


def tile_root(hashes: bytes) -> bytes:
    """Return the root over the hashes of one tile."""
    if len(hashes) == WIDTH * HASH_SIZE:
        while len(hashes) > HASH_SIZE:  # level by level: a full tile is a perfect tree
            pairs = range(0, len(hashes), 2 * HASH_SIZE)
            hashes = b"".join([sha256(b"\1" + hashes[start : start + 2 * HASH_SIZE]).digest() for start in pairs])
        return hashes
    frontier = Frontier()
    for start in range(0, len(hashes), HASH_SIZE):
        frontier.append(hashes[start : start + HASH_SIZE])
    return frontier.root()


def node_reader(size: int, read: TileReader) -> NodeReader:
    """Return a reader of nodes of the tree of `size` leaves on top of a reader of its tiles."""

    def node(level: int, index: int) -> bytes:
        tile_level, inner = divmod(level, HEIGHT)
        first = index << inner
        number, offset = divmod(first, WIDTH)
        width = min(WIDTH, (size >> HEIGHT * tile_level) - number * WIDTH)
        hashes = read(tile_level, number, width)
        return tile_root(hashes[offset * HASH_SIZE : (offset + (1 << inner)) * HASH_SIZE])

    return node


class GrowingTree:
    """The right edge of a log as its partial tiles: takes leaves, hands out the tiles they fill, tells the root."""

    __slots__ = ("_partial", "filled", "size")

    def __init__(self, size: int = 0, partial: Iterable[bytes] = ()) -> None:
        """`partial` are the hashes of the last, not full tile of each level, from level 0 on; see `partial_widths`."""
        self.size = size
        self.filled: list[tuple[int, int, bytes]] = []  # level, number, hashes; the caller stores and clears them
        self._partial = [bytearray(each) for each in partial] or [bytearray()]
        if [len(each) // HASH_SIZE for each in self._partial] != (partial_widths(size) or [0]):
            raise UsageError(f"these are not the partial tiles of {size} leaves")

    def append(self, leaf: bytes) -> None:
        """Add the hash of the next leaf."""
        self._partial[0] += leaf
        self.size += 1
        if not self.size % WIDTH:
            self._fill(0)

    def _fill(self, level: int) -> None:
        hashes = bytes(self._partial[level])
        self._partial[level].clear()
        self.filled.append((level, (self.size >> HEIGHT * (level + 1)) - 1, hashes))
        if len(self._partial) == level + 1:
            self._partial.append(bytearray())
        self._partial[level + 1] += tile_root(hashes)
        if len(self._partial[level + 1]) == WIDTH * HASH_SIZE:
            self._fill(level + 1)

    def partial(self, level: int) -> bytes:
        """Return the hashes of the last, not full tile of a level."""
        return bytes(self._partial[level])

    def root(self) -> bytes:
        """Return the root over everything appended."""
        peaks = [peak for hashes in reversed(self._partial) for peak in _peaks(bytes(hashes))]
        return fold_peaks(peaks)


def partial_widths(size: int) -> list[int]:
    """Return how many hashes the last, not full tile of each level has, from level 0 on."""
    return [(size >> HEIGHT * level) % WIDTH for level in range(-(-size.bit_length() // HEIGHT))]


def _peaks(hashes: bytes) -> list[bytes]:
    frontier = Frontier()
    for start in range(0, len(hashes), HASH_SIZE):
        frontier.append(hashes[start : start + HASH_SIZE])
    return frontier.peaks

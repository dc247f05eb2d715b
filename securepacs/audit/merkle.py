"""The Merkle tree of RFC 6962 2.1 over hashes that are given: roots, inclusion and consistency proofs, and their verification.

Rules of this file:
1. A leaf is SHA-256(0x00 ‖ entry), a node SHA-256(0x01 ‖ left ‖ right), the empty tree SHA-256 of nothing: a leaf can never pass
   for a node.
2. Verification raises; nothing here returns a truth value that a caller could forget.
3. `NodeReader(level, index)` answers with the root of the complete subtree of 2**level leaves that begins at leaf index·2**level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from securepacs.errors import MalformedError, UsageError, VerificationError

HASH_SIZE = 32
EMPTY_ROOT = sha256().digest()
NodeReader = Callable[[int, int], bytes]
_STANDARD = "RFC 6962 2.1"


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf (RFC 6962 2.1)."""
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node over two subtrees (RFC 6962 2.1)."""
    return sha256(b"\1" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: all that is needed to append leaves and to tell the root, in O(log n) memory."""

    __slots__ = ("_peaks", "size")

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []  # roots of the complete subtrees, the largest first: one for each bit of size

    @classmethod
    def at(cls, size: int, node: NodeReader) -> Frontier:
        """Return the frontier of the first `size` leaves of a stored tree."""
        frontier, start = cls(), 0
        for level in reversed(range(size.bit_length())):
            if size >> level & 1:
                frontier._peaks.append(node(level, start >> level))
                start += 1 << level
        frontier.size = size
        return frontier

    def append(self, leaf: bytes) -> None:
        """Add the hash of the next leaf."""
        carry, peaks = self.size, self._peaks
        while carry & 1:
            leaf = sha256(b"\1" + peaks.pop() + leaf).digest()
            carry >>= 1
        peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """Return the root over everything appended (RFC 6962 2.1)."""
        return fold_peaks(self._peaks)

    @property
    def peaks(self) -> list[bytes]:
        """The roots of the complete subtrees, the largest first."""
        return list(self._peaks)


def fold_peaks(peaks: Sequence[bytes]) -> bytes:
    """Return the root over complete subtrees that follow each other, each smaller than the one before."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for left in reversed(peaks[:-1]):
        root = node_hash(left, root)
    return root


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Return the root over the hashes of leaves."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


def inclusion_proof(index: int, size: int, node: NodeReader) -> list[bytes]:
    """Return the audit path of leaf `index` in the tree of `size` leaves, from the leaf upwards (RFC 6962 2.1.1)."""
    if not 0 <= index < size:
        raise UsageError(f"a tree of {size} leaves has no leaf {index}")
    proof: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            proof.append(_range_root(middle, high, node))
            high = middle
        else:
            proof.append(_range_root(low, middle, node))
            low = middle
    return proof[::-1]


def consistency_proof(old: int, new: int, node: NodeReader) -> list[bytes]:
    """Return the proof that the tree of `old` leaves is the beginning of that of `new` leaves (RFC 6962 2.1.2)."""
    if not 0 < old <= new:
        raise UsageError(f"there is no consistency proof from {old} to {new} leaves")
    proof: list[bytes] = []
    low, high, known = 0, new, True  # known: the verifier has the root of this range, it is the old root itself
    while old != high:
        middle = low + _split(high - low)
        if old <= middle:
            proof.append(_range_root(middle, high, node))
            high = middle
        else:
            proof.append(_range_root(low, middle, node))
            low, known = middle, False
    if not known:
        proof.append(_range_root(low, high, node))
    return proof[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Raise VerificationError unless `leaf` is leaf `index` of the tree of `size` leaves with this root (RFC 9162 2.1.3.2)."""
    _check_hashes((leaf, root, *proof))
    if not 0 <= index < size:
        raise VerificationError(f"a tree of {size} leaves has no leaf {index}", standard=_STANDARD)
    number, last, found = index, size - 1, leaf
    for each in proof:
        if last == 0:
            raise VerificationError("the inclusion proof is too long", standard=_STANDARD)
        if number & 1 or number == last:
            found = node_hash(each, found)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            found = node_hash(found, each)
        number, last = number >> 1, last >> 1
    if last != 0 or found != root:
        raise VerificationError("the inclusion proof does not lead to the root", standard=_STANDARD)


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Raise VerificationError unless the tree of `old` leaves is the beginning of that of `new` leaves (RFC 9162 2.1.4.2)."""
    _check_hashes((old_root, new_root, *proof))
    if not 0 <= old <= new:
        raise VerificationError(f"a tree of {new} leaves cannot continue one of {old}", standard=_STANDARD)
    if old in (0, new):
        expected = EMPTY_ROOT if old == 0 else new_root
        if proof or old_root != expected:
            raise VerificationError("the trees are not consistent", standard=_STANDARD)
        return
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        raise VerificationError("the consistency proof is empty", standard=_STANDARD)
    number, last = old - 1, new - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    before = after = path[0]
    for each in path[1:]:
        if last == 0:
            raise VerificationError("the consistency proof is too long", standard=_STANDARD)
        if number & 1 or number == last:
            before, after = node_hash(each, before), node_hash(each, after)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            after = node_hash(after, each)
        number, last = number >> 1, last >> 1
    if last != 0 or before != old_root or after != new_root:
        raise VerificationError("the trees are not consistent", standard=_STANDARD)


def _split(count: int) -> int:
    """Return the largest power of two below `count`, which is at least 2."""
    return 1 << (count - 1).bit_length() - 1


def _range_root(low: int, high: int, node: NodeReader) -> bytes:
    """Return the root over leaves low..high-1; `low` is a multiple of the power of two that spans the range."""
    peaks, start = list[bytes](), low
    for level in reversed(range((high - low).bit_length())):
        if (high - low) >> level & 1:
            peaks.append(node(level, start >> level))
            start += 1 << level
    return fold_peaks(peaks)


def _check_hashes(hashes: Iterable[bytes]) -> None:
    if any(len(each) != HASH_SIZE for each in hashes):
        raise MalformedError(f"a hash of this tree has {HASH_SIZE} octets", standard=_STANDARD)

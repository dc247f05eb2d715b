"""The tlog-tiles layout: paths of the specification, bundles of any size, proofs read out of tiles."""

from __future__ import annotations

import pytest

from securepacs.audit.merkle import consistency_proof, inclusion_proof, leaf_hash, root_of, verify_consistency, verify_inclusion
from securepacs.audit.tiles import (
    MAX_ENTRY,
    WIDTH,
    GrowingTree,
    bundle_path,
    bundles_of,
    decode_bundle,
    encode_bundle,
    node_reader,
    partial_widths,
    tile_path,
    tile_root,
    tiles_of,
)
from securepacs.errors import MalformedError, UsageError


def test_paths_of_the_specification() -> None:
    assert tile_path(0, 1234067) == "tile/0/x001/x234/067"
    assert tile_path(3, 5, 17) == "tile/3/005.p/17"
    assert bundle_path(273) == "tile/entries/273"
    assert bundle_path(1000, 1) == "tile/entries/x001/000.p/1"


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65_536, 70_000])
def test_tiles_of_a_size(size: int) -> None:
    widths: dict[int, int] = {}
    for level, number, width in tiles_of(size):
        assert number * WIDTH == widths.get(level, 0)
        widths[level] = widths.get(level, 0) + width
    assert widths == {level: size >> 8 * level for level in range(3) if size >> 8 * level}
    assert sum(width for _, width in bundles_of(size)) == size


def test_bundles() -> None:
    entries = [b"", b"x", b"y" * MAX_ENTRY]
    bundle = encode_bundle(entries)
    assert bundle[:5] == b"\0\0\0\1x"
    assert decode_bundle(bundle, 3) == entries
    with pytest.raises(UsageError):
        encode_bundle([b"z" * (MAX_ENTRY + 1)])
    for wrong, width in ((bundle, 2), (bundle[:-1], 3), (bundle[:6], 3), (bundle + b"\0", 3), (b"", 1)):
        with pytest.raises(MalformedError):
            decode_bundle(wrong, width)


def test_proofs_out_of_tiles() -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(66_000)]
    level_1 = [tile_root(b"".join(leaves[start : start + WIDTH])) for start in range(0, len(leaves) - WIDTH + 1, WIDTH)]
    level_2 = [tile_root(b"".join(level_1[:WIDTH]))]
    levels = [leaves, level_1, level_2]

    def read(level: int, number: int, width: int) -> bytes:
        found = levels[level][number * WIDTH : number * WIDTH + width]
        assert len(found) == width
        return b"".join(found)

    for size in (1, 256, 300, 65_536, 66_000):
        node, root = node_reader(size, read), root_of(leaves[:size])
        for index in {0, size // 3, size - 1}:
            verify_inclusion(leaves[index], index, size, inclusion_proof(index, size, node), root)
        for old in {1, size // 2 + 1, size}:
            verify_consistency(old, size, root_of(leaves[:old]), root, consistency_proof(old, size, node))


def test_a_growing_tree_fills_tiles_and_tells_the_root() -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(66_000)]
    tree, stored = GrowingTree(), dict[tuple[int, int], bytes]()
    for size, leaf in enumerate(leaves, 1):
        tree.append(leaf)
        stored.update({(level, number): hashes for level, number, hashes in tree.filled})
        tree.filled.clear()
        if size in (1, 2, 255, 256, 257, 5000, 65_535, 65_536, 65_537, 66_000):
            assert tree.root() == root_of(leaves[:size])
    assert set(stored) == {(level, number) for level, number, width in tiles_of(66_000) if width == WIDTH}
    assert all(len(hashes) == WIDTH * 32 for hashes in stored.values())
    assert tile_root(stored[0, 17]) == root_of(leaves[17 * 256 : 18 * 256])


def test_a_tree_goes_on_from_its_partial_tiles() -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(700)]
    level_1 = [tile_root(b"".join(leaves[start : start + 256])) for start in (0, 256)]
    assert partial_widths(600) == [88, 2]
    tree = GrowingTree(600, [b"".join(leaves[512:600]), b"".join(level_1)])
    for leaf in leaves[600:]:
        tree.append(leaf)
    assert tree.root() == root_of(leaves)
    assert GrowingTree().root() == root_of([])
    with pytest.raises(UsageError):
        GrowingTree(600, [b"".join(leaves[512:599]), b"".join(level_1)])

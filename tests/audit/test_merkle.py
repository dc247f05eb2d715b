"""The tree of RFC 6962: the vectors of the certificate-transparency project, and every proof of small trees."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepacs.audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    NodeReader,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from securepacs.errors import MalformedError, UsageError, VerificationError

# google/certificate-transparency cpp/merkletree/merkle_tree_test.cc (Apache-2.0): inputs and the roots of their first n
INPUTS = [
    bytes.fromhex(each)
    for each in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_hash(b"%d" % number) for number in range(71)]


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """MTH as RFC 6962 2.1 defines it."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else sha256(b"").digest()
    split = 1
    while 2 * split < len(leaves):
        split *= 2
    return node_hash(naive_root(leaves[:split]), naive_root(leaves[split:]))


def reader(leaves: Sequence[bytes]) -> NodeReader:
    return lambda level, index: naive_root(leaves[index << level : (index + 1) << level])


def test_vectors() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for size, root in enumerate(ROOTS, 1):
        assert root_of(map(leaf_hash, INPUTS[:size])).hex() == root


@pytest.mark.parametrize("size", range(70))
def test_the_frontier_is_the_definition(size: int) -> None:
    assert root_of(LEAVES[:size]) == naive_root(LEAVES[:size])
    frontier = Frontier.at(size, reader(LEAVES))
    assert (frontier.size, frontier.root()) == (size, naive_root(LEAVES[:size]))
    for leaf in LEAVES[size:]:
        frontier.append(leaf)
    assert frontier.root() == naive_root(LEAVES)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 70])
def test_every_leaf_has_one_proof(size: int) -> None:
    root, node = naive_root(LEAVES[:size]), reader(LEAVES[:size])
    for index in range(size):
        proof = inclusion_proof(index, size, node)
        verify_inclusion(LEAVES[index], index, size, proof, root)
        wrong = [
            (LEAVES[index - 1 if index else size], index, size, proof, root),
            (LEAVES[index], size, size, proof, root),
            (LEAVES[index], index, size, [*proof, root], root),
            (LEAVES[index], index, size, proof[:-1] if proof else [root], root),
            (LEAVES[index], index, size, proof, EMPTY_ROOT),
            *((LEAVES[index], index, size, [*proof[:at], EMPTY_ROOT, *proof[at + 1 :]], root) for at in range(len(proof))),
            *((LEAVES[index], other, size, proof, root) for other in range(size) if other != index),
        ]
        for each in wrong:
            with pytest.raises(VerificationError):
                verify_inclusion(*each)


def test_every_tree_continues_every_earlier_one() -> None:
    for new in range(1, 34):
        new_root, node = naive_root(LEAVES[:new]), reader(LEAVES[:new])
        for old in range(1, new + 1):
            proof, old_root = consistency_proof(old, new, node), naive_root(LEAVES[:old])
            verify_consistency(old, new, old_root, new_root, proof)
            wrong = [
                (old, new, EMPTY_ROOT, new_root, proof),
                (old, new, old_root, EMPTY_ROOT, proof),
                (old, new, old_root, new_root, [*proof, old_root]),
                (new + 1, new, old_root, new_root, proof),
                *((old, new, old_root, new_root, [*proof[:at], EMPTY_ROOT, *proof[at + 1 :]]) for at in range(len(proof))),
            ]
            if proof:
                wrong.append((old, new, old_root, new_root, proof[:-1]))
            for each in wrong:
                with pytest.raises(VerificationError):
                    verify_consistency(*each)


def test_the_empty_tree_is_the_beginning_of_every_tree() -> None:
    verify_consistency(0, 5, EMPTY_ROOT, naive_root(LEAVES[:5]), [])
    with pytest.raises(VerificationError):
        verify_consistency(0, 5, naive_root(LEAVES[:1]), naive_root(LEAVES[:5]), [])


@given(st.data())
def test_changed_history_has_no_proof(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, 70))
    old = data.draw(st.integers(1, new))
    changed = data.draw(st.integers(0, old - 1))
    leaves = [*LEAVES[:changed], leaf_hash(b"changed"), *LEAVES[changed + 1 :]][:new]
    proof = consistency_proof(old, new, reader(leaves))
    with pytest.raises(VerificationError):
        verify_consistency(old, new, naive_root(LEAVES[:old]), naive_root(leaves), proof)


def test_what_cannot_be_asked_or_read() -> None:
    for old, new in ((0, 5), (6, 5)):
        with pytest.raises(UsageError):
            consistency_proof(old, new, reader(LEAVES))
    for index in (-1, 5):
        with pytest.raises(UsageError):
            inclusion_proof(index, 5, reader(LEAVES))
    with pytest.raises(MalformedError):
        verify_inclusion(LEAVES[0], 0, 2, [b"short"], naive_root(LEAVES[:2]))
    with pytest.raises(MalformedError):
        verify_consistency(1, 2, LEAVES[0], naive_root(LEAVES[:2]), [b"short"])
    with pytest.raises(VerificationError):
        verify_consistency(3, 5, naive_root(LEAVES[:3]), naive_root(LEAVES[:5]), [])

"""RFC 6962: the tree, its proofs, and that nothing but an honest proof is accepted."""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import IntegrityError
from gateway.journal.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    consistency_ranges,
    inclusion_proof,
    inclusion_ranges,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [sha256(b"%d" % number).digest() for number in range(70)]


def _root_by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(_root_by_definition(leaves[:k]), _root_by_definition(leaves[k:]))


@pytest.mark.parametrize("size", range(len(LEAVES)))
def test_the_frontier_has_the_root_of_the_definition(size: int) -> None:
    frontier = Frontier()
    for leaf in LEAVES[:size]:
        frontier.append(leaf)
    assert frontier.root() == root_of(LEAVES[:size]) == _root_by_definition(LEAVES[:size])
    again = Frontier.from_bytes(frontier.to_bytes())
    again.append(LEAVES[-1])
    copy = frontier.copy()
    copy.append(LEAVES[-1])
    assert copy.root() == again.root() == _root_by_definition([*LEAVES[:size], LEAVES[-1]])
    assert frontier.root() == _root_by_definition(LEAVES[:size])


def test_the_root_of_no_leaves_is_the_hash_of_nothing() -> None:
    """FIPS 180-4: SHA-256 of the empty string, which RFC 6962 section 2.1 makes the root of an empty tree."""
    assert root_of([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_known_roots_of_rfc_6962_test_data() -> None:
    """The leaves of the certificate-transparency reference tests; the roots are listed there."""
    data = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [sha256(b"\0" + bytes.fromhex(text)).digest() for text in data]
    assert root_of(leaves[:1]).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert root_of(leaves).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\0" * 9, (1).to_bytes(8, "big"), (3).to_bytes(8, "big") + b"\0" * 32])
def test_a_frontier_of_the_wrong_length_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        Frontier.from_bytes(data)


@pytest.mark.parametrize("size", range(1, 34))
def test_every_leaf_has_a_proof_and_no_other_place_accepts_it(size: int) -> None:
    leaves, root = LEAVES[:size], root_of(LEAVES[:size])
    for index in range(size):
        path = inclusion_proof(leaves, index)
        assert verify_inclusion(leaves[index], index, size, path, root)
        assert not verify_inclusion(LEAVES[-1], index, size, path, root)
        assert not verify_inclusion(leaves[index], index, size, [*path, LEAVES[0]], root)
        assert not verify_inclusion(leaves[index], index, size, path, LEAVES[0]) or size == 1
        for other in range(-1, size + 2):
            assert other == index or not verify_inclusion(leaves[index], other, size, path, root)
        if path:
            assert not verify_inclusion(leaves[index], index, size, path[:-1], root)


@pytest.mark.parametrize("new", range(34))
def test_every_earlier_tree_is_a_beginning_and_no_other_is(new: int) -> None:
    leaves, root = LEAVES[:new], root_of(LEAVES[:new])
    for old in range(new + 1):
        proof, old_root = consistency_proof(leaves, old), root_of(leaves[:old])
        assert verify_consistency(old, new, old_root, root, proof)
        assert not verify_consistency(old, new, LEAVES[-1], root, proof)
        assert not verify_consistency(old, new, old_root, LEAVES[-1], proof) or old == 0
        assert not verify_consistency(old, new, old_root, root, [*proof, LEAVES[0]])
        assert not verify_consistency(new + 1, new, old_root, root, proof)
        if proof:
            assert not verify_consistency(old, new, old_root, root, proof[:-1])
            assert not verify_consistency(old, new, old_root, root, [])


@given(st.integers(1, 1 << 40), st.data())
def test_the_ranges_of_a_path_cover_everything_but_the_leaf(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    covered = sorted([*inclusion_ranges(index, size), (index, index + 1)])
    assert covered[0][0] == 0
    assert covered[-1][1] == size
    assert all(one[1] == other[0] for one, other in pairwise(covered))


def test_what_is_not_in_the_tree_has_no_ranges() -> None:
    for index, size in ((-1, 3), (3, 3), (0, 0)):
        with pytest.raises(IndexError):
            inclusion_ranges(index, size)
    for old, new in ((-1, 3), (4, 3)):
        with pytest.raises(IndexError):
            consistency_ranges(old, new)

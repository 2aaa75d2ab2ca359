"""The RFC 6962 Merkle tree over the records' leaf hashes: growing it, proving with it, checking proofs. Pure.

The journal keeps no tree. A :class:`Frontier` (the roots of the complete subtrees along the right edge, at most one per bit of
the size) is all that growing needs; proofs are rebuilt from the stored leaf hashes, range by range. Which ranges make up a
proof is decided here (:func:`inclusion_ranges`, :func:`consistency_ranges`), so a caller can stream over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

from gateway.errors import IntegrityError

HASH_BYTES = 32
#: RFC 6962 section 2.1: the hash of an empty tree.
EMPTY_ROOT = sha256(b"").digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """An inner node (RFC 6962 section 2.1)."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: enough to append and to know the root, in O(log size) memory."""

    __slots__ = ("_nodes", "size")

    def __init__(self) -> None:
        self.size = 0
        self._nodes: list[bytes] = []  # roots of complete subtrees, largest first: one for each 1 bit of size

    def append(self, leaf: bytes) -> None:
        """Add one leaf *hash* (see :func:`gateway.journal.records.leaf_hash`)."""
        size, nodes = self.size, self._nodes
        while size & 1:
            leaf = sha256(b"\x01" + nodes.pop() + leaf).digest()
            size >>= 1
        nodes.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The Merkle tree hash of all leaves appended so far."""
        if not self._nodes:
            return EMPTY_ROOT
        root = self._nodes[-1]
        for node in self._nodes[-2::-1]:
            root = node_hash(node, root)
        return root

    def copy(self) -> Frontier:
        twin = Frontier()
        twin.size, twin._nodes = self.size, self._nodes.copy()
        return twin

    def to_bytes(self) -> bytes:
        """Eight octets of size, big-endian, then the subtree roots, largest subtree first."""
        return self.size.to_bytes(8, "big") + b"".join(self._nodes)

    @classmethod
    def from_bytes(cls, data: bytes) -> Frontier:
        """The inverse of :meth:`to_bytes`. Raises IntegrityError when the length does not fit the size."""
        frontier = cls()
        frontier.size = int.from_bytes(data[:8], "big")
        if len(data) != 8 + HASH_BYTES * frontier.size.bit_count():
            raise IntegrityError("a Merkle frontier has the wrong length for its size")
        frontier._nodes = [data[at : at + HASH_BYTES] for at in range(8, len(data), HASH_BYTES)]
        return frontier


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The Merkle tree hash of leaf hashes, in order."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


def _split(size: int) -> int:
    """The largest power of two smaller than ``size`` (k in RFC 6962 section 2.1)."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """The half-open leaf ranges whose roots are the audit path of leaf ``index``, from the leaf upwards (RFC 6962 2.1.1)."""
    if not 0 <= index < size:
        raise IndexError(f"no leaf {index} in a tree of {size}")
    ranges: list[tuple[int, int]] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            ranges.append((middle, stop))
            stop = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(old: int, new: int) -> list[tuple[int, int]]:
    """The leaf ranges whose roots prove that the tree of ``new`` leaves begins with that of ``old`` (RFC 6962 2.1.2)."""
    if not 0 <= old <= new:
        raise IndexError(f"a tree of {new} does not begin with one of {old}")
    if old in (0, new):
        return []
    ranges: list[tuple[int, int]] = []
    start, stop = 0, new
    while stop != old:
        middle = start + _split(stop - start)
        if old <= middle:
            ranges.append((middle, stop))
            stop = middle
        else:
            ranges.append((start, middle))
            start = middle
    if start:  # otherwise the old root itself is this node, and the verifier has it
        ranges.append((start, stop))
    return ranges[::-1]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf ``index`` (RFC 6962 section 2.1.1)."""
    return [root_of(leaves[start:stop]) for start, stop in inclusion_ranges(index, len(leaves))]


def consistency_proof(leaves: Sequence[bytes], old: int) -> list[bytes]:
    """The proof that the tree over ``leaves`` extends the tree over its first ``old`` leaves (RFC 6962 section 2.1.2)."""
    return [root_of(leaves[start:stop]) for start, stop in consistency_ranges(old, len(leaves))]


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether ``path`` proves that ``leaf`` is number ``index`` of the tree with ``size`` and ``root`` (RFC 9162 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    last, result = size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if index & 1 or index == last:
            result = node_hash(sibling, result)
            while not index & 1 and index:
                index >>= 1
                last >>= 1
        else:
            result = node_hash(result, sibling)
        index >>= 1
        last >>= 1
    return last == 0 and result == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether ``proof`` shows that the tree (``new``, ``new_root``) begins with (``old``, ``old_root``) (RFC 9162 2.1.4.2)."""
    if not 0 <= old <= new:
        return False
    if old in (0, new):
        expected = EMPTY_ROOT if old == 0 else new_root
        return not proof and old_root == expected
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    index, last = old - 1, new - 1
    while index & 1:
        index >>= 1
        last >>= 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if index & 1 or index == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not index & 1 and index:
                index >>= 1
                last >>= 1
        else:
            second = node_hash(second, sibling)
        index >>= 1
        last >>= 1
    return last == 0 and first == old_root and second == new_root

"""Knowing without asking that an idempotency key was never used. Pure.

Nearly every request is new, and yet the journal must be asked whether it is a retry before anything is issued: a hop to the
database, behind whatever it is syncing. This Bloom filter answers "surely not" from memory. It never says so of a key that
was added; that all keys of a window were added is its owner's care. "Perhaps" means: ask the database.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

_WORDS: Final = Struct(">4I").unpack_from
#: Bits in the filter: 2 MiB. Four of them stand for a key.
_BITS: Final = 1 << 24
_MASK: Final = (_BITS >> 3) - 1
#: Keys after which the filter says "perhaps" to one new key in fifty and is no use for much longer.
MOST_KEYS: Final = 2_000_000
#: Octets of day in front of the hash in an idem column; see :func:`gateway.journal.tip.idem_column`.
_DAY_OCTETS: Final = 4


class KeyFilter:
    """The idem columns that were added, whatever their day."""

    __slots__ = ("_octets", "count")

    def __init__(self) -> None:
        self._octets = bytearray(_BITS >> 3)
        self.count = 0

    def add(self, idem: bytes) -> None:
        octets = self._octets
        for word in _WORDS(idem, _DAY_OCTETS):
            octets[word >> 3 & _MASK] |= 1 << (word & 7)
        self.count += 1

    def may_hold(self, idem: bytes) -> bool:
        """False only when no column with the key of ``idem`` was added."""
        octets = self._octets
        return all(octets[word >> 3 & _MASK] >> (word & 7) & 1 for word in _WORDS(idem, _DAY_OCTETS))

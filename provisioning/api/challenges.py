"""What a device must sign to prove that it holds its unit's key: random, for one unit, for one use, for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.errors import Conflict

OCTETS: Final = 32
#: A device is switched off and on in between, and some take minutes.
LIFETIME_MS: Final = 600_000
_MOST: Final = 20_000


@dataclass(frozen=True, slots=True)
class _Given:
    challenge: bytes
    until_ms: int


class Challenges:
    """In memory: after a restart a station asks for another. ``elapsed_ms`` never goes back; ``random`` gives octets."""

    def __init__(self, elapsed_ms: Callable[[], int], random: Callable[[int], bytes]) -> None:
        self._elapsed_ms, self._random = elapsed_ms, random
        self._given: OrderedDict[str, _Given] = OrderedDict()

    def give(self, unit: str) -> bytes:
        """A new one for ``unit``; an earlier one does not count any more."""
        self._given.pop(unit, None)
        self._given[unit] = _Given(self._random(OCTETS), self._elapsed_ms() + LIFETIME_MS)
        if len(self._given) > _MOST:
            self._given.popitem(last=False)
        return self._given[unit].challenge

    def take(self, unit: str, challenge: bytes) -> None:
        """Use up the challenge of ``unit``. Raises Conflict unless it is this one and still good."""
        given = self._given.get(unit)
        if given is None or given.challenge != challenge:
            raise Conflict("this challenge was not given for this unit, or was used: ask for a new one and have it signed")
        del self._given[unit]
        if self._elapsed_ms() >= given.until_ms:
            raise Conflict("this challenge has expired: ask for a new one and have it signed")

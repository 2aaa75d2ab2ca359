"""Which refusals are worth a record.

A refusal is journalled so that an auditor sees who was turned away and why. A device that hammers must not fill the disk with
it: the same refusal is recorded once in :data:`WINDOW_MS`, and of one requester at most :data:`MOST_OF_ONE` different ones.
Memory is bounded; what was forgotten is recorded once more.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from gateway.journal.records import Refused

WINDOW_MS = 3_600_000
MOST_OF_ONE = 32
_MOST_REQUESTERS = 1_024


class RefusalFilter:
    """Remembers what was recorded, by requester."""

    def __init__(self) -> None:
        self._windows: OrderedDict[str, tuple[int, set[bytes]]] = OrderedDict()

    def is_worth_recording(self, refused: Refused, now_ms: int) -> bool:
        """Whether to journal ``refused`` now. Asking counts as recording it."""
        began_ms, seen = self._windows.get(refused.requester, (now_ms, set()))
        if now_ms - began_ms >= WINDOW_MS:
            began_ms, seen = now_ms, set()
        text = f"{refused.profile}\0{refused.error}\0{refused.reason}"
        mark = hashlib.sha256(refused.csr_digest + text.encode("utf-8", "surrogatepass")).digest()[:16]
        if mark in seen or len(seen) >= MOST_OF_ONE:
            return False
        seen.add(mark)
        self._windows[refused.requester] = (began_ms, seen)
        self._windows.move_to_end(refused.requester)
        if len(self._windows) > _MOST_REQUESTERS:
            self._windows.popitem(last=False)
        return True

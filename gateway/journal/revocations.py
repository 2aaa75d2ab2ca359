"""Reading many revocations quickly: a gateway starts with all of them, and there may be a million.

:func:`gateway.journal.records.decode` proves that a body is canonical by writing it again. Here one expression says what the
canonical bytes of an ordinary Revoked record are; whatever it does not match is left to ``decode``.
"""

from __future__ import annotations

import re
from typing import Final

_NUMBER: Final = rb"(0|[1-9][0-9]*)"
#: Keys sorted, numbers without leading zeros, and texts of printable ASCII without the two characters that JSON escapes.
_REVOKED: Final = re.compile(
    rb'\{"by":"[ !#-\[\]-~]*","generation":' + _NUMBER + rb',"kind":"revoked","reason":"([A-Za-z]*)","revoked_at":' + _NUMBER
    + rb',"seq":(?:0|[1-9][0-9]*),"serial":"([1-9a-f][0-9a-f]*)","time":' + _NUMBER + rb"\}"
)  # fmt: skip


def read_revoked(body: bytes) -> tuple[int, str, int, int, int] | None:
    """(generation, reason, revoked_at, serial, time) of a Revoked record, times in ms; None for any other body."""
    match = _REVOKED.fullmatch(body)
    if match is None:
        return None
    generation, reason, revoked_at, serial, time = match.groups()
    return int(generation), reason.decode(), int(revoked_at), int(serial, 16), int(time)

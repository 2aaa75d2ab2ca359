"""Opening and closing alerts: what is so already is not written again, so an alert keeps the time it was opened."""

from __future__ import annotations

from typing import Final

from sync.central.rows import Alert
from sync.central.store import Transaction

# Of messages (sync.central.service).
FENCED: Final = "fenced"  # central takes nothing more from this journal
REFUSED: Final = "refused"  # the last message was not what it claimed to be
CLOCK: Final = "clock"
# Of what the records mean (sync.central.projector).
FENCED_THERE: Final = "fenced-there"  # the gateway fenced itself
IDENTITY: Final = "identity"  # record 0 names another key or origin
FOREIGN_CA: Final = "foreign-ca"
QUARANTINE: Final = "quarantine"
DOCUMENT_REFUSED: Final = "document-refused"
COMMAND_FAILED: Final = "command-failed"
DISPUTED: Final = "disputed"
DUPLICATE_IDENTITY: Final = "duplicate-identity"
SHARED_KEY: Final = "shared-key"
QUOTA: Final = "quota"
DUPLICATE_DEVICE: Final = "duplicate-device"  # two gateways' lines made it
OVERDRAWN: Final = "overdrawn"  # more units than a work order's credit
# Of the documents (sync.central.desired_state).
GAP: Final = "gap"  # central was restored; only a person closes it


async def open_alert(t: Transaction, alert: Alert) -> None:
    """Nothing happens when it is open with this text; with another text it keeps the time it was opened."""
    known = await t.find(Alert, alert.kind, alert.origin, alert.about)
    if known is None or known.closed:
        await t.put(alert)
    elif known.text != alert.text:
        await t.change(Alert, alert.kind, alert.origin, alert.about, text=alert.text)


async def close_alert(t: Transaction, kind: str, origin: str, at: int, about: str = "") -> None:
    """Nothing happens when there is none."""
    known = await t.find(Alert, kind, origin, about)
    if known is not None and not known.closed:
        await t.change(Alert, kind, origin, about, closed=at)

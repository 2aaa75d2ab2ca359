"""What an alert means and what to do about it, and the alerts that no message and no record opens: those about what is missing.

Alerts of other parts (:mod:`sync.central.alarms`) are opened and closed where the cause is seen. :class:`Watcher` looks at what
nobody sends: a gateway that is silent, a document that is not applied, a CA that ends.
An alert that a person closed stays closed while its cause is the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.clock import Clock
from gateway.errors import NotFound, Unavailable
from sync.central import alarms
from sync.central.alarms import close_alert, open_alert
from sync.central.desired_state import UNDESIRABLE
from sync.central.listing import every
from sync.central.registry import CA_WAITS
from sync.central.rows import Alert, Ca, Document, Journal
from sync.central.store import CentralStore, Transaction

_log = logging.getLogger(__name__)
SILENCE: Final = "silence"
NOT_APPLIED: Final = "document-late"
CA_ENDS: Final = "ca-ends"
#: An adapter is behind; ``about`` is its name.
ADAPTER: Final = "adapter"

#: From bad to worth knowing.
CRITICAL: Final = "critical"
WARNING: Final = "warning"
_LOOK_S = 30.0
_HOUR_MS = 3_600_000
#: How long a gateway that is in touch may take to apply its document.
_APPLY_MS = 15 * 60_000
#: A CA is renewed when a third of its time is left; this part of it is late.
_CA_LATE = 6


@dataclass(frozen=True, slots=True)
class Advice:
    """How bad it is, what it is called, and one sentence on what to do; in English and German."""

    severity: str
    title: Mapping[str, str]
    do: Mapping[str, str]


def _advice(severity: str, title_en: str, do_en: str, title_de: str, do_de: str) -> Advice:
    return Advice(severity, {"en": title_en, "de": title_de}, {"en": do_en, "de": do_de})


ADVICE: Final[Mapping[str, Advice]] = {
    alarms.FENCED: _advice(
        CRITICAL, "Fenced: restored, cloned or forked",
        "Keep the disk as evidence, find out why there are two histories, then let the gateway join again with a new code.",
        "Gesperrt: zurückgespielt, geklont oder abgezweigt",
        "Datenträger als Beweis aufbewahren, Grund der zweiten Geschichte klären, dann mit neuem Code neu beitreten lassen.",
    ),
    alarms.FENCED_THERE: _advice(
        CRITICAL, "The gateway has fenced itself",
        "Read the reason, keep the disk, then let the gateway join again with a new code.",
        "Das Gateway hat sich selbst gesperrt",
        "Grund lesen, Datenträger aufbewahren, dann mit neuem Code neu beitreten lassen.",
    ),
    alarms.REFUSED: _advice(
        CRITICAL, "A message was refused",
        "Compare the gateway's software and key with what is registered here; somebody may be speaking in its name.",
        "Eine Nachricht wurde abgelehnt",
        "Software und Schlüssel des Gateways mit der Registrierung vergleichen; vielleicht spricht jemand in seinem Namen.",
    ),
    alarms.CLOCK: _advice(
        WARNING, "The gateway's clock is wrong",
        "Set the gateway's clock or give it a time server; new certificates get wrong dates until then.",
        "Die Uhr des Gateways geht falsch",
        "Uhr stellen oder einen Zeitserver angeben; bis dahin haben neue Zertifikate falsche Daten.",
    ),
    alarms.IDENTITY: _advice(
        CRITICAL, "The journal names another key or origin",
        "Fence the gateway and let it join again; its first record is not that of the gateway that joined.",
        "Das Journal nennt einen anderen Schlüssel oder Ursprung",
        "Gateway sperren und neu beitreten lassen; sein erster Eintrag gehört nicht zum beigetretenen Gateway.",
    ),
    alarms.FOREIGN_CA: _advice(
        CRITICAL, "The gateway uses a CA that is not its own",
        "Ask the site which CA was imported there and replace it by one that this central certified.",
        "Das Gateway benutzt eine fremde CA",
        "Vor Ort klären, welche CA importiert wurde, und sie durch eine von dieser Zentrale zertifizierte ersetzen.",
    ),
    alarms.QUARANTINE: _advice(
        WARNING, "Records without a meaning here",
        "Update central when the gateway is newer; otherwise look at the records that are named.",
        "Einträge ohne Bedeutung",
        "Zentrale aktualisieren, wenn das Gateway neuer ist; sonst die genannten Einträge ansehen.",
    ),
    alarms.DOCUMENT_REFUSED: _advice(
        CRITICAL, "The gateway refused its document",
        "Correct the setting that is named; the gateway goes on with the document before.",
        "Das Gateway hat sein Dokument abgelehnt",
        "Die genannte Einstellung berichtigen; das Gateway arbeitet mit dem vorigen Dokument weiter.",
    ),
    alarms.COMMAND_FAILED: _advice(
        WARNING, "A command could not be carried out",
        "Read why; give the command again when the cause is gone.",
        "Ein Befehl konnte nicht ausgeführt werden",
        "Grund lesen und den Befehl erneut geben, wenn er behoben ist.",
    ),
    alarms.DISPUTED: _advice(
        CRITICAL, "Certificates against the policy",
        "Find out who asked for them; central has revoked them.",
        "Zertifikate gegen die Richtlinie",
        "Klären, wer sie angefordert hat; die Zentrale hat sie gesperrt.",
    ),
    alarms.DUPLICATE_IDENTITY: _advice(
        CRITICAL, "One device, two gateways",
        "Look at the device: it was moved, or somebody has copied its identity; revoke the certificate that is wrong.",
        "Ein Gerät an zwei Gateways",
        "Gerät ansehen: umgezogen oder kopiert; das falsche Zertifikat sperren.",
    ),
    alarms.SHARED_KEY: _advice(
        CRITICAL, "Two devices with one key",
        "Give both devices new keys; the key is blocked for new certificates.",
        "Zwei Geräte mit einem Schlüssel",
        "Beiden Geräten neue Schlüssel geben; der Schlüssel ist für neue Zertifikate gesperrt.",
    ),
    alarms.QUOTA: _advice(
        WARNING, "A quota is nearly used",
        "Grant more for this profile, or find out why so many are needed.",
        "Ein Kontingent ist fast verbraucht",
        "Mehr für dieses Profil zuteilen oder klären, warum so viele gebraucht werden.",
    ),
    alarms.DUPLICATE_DEVICE: _advice(
        CRITICAL, "Two lines made the same device",
        "Find both devices; scrap the one whose serial number is wrong, and give each gateway its own range of numbers.",
        "Zwei Linien haben dasselbe Gerät gefertigt",
        "Beide Geräte suchen; das mit der falschen Seriennummer verschrotten und jedem Gateway einen eigenen Bereich geben.",
    ),
    alarms.OVERDRAWN: _advice(
        CRITICAL, "More units than the order's credit",
        "Look for a copy of this gateway or of its order; what was made beyond the credit is not ordered.",
        "Mehr Geräte als das Kontingent des Auftrags",
        "Nach einer Kopie dieses Gateways oder seines Auftrags suchen; was darüber hinausgeht, ist nicht bestellt.",
    ),
    UNDESIRABLE: _advice(
        CRITICAL, "No document can be made",
        "Correct the settings of this gateway, its group or all gateways.",
        "Es lässt sich kein Dokument erstellen",
        "Einstellungen dieses Gateways, seiner Gruppe oder aller Gateways berichtigen.",
    ),
    CA_WAITS: _advice(
        WARNING, "A CA key waits for its certificate",
        "Approve it, or unlock the root's key.",
        "Ein CA-Schlüssel wartet auf sein Zertifikat",
        "Freigeben, oder den Schlüssel der Wurzel entsperren.",
    ),
    SILENCE: _advice(
        WARNING, "No contact",
        "Check power, cable and central's address at the site, or carry a bundle; the gateway itself goes on issuing.",
        "Kein Kontakt",
        "Strom, Kabel und Adresse der Zentrale vor Ort prüfen oder ein Bündel tragen; das Gateway stellt weiter aus.",
    ),
    NOT_APPLIED: _advice(
        WARNING, "The document is not applied",
        "Look at the gateway's log; it is in touch and still has an older version.",
        "Das Dokument ist nicht angewendet",
        "Protokoll des Gateways ansehen; es hat Kontakt und noch eine ältere Version.",
    ),
    CA_ENDS: _advice(
        CRITICAL, "The gateway's CA ends soon",
        "Let the gateway ask for its next CA certificate, by the network or by files, before this one ends.",
        "Die CA des Gateways läuft bald ab",
        "Vorher das nächste CA-Zertifikat anfordern lassen, über das Netz oder mit Dateien.",
    ),
    alarms.GAP: _advice(
        CRITICAL, "Central was restored",
        "Check the settings and repeat what was decided since the backup; gateways fill in their records by themselves.",
        "Die Zentrale wurde zurückgespielt",
        "Einstellungen prüfen und Entscheidungen seit der Sicherung wiederholen; die Gateways liefern ihre Einträge nach.",
    ),
    ADAPTER: _advice(
        WARNING, "An adapter is behind",
        "Check the system that it delivers to; what is missing is delivered when that answers again.",
        "Ein Adapter hängt zurück",
        "Das Zielsystem prüfen; Fehlendes wird geliefert, sobald es wieder antwortet.",
    ),
}  # fmt: skip
_UNKNOWN = _advice(
    WARNING, "Something else", "Read the text; this version of central knows no more about it.",
    "Etwas anderes", "Text lesen; diese Version der Zentrale weiß nicht mehr darüber.",
)  # fmt: skip


def advice_on(kind: str) -> Advice:
    return ADVICE.get(kind, _UNKNOWN)


async def dismiss(store: CentralStore, kind: str, origin: str, about: str, now_ms: int) -> None:
    """A person closes an alert. Raises NotFound."""
    async with store.transaction() as t:
        if await t.find(Alert, kind, origin, about) is None:
            raise NotFound("there is no such alert")
        await close_alert(t, kind, origin, now_ms, about)


@dataclass(frozen=True, slots=True)
class WatchOptions:
    silence_hours: int = 24


class Watcher:
    """Looks at every gateway now and then."""

    def __init__(self, store: CentralStore, clock: Clock, options: WatchOptions) -> None:
        self._store, self._clock, self._options = store, clock, options

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self.look()
            except Unavailable as error:
                _log.warning("gateways are looked at later: %s", error)
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Open what is so and close what is over."""
        async with self._store.transaction() as t:
            origins = [journal.origin async for journal in every(t, Journal)]
        for origin in origins:  # each in a short transaction: records are arriving meanwhile
            async with self._store.transaction() as t:
                journal = await t.find(Journal, origin)
                if journal is not None:
                    await self._look_at(t, journal)

    async def _look_at(self, t: Transaction, journal: Journal) -> None:
        document = await t.find(Document, journal.origin)
        over = bool(journal.closed or journal.fenced)
        for kind, since_ms, text in (
            (SILENCE, journal.seen, "" if over else self._silence(journal)),
            (NOT_APPLIED, journal.seen, "" if over or document is None else _not_applied(journal, document)),
            (CA_ENDS, 0, "" if over else await self._ca_ends(t, journal.origin)),
        ):
            if not text:
                await close_alert(t, kind, journal.origin, self._clock.now_ms())
            elif not await _dismissed(t, kind, journal.origin, since_ms):
                await open_alert(t, Alert(kind, journal.origin, "", text, self._clock.now_ms()))

    def _silence(self, journal: Journal) -> str:
        silent_ms = self._clock.now_ms() - journal.seen
        if silent_ms < self._options.silence_hours * _HOUR_MS:
            return ""
        return f"no contact for more than {self._options.silence_hours} hours"  # a text that stays, so the alert does

    async def _ca_ends(self, t: Transaction, origin: str) -> str:
        now_ms = self._clock.now_ms()
        in_use = [row for row in await t.select(Ca, origin=origin) if row.activated]
        if not in_use:
            return ""
        newest = max(in_use, key=lambda row: row.generation)
        signed = newest.signed or newest.activated
        if (newest.not_after - now_ms) * _CA_LATE > newest.not_after - signed:
            return ""
        return f"its CA of generation {newest.generation} has less than a sixth of its time left and no successor"


async def _dismissed(t: Transaction, kind: str, origin: str, since_ms: int) -> bool:
    """Whether a person has closed the alert while its cause, which is there since then, was the same."""
    known = await t.find(Alert, kind, origin, "")
    return known is not None and bool(known.closed) and known.opened > since_ms and known.closed > since_ms


def _not_applied(journal: Journal, document: Document) -> str:
    on_time = journal.applied >= document.version or journal.seen < document.issued + _APPLY_MS
    if on_time or not journal.session:  # by bundles alone nobody hears what is applied before its record comes
        return ""
    return f"version {document.version} of its document is not applied; it has version {journal.applied}"

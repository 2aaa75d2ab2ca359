"use strict";
// Every word on the page, in both languages; tests compare the keys.
const WORDS = {
  en: {
    skip: "To the content", language: "Deutsch", refresh: "Refresh", leave: "Sign out", enter: "Sign in",
    secret: "Operator's secret", wrong: "Nobody has this secret.", alerts: "What needs attention", none: "Nothing needs attention.",
    gateways: "Gateways", gateway: "Gateway", group: "Group", contact: "Last contact", confirmed: "Records confirmed",
    waiting: "Waiting", document: "Document", state: "State", more: "More", certificates: "Certificates",
    text: "Name contains, or a device's serial number", serial: "Serial number (hex)", search: "Search", revoke: "Revoke", release: "Release", cancel: "Cancel",
    reason: "Reason", final: "This cannot be undone, except for a hold.", close: "Close alert", good: "in order", silent: "silent",
    behind: "behind", fenced: "fenced", closed: "closed", never: "never", none_found: "Nothing found.", found: "found",
    issued: "valid", revoked: "revoked", void: "never issued", certificateHold: "on hold", critical: "Critical", warning: "Warning",
    ok: "Done.", updated: "As of", trouble: "Central does not answer", of: "of", no_gateways: "No gateway has joined yet.",
    until: "until", by: "issued by", expired: "expired", disputed: "disputed",
    orders: "Work orders", order: "order", unit: "unit", running: "running", made: "made", granted: "granted", used: "begun",
    certified: "with certificate", scrapped: "scrapped", open: "open",
  },
  de: {
    skip: "Zum Inhalt", language: "English", refresh: "Aktualisieren", leave: "Abmelden", enter: "Anmelden",
    secret: "Geheimnis des Bedieners", wrong: "Dieses Geheimnis hat niemand.", alerts: "Was Aufmerksamkeit braucht",
    none: "Alles in Ordnung.", gateways: "Gateways", gateway: "Gateway", group: "Gruppe", contact: "Letzter Kontakt",
    confirmed: "Bestätigte Einträge", waiting: "Ausstehend", document: "Dokument", state: "Zustand", more: "Mehr",
    certificates: "Zertifikate", text: "Name enthält, oder Seriennummer eines Geräts", serial: "Seriennummer (hex)", search: "Suchen", revoke: "Sperren",
    release: "Freigeben", cancel: "Abbrechen", reason: "Grund", final: "Das ist endgültig, außer bei einer vorläufigen Sperre.",
    close: "Meldung schließen", good: "in Ordnung", silent: "ohne Kontakt", behind: "im Rückstand", fenced: "gesperrt",
    closed: "geschlossen", never: "nie", none_found: "Nichts gefunden.", found: "gefunden", issued: "gültig", revoked: "gesperrt",
    void: "nie ausgestellt", certificateHold: "vorläufig gesperrt", critical: "Kritisch", warning: "Warnung", ok: "Erledigt.",
    updated: "Stand", trouble: "Die Zentrale antwortet nicht", of: "von", no_gateways: "Noch kein Gateway ist beigetreten.",
    until: "bis", by: "ausgestellt von", expired: "abgelaufen", disputed: "strittig",
    orders: "Fertigungsaufträge", order: "Auftrag", unit: "Gerät", running: "läuft", made: "gefertigt", granted: "zugeteilt",
    used: "begonnen", certified: "mit Zertifikat", scrapped: "verschrottet", open: "offen",
  },
};
// Reasons of RFC 5280 that a person gives.
const REASONS = {
  en: { unspecified: "Other", keyCompromise: "Key compromised", affiliationChanged: "Owner changed", superseded: "Replaced",
    cessationOfOperation: "Out of use", certificateHold: "Hold (can be lifted)", privilegeWithdrawn: "Right withdrawn" },
  de: { unspecified: "Anderer", keyCompromise: "Schlüssel kompromittiert", affiliationChanged: "Besitzer geändert",
    superseded: "Ersetzt", cessationOfOperation: "Außer Betrieb", certificateHold: "Vorläufig (aufhebbar)",
    privilegeWithdrawn: "Recht entzogen" },
};

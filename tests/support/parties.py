"""Parties that sign papers: a key of each kind that JOSE knows, with a certificate of a CA below a root."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.pki.algorithms import PrivateKey
from gateway.pki.names import name_from_text
from provisioning.device import KeyOrigin
from provisioning.jws import Draft, Party, sign
from provisioning.papers import LabelPrint, ProducedDevice, Step
from tests.support.csrs import key_for

START, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2045, 1, 1, tzinfo=UTC)
KINDS = ("p-256", "p-384", "p-521", "rsa-2048", "ed25519")


def certify(
    subject: str,
    key: PrivateKey,
    issuer: str,
    issuer_key: PrivateKey,
    *,
    ca: bool = False,
    identifiers: bool = True,
    extensions: tuple[x509.ExtensionType, ...] = (),
) -> bytes:
    """DER. CA keys are EC."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_from_text(subject))
        .issuer_name(name_from_text(issuer))
        .public_key(key.public_key())
        .serial_number(int.from_bytes(subject.encode()[:18]))
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    subject_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer_key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    for extension in (*((subject_key, issuer_key_id) if identifiers else ()), *extensions):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.DER)  # type: ignore[arg-type]


#: For signing documents (RFC 9336).
PURPOSE = x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")])
ROOT, ISSUER = "CN=Line Root,O=Maker", "CN=Line Issuing CA,O=Maker"


@cache
def issuers() -> tuple[bytes, bytes]:
    """The issuing CA and the root."""
    root, issuer = key_for("p-256", "papers-root"), key_for("p-256", "papers-issuer")
    return certify(ISSUER, issuer, ROOT, root, ca=True), certify(ROOT, root, ROOT, root, ca=True)


@cache
def party(kind: str = "p-256", name: str = "Line records", pss: bool = False) -> Party:
    issuer_key = key_for("p-256", "papers-issuer")
    certificate = certify(f"CN={name} {kind},O=Maker", party_key(kind, name), ISSUER, issuer_key, extensions=(PURPOSE,))
    return Party((certificate, *issuers()), pss=pss)


@cache
def party_key(kind: str = "p-256", name: str = "Line records") -> PrivateKey:
    return key_for(kind, f"papers-{name}")


def finished(draft: Draft, kind: str = "p-256", name: str = "Line records") -> bytes:
    """The document, signed by :func:`party`."""
    return draft.finish(sign(party_key(kind, name), draft.algorithm, draft.signing_input))


def produced(
    serial: str = "D7-000123", kind: str = "p-256", extensions: tuple[x509.ExtensionType, ...] = (), subject: str = ""
) -> ProducedDevice:
    """A finished unit; its certificate is of a key of its own."""
    name = subject or f"serialNumber={serial},CN=Drive 7,O=Müller GmbH"
    certificate = certify(
        name, key_for(kind, f"device-{serial}"), ISSUER, key_for("p-256", "papers-issuer"), extensions=extensions
    )
    states = ("reserved", "keyed", "issued", "written", "verified", "locking", "locked", "labelled")
    return ProducedDevice(
        order="A-2026-17",
        product="drive-7",
        serial=serial,
        chip="0123f1822c38dd7a01",
        gateway="plant-7",
        station="station-3",
        port="usb-1-2.4",
        key_origin=KeyOrigin.DEVICE,
        certificate=certificate,
        chain=issuers(),
        steps=tuple(Step(state, 1_790_000_000_000 + 250 * number) for number, state in enumerate(states)),
        software="edge-gateway 0.1.0",
        uri=f"https://id.example.com/{serial}",
        manufacturer="Müller GmbH",
        model="Drive 7",
        operator="badge-12",
        driver="linux-console",
        recipe_digest=b"\x01" * 32,
        evidence_format="cose-sign1",
        evidence_digest=b"\x02" * 32,
        prints=(LabelPrint(1_790_000_001_400, 0, "zd-1"), LabelPrint(1_790_000_001_450, 1, "zd-1")),
        facts={"firmware": "1.9.0"},
        records=(7, 8, 9),
    )

"""Status while the edge is dark: openssl believes central's answers and lists, and only what a journal names is good."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp

from gateway.clock import system_time_ms
from gateway.errors import Conflict, MalformedRequest, NotFound
from gateway.journal.records import CaActivated, Revoked
from gateway.pki.crl import Reason
from gateway.pki.tbs import new_serial
from gateway.protocols.ocsp.endpoint import OcspEndpoint
from gateway.protocols.server import Listener
from sync.central.authority import ROOT_LIST
from sync.central.lists import INDIRECT
from sync.central.status import CentralResponder
from tests.support.authority import DAY_MS, SteppedClock
from tests.support.central import BASE_URL, NewGateway
from tests.support.edge import Edge
from tests.support.served_central import Served, joined, served

HOUR_MS = 3_600_000


@dataclass
class Dark:
    """A central with one gateway that has joined, sent its records and is out of reach now."""

    served: Served
    edge: Edge
    work: Path
    responder: CentralResponder
    ca: x509.Certificate
    url: str
    serials: dict[str, int] = field(default_factory=dict)
    issued: int = 0

    @property
    def key(self) -> str:
        return self.ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.served.clock.now_ms() / 1000, UTC)

    def certificate(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        *extensions: x509.ExtensionType,
        record: bool = True,
        days: int = 30,
    ) -> bytes:
        """A certificate of the gateway's CA; in its journal unless not to ``record``. PEM in ``work``."""
        self.issued += 1
        serial = new_serial(self.served.clock.now_ms(), self.issued.to_bytes(12, "big"))
        builder = x509.CertificateBuilder(
            self.ca.subject, x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]), public_key, serial,
            self.now - timedelta(minutes=5), self.now + timedelta(days=days),
        )  # fmt: skip
        identifier = self.ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        akid = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
        for extension in (akid, *extensions):
            builder = builder.add_extension(extension, critical=False)
        made = builder.sign(self.edge.ca_key, hashes.SHA256())
        self.serials[name] = serial
        (self.work / f"{name}.pem").write_bytes(made.public_bytes(Encoding.PEM))
        if record:
            spki = _sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
            tbs = made.tbs_certificate_bytes
            intent = self.edge.plan(self.issued, serial=f"{serial:x}", tbs=tbs, spki_digest=spki)
            seq = self.edge.add(intent)
            der = made.public_bytes(Encoding.DER)
            issued = self.edge.sign(intent, seq)
            self.edge.add(type(issued)(seq, issued.serial, made.signature, _sha256(der), issued.idempotency_key))
        return made.public_bytes(Encoding.DER)

    def ocsp_certificate(self, *, days: int = 30) -> None:
        """The gateway's CA certifies central's OCSP key."""
        key = self.served.central.authority.ocsp_key.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        usage = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.OCSP_SIGNING])
        self.certificate(f"responder-{self.issued}", key, usage, x509.OCSPNoCheck(), days=days)

    async def send(self) -> None:
        """Everything that is in the journal reaches central, and is understood there."""
        await self.served.ingest.carried(self.edge.origin, self.edge.batch(0))
        await self.served.project()

    def openssl(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(["openssl", *arguments], cwd=self.work, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    async def status(self, name: str, *, nonce: bool = True) -> str:
        """What ``openssl ocsp`` makes of central's answer, having verified it."""
        said = await asyncio.to_thread(
            self.openssl, "ocsp", "-issuer", "ca.pem", "-cert", f"{name}.pem", "-nonce" if nonce else "-no_nonce",
            "-CAfile", "root.pem", "-url", f"{self.url}/ocsp", "-respout", "response.der",
        )  # fmt: skip
        assert "Response verify OK" in said
        assert "WARNING: no nonce" not in said or not nonce
        return said.partition(f"{name}.pem: ")[2].partition("\n")[0]

    async def crl(self, name: str) -> Path:
        """A list that central serves, PEM."""
        path = self.work / f"{name}.pem"
        crl = x509.load_der_x509_crl((await self.served.lists.find(name)).content)
        path.write_bytes(crl.public_bytes(Encoding.PEM))
        return path

    def own_list(self, number: int, revoked: dict[int, x509.ReasonFlags] | None = None, *, hours: int = 24) -> bytes:
        """A list that the gateway's CA signs."""
        builder = x509.CertificateRevocationListBuilder(self.ca.subject, self.now, self.now + timedelta(hours=hours))
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        for serial, reason in (revoked or {}).items():
            entry = x509.RevokedCertificateBuilder(serial, self.now)
            builder = builder.add_revoked_certificate(entry.add_extension(x509.CRLReason(reason), critical=False).build())
        return builder.sign(self.edge.ca_key, hashes.SHA256()).public_bytes(Encoding.DER)


def _sha256(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


@asynccontextmanager
async def dark(work: Path, *, certified: bool = True) -> AsyncIterator[Dark]:
    clock = SteppedClock(system_time_ms())  # openssl compares with the time of the machine
    async with served(work / "central", clock) as one:
        edge = Edge("one", activated=False)
        edge.now_ms = clock.now_ms() - DAY_MS
        answer = (await joined(one, edge)).answer
        ca = edge.ca = x509.load_der_x509_certificate(answer.certificate)
        edge.add(CaActivated(1, "software:ca", answer.certificate, answer.chain, "operator"))
        (work / "ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))
        (work / "root.pem").write_bytes(x509.load_der_x509_certificate(answer.root).public_bytes(Encoding.PEM))
        responder = CentralResponder(one.central.store, one.central.authority.ocsp_key, clock)
        listener = Listener("http", (OcspEndpoint(responder, clock),))
        await listener.start()
        made = Dark(one, edge, work, responder, ca, f"http://127.0.0.1:{listener.addresses[0][1]}")
        if certified:
            made.ocsp_certificate()
        made.certificate("device", KEY.public_key())
        await made.send()
        try:
            yield made
        finally:
            await listener.close(grace_s=0)


KEY = ec.generate_private_key(ec.SECP256R1())


# OCSP.


async def test_a_journalled_certificate_is_good(tmp_path: Path) -> None:
    async with dark(tmp_path) as one:
        assert await one.status("device") == "good"
        assert await one.status("device", nonce=False) == "good"


async def test_a_certificate_that_no_journal_names_is_never_good(tmp_path: Path) -> None:
    async with dark(tmp_path) as one:
        one.certificate("stolen", KEY.public_key(), record=False)
        assert await one.status("stolen") == "unknown"


async def test_what_central_revokes_is_revoked_before_the_gateway_hears_of_it(tmp_path: Path) -> None:
    async with dark(tmp_path) as one:
        revocations = one.served.central.revocations
        await revocations.revoke(one.serials["device"], Reason.CERTIFICATE_HOLD, "anna")
        assert await one.status("device") == "revoked"
        await revocations.release(one.serials["device"], "anna")
        assert await one.status("device") == "good"
        await revocations.revoke(one.serials["device"], Reason.KEY_COMPROMISE, "anna")
        assert await one.status("device") == "revoked"
        (single,) = ocsp.load_der_ocsp_response((one.work / "response.der").read_bytes()).responses
        assert single.revocation_reason is x509.ReasonFlags.key_compromise


async def test_what_the_gateway_revoked_and_what_it_voided_is_revoked(tmp_path: Path) -> None:
    async with dark(tmp_path) as one:
        one.edge.add(Revoked(f"{one.serials['device']:x}", 1, "superseded", one.edge.now_ms, "operator"))
        await one.send()
        assert await one.status("device") == "revoked"
        void = one.edge.serial(77)
        one.edge.void(77)
        await one.send()
        answer = await one.responder.ocsp(request_for(one.ca, void))
        (single,) = ocsp.load_der_ocsp_response(answer.der).responses
        assert single.certificate_status is ocsp.OCSPCertStatus.REVOKED


def request_for(ca: x509.Certificate, serial: int) -> bytes:
    key = ca.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)  # type: ignore[union-attr,call-arg]
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
        _sha1(ca.subject.public_bytes()), _sha1(key), serial, hashes.SHA1()
    )  # fmt: skip
    return builder.build().public_bytes(Encoding.DER)


def _sha1(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA1())
    digest.update(data)
    return digest.finalize()


def _error(der: bytes) -> ocsp.OCSPResponseStatus:
    return ocsp.load_der_ocsp_response(der).response_status


async def test_without_a_certificate_of_this_ca_central_says_try_later(tmp_path: Path) -> None:
    async with dark(tmp_path, certified=False) as one:
        request = request_for(one.ca, one.serials["device"])
        assert _error((await one.responder.ocsp(request)).der) is ocsp.OCSPResponseStatus.TRY_LATER
        one.ocsp_certificate(days=1)
        await one.send()
        one.served.clock.advance(6_000)
        answer = await one.responder.ocsp(request)
        assert _error(answer.der) is ocsp.OCSPResponseStatus.SUCCESSFUL
        assert answer.cacheable
        one.served.clock.advance(2 * DAY_MS)
        assert _error((await one.responder.ocsp(request)).der) is ocsp.OCSPResponseStatus.TRY_LATER


async def test_a_certificate_without_the_right_to_sign_status_is_not_used(tmp_path: Path) -> None:
    async with dark(tmp_path, certified=False) as one:
        key = one.served.central.authority.ocsp_key.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        one.certificate("plain", key)
        one.certificate("client", key, x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH]), days=60)
        await one.send()
        request = request_for(one.ca, one.serials["device"])
        assert _error((await one.responder.ocsp(request)).der) is ocsp.OCSPResponseStatus.TRY_LATER
        one.ocsp_certificate()
        await one.send()
        one.served.clock.advance(6_000)
        assert await one.status("device") == "good"


async def test_a_revoked_responder_certificate_is_not_used(tmp_path: Path) -> None:
    async with dark(tmp_path) as one:
        await one.served.central.revocations.revoke(one.serials["responder-0"], Reason.SUPERSEDED, "anna")
        request = request_for(one.ca, one.serials["device"])
        assert _error((await one.responder.ocsp(request)).der) is ocsp.OCSPResponseStatus.TRY_LATER


async def test_what_is_no_request_or_for_a_foreign_ca(tmp_path: Path) -> None:
    async with dark(tmp_path) as one:
        assert _error((await one.responder.ocsp(b"x")).der) is ocsp.OCSPResponseStatus.MALFORMED_REQUEST
        stranger = x509.load_pem_x509_certificate((one.work / "root.pem").read_bytes())
        foreign = await one.responder.ocsp(request_for(stranger, 1))
        assert _error(foreign.der) is ocsp.OCSPResponseStatus.UNAUTHORIZED
        assert one.responder.ocsp_at_hand(b"x") is None


async def test_a_gateway_that_joins_later_is_answered_for(tmp_path: Path) -> None:
    async with dark(tmp_path) as one:
        assert await one.status("device") == "good"
        answer = await one.served.central.join(NewGateway("plant-8/1", "CN=Plant 8"))
        other = x509.load_der_x509_certificate(answer.certificate)
        one.served.clock.advance(6_000)
        assert _error((await one.responder.ocsp(request_for(other, 5))).der) is ocsp.OCSPResponseStatus.TRY_LATER


# Lists.


async def test_the_gateways_own_list_is_served_and_never_replaced_by_a_lower_number(tmp_path: Path) -> None:
    async with dark(tmp_path) as one:
        lists, origin = one.served.lists, one.edge.origin
        with pytest.raises(NotFound):
            await lists.find(f"{one.key}-1.crl")
        newer, older = one.own_list(8), one.own_list(7)
        assert await lists.upload(origin, "1.crl", newer)
        assert not await lists.upload(origin, "1.crl", newer)
        assert not await lists.upload(origin, "1.crl", older)
        assert (await lists.find(f"{one.key}-1.crl")).content == newer
        with pytest.raises(Conflict, match="another list"):
            await lists.upload(origin, "1.crl", one.own_list(8, {5: x509.ReasonFlags.superseded}))


async def test_a_list_that_another_key_signed_is_refused(tmp_path: Path) -> None:
    async with dark(tmp_path) as one:
        lists, other = one.served.lists, Edge("other")
        builder = x509.CertificateRevocationListBuilder(one.ca.subject, one.now, one.now + timedelta(hours=1))
        forged = builder.add_extension(x509.CRLNumber(9), critical=False).sign(other.ca_key, hashes.SHA256())
        unnumbered = builder.sign(one.edge.ca_key, hashes.SHA256())
        for bad in (forged.public_bytes(Encoding.DER), unnumbered.public_bytes(Encoding.DER), b"none"):
            with pytest.raises(MalformedRequest):
                await lists.upload(one.edge.origin, "1.crl", bad)
        with pytest.raises(MalformedRequest):
            await lists.upload(one.edge.origin, "../1.crl", one.own_list(9))
        assert not await lists.upload(one.edge.origin, "root.crl", one.own_list(9))
        for name in ("nothing.crl", f"{one.key}-1.crl", f"{one.key}-{INDIRECT}", "abc-1.crl"):
            with pytest.raises(NotFound):
                await lists.find(name)


async def test_openssl_finds_a_revocation_on_the_roots_indirect_list(tmp_path: Path) -> None:
    async with dark(tmp_path) as one:
        root = one.served.central.authority.root.certificate.subject
        point = x509.DistributionPoint(
            [x509.UniformResourceIdentifier(f"{BASE_URL}/crl/{one.key}-{INDIRECT}")], None, None, [x509.DirectoryName(root)]
        )
        one.certificate("pointed", KEY.public_key(), x509.CRLDistributionPoints([point]))
        await one.send()
        lists = one.served.lists
        check = (
            "verify", "-crl_check", "-extended_crl", "-CAfile", "root.pem", "-untrusted", "ca.pem", "-CRLfile",
        )  # fmt: skip
        assert await lists.publish_due() == 1
        await one.crl(f"{one.key}-{INDIRECT}")
        assert "OK" in one.openssl(*check, f"{one.key}-{INDIRECT}.pem", "pointed.pem")
        await one.served.central.revocations.revoke(one.serials["pointed"], Reason.KEY_COMPROMISE, "anna")
        assert await lists.publish_due() == 1
        await one.crl(f"{one.key}-{INDIRECT}")
        assert "certificate revoked" in one.openssl(*check, f"{one.key}-{INDIRECT}.pem", "pointed.pem", code=2)
        assert await lists.publish_due() == 0


async def test_the_indirect_list_says_only_what_the_gateways_own_does_not(tmp_path: Path) -> None:
    async with dark(tmp_path) as one:
        lists, origin, serial = one.served.lists, one.edge.origin, one.serials["device"]

        async def listed() -> list[int]:
            await lists.publish_due()
            return [each.serial_number for each in x509.load_der_x509_crl((await lists.find(f"{one.key}-{INDIRECT}")).content)]

        assert await listed() == []
        await one.served.central.revocations.revoke(serial, Reason.SUPERSEDED, "anna")
        assert await listed() == [serial]
        await lists.upload(origin, "1.crl", one.own_list(8, {serial: x509.ReasonFlags.superseded}))
        assert await listed() == []
        await one.served.central.revocations.revoke(serial, Reason.KEY_COMPROMISE, "anna")
        assert await listed() == [serial]  # the reason on the gateway's own list is another one
        await lists.upload(origin, "1.crl", one.own_list(9, {serial: x509.ReasonFlags.key_compromise}))
        assert await listed() == []
        one.served.clock.advance(25 * HOUR_MS)  # its own list has ended
        assert await listed() == [serial]


async def test_lists_are_renewed_when_half_their_time_is_over(tmp_path: Path) -> None:
    async with dark(tmp_path) as one:
        lists = one.served.lists
        assert await lists.publish_due() == 1
        first = await lists.find(ROOT_LIST)
        assert await lists.publish_due() == 0
        one.served.clock.advance(24 * HOUR_MS + 1)
        assert await lists.publish_due() == 1
        assert await lists.publish_due(only=()) == 0
        assert await lists.find(ROOT_LIST) == first

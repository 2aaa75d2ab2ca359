"""A small responder of the seam for tests over HTTP: real answers, signed by a delegated responder of the test CA."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.est_stack import Answer, TestPki


class Responder:
    """``revoked`` holds serial numbers; everything else that the CA issued is good."""

    def __init__(self, pki: TestPki) -> None:
        self.pki = pki
        self.revoked: set[int] = set()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = pki.certificate(
            "OCSP", self._key, issuer=(pki.ca, pki.ca_key), usage=ExtendedKeyUsageOID.OCSP_SIGNING
        )

    async def ocsp(self, request_der: bytes) -> Answer:
        request = ocsp.load_der_ocsp_request(request_der)
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        later = now + datetime.timedelta(hours=1)
        bad = request.serial_number in self.revoked
        builder = ocsp.OCSPResponseBuilder().add_response_by_hash(
            request.issuer_name_hash,
            request.issuer_key_hash,
            request.serial_number,
            request.hash_algorithm,
            ocsp.OCSPCertStatus.REVOKED if bad else ocsp.OCSPCertStatus.GOOD,
            now,
            later,
            now if bad else None,
            x509.ReasonFlags.key_compromise if bad else None,
        )
        nonce = False
        for extension in request.extensions:
            if isinstance(extension.value, x509.OCSPNonce):
                builder, nonce = builder.add_extension(extension.value, critical=False), True
        signed = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, self.certificate).certificates([self.certificate])
        der = signed.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        return Answer(der, not nonce, int(now.timestamp() * 1000), int(later.timestamp() * 1000))

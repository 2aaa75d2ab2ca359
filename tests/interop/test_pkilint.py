"""pkilint finds no error in anything that the running gateway made: certificates, lists, OCSP answers, its own and the demo's.

The test makes something of every kind itself and then takes everything that lies in the journal by then, whoever asked for it.
"""

from __future__ import annotations

from pathlib import Path
from urllib.request import Request, urlopen

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from gateway.pki.names import name_from_text
from gateway.pki.sans import san_from_text
from tests.support.pkilint import findings
from tests.support.plant_gateway import Plant, openssl

#: Findings of error level that are meant: code -> reason, by the profile of the certificate.
DELIBERATE = {
    "gateway-tls": {"pkix.invalid_domain_name_syntax": "a demo serves localhost, which is no fully qualified name"},
    "opcua-application": {
        "pkix.invalid_uri_syntax": "an ApplicationUri is a URN; RFC 5280 section 4.2.1.6 wants a host only with an authority"
    },
}
_KEYS = {
    "p-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa-2048": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
}
#: Profile, subject, alternative names, key type.
WISHES = [
    ("ldevid", "CN=plc-1,O=Plant,2.5.4.5=4711", ["DNS:plc-1.plant.example"], "rsa-2048"),
    ("ldevid", "CN=plc-2", [], "ed25519"),
    ("ldevid", "CN=plc-3", [], "ml-dsa-65"),
    ("idevid", "2.5.4.5=4711,O=Acme", ["HMN:1.3.6.1.4.1.32473.1:0a1b"], "p-256"),
    ("tls-server", "CN=hmi.plant.example", ["DNS:hmi.plant.example", "IP:192.0.2.7"], "p-384"),
    ("tls-server", "", ["DNS:nameless.plant.example"], "rsa-2048"),
    ("tls-client", "CN=historian", ["DNS:historian.plant.example"], "p-256"),
    ("opcua-application", "CN=server,O=Plant", ["URI:urn:plant:server", "DNS:server.plant.example"], "rsa-2048"),
    ("radius-server", "CN=radius.plant.example", ["DNS:radius.plant.example"], "p-256"),
    ("station", "CN=station-9", [], "p-256"),
]


def issue(plant: Plant, work: Path, wish: tuple[str, str, list[str], str]) -> None:
    """``edge-gateway issue``."""
    profile, subject, names, key_type = wish
    key = _KEYS[key_type]()
    builder = x509.CertificateSigningRequestBuilder().subject_name(name_from_text(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([san_from_text(each) for each in names]), critical=False)
    signed = builder.sign(key, hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) else None)
    request = work / "request.der"
    request.write_bytes(signed.public_bytes(Encoding.DER))
    plant.command("issue", "--profile", profile, request)


def ocsp_answer(plant: Plant, serial: int, *, nonce: bytes = b"") -> bytes:
    """The daemon's answer for one serial."""
    issuer = x509.load_pem_x509_certificate(plant.issuing.read_bytes())
    name = hashes.Hash(hashes.SHA1())
    name.update(issuer.subject.public_bytes())
    key = x509.SubjectKeyIdentifier.from_public_key(issuer.public_key()).digest  # issuerKeyHash is made in the same way
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(name.finalize(), key, serial, hashes.SHA1())
    if nonce:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    request = Request(
        plant.text("ocsp"), builder.build().public_bytes(Encoding.DER), {"Content-Type": "application/ocsp-request"}
    )
    with urlopen(request, timeout=30) as answer:
        content: bytes = answer.read()
    assert ocsp.load_der_ocsp_response(content).response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    return content


def test_everything_that_the_gateway_made_passes(plant: Plant, tmp_path: Path) -> None:
    for wish in WISHES:
        issue(plant, tmp_path, wish)
    certificates = plant.certificates()
    profiles = {profile for profile, _ in certificates.values()}
    assert profiles >= {wish[0] for wish in WISHES} | {"gateway-tls", "ocsp-responder"}
    (first, second, *_) = (serial for serial, (profile, _) in certificates.items() if profile == "ldevid")
    plant.command("revoke", "--reason", "keyCompromise", f"{first:x}")
    plant.command("revoke", "--reason", "certificateHold", f"{second:x}")

    documents = {f"{profile}-{serial:x}.cert": der for serial, (profile, der) in certificates.items()}
    for number, certificate in enumerate(plant.ca_certificates()):
        documents[f"ca-{number}.cert"] = certificate.public_bytes(Encoding.DER)
    for path in (plant.idevid[0], Path(plant.demo("idevid")["maker"])):
        parsed = x509.load_pem_x509_certificate(path.read_bytes())
        documents[f"maker-{path.stem}.cert"] = parsed.public_bytes(Encoding.DER)
    documents |= {f"list-{name}": der for name, der in plant.crls().items()}
    for serial in (*certificates, 1):
        documents[f"answer-{serial:x}.ocsp"] = ocsp_answer(plant, serial)
    documents["nonce.ocsp"] = ocsp_answer(plant, first, nonce=bytes(range(32)))

    found = findings(tmp_path, documents)
    unexpected = {}
    for name, codes in found.items():
        meant = next((codes for profile, codes in DELIBERATE.items() if name.startswith(profile)), {})
        if left := [code for code in codes if code not in meant]:
            unexpected[name] = left
    assert unexpected == {}


def test_openssl_verifies_every_certificate_that_the_gateway_made(plant: Plant, tmp_path: Path) -> None:
    for serial, (profile, der) in plant.certificates().items():
        certificate = x509.load_der_x509_certificate(der)
        if isinstance(certificate.public_key(), mldsa.MLDSA65PublicKey):  # OpenSSL before 3.5 cannot read such a key
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(plant.issuing.read_bytes()))
            continue
        path = tmp_path / f"{profile}-{serial:x}.pem"
        path.write_bytes(certificate.public_bytes(Encoding.PEM))
        said = openssl("verify", "-CAfile", plant.anchors, "-untrusted", plant.issuing, path)
        assert said == f"{path}: OK\n"

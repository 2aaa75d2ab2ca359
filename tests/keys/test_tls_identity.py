"""A server presents a key that was in no file, and none is left behind."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.keys.tls_identity import load_identity
from gateway.pki.names import name_from_text
from tests.support.ceremony_root import ROOT_NAME, ca_certificate, root_certificate, root_key


def chain_of(*names: str) -> tuple[ec.EllipticCurvePrivateKey, list[bytes]]:
    """The key of the first name's certificate, and the certificates (DER) up to below the test's root."""
    issuer, issuer_key, certificates = ROOT_NAME, root_key(), []
    for name in reversed(names):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = name_from_text(f"CN={name}")
        certificates.append(ca_certificate(subject, key.public_key(), issuer=issuer, issuer_key=issuer_key, path_length=None))
        issuer, issuer_key = subject, key
    return issuer_key, certificates[::-1]


def presented(server: ssl.SSLContext) -> list[bytes]:
    """The chain (DER) that a client which trusts the root alone has verified."""
    client = ssl.create_default_context(cadata=root_certificate())
    client.check_hostname = False
    client.verify_flags &= ~ssl.VERIFY_X509_STRICT  # the leaf here is a CA's
    ends = [ssl.MemoryBIO() for _ in range(2)]
    sides = (client.wrap_bio(ends[0], ends[1]), server.wrap_bio(ends[1], ends[0], server_side=True))
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return [bytes(certificate.public_bytes(ssl._ssl.ENCODING_DER)) for certificate in sides[0]._sslobj.get_unverified_chain()]


def test_the_certificate_is_presented_with_its_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    key, (leaf, issuing) = chain_of("gateway", "issuing")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_identity(context, leaf, [issuing], key)
    assert presented(context)[:2] == [leaf, issuing]
    assert list(tmp_path.iterdir()) == []


def test_the_file_on_the_way_is_for_this_user_alone_and_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, (leaf,) = chain_of("gateway")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    seen: list[tuple[int, bytes]] = []

    class Watched:
        def load_cert_chain(self, path: Path, password: bytes) -> None:
            seen.append((path.stat().st_mode & 0o777, path.read_bytes()))
            assert len(password) >= 32
            context.load_cert_chain(path, password=password)

    load_identity(Watched(), leaf, [], key)  # type: ignore[arg-type]
    ((mode, content),) = seen
    assert mode == 0o600
    assert b"ENCRYPTED PRIVATE KEY" in content
    assert content.count(b"BEGIN") == 2
    with pytest.raises(ssl.SSLError):
        load_identity(context, leaf, [], ec.generate_private_key(ec.SECP256R1()))

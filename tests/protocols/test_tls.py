"""The TLS context: which versions and ciphers are spoken, what a client certificate is checked for, and how keys change."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.protocols.tls import ServerTls, TlsOptions, _take_any_purpose, client_chain
from tests.support.est_requests import csr_der
from tests.support.est_stack import EstStack, TestPki, der, pem_key

EST = "/.well-known/est"


def s_client(stack: EstStack, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [
        "openssl",
        "s_client",
        "-connect",
        f"127.0.0.1:{stack.https_port}",
        "-CAfile",
        str(stack.pki.anchors),
        *arguments,
    ]
    return subprocess.run(command, input=b"Q", capture_output=True, timeout=20, check=False)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_tls_1_2_and_1_3_are_spoken_without_tickets(stack: EstStack, version: str) -> None:
    result = await asyncio.to_thread(s_client, stack, version, "-alpn", "http/1.1")
    assert b"Verify return code: 0 (ok)" in result.stdout
    assert b"ALPN protocol: http/1.1" in result.stdout
    assert b"TLS session ticket:" not in result.stdout
    assert b"Compression: NONE" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"),
        ("-tls1_2", "-cipher", "AES128-SHA"),
        ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"),
        ("-tls1_2", "-cipher", "aNULL:@SECLEVEL=0"),
    ],
)
async def test_old_versions_and_ciphers_are_not(stack: EstStack, arguments: tuple[str, ...]) -> None:
    result = await asyncio.to_thread(s_client, stack, *arguments)
    assert b"Verify return code: 0" not in result.stdout or b"Cipher is (NONE)" in result.stdout


def test_old_ciphers_have_a_switch() -> None:
    modern = {cipher["name"] for cipher in ServerTls().context.get_ciphers()}
    legacy = {cipher["name"] for cipher in ServerTls(TlsOptions(legacy_ciphers=True)).context.get_ciphers()}
    assert "AES128-GCM-SHA256" in legacy - modern
    assert all("GCM" in name or "CHACHA20" in name for name in modern)


def test_a_listener_may_ask_for_no_client_certificate() -> None:
    assert ServerTls(TlsOptions(ask_client_certificate=False)).context.verify_mode is ssl.CERT_NONE
    assert ServerTls().context.verify_mode is ssl.CERT_OPTIONAL


async def test_a_certificate_of_an_unknown_maker_ends_the_handshake(stack: EstStack, tmp_path: Path) -> None:
    stranger = TestPki(tmp_path).client("stranger")
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await stack.est_request("POST", f"{EST}/simpleenroll", csr_der(), client=stranger)


async def test_a_certificate_for_another_purpose_passes_the_handshake(stack: EstStack) -> None:
    """A web server's certificate asks for its own renewal; what it may ask for is decided behind the handshake."""
    pki = stack.pki
    key = ec.generate_private_key(ec.SECP256R1())
    server = pki.certificate("own-web", key, issuer=(pki.ca, pki.ca_key), usage=ExtendedKeyUsageOID.SERVER_AUTH)
    path = pki.write("own-web.pem", server)
    path.with_suffix(".key").write_bytes(pem_key(key))
    client = (path, path.with_suffix(".key"))
    answer = await stack.est_request("POST", f"{EST}/simplereenroll", csr_der(), user=None, client=client)
    assert answer.status == 200
    assert stack.authority.requests[0].requester.certificate == der(server)
    assert _take_any_purpose()


def test_an_interpreter_that_hides_openssl_is_told_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert not _take_any_purpose.__wrapped__()
    assert "cannot be renewed" in caplog.text


async def test_new_anchors_are_trusted_without_a_restart(stack: EstStack, tmp_path: Path) -> None:
    other = TestPki(tmp_path)
    stack.tls.add_trust_anchors([der(other.maker), der(other.maker)])
    client = other.client("new-maker-1", maker=True)
    assert (await stack.est_request("POST", f"{EST}/simpleenroll", csr_der(), client=client)).status == 200


async def test_a_new_certificate_is_served_to_new_connections_and_old_ones_live_on(stack: EstStack) -> None:
    reader, writer = await stack.connect(tls=True)
    key = ec.generate_private_key(ec.SECP256R1())
    pki = stack.pki
    from cryptography import x509

    new = pki.certificate("gateway", key, issuer=(pki.ca, pki.ca_key), names=[x509.DNSName("localhost")])
    stack.tls.replace_certificate(der(new), [der(pki.ca)], key)
    second = await stack.connect(tls=True)
    assert second[1].get_extra_info("ssl_object").getpeercert(True) == der(new)
    writer.write(f"GET {EST}/cacerts HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.close()
    second[1].close()


async def test_a_key_that_does_not_belong_to_the_certificate_changes_nothing(stack: EstStack) -> None:
    with pytest.raises(ssl.SSLError):
        stack.tls.replace_certificate(der(stack.pki.ca), [], stack.pki.server_key)
    assert (await stack.est_request("GET", f"{EST}/cacerts")).status == 200


def test_no_key_file_is_left_behind(test_pki: TestPki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ServerTls().replace_certificate(der(test_pki.server), [], test_pki.server_key)
    assert os.listdir(tmp_path) == []


async def test_the_chain_of_a_client_is_known_with_its_intermediates(stack: EstStack, tmp_path: Path) -> None:
    pki = stack.pki
    key = ec.generate_private_key(ec.SECP256R1())
    between = pki.certificate("Maker Intermediate", key, issuer=(pki.maker, pki.maker_key), ca=True)
    device_key = ec.generate_private_key(ec.SECP256R1())
    device = pki.certificate("idevid-chain", device_key, issuer=(between, key))
    pki.write("chain.pem", device, between)
    (pki.directory / "chain.key").write_bytes(pem_key(device_key))
    seen = []

    async def certificate(chain):  # type: ignore[no-untyped-def]
        seen.append(tuple(chain))
        return await type(stack.authority.authenticator).certificate(stack.authority.authenticator, chain)

    stack.authority.authenticator.certificate = certificate
    client = (pki.directory / "chain.pem", pki.directory / "chain.key")
    assert (await stack.est_request("POST", f"{EST}/simpleenroll", csr_der(), user=None, client=client)).status == 200
    assert seen == [(der(device), der(between))]


def test_without_tls_there_is_no_chain() -> None:
    assert client_chain(None) == ()

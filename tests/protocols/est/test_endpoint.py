"""EST over real TLS connections: what each operation answers, in headers and bytes, and what it leaves unchanged."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email
import email.policy
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs7

from gateway.authority.requests import Holder, Lane, Operation, Refused, Requester, RequesterKind
from gateway.errors import Busy, Forbidden, JournalFailed
from gateway.pki.der import sequence as der_sequence
from gateway.pki.profiles import Profile
from gateway.protocols.est.csrattrs import encode_csrattrs
from tests.support.est_requests import csr_der, csr_with_attribute, csr_with_octets
from tests.support.est_stack import DAY, NOW, EstStack, HttpAnswer, Rule, der, read_answer
from tests.support.hostile_est import BODIES, CREDENTIALS, DER_BODIES, PATHS

EST = "/.well-known/est"


def certificates(answer: HttpAnswer) -> list[x509.Certificate]:
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == "application/pkcs7-mime; smime-type=certs-only"
    assert answer.headers["content-transfer-encoding"] == "base64"
    assert "transfer-encoding" not in answer.headers
    return pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.body))


async def test_cacerts_give_the_whole_chain_to_anyone(stack: EstStack) -> None:
    answer = await stack.est_request("GET", f"{EST}/cacerts", user=None)
    assert set(certificates(answer)) == {stack.pki.ca, stack.pki.root}
    assert b"\n" not in answer.body


async def test_head_of_cacerts_has_the_length_and_no_body(stack: EstStack) -> None:
    full = await stack.est_request("GET", f"{EST}/cacerts", user=None)
    answer = await stack.raw(f"HEAD {EST}/cacerts HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert (answer.status, answer.headers["content-length"]) == (200, str(len(full.body)))


async def test_libest_gets_lines(stack: EstStack) -> None:
    answer = await stack.est_request("GET", f"{EST}/cacerts", headers={"User-Agent": "libest 3.2"}, user=None)
    assert max(map(len, answer.body.split(b"\n"))) == 64


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_http_1_0_without_host_is_answered(stack: EstStack, version: str) -> None:
    host = "Host: localhost\r\n" if version == "1.1" else ""
    answer = await stack.raw(f"GET {EST}/cacerts HTTP/{version}\r\n{host}\r\n".encode())
    assert certificates(answer)


async def test_csrattrs_are_those_of_the_labels_profile(stack: EstStack) -> None:
    stack.authority.rules["device"].subject_wanted = frozenset({"serialNumber"})
    for label, profile in (("", "device"), ("/rsa", "rsa")):
        answer = await stack.est_request("GET", f"{EST}{label}/csrattrs", user=None)
        assert answer.headers["content-type"] == "application/csrattrs"
        rule = stack.authority.rules[profile]
        assert base64.b64decode(answer.body) == encode_csrattrs(rule.profile, rule.subject_wanted)


async def test_csrattrs_of_a_profile_that_leaves_everything_open_are_204(
    stack: EstStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rule, "profile", Profile("open", key_usage=()))
    assert (await stack.est_request("GET", f"{EST}/csrattrs", user=None)).status == 204


async def test_an_enrolment_by_token_gives_the_issued_certificate_only(stack: EstStack) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    answer = await stack.est_request("POST", f"{EST}/simpleenroll", base64.b64encode(csr_der("plc-7", key)))
    (certificate,) = certificates(answer)
    assert certificate.public_key() == key.public_key()
    assert stack.authority.requests[0].requester.kind is RequesterKind.TOKEN
    assert stack.authority.requests[0].lane is Lane.BULK


async def test_an_identical_retry_gives_identical_bytes(stack: EstStack) -> None:
    body = base64.b64encode(csr_der())
    first, second = [await stack.est_request("POST", f"{EST}/simpleenroll", body) for _ in range(2)]
    assert first.body == second.body


async def test_a_body_in_lines_is_answered_in_lines(stack: EstStack) -> None:
    answer = await stack.est_request("POST", f"{EST}/simpleenroll", base64.encodebytes(csr_der()))
    assert certificates(answer)
    assert b"\n" in answer.body


async def test_raw_der_and_a_trailing_slash_are_taken(stack: EstStack) -> None:
    assert certificates(await stack.est_request("POST", f"{EST}/simpleenroll/", csr_der()))


async def test_a_chunked_request_is_answered_with_a_length(stack: EstStack) -> None:
    body = base64.b64encode(csr_der())
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(body[at : at + 50]), body[at : at + 50]) for at in range(0, len(body), 50))
    credentials = base64.b64encode(b"device:secret").decode()
    head = (
        f"POST {EST}/simpleenroll HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {credentials}\r\n"
        "Content-Type: application/pkcs10\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert certificates(await stack.raw(head.encode() + chunks + b"0\r\n\r\n"))


async def test_a_client_that_expects_100_continue_is_told_to_go_on(stack: EstStack) -> None:
    body = base64.b64encode(csr_der())
    credentials = base64.b64encode(b"device:secret").decode()
    reader, writer = await stack.connect(tls=True)
    writer.write(
        (
            f"POST {EST}/simpleenroll HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {credentials}\r\n"
            f"Content-Type: application/pkcs10\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
    )
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    writer.close()


async def test_a_client_certificate_is_enough(stack: EstStack) -> None:
    client = stack.pki.client("idevid-1", maker=True)
    assert certificates(await stack.est_request("POST", f"{EST}/simpleenroll", csr_der(), user=None, client=client))
    requester = stack.authority.requests[0].requester
    assert requester.kind is RequesterKind.IDEVID
    assert requester.certificate == der(x509.load_pem_x509_certificate(client[0].read_bytes()))


async def test_renewal_by_the_current_certificate_goes_into_its_lane(stack: EstStack) -> None:
    client = stack.pki.client("own-1")
    assert certificates(await stack.est_request("POST", f"{EST}/simplereenroll", csr_der(), user=None, client=client))
    request = stack.authority.requests[0]
    assert (request.operation, request.lane, request.requester.kind) == (Operation.REENROLL, Lane.RENEWAL, RequesterKind.OWN)


async def test_a_station_enrols_for_another_subject_in_the_first_lane(stack: EstStack) -> None:
    client = stack.pki.client("station-1")
    answer = await stack.est_request("POST", f"{EST}/simpleenroll", csr_der("device-99"), user=None, client=client)
    assert certificates(answer)[0].subject.rfc4514_string() == "CN=device-99"
    assert stack.authority.requests[0].lane is Lane.LINE


async def test_the_validity_of_a_client_certificate_is_not_judged_by_the_handshake(stack: EstStack) -> None:
    client = stack.pki.client("expired-1", not_after=NOW - DAY)
    answer = await stack.est_request("POST", f"{EST}/simplereenroll", csr_der(), user=None, client=client)
    assert (answer.status, answer.body) == (401, b"")
    assert (await stack.est_request("POST", f"{EST}/simpleenroll", csr_der(), client=client)).status == 200


async def test_a_token_serves_where_the_profile_does_not_take_the_certificate(stack: EstStack) -> None:
    stack.authority.rules["device"].requesters = frozenset({RequesterKind.TOKEN})
    client = stack.pki.client("own-2")
    assert (await stack.est_request("POST", f"{EST}/simpleenroll", csr_der(), client=client)).status == 200
    assert stack.authority.requests[0].requester.kind is RequesterKind.TOKEN


@pytest.mark.parametrize("operation", ["simpleenroll", "simplereenroll", "serverkeygen", "fullcmc"])
@pytest.mark.parametrize("user", [None, "nobody"])
async def test_who_is_not_known_gets_a_challenge_and_an_empty_body(stack: EstStack, operation: str, user: str | None) -> None:
    answer = await stack.est_request("POST", f"{EST}/{operation}", csr_der(), user=user)
    assert (answer.status, answer.body) == (401, b"")
    assert answer.headers["www-authenticate"].startswith("Basic realm=")


@pytest.mark.parametrize(
    ("framing", "with_credentials"),
    [
        ("Content-Length: 60000", 400),  # the body does not arrive in time
        ("Content-Length: 10000000000", 413),
        ("Transfer-Encoding: chunked", 400),
        ("Content-Length: 60000\r\nExpect: 100-continue", 100),
    ],
)
async def test_who_proves_nothing_is_challenged_before_the_body(stack: EstStack, framing: str, with_credentials: int) -> None:
    """The control: with credentials each of these is waited for, refused for its size or told to go on."""
    credentials = base64.b64encode(b"device:secret").decode()
    for header, status in (("X-None: 1", 401), (f"Authorization: Basic {credentials}", with_credentials)):
        reader, writer = await stack.connect(tls=True)
        writer.write(f"POST {EST}/simpleenroll HTTP/1.1\r\nHost: a\r\n{header}\r\n{framing}\r\n\r\n".encode())
        answer = await read_answer(reader)
        assert answer.status == status
        writer.close()
    assert stack.authority.requests == []


async def test_a_body_that_nobody_asked_for_does_not_hold_the_connection(stack: EstStack) -> None:
    reader, writer = await stack.connect(tls=True)
    writer.write(f"POST {EST}/simpleenroll HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000000\r\n\r\n".encode())
    assert (await read_answer(reader)).status == 401
    sent = 0

    async def go_on() -> None:
        nonlocal sent
        while True:
            writer.write(bytes(16_384))
            sent += 16_384
            await writer.drain()

    sending = asyncio.create_task(go_on())
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert await reader.read() == b""  # the end: the gateway has closed
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert sent < 10_000_000_000
    writer.transport.abort()


async def test_a_challenge_keeps_the_connection_of_a_client_whose_body_has_arrived(stack: EstStack) -> None:
    """curl and others answer a challenge in the same connection."""
    reader, writer = await stack.connect(tls=True)
    body, credentials = csr_der(), base64.b64encode(b"device:secret").decode()
    for header, status in (("X-None: 1", 401), (f"Authorization: Basic {credentials}", 200)):
        head = f"POST {EST}/simpleenroll HTTP/1.1\r\nHost: a\r\n{header}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        assert (await read_answer(reader)).status == status
    writer.close()


async def test_credentials_decide_where_the_certificate_entitles_to_nothing(stack: EstStack) -> None:
    """Revoked by its maker, or a server's of another profile: with a token it is as if it had not been shown."""
    client = stack.pki.client("own-3")
    certificate = type(stack.authority.authenticator).certificate
    holder = Holder(b"", frozenset(), None, b"", 0, 1, "tls-server", renews_only=True)

    for changes, kind in (
        ({"objection": "revoked"}, RequesterKind.TOKEN),
        ({"holder": holder}, RequesterKind.TOKEN),
        ({"holder": replace(holder, profile="ldevid")}, RequesterKind.OWN),
        ({}, RequesterKind.OWN),
    ):

        async def changed(chain: Sequence[bytes], changes: dict[str, object] = changes) -> Requester:
            return replace(await certificate(stack.authority.authenticator, chain), **changes)  # type: ignore[arg-type]

        stack.authority.authenticator.certificate = changed  # type: ignore[method-assign]
        stack.authority.requests.clear()
        assert (await stack.est_request("POST", f"{EST}/simpleenroll", csr_der(), client=client)).status == 200
        assert stack.authority.requests[0].requester.kind is kind


CHANGE_SUBJECT_NAME = "1.3.6.1.5.5.7.7.36"


async def test_new_names_go_beside_the_request_as_it_was_signed(stack: EstStack) -> None:
    client = stack.pki.client("own-4")
    new = der_sequence(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "new-4")]).public_bytes())
    body = csr_with_attribute(CHANGE_SUBJECT_NAME, new, common_name="own-4")
    answer = await stack.est_request("POST", f"{EST}/simplereenroll", body, user=None, client=client)
    assert certificates(answer)[0].subject.rfc4514_string() == "CN=new-4"
    (request,) = stack.authority.requests
    assert request.renamed_from is not None
    assert request.renamed_from.subject.rfc4514_string() == "CN=own-4"
    assert request.csr.der == request.renamed_from.der == body
    answer = await stack.est_request("POST", f"{EST}/serverkeygen", body, user=None, client=client)
    assert (answer.status, len(stack.authority.requests)) == (400, 1)
    assert b"simplereenroll" in answer.body


@pytest.mark.parametrize("header", [header for header in CREDENTIALS if header and header.isascii()])
async def test_credentials_that_prove_nothing_are_challenged(stack: EstStack, header: str) -> None:
    answer = await stack.est_request("POST", f"{EST}/simpleenroll", csr_der(), user=None, headers={"Authorization": header})
    assert (answer.status, stack.authority.head) == (401, 0)


async def test_a_request_that_waits_is_202_with_retry_after_and_later_200(stack: EstStack) -> None:
    body = base64.b64encode(csr_der())
    answer = await stack.est_request("POST", f"{EST}/simpleenroll", body, user="waiting")
    assert (answer.status, answer.headers["retry-after"], answer.body) == (202, "1", b"")
    stack.authority.approved = True
    assert certificates(await stack.est_request("POST", f"{EST}/simpleenroll", body, user="waiting"))


async def test_a_refusal_says_why_and_what_to_do(stack: EstStack) -> None:
    answer = await stack.est_request("POST", f"{EST}/simpleenroll", csr_der(), user="refused")
    assert answer.status == 403
    assert b"not on the list" in answer.body
    assert answer.body.count(b"\n") == 2
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("error", [Busy("busy", retry_after=3), JournalFailed("stopped", retry_after=3)])
async def test_an_unavailable_gateway_is_503_with_retry_after(stack: EstStack, error: Exception) -> None:
    stack.authority.raises = error
    answer = await stack.est_request("POST", f"{EST}/simpleenroll", csr_der())
    assert (answer.status, answer.headers["retry-after"]) == (503, "3")


async def test_an_unforeseen_fault_shows_a_reference_only(stack: EstStack, caplog: pytest.LogCaptureFixture) -> None:
    stack.authority.raises = RuntimeError("inner secret")
    answer = await stack.est_request("POST", f"{EST}/simpleenroll", csr_der())
    assert answer.status == 500
    assert b"inner secret" not in answer.body
    reference = answer.body.split()[3].decode()
    assert reference in caplog.text


async def test_fullcmc_is_answered_honestly(stack: EstStack) -> None:
    answer = await stack.est_request("POST", f"{EST}/fullcmc", b"x")
    assert answer.status == 501
    assert b"simpleenroll" in answer.body


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "cacerts", "GET, HEAD"),
        ("DELETE", "cacerts", "GET, HEAD"),
        ("GET", "simpleenroll", "POST"),
        ("PUT", "simpleenroll", "POST"),
        ("OPTIONS", "csrattrs", "GET, HEAD"),
        ("TRACE", "simplereenroll", "POST"),
        ("PATCH", "serverkeygen", "POST"),
        ("HEAD", "fullcmc", "POST"),
    ],
)
async def test_another_method_is_405_and_named(stack: EstStack, method: str, path: str, allowed: str) -> None:
    answer = await stack.raw(f"{method} {EST}/{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode())
    assert (answer.status, answer.headers["allow"]) == (405, allowed)


async def test_every_hostile_path_is_a_4xx_and_changes_nothing(stack: EstStack) -> None:
    body = csr_der()
    for path in PATHS:
        answer = await stack.est_request("POST", path, body)
        assert 400 <= answer.status < 500, path
        assert answer.body, path
    assert stack.authority.head == 0


async def test_every_hostile_body_is_a_4xx_and_changes_nothing(stack: EstStack) -> None:
    for name, body in (BODIES | DER_BODIES).items():
        for operation in ("simpleenroll", "serverkeygen"):
            answer = await stack.est_request("POST", f"{EST}/{operation}", body)
            assert 400 <= answer.status < 500, (name, answer)
            assert len(answer.body) > 15, name
    assert stack.authority.head == 0
    assert not stack.authority.pool.keys


async def test_an_unknown_label_and_a_label_without_profile_are_not_found(stack: EstStack) -> None:
    for label in ("nowhere", "gone"):
        assert (await stack.est_request("POST", f"{EST}/{label}/simpleenroll", csr_der())).status == 404


def parts(answer: HttpAnswer) -> list[bytes]:
    message = email.message_from_bytes(
        f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode() + answer.body, policy=email.policy.HTTP
    )
    return [part.get_payload(decode=True) for part in message.iter_parts()]


async def test_a_server_made_key_comes_with_its_certificate_and_a_retry_gets_both_again(stack: EstStack) -> None:
    body = csr_der()
    answer, again = [await stack.est_request("POST", f"{EST}/serverkeygen", body) for _ in range(2)]
    key, certs = parts(answer)
    (certificate,) = pkcs7.load_der_pkcs7_certificates(certs)
    private = serialization.load_der_private_key(key, None)
    assert private.public_key() == certificate.public_key()
    assert answer.headers["cache-control"] == "no-store"
    assert again.body == answer.body
    assert stack.authority.requests[0].operation is Operation.SERVER_KEYGEN


async def test_the_key_type_of_the_request_is_the_hint(stack: EstStack) -> None:
    body = csr_der(key=rsa.generate_private_key(65537, 2048))
    key, _ = parts(await stack.est_request("POST", f"{EST}/serverkeygen", body))
    assert isinstance(serialization.load_der_private_key(key, None), rsa.RSAPrivateKey)
    key, _ = parts(await stack.est_request("POST", f"{EST}/rsa/serverkeygen", csr_der()))
    assert isinstance(serialization.load_der_private_key(key, None), rsa.RSAPrivateKey)


async def test_a_profile_with_no_key_type_we_make_is_refused(stack: EstStack) -> None:
    assert (await stack.est_request("POST", f"{EST}/none/serverkeygen", csr_der())).status == 400


async def test_an_empty_pool_is_503_and_takes_nothing(stack: EstStack) -> None:
    stack.authority.pool.empty = True
    answer = await stack.est_request("POST", f"{EST}/serverkeygen", csr_der())
    assert (answer.status, answer.headers["retry-after"]) == (503, "7")


async def test_the_key_of_a_refused_request_is_erased_and_of_a_waiting_one_kept(stack: EstStack) -> None:
    assert (await stack.est_request("POST", f"{EST}/serverkeygen", csr_der(), user="refused")).status == 403
    assert (stack.authority.pool.erased, len(stack.authority.pool.keys)) == (1, 0)
    assert (await stack.est_request("POST", f"{EST}/serverkeygen", csr_der(), user="waiting")).status == 202
    assert len(stack.authority.pool.keys) == 1


ASYMMETRIC, SYMMETRIC = "1.2.840.113549.1.9.16.2.54", "1.2.840.113549.1.9.16.2.37"


@pytest.mark.parametrize("key_type", ["rsa", "ec"])
async def test_a_key_is_encrypted_to_the_tls_client_when_it_asks(stack: EstStack, key_type: str) -> None:
    device = rsa.generate_private_key(65537, 2048) if key_type == "rsa" else ec.generate_private_key(ec.SECP256R1())
    client = stack.pki.client(f"own-{key_type}", key=device)
    identifier = x509.SubjectKeyIdentifier.from_public_key(device.public_key()).digest
    answer = await stack.est_request(
        "POST", f"{EST}/serverkeygen", csr_with_octets(ASYMMETRIC, identifier), user=None, client=client
    )
    sealed, certs = parts(answer)
    assert b"smime-type=server-generated-key" in answer.body
    (stack.directory / "sealed.der").write_bytes(sealed)
    command = ["openssl", "cms", "-decrypt", "-inform", "DER", "-in", str(stack.directory / "sealed.der")]
    command += ["-inkey", str(client[1]), "-recip", str(client[0])]
    signed = subprocess.run(command, check=True, capture_output=True).stdout
    (certificate,) = pkcs7.load_der_pkcs7_certificates(certs)
    pkcs8 = stack.authority.pool.keys[next(iter(stack.authority.pool.keys))].private_key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert pkcs8 in signed
    assert serialization.load_der_private_key(pkcs8, None).public_key() == certificate.public_key()


@pytest.mark.parametrize(
    ("oid", "with_client", "status"),
    [(ASYMMETRIC, True, 400), (ASYMMETRIC, False, 403), (SYMMETRIC, True, 400), (SYMMETRIC, False, 400)],
)
async def test_a_delivery_that_cannot_be_is_refused_before_a_key_is_taken(
    stack: EstStack, oid: str, with_client: bool, status: int
) -> None:
    client = stack.pki.client("own-x") if with_client else None
    user = None if with_client else "device"
    answer = await stack.est_request("POST", f"{EST}/serverkeygen", csr_with_octets(oid, bytes(20)), user=user, client=client)
    assert answer.status == status
    assert b"encrypted to the TLS client's certificate" in answer.body  # what is offered instead
    if oid == ASYMMETRIC and client is not None:
        public_key = x509.load_pem_x509_certificate(client[0].read_bytes()).public_key()
        assert x509.SubjectKeyIdentifier.from_public_key(public_key).digest.hex().encode() in answer.body
    assert not stack.authority.pool.keys


async def test_64_clients_at_once_each_get_their_own_certificate(stack: EstStack) -> None:
    bodies = [csr_der(f"device-{number}") for number in range(64)]
    answers = await asyncio.gather(*(stack.est_request("POST", f"{EST}/simpleenroll", body) for body in bodies))
    subjects = {certificates(answer)[0].subject.rfc4514_string() for answer in answers}
    assert len(subjects) == 64


async def test_without_a_signer_of_key_packages_an_encrypted_key_is_refused(stack: EstStack) -> None:
    stack.est._package_signer = None
    client = stack.pki.client("own-y")
    request = csr_with_octets(ASYMMETRIC, bytes(20))
    answer = await stack.est_request("POST", f"{EST}/serverkeygen", request, user=None, client=client)
    assert (answer.status, stack.authority.pool.keys) == (501, {})
    assert (await stack.est_request("POST", f"{EST}/serverkeygen", csr_der(), user=None, client=client)).status == 200


async def test_an_idevid_without_key_identifier_is_named_by_its_key(stack: EstStack) -> None:
    from gateway.protocols.est.endpoint import _key_identifier

    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder().subject_name(stack.pki.ca.subject).issuer_name(stack.pki.ca.subject)
    bare = builder.public_key(key.public_key()).serial_number(1).not_valid_before(NOW).not_valid_after(NOW + DAY)
    expected = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    assert _key_identifier(der(bare.sign(key, hashes.SHA256()))) == expected


async def test_a_request_that_policy_refuses_whatever_its_key_takes_no_key(stack: EstStack) -> None:
    """Else everybody with some credential could empty the pool, or keep a core busy with RSA."""
    stack.authority.screened = Refused(Forbidden("not for you"))
    assert (await stack.est_request("POST", f"{EST}/serverkeygen", csr_der())).status == 403
    assert (stack.authority.pool.keys, stack.authority.pool.erased, stack.authority.requests) == ({}, 0, [])


async def test_a_client_certificate_that_can_receive_no_key_is_found_out_before_anything_is_issued(stack: EstStack) -> None:
    device = ed25519.Ed25519PrivateKey.generate()
    client = stack.pki.client("own-ed25519", key=device)
    identifier = x509.SubjectKeyIdentifier.from_public_key(device.public_key()).digest
    request = csr_with_octets(ASYMMETRIC, identifier)
    answer = await stack.est_request("POST", f"{EST}/serverkeygen", request, user=None, client=client)
    assert answer.status == 400
    assert (stack.authority.pool.keys, stack.authority.requests) == ({}, [])

"""EST clients that others wrote, all against one running gateway: enrol, renew, server-side key, pending, refused.

strongSwan's client knows no labels, so what needs another profile than the default one is shown with the others; only its
polling has a gateway of its own, whose default profile wants approval.
"""

from __future__ import annotations

import email
import email.policy
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key, load_pem_private_key, pkcs7
from cryptography.x509.oid import NameOID

from gateway.demo import write_configuration
from gateway.pki.der import sequence
from gateway.pki.names import name_from_text
from tests.support import est_clients
from tests.support.demo_gateway import running
from tests.support.est_clients import Result, Service
from tests.support.est_requests import csr_with_attribute
from tests.support.plant_gateway import REVOKED_DEVICE, Plant, Token

#: Far longer than a request takes to appear in the list; it only ends a test that would otherwise hang.
_DEADLINE_S = 60.0


def subject(certificate: bytes) -> str:
    return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()


def own(service: Service, key: Path, certificate: bytes) -> tuple[Path, Path]:
    """A certificate that was just enrolled, with its key, as a TLS client's files."""
    path = service.file("own.pem")
    path.write_bytes(x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM))
    return path, key


def serial_number(plant: Plant) -> str:
    """The serialNumber in the subject of the demo's IDevID."""
    idevid = x509.load_pem_x509_certificate(plant.idevid[0].read_bytes())
    return str(idevid.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)[0].value)


def key_and_certificate(answer: Result) -> tuple[bytes, bytes]:
    """The two parts of a serverkeygen answer, in DER."""
    (content_type,) = (line for line in answer.log.splitlines() if line.lower().startswith("content-type:"))
    message = email.message_from_bytes(f"{content_type}\r\n\r\n".encode() + answer.body, policy=email.policy.HTTP)
    key, certificate = (part.get_payload(decode=True) for part in message.iter_parts())
    return key, certificate


def test_curl_gets_the_ca_certificates(plant: Plant, service: Service) -> None:
    answer = est_clients.curl(service, "cacerts")
    decoded = est_clients.run("openssl", "base64", "-d", "-A", input_=answer.body).stdout
    assert set(pkcs7.load_der_pkcs7_certificates(decoded)) == set(plant.ca_certificates())


@pytest.mark.parametrize("label", ["", "rsa", "web"])
def test_every_client_that_reads_csrattrs_understands_them(plant: Plant, tmp_path: Path, label: str) -> None:
    """The template of RFC 9908 does not disturb a client that is older. strongSwan's does not ask."""
    service = plant.service(tmp_path, label)
    answer = est_clients.curl(service, "csrattrs")
    assert answer.status == 200, answer
    decoded = est_clients.run("openssl", "base64", "-d", "-A", input_=answer.body).stdout
    parsed = est_clients.run("openssl", "asn1parse", "-inform", "DER", input_=decoded)
    assert parsed.returncode == 0
    read = est_clients.bouncy_castle(service, "csrattrs")
    assert read.returncode == 0, read.log
    template, extension_request, rsa_key = "1.2.840.113549.1.9.16.2.61", "1.2.840.113549.1.9.14", "1.2.840.113549.1.1.1"
    assert template in parsed.stdout.decode()
    for oid in (template, extension_request, *([rsa_key] if label == "rsa" else [])):
        assert oid in read.log


def test_a_web_servers_certificate_renews_itself_and_nothing_else(plant: Plant, tmp_path: Path) -> None:
    """It has the usage serverAuth alone."""
    service = plant.service(tmp_path, "web")
    token = plant.new_token("tls-server")
    key, request = est_clients.openssl_request(service, "web-1.example")
    body = request.read_bytes()
    first = est_clients.curl(service, "simpleenroll", body=body, user=token.credentials)
    assert subject(first.certificate) == "CN=web-1.example", first
    usages = x509.load_der_x509_certificate(first.certificate).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]
    client = own(service, key, first.certificate)
    renewed = est_clients.curl(service, "simplereenroll", body=body, client=client)
    assert subject(renewed.certificate) == "CN=web-1.example", renewed
    assert renewed.certificate != first.certificate
    _, other = est_clients.openssl_request(service, "web-2.example")
    device = plant.service(tmp_path)
    for wrong in (
        est_clients.curl(service, "simplereenroll", body=other.read_bytes(), client=client),
        est_clients.curl(service, "simpleenroll", body=other.read_bytes(), client=client),
        est_clients.curl(device, "simpleenroll", body=body, client=client),
        est_clients.curl(device, "simplereenroll", body=body, client=client),
    ):
        assert wrong.status == 403, wrong
    certificate = service.file("renewed.pem")
    certificate.write_bytes(x509.load_der_x509_certificate(renewed.certificate).public_bytes(Encoding.PEM))
    plant.revoke(certificate)
    gone = est_clients.curl(service, "simplereenroll", body=body, client=own(service, key, renewed.certificate))
    assert gone.status == 401, gone


def test_a_device_that_its_maker_revoked_is_refused_with_the_reason(plant: Plant, service: Service) -> None:
    """The list comes from a file that the configuration names; the refusal is a record."""
    maker = plant.maker
    assert maker is not None
    for number, status in ((REVOKED_DEVICE + 1, 200), (REVOKED_DEVICE, 403)):
        key, request = est_clients.openssl_request(service, f"acme-{number}", serial_number=f"SN-{number}")
        public_key = load_pem_private_key(key.read_bytes(), None).public_key()
        name = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, f"SN-{number}")])
        idevid = maker.issue(name, public_key, (maker.maker, maker.maker_key), serial=number)
        certificate = service.file("idevid.pem")
        certificate.write_bytes(idevid.public_bytes(Encoding.PEM))
        before = plant.journal_size()
        answer = est_clients.curl(service, "simpleenroll", body=request.read_bytes(), client=(certificate, key))
        assert answer.status == status, answer
        assert plant.journal_size() > before
    assert b"was revoked by its issuer 'CN=Test Maker'" in answer.body


def test_a_device_changes_its_name_where_the_profile_permits_it(plant: Plant, tmp_path: Path) -> None:
    """ChangeSubjectName (RFC 6402 section 2.8); the record names the switch, a refusal the reason."""
    new = sequence(name_from_text("CN=renamed-2").public_bytes())
    for label, profile, status in (("renamable", "renamable", 200), ("", "ldevid", 403)):
        service = plant.service(tmp_path, label)
        token = plant.new_token(profile)
        key, request = est_clients.openssl_request(service, "renamed-1")
        first = est_clients.curl(service, "simpleenroll", body=request.read_bytes(), user=token.credentials)
        private = load_pem_private_key(key.read_bytes(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        body = csr_with_attribute("1.3.6.1.5.5.7.7.36", new, common_name="renamed-1", key=private)
        client = own(service, key, first.certificate)
        renewed = est_clients.curl(service, "simplereenroll", body=body, client=client)
        assert renewed.status == status, renewed
        if status == 200:
            assert subject(renewed.certificate) == "CN=renamed-2"
        else:
            assert b"does not permit a change of names" in renewed.body


def test_curl_enrols_by_token_and_renews_with_its_own_certificate(plant: Plant, service: Service) -> None:
    key, request = est_clients.openssl_request(service, "curl-1")
    body = request.read_bytes()
    done = est_clients.curl(service, "simpleenroll", body=body, user=plant.token.credentials)
    assert subject(done.certificate) == "CN=curl-1", done
    renewed = est_clients.curl(service, "simplereenroll", body=body, client=own(service, key, done.certificate))
    assert subject(renewed.certificate) == "CN=curl-1", renewed
    assert renewed.certificate != done.certificate


def test_curl_enrols_by_the_makers_certificate(plant: Plant, service: Service) -> None:
    _, request = est_clients.openssl_request(service, "curl-2", serial_number=serial_number(plant))
    done = est_clients.curl(service, "simpleenroll", body=request.read_bytes(), client=plant.idevid)
    assert f"2.5.4.5={serial_number(plant)}" in subject(done.certificate), done


def test_an_identical_retry_gets_the_identical_certificate_in_every_encoding(plant: Plant, service: Service) -> None:
    _, request = est_clients.openssl_request(service, "curl-3")
    der = request.read_bytes()
    pem = est_clients.run("openssl", "req", "-inform", "DER", "-in", request).stdout
    wrapped = est_clients.run("openssl", "base64", input_=der).stdout
    answers = {
        est_clients.curl(service, "simpleenroll", body=body, user=plant.token.credentials).certificate
        for body in (der, est_clients.one_line(der), wrapped, pem, der)
    }
    assert len(answers) == 1
    assert subject(answers.pop()) == "CN=curl-3"


def test_a_one_time_token_works_once_and_for_its_retry(plant: Plant, service: Service) -> None:
    token = plant.new_token("ldevid")
    _, first = est_clients.openssl_request(service, "once-1")
    _, second = est_clients.openssl_request(service, "once-2")
    done, again = [est_clients.curl(service, "simpleenroll", body=first.read_bytes(), user=token.credentials) for _ in range(2)]
    assert done.certificate
    assert done.certificate == again.certificate
    refused = est_clients.curl(service, "simpleenroll", body=second.read_bytes(), user=token.credentials)
    assert refused.status in (401, 403), refused
    assert not refused.certificate


def test_no_proof_of_identity_is_401_with_a_challenge_and_no_body(service: Service) -> None:
    _, request = est_clients.openssl_request(service, "nobody")
    answer = est_clients.curl(service, "simpleenroll", body=request.read_bytes())
    assert (answer.status, answer.body) == (401, b"")
    assert "www-authenticate: basic" in answer.log.lower()


def test_a_refusal_says_its_reason(plant: Plant, service: Service, tmp_path: Path) -> None:
    _, request = est_clients.openssl_request(service, "curl-4", serial_number="of another device")
    answer = est_clients.curl(service, "simpleenroll", body=request.read_bytes(), client=plant.idevid)
    assert answer.status == 403
    assert b"serialNumber must be that of the IDevID" in answer.body
    listed = plant.service(tmp_path, "listed")
    token = plant.new_token("listed")
    _, request = est_clients.openssl_request(listed, "line-8-1")
    answer = est_clients.curl(listed, "simpleenroll", body=request.read_bytes(), user=token.credentials)
    assert answer.status == 403
    assert b"line-8-1" in answer.body
    _, request = est_clients.openssl_request(listed, "line-7-1")
    assert est_clients.curl(listed, "simpleenroll", body=request.read_bytes(), user=token.credentials).certificate


def test_an_unknown_label_is_404(plant: Plant, tmp_path: Path) -> None:
    service = plant.service(tmp_path, "nowhere")
    _, request = est_clients.openssl_request(service, "curl-5")
    for operation in ("simpleenroll", "simplereenroll", "serverkeygen"):
        answer = est_clients.curl(service, operation, body=request.read_bytes(), user=plant.token.credentials)
        assert answer.status == 404
        assert b"nowhere" in answer.body


@pytest.mark.parametrize("label", ["", "rsa"], ids=["p-256", "rsa-2048 from the pool"])
def test_curl_gets_a_key_made_by_the_gateway(plant: Plant, tmp_path: Path, label: str) -> None:
    service = plant.service(tmp_path, label)
    token = plant.new_token("rsa") if label else plant.token
    _, request = est_clients.openssl_request(service, f"made-{label}")
    made, again = [
        est_clients.curl(service, "serverkeygen", body=request.read_bytes(), user=token.credentials) for _ in range(2)
    ]
    assert made.status == 200, made
    key, certificates = key_and_certificate(made)
    private = load_der_private_key(key, None)
    assert isinstance(private, rsa.RSAPrivateKey if label else ec.EllipticCurvePrivateKey)
    (certificate,) = pkcs7.load_der_pkcs7_certificates(certificates)
    assert certificate.public_key() == private.public_key()
    assert again.body == made.body


def test_a_request_waits_for_approve_and_is_refused_after_deny(plant: Plant, tmp_path: Path) -> None:
    service = plant.service(tmp_path, "approval")
    for decision in ("approve", "deny"):
        token = plant.new_token("approval")
        _, request = est_clients.openssl_request(service, f"curl-{decision}")
        body = request.read_bytes()

        def ask(body: bytes = body, token: Token = token) -> Result:
            return est_clients.curl(service, "simpleenroll", body=body, user=token.credentials)

        waiting = [ask(), ask()]
        assert [(each.status, each.body) for each in waiting] == [(202, b"")] * 2
        assert "retry-after: 1" in waiting[0].log.lower()
        (listed,) = (each for each in plant.waiting() if each["subject"] == f"CN=curl-{decision}")
        plant.command(decision, listed["request_id"], *(["--reason", "not one of ours"] if decision == "deny" else []))
        answer = ask()
        if decision == "approve":
            assert subject(answer.certificate) == "CN=curl-approve", answer
        else:
            assert answer.status == 403
            assert b"not one of ours" in answer.body


def test_a_station_certificate_acts_as_registration_authority(plant: Plant, service: Service, tmp_path: Path) -> None:
    stations, shift = plant.service(tmp_path, "station"), plant.service(tmp_path, "shift")
    key, request = est_clients.openssl_request(stations, "station-7")
    token = plant.new_token("station")
    done = est_clients.curl(stations, "simpleenroll", body=request.read_bytes(), user=token.credentials)
    assert subject(done.certificate) == "CN=station-7", done
    station = own(service, key, done.certificate)
    for number in range(3):
        _, request = est_clients.openssl_request(shift, f"device-{number}", serial_number=f"SN-{number}")
        made = est_clients.curl(shift, "simpleenroll", body=request.read_bytes(), client=station)
        assert subject(made.certificate).endswith(f"CN=device-{number}"), made
    _, request = est_clients.openssl_request(shift, "device-9")
    other = est_clients.curl(shift, "simpleenroll", body=request.read_bytes(), client=plant.idevid)
    assert other.status == 403


def test_strongswan_enrols_by_token_and_renews_with_its_own_certificate(plant: Plant, service: Service) -> None:
    assert len(est_clients.strongswan_cacerts(service)) == 2
    key, request = est_clients.openssl_request(service, "strongswan-1", key_type="rsa")
    done = est_clients.strongswan_enroll(service, request, user=plant.token.credentials)
    assert subject(done.certificate) == "CN=strongswan-1", done
    renewed = est_clients.strongswan_enroll(service, request, client=own(service, key, done.certificate))
    assert subject(renewed.certificate) == "CN=strongswan-1", renewed
    assert renewed.certificate != done.certificate


def test_strongswan_believes_the_gateways_ocsp_answer_for_its_tls_certificate(plant: Plant, service: Service) -> None:
    _, request = est_clients.openssl_request(service, "strongswan-2")
    done = est_clients.strongswan_enroll(service, request, user=plant.token.credentials)
    assert "ocsp response correctly signed" in done.log, done.log
    assert "certificate status is good" in done.log


def test_strongswan_is_refused(plant: Plant, service: Service) -> None:
    _, request = est_clients.openssl_request(service, "strongswan-3")
    refused = est_clients.strongswan_enroll(service, request, user="nobody:nothing")
    assert refused.returncode != 0
    assert "HTTP 401" in refused.log, refused.log
    refused = est_clients.strongswan_enroll(service, request, client=plant.idevid)
    assert refused.returncode != 0
    assert "HTTP 403" in refused.log, refused.log


def test_strongswans_unordered_attributes_are_taken_with_the_switch(plant: Plant, service: Service, tmp_path: Path) -> None:
    """Its requests with a subjectAltName and a challengePassword hold a SET OF in the wrong order."""
    key, request = service.file("key.pem"), service.file("request.der")
    est_clients.run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
    names = ["--dn", "CN=strongswan-4", "--san", "strongswan-4.plant.example", "--password", "a challenge"]
    made = est_clients.run("pki", "--req", "--type", "ecdsa", "--in", key, *names)
    assert made.returncode == 0, made.stderr
    request.write_bytes(made.stdout)
    strict = est_clients.strongswan_enroll(service, request, user=plant.token.credentials)
    assert "HTTP 400" in strict.log, strict.log
    lenient, token = plant.service(tmp_path, "lenient"), plant.new_token("lenient")
    done = est_clients.curl(lenient, "simpleenroll", body=request.read_bytes(), user=token.credentials)
    assert subject(done.certificate) == "CN=strongswan-4", done


def test_strongswan_polls_a_request_until_a_person_approves_it(tmp_path: Path) -> None:
    state = tmp_path / "s"
    with write_configuration(state, https_port=0, http_port=0).open("a", encoding="utf-8") as file:
        file.write("[profile.ldevid]\napproval = true\napproval_retry = 1\n")
    work = tmp_path / "work"
    work.mkdir()
    with running(state, "demo") as gateway, ThreadPoolExecutor(1) as background:
        plant = Plant(gateway, work)
        service = plant.service(work)
        _, request = est_clients.openssl_request(service, "strongswan-5", key_type="rsa")
        polling = background.submit(
            est_clients.strongswan_enroll, service, request, user=plant.token.credentials, poll_s=int(_DEADLINE_S)
        )
        deadline = time.monotonic() + _DEADLINE_S
        while not plant.waiting():
            assert time.monotonic() < deadline
            assert not polling.done(), polling.result().log
            # Another process asks; the list is how we learn of it.
            time.sleep(0.05)
        plant.command("approve", plant.waiting()[0]["request_id"])
        assert subject(polling.result().certificate) == "CN=strongswan-5", polling.result().log


def test_bouncy_castle_enrols_by_token_and_by_the_makers_certificate(plant: Plant, service: Service) -> None:
    assert "Demo issuing CA" in est_clients.bouncy_castle(service, "cacerts").log
    done = est_clients.bouncy_castle(service, "simpleenroll", user=plant.token.credentials)
    assert done.certificate, done.log
    assert subject(done.certificate) == "CN=device-bc"
    name = f"device-bc,SERIALNUMBER={serial_number(plant)}"
    done = est_clients.bouncy_castle(service, "simpleenroll", common_name=name, client=plant.idevid)
    assert done.certificate, done.log
    assert f"2.5.4.5={serial_number(plant)}" in subject(done.certificate)


def test_bouncy_castle_renews_with_its_own_certificate_and_a_new_key(plant: Plant, service: Service) -> None:
    key, request = est_clients.openssl_request(service, "device-bc-2")
    first = est_clients.curl(service, "simpleenroll", body=request.read_bytes(), user=plant.token.credentials)
    client = own(service, key, first.certificate)
    renewed = est_clients.bouncy_castle(service, "simplereenroll", common_name="device-bc-2", client=client)
    assert subject(renewed.certificate) == "CN=device-bc-2", renewed.log
    old = load_pem_private_key(key.read_bytes(), None)
    assert x509.load_der_x509_certificate(renewed.certificate).public_key() != old.public_key()


def test_bouncy_castle_gets_a_key_made_by_the_gateway(plant: Plant, service: Service, tmp_path: Path) -> None:
    made = est_clients.bouncy_castle(service, "serverkeygen", user=plant.token.credentials)
    assert "key 1.2.840.10045.2.1" in made.log, made.log
    labelled, token = plant.service(tmp_path, "rsa"), plant.new_token("rsa")
    made = est_clients.bouncy_castle(labelled, "serverkeygen", user=token.credentials)
    assert "key 1.2.840.113549.1.1.1" in made.log, made.log


def test_bouncy_castle_sees_that_its_request_waits_or_is_refused(plant: Plant, service: Service, tmp_path: Path) -> None:
    labelled, token = plant.service(tmp_path, "approval"), plant.new_token("approval")
    waiting = est_clients.bouncy_castle(labelled, "simpleenroll", user=token.credentials)
    assert waiting.returncode == 3, waiting.log
    refused = est_clients.bouncy_castle(service, "simpleenroll", common_name="x,SERIALNUMBER=y", client=plant.idevid)
    assert refused.returncode == 1
    assert "HTTP Status Code: 403" in refused.log, refused.log


def test_the_readmes_four_lines_work_when_pasted(plant: Plant, tmp_path: Path) -> None:
    """With the port of this run; the state directory is where the README has it, below the working directory."""
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = (block for block in readme.split("```sh\n")[1:] if block.startswith("openssl req"))
    lines = block.split("```")[0].replace("https://localhost:8443", plant.text("https"))
    assert len(lines.splitlines()) == 4
    (tmp_path / ".state").symlink_to(plant.gateway.state)
    done = subprocess.run(["sh", "-eu"], input=lines.encode(), cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"CN = device-1" in done.stdout

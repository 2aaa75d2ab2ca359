"""What ``edge-gateway demo`` makes so that a newcomer needs nothing else: a configuration, credentials, an example to paste.

Everything lies in the state directory and is labelled NOT FOR PRODUCTION. A second start finds it there and uses it again.
"""

from __future__ import annotations

import datetime
import json
import secrets
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.authority.tokens import Tokens
from gateway.endpoints_file import DEMO_WARNING, write_whole
from gateway.journal.canonical import JsonValue

CONFIG_NAME = "config.toml"
FOLDER = "demo"
ROOT_CRL = "root.crl"
#: For a try-out one token has to do for everything.
_USES = 1_000_000
_VALIDITY_S = 365 * 86_400
PROFILE = "ldevid"
#: IEEE 802.1AR section 8.7: an IDevID does not expire.
_NEVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class DemoToken:
    user: str
    secret: str

    def __repr__(self) -> str:
        return f"DemoToken(user={self.user!r})"


def write_configuration(state: Path, *, https_port: int = 8443, http_port: int = 8080) -> Path:
    """The demo's configuration file, made at the first start with free ports on this machine only.

    The ports are used if nobody listens there yet; 0 lets the kernel pick.
    """
    path = state / CONFIG_NAME
    if not path.exists():
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        (state / FOLDER).mkdir(mode=0o700, exist_ok=True)
        _write_maker(state / FOLDER)
        https, http = _free_port(https_port), _free_port(http_port)
        text = f"""# {DEMO_WARNING}
[gateway]
name = "demo"
base_url = "http://localhost:{http}"

[listen.https]
host = "127.0.0.1"
port = {https}

[listen.http]
host = "127.0.0.1"
port = {http}

[tls]
names = ["localhost", "127.0.0.1"]

[est]
profile = "{PROFILE}"
makers = ["{FOLDER}/maker-ca.pem"]

[crl]
parents = ["{FOLDER}/{ROOT_CRL}"]

[est.labels]
ldevid = "ldevid"
tls-server = "tls-server"
tls-client = "tls-client"
opcua = "opcua-application"
"""
        write_whole(path, text.encode(), mode=0o600)
    return path


def _free_port(wish: int) -> int:
    """``wish`` if nobody listens there, else a port that the kernel picks."""
    for port in (wish, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    return 0


def _write_maker(folder: Path) -> None:
    """A device maker's CA and the IDevID of one device (IEEE 802.1AR)."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, device_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "NOT FOR PRODUCTION"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Demo maker CA"),
        ]
    )
    device_name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "NOT FOR PRODUCTION"),
            x509.NameAttribute(NameOID.COMMON_NAME, "demo device"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"DEMO-{secrets.token_hex(4)}"),
        ]
    )
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"),
        False,
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)

    def builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        start = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(key.public_key())
        return (
            start.serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(_NEVER)
        )

    ca = (
        builder(ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .add_extension(identifier, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    idevid = (
        builder(device_name, device_key)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=False, crl_sign=False, **usage), critical=True)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    write_whole(folder / "maker-ca.pem", ca.public_bytes(Encoding.PEM))
    write_whole(folder / "idevid.pem", idevid.public_bytes(Encoding.PEM))
    key_pem = device_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_whole(folder / "idevid.key", key_pem, mode=0o600)


async def token(tokens: Tokens, state: Path) -> DemoToken:
    """The demo's token: the one of the last start while it is good, else a new one."""
    path = state / FOLDER / "token.json"
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if tokens.check(known["user"], known["secret"]) is not None:
            return DemoToken(known["user"], known["secret"])
    new = await tokens.create(PROFILE, operator="demo", validity_s=_VALIDITY_S, uses=_USES)
    write_whole(path, json.dumps({"user": new.token_id, "secret": new.secret}).encode(), mode=0o600)
    return DemoToken(new.token_id, new.secret)


def write_example(state: Path, https: str, credential: DemoToken) -> dict[str, JsonValue]:
    """Write what the pasted example needs; returns the part of ``endpoints.json`` that names the credentials."""
    folder = state / FOLDER
    host = https.removeprefix("https://").rsplit(":", 1)[0]
    netrc = f"machine {host} login {credential.user} password {credential.secret}\n"
    write_whole(folder / "netrc", netrc.encode(), mode=0o600)
    write_whole(folder / "enrol.sh", example(state, https).encode())
    return {
        "warning": DEMO_WARNING,
        "token": {"user": credential.user, "secret": credential.secret, "profile": PROFILE, "netrc": str(folder / "netrc")},
        "idevid": {
            "certificate": str(folder / "idevid.pem"),
            "key": str(folder / "idevid.key"),
            "maker": str(folder / "maker-ca.pem"),
        },
        "example": str(folder / "enrol.sh"),
    }


def example(state: Path, https: str) -> str:
    """Four lines of shell that enrol a device with openssl and curl."""
    anchors, netrc = shlex.quote(str(state / "trust-anchors.pem")), shlex.quote(str(state / FOLDER / "netrc"))
    return (
        "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout device.key"
        " -subj /CN=device-1/serialNumber=1 -outform DER | openssl base64 -A -out device.csr\n"
        f"curl --silent --show-error --fail --cacert {anchors} --netrc-file {netrc}"
        " -H 'Content-Type: application/pkcs10' --data-binary @device.csr -o device.p7"
        f" {https}/.well-known/est/simpleenroll\n"
        "openssl base64 -d -A -in device.p7 | openssl pkcs7 -inform DER -print_certs -out device.crt\n"
        "openssl x509 -in device.crt -noout -subject -issuer -dates\n"
    )

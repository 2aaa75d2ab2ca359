"""One real gateway for the clients that others wrote: a demo with more labels and profiles than a newcomer needs.

It is started the way a newcomer starts it, as a process of its own. Everything that a test asks for goes through the command
line, EST, OCSP and HTTP; only what is asked often (how long is the journal?) goes straight to the control socket.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from gateway.demo import write_configuration
from gateway.journal.archive import Archive
from gateway.journal.certificates import certificate_of
from gateway.journal.records import Intent, Issued, decode
from tests.support.demo_gateway import DemoGateway, running
from tests.support.est_clients import Service
from tests.support.est_stack import DAY, NOW, TestPki

#: The certificate's serial number of a device that its maker revoked.
REVOKED_DEVICE = 4711
#: Added to the demo's configuration. Its last table is [est.labels], so the labels come first.
CONFIGURATION = """
approval = "approval"
rsa = "rsa"
lenient = "lenient"
listed = "listed"
station = "station"
shift = "shift"
web = "tls-server"
renamable = "renamable"

[profile.approval]
base = "ldevid"
approval = true
approval_retry = 1

[profile.rsa]
base = "ldevid"
key_types = ["rsa-2048"]

[profile.lenient]
base = "ldevid"
leniency = ["csr-unordered-set", "csr-null-parameters"]

[profile.listed]
base = "ldevid"
[profile.listed.allow]
CN = ["line-7-*"]

[profile.shift]
base = "ldevid"
requesters = ["station"]

[profile.renamable]
base = "ldevid"
allow_name_change = true

[pool]
rsa_2048 = 4
"""


@dataclass(frozen=True, slots=True)
class Token:
    user: str
    secret: str

    @property
    def credentials(self) -> str:
        """As HTTP Basic wants them."""
        return f"{self.user}:{self.secret}"


@dataclass(slots=True)
class Plant:
    """The running gateway with what its clients need to know: PEM files of the trust anchors and of the issuing CA."""

    gateway: DemoGateway
    work: Path
    maker: TestPki | None = None
    issuing: Path = field(init=False)
    root: Path = field(init=False)
    _count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.issuing, self.root = self.work / "issuing.pem", self.work / "root.pem"
        for path, certificate in zip((self.issuing, self.root), self.ca_certificates(), strict=True):
            path.write_bytes(certificate.public_bytes(Encoding.PEM))

    @property
    def anchors(self) -> Path:
        return Path(self.text("trust_anchors"))

    def text(self, name: str) -> str:
        """An entry of ``endpoints.json``."""
        return str(self.gateway.endpoints[name])

    def demo(self, part: str) -> dict[str, str]:
        """What ``endpoints.json`` says of the demo's credentials."""
        demo = self.gateway.endpoints["demo"]
        assert isinstance(demo, dict)
        found: dict[str, str] = demo[part]
        return found

    @property
    def idevid(self) -> tuple[Path, Path]:
        """Certificate and key of the demo's device of a listed maker."""
        found = self.demo("idevid")
        return Path(found["certificate"]), Path(found["key"])

    @property
    def token(self) -> Token:
        """The demo's own token, good for many certificates of ``ldevid``."""
        found = self.demo("token")
        return Token(found["user"], found["secret"])

    def service(self, work: Path, label: str = "") -> Service:
        """The EST server for :mod:`tests.support.est_clients`, with a folder of its own in ``work``."""
        folder = work / f"est-{label}"
        folder.mkdir(exist_ok=True)
        port = int(self.text("https").rsplit(":", 1)[1])
        return Service("localhost", port, self.anchors, self.issuing, folder, label)

    def command(self, *arguments: str | Path, code: int = 0) -> dict[str, object]:
        """``edge-gateway --json ...``; its answer, or what it says on standard error where ``code`` is not 0."""
        done = self.gateway.command("--json", *map(str, arguments))
        assert done.returncode == code, done.stderr.decode()
        content: dict[str, object] = json.loads(done.stderr if code else done.stdout)
        return content

    def new_token(self, profile: str, *options: str) -> Token:
        """``edge-gateway token create``."""
        answer = self.command("token", "create", "--profile", profile, *options)
        return Token(str(answer["token_id"]), str(answer["secret"]))

    def revoke(self, certificate: Path, *options: str) -> None:
        self.command("revoke", *options, certificate)

    def waiting(self) -> list[dict[str, str]]:
        """The requests that wait for a person, as the control socket lists them."""
        requests = self.control("/requests")["requests"]
        assert isinstance(requests, list)
        return requests

    def control(self, path: str) -> dict[str, object]:
        """GET from the control socket."""
        connection = _ControlConnection(self.text("control_socket"))
        connection.request("GET", f"/api/v1{path}")
        content: dict[str, object] = json.loads(connection.getresponse().read())
        connection.close()
        return content

    def journal_size(self) -> int:
        """How many records the journal has now."""
        journal = self.control("/status")["journal"]
        assert isinstance(journal, dict)
        return int(journal["size"])

    def memory_kb(self, kind: str = "VmRSS") -> int:
        """A line of /proc/PID/status of the daemon itself, in KB."""
        text = Path(f"/proc/{self.gateway.process.pid}/status").read_text(encoding="ascii")
        (line,) = (line for line in text.splitlines() if line.startswith(f"{kind}:"))
        return int(line.split()[1])

    def fetch(self, url: str) -> bytes:
        """GET over plain HTTP."""
        with urlopen(url, timeout=30) as answer:
            content: bytes = answer.read()
        return content

    def ca_certificates(self) -> list[x509.Certificate]:
        """The issuing CA, then its root."""
        found = pkcs7.load_der_pkcs7_certificates(self.fetch(self.text("ca_certificates")))
        return sorted(found, key=lambda each: each.subject == each.issuer)  # a SET has an order of its own

    def crls(self) -> dict[str, bytes]:
        """Every revocation list, by file name, in DER."""
        addresses = self.gateway.endpoints["crls"]
        assert isinstance(addresses, list)
        return {str(address).rsplit("/", 1)[1]: self.fetch(str(address)) for address in addresses}

    def certificates(self) -> dict[int, tuple[str, bytes]]:
        """Every certificate that the journal holds: serial -> (profile, DER). Read from a backup, as an auditor would."""
        self._count += 1
        copy = self.work / f"journal-{self._count}.backup"
        self.command("backup", copy)
        return recorded_certificates(copy)


def recorded_certificates(journal: Path) -> dict[int, tuple[str, bytes]]:
    """Serial -> (profile, DER) of every certificate in a journal that nobody has open."""
    intents: dict[str, Intent] = {}
    found: dict[int, tuple[str, bytes]] = {}
    with Archive(journal) as archive:
        for row in archive.rows():
            payload = decode(row.body).payload
            if isinstance(payload, Intent):
                intents[payload.serial] = payload
            elif isinstance(payload, Issued):
                intent = intents[payload.serial]
                found[int(payload.serial, 16)] = intent.profile, certificate_of(intent, payload)
    return found


class _ControlConnection(http.client.HTTPConnection):
    """HTTP over the control socket."""

    def __init__(self, path: str) -> None:
        super().__init__("control", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


@contextmanager
def running_plant(directory: Path) -> Iterator[Plant]:
    """Start the gateway with its state in ``directory/.state``, where the README has it; stop it at the end."""
    state, work = directory / ".state", directory / "work"
    work.mkdir(parents=True)
    configuration = write_configuration(state, https_port=0, http_port=0)
    maker = TestPki(work)
    text = configuration.read_text(encoding="utf-8") + CONFIGURATION + _maker_table(maker)
    # an address, because localhost is no fully qualified name and a linter would say so of every certificate
    configuration.write_text(text.replace('base_url = "http://localhost:', 'base_url = "http://127.0.0.1:'), encoding="utf-8")
    with running(state, "demo") as gateway:
        yield Plant(gateway, work, maker)


def _maker_table(maker: TestPki) -> str:
    """A maker who revoked the device with serial number :data:`REVOKED_DEVICE`."""
    entry = x509.RevokedCertificateBuilder().serial_number(REVOKED_DEVICE).revocation_date(NOW).build()
    builder = x509.CertificateRevocationListBuilder().issuer_name(maker.maker.subject).add_revoked_certificate(entry)
    builder = builder.last_update(NOW - DAY).next_update(NOW + 7 * DAY).add_extension(x509.CRLNumber(1), critical=False)
    path = maker.write("maker.pem", maker.maker)
    path.with_suffix(".crl").write_bytes(builder.sign(maker.maker_key, hashes.SHA256()).public_bytes(Encoding.DER))
    return f'\n[maker.acme]\ncertificates = ["{path}"]\ncrls = ["{path.with_suffix(".crl")}"]\nrequire_crl = true\n'


def openssl(*arguments: str | Path, code: int = 0, input_: bytes = b"") -> str:
    """What an openssl command prints, both outputs together."""
    done = subprocess.run(["openssl", *map(str, arguments)], input=input_, capture_output=True, check=False)
    printed = (done.stdout + done.stderr).decode()
    assert done.returncode == code, printed
    return printed

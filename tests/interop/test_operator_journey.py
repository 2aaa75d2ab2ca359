"""The life of a real gateway in an operator's hands, command by command: software key, and a token's key by its PIN file.

From nothing to a CA below a root made by openssl, devices, revocation, proof, backup, restore, and a second generation of the
CA beside the first. Everything goes through the command line and the network, as it does in a factory.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.keys.uri import KeyUri
from tests.support import est_clients
from tests.support.demo_gateway import DemoGateway, running
from tests.support.est_clients import Service
from tests.support.ocsp_clients import openssl_status
from tests.support.plant_gateway import openssl
from tests.support.tokens import PIN, softhsm_store, softhsm_token

ROOT = Path(__file__).resolve().parents[2]
_EXTENSIONS = """basicConstraints=critical,CA:TRUE,pathlen:0
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Operator:
    """Sits at the gateway: one configuration, one folder, the command line."""

    folder: Path
    keys: tuple[str, str]  # URIs of the first and of the second CA key
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        https, http = free_port(), free_port()
        (self.folder / "anchor-medium").mkdir()
        self.config.write_text(
            f"""[gateway]
name = "plant-7"
base_url = "http://127.0.0.1:{http}"
[ca]
key = "{self.keys[0]}"
[listen.https]
host = "127.0.0.1"
port = {https}
[listen.http]
host = "127.0.0.1"
port = {http}
[tls]
names = ["localhost", "127.0.0.1"]
[journal]
anchor = "{self.folder / "anchor-medium" / "anchor"}"
""",
            encoding="utf-8",
        )

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def state(self) -> Path:
        return self.folder / "s"

    def ask(self, *arguments: str | Path, code: int = 0, state: Path | None = None) -> str:
        """One command; what it prints, both outputs. A refusal says on its second line what to do."""
        line = [sys.executable, "-m", "gateway", "--state", state or self.state, "--config", self.config, *arguments]
        done = subprocess.run(
            [str(part) for part in line],
            capture_output=True,
            check=False,
            timeout=120,
            env={**os.environ, **self.environment},
        )
        printed = (done.stdout + done.stderr).decode()
        assert done.returncode == code, printed
        assert "Traceback" not in printed
        if code in (1, 2, 3) and done.stderr.startswith(b"edge-gateway: "):
            what, advice = done.stderr.decode().rstrip().split("\n", 1)
            assert len(what) > len("edge-gateway: ") + 10, printed
            assert len(advice.strip()) > 10, printed
        return printed

    def answer(self, *arguments: str | Path, state: Path | None = None) -> dict[str, object]:
        content: dict[str, object] = json.loads(self.ask("--json", *arguments, state=state))
        return content

    def sign(self, number: int) -> Path:
        """Headquarters: a root made by openssl signs ``ca-N.csr``; the chain that comes back."""
        extensions, root, ca = self.folder / "ext", self.folder / "root.pem", self.folder / f"ca-{number}.pem"
        extensions.write_text(_EXTENSIONS, encoding="utf-8")
        if not root.exists():
            line = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -days 3650 -subj /CN=Root/O=Example"
            usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
            openssl(*line.split(), *usage, "-keyout", self.folder / "root.key", "-out", root)
        line = f"x509 -req -days 365 -in {self.folder}/ca-{number}.csr -CAcreateserial -CAkey {self.folder}/root.key"
        openssl(*line.split(), "-CA", root, "-extfile", extensions, "-out", ca)
        chain = self.folder / f"chain-{number}.pem"
        chain.write_bytes(ca.read_bytes() + root.read_bytes())
        return chain


@pytest.fixture
def software(tmp_path: Path) -> Operator:
    return Operator(tmp_path, ("software:ca-1", "software:ca-2"))


@pytest.fixture
def token(tmp_path: Path) -> Operator:
    """SoftHSM2; the PIN in a file that only its owner reads."""
    environment = softhsm_store(tmp_path / "hsm")
    made = softhsm_token(environment, "plant7")
    pin = tmp_path / "pin"
    pin.touch(0o600)
    pin.write_text(PIN + "\n", encoding="ascii")
    first, second = (
        KeyUri(
            token=made.label,
            serial=made.serial,
            object=name,
            module_path=str(made.module),
            pin_source=f"file:{pin}",
        ).format()
        for name in ("ca-1", "ca-2")
    )
    return Operator(tmp_path, (first, second), environment)


def enrol(operator: Operator, service: Service, name: str) -> Path:
    """A token made at the command line, a certificate by curl and openssl; PEM."""
    made = operator.answer("token", "create", "--profile", "ldevid", "--hours", "1")
    _, request = est_clients.openssl_request(service, name)
    credentials = f"{made['token_id']}:{made['secret']}"
    done = est_clients.curl(service, "simpleenroll", body=request.read_bytes(), user=credentials)
    assert done.certificate, done
    path = operator.folder / f"{name}.pem"
    openssl("x509", "-inform", "DER", "-out", path, input_=done.certificate)
    return path


def state_of(gateway: DemoGateway, operator: Operator, certificate: Path, ca: int) -> str:
    """What openssl ocsp says of it under generation ``ca``."""
    issuer = operator.folder / f"ca-{ca}.pem"
    said = openssl_status(str(gateway.endpoints["ocsp"]), [certificate], issuer=issuer, anchor=operator.folder / "root.pem")
    assert "Response verify OK" in said, said
    return said.split(f"{certificate}: ")[1].split("\n")[0]


def prepare(operator: Operator) -> str:
    """init and the ceremony, without a daemon; the journal's public key as the auditor notes it."""
    identity = operator.answer("init")
    operator.ask("ca", "keygen", "--key-type", "p-256")
    operator.ask("ca", "csr", "--subject", "CN=Plant 7 CA,O=Example", operator.folder / "ca-1.csr")
    operator.ask("ca", "import", operator.sign(1))
    return str(identity["verifier_key"])


def service_of(gateway: DemoGateway, operator: Operator) -> Service:
    work = operator.folder / "devices"
    work.mkdir(exist_ok=True)
    port = int(str(gateway.endpoints["https"]).rsplit(":", 1)[1])
    return Service("localhost", port, operator.state / "trust-anchors.pem", operator.folder / "ca-1.pem", work)


@pytest.mark.parametrize("kind", ["software", "token"])
def test_from_nothing_to_a_second_generation(kind: str, request: pytest.FixtureRequest) -> None:
    operator: Operator = request.getfixturevalue(kind)
    key = prepare(operator)
    folder = operator.folder
    options = ("--config", str(operator.config))
    with running(operator.state, *options, "run", environment=operator.environment) as gateway:
        service = service_of(gateway, operator)
        first, second = enrol(operator, service, "device-1"), enrol(operator, service, "device-2")
        operator.ask("revoke", "--reason", "keyCompromise", first)
        assert state_of(gateway, operator, first, 1) == "revoked"
        assert state_of(gateway, operator, second, 1) == "good"
        check_proof(operator, second, key)

        (generation,) = operator.answer("status")["generations"]  # type: ignore[misc]
        assert (generation["state"], generation["key"]) == ("active", "up")  # type: ignore[index]
        operator.ask("ca", "renew", "--key", operator.keys[1])
        operator.ask("ca", "csr", "--subject", "CN=Plant 7 CA 2,O=Example", folder / "ca-2.csr")
        operator.ask("ca", "import", operator.sign(2))
        third = enrol(operator, service, "device-3")
        verify = ["verify", "-CAfile", folder / "root.pem", "-untrusted"]
        assert "OK" in openssl(*verify, folder / "ca-2.pem", third)
        assert state_of(gateway, operator, third, 2) == "good"
        assert state_of(gateway, operator, second, 1) == "good"
        assert state_of(gateway, operator, first, 1) == "revoked"
        for number in (1, 2):
            address = f"{gateway.endpoints['http']}/crl/{number}.crl"
            der = subprocess.run(["curl", "-sS", "--fail", address], capture_output=True, check=True).stdout
            ca = folder / f"ca-{number}.pem"
            assert "verify OK" in openssl("crl", "-inform", "DER", "-noout", "-CAfile", ca, input_=der)

        size = operator.answer("backup", folder / "plant.backup")["size"]
        assert operator.answer("verify", "--key", key)["clean"] is True
        assert gateway.stop() == 0
    assert operator.answer("verify", "--key", key)["clean"] is True
    elsewhere = folder / "r"
    assert operator.answer("restore", "--key", key, folder / "plant.backup", state=elsewhere)["size"] == size


def check_proof(operator: Operator, certificate: Path, key: str) -> None:
    """prove, then the auditor's thirty lines that trust nothing of ours; they find a changed proof."""
    proof = operator.folder / "proof.json"
    operator.ask("prove", certificate, proof)
    line = [sys.executable, ROOT / "docs" / "check_proof.py", proof, key]
    done = subprocess.run(line, capture_output=True, check=False)
    assert done.stdout.startswith(b"OK: "), done.stderr.decode()
    content = json.loads(proof.read_text(encoding="utf-8"))
    content["records"][0]["index"] += 1
    proof.write_text(json.dumps(content), encoding="utf-8")
    assert subprocess.run(line, capture_output=True, check=False).returncode != 0


def test_each_wrong_step_is_refused_and_says_what_to_do(software: Operator) -> None:
    folder = software.folder
    assert "init prepares one" in software.ask("status", code=1)
    software.ask("init")
    options = ("--config", str(software.config))
    with running(software.state, *options, "run"):
        software.ask("init", code=1)
        software.ask("ca", "csr", "--subject", "CN=too early", code=1)
        software.ask("ca", "keygen")
        software.ask("ca", "keygen", code=1)
        assert "ca csr and ca import" in software.ask("doctor", code=4)
        software.ask("ca", "csr", "--subject", "CN=Plant 7 CA", folder / "ca-1.csr")
        software.ask("ca", "csr", "--subject", "CN=Plant 7 CA", folder / "ca-1.csr", code=1)  # nothing is overwritten
        software.sign(1)
        software.ask("ca", "import", folder / "root.pem", code=1)
        software.ask("ca", "import", folder / "no-such-file", code=2)
        software.ask("revoke", "nonsense", code=2)
        software.ask("prove", "deadbeef", folder / "proof.json", code=1)
        software.ask("token", "create", "--profile", "nothing", code=1)
        software.ask("approve", "r-1", code=1)
        software.ask("restore", folder / "no-such-backup", code=1)
        assert not (folder / "proof.json").exists()

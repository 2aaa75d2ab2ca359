"""Central as a process: founded, served, asked; a real gateway joins it; what it publishes when the gateway is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from sync.central.app import opened
from sync.central.config import load_config
from tests.support.central_process import CentralCommand
from tests.support.demo_gateway import command, running
from tests.support.tokens import softhsm_store, softhsm_token

GATEWAY = """
[gateway]
name = "plant-7"
[listen.https]
host = "127.0.0.1"
port = 0
[listen.http]
host = "127.0.0.1"
port = 0
[tls]
names = ["localhost", "127.0.0.1"]
"""
_DEADLINE_S = 60.0


def until(what: Callable[[], bool]) -> None:
    """Processes agree in seconds; only another process can tell when."""
    deadline = time.monotonic() + _DEADLINE_S
    while not what():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def edge(state: Path, *arguments: str, secret: str = "") -> dict[str, object]:
    """``edge-gateway --json``; a ``secret`` comes over descriptor 3."""
    line = [sys.executable, "-m", "gateway", "--state", str(state), "--json", *arguments]
    if not secret:
        done = subprocess.run(line, capture_output=True, timeout=_DEADLINE_S, check=False)
    else:
        reading, writing = os.pipe()
        os.write(writing, secret.encode() + b"\n")
        os.close(writing)
        line = [*line, "--code", f"fd:{reading}"]
        done = subprocess.run(line, capture_output=True, timeout=_DEADLINE_S, check=False, pass_fds=(reading,))
        os.close(reading)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    content: dict[str, object] = json.loads(done.stdout)
    return content


def device_csr(path: Path) -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "web.example")])
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    path.write_bytes(csr.public_bytes(Encoding.PEM))


def openssl(work: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["openssl", *arguments], cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_DEADLINE_S,
        check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def objects(answer: dict[str, object], name: str) -> list[dict[str, object]]:
    found = answer[name]
    assert isinstance(found, list)
    return found


@pytest.fixture
def central(tmp_path: Path) -> CentralCommand:
    made = CentralCommand(tmp_path / "central").configure()
    made.run("init")
    return made


def test_a_gateway_joins_and_goes_dark_and_central_speaks_for_it(central: CentralCommand, tmp_path: Path) -> None:
    state = tmp_path / "gateway"
    state.mkdir()
    (state / "config.toml").write_text(GATEWAY)
    assert command(state, "init").returncode == 0
    device_csr(tmp_path / "device.csr")
    with central.serving():
        code = str(central.run("code", "--group", "line-3")["code"])
        with running(state, "run"):
            joined = edge(state, "join", str(central.endpoints["https"]), secret=code)
            assert joined["central"] == "central.test"
            edge(state, "issue", "--profile", "tls-server", str(tmp_path / "device.csr"), str(tmp_path / "device.pem"))
            until(lambda: bool(objects(central.run("search", "web.example"), "certificates")))
            until(lambda: edge(state, "central")["waiting"] == 0)
        # The gateway is out of reach from here on.
        (found,) = objects(central.run("search", "web.example"), "certificates")
        assert (found["state"], found["profile"]) == ("issued", "tls-server")
        chain = x509.load_pem_x509_certificates((tmp_path / "device.pem").read_bytes())
        (tmp_path / "ca.pem").write_bytes(chain[1].public_bytes(Encoding.PEM))
        ask = (
            "ocsp", "-issuer", "ca.pem", "-cert", "device.pem", "-CAfile", str(central.endpoints["trust_anchors"]),
            "-url", str(central.endpoints["ocsp"]),
        )  # fmt: skip
        until(lambda: "device.pem: good" in openssl(tmp_path, *ask))
        central.run("revoke", str(found["serial"]), "--reason", "keyCompromise")
        said = openssl(tmp_path, *ask)
        assert "Response verify OK" in said
        assert "device.pem: revoked" in said
        (listed,) = objects(central.run("gateways"), "gateways")
        assert (listed["group"], listed["fenced"], listed["closed"]) == ("line-3", "", "")
        # It comes back and obeys: its own list, as it hands it over, has the serial.
        key = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes()).extensions
        name = key.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()
        with running(state, "run"):
            until(lambda: int(str(found["serial"]), 16) in serials(f"{central.endpoints['http']}/crl/{name}-1.crl"))
        assert central.run("verify")["journals"] == 1
        assert central.run("status")["open_alerts"] == []


def serials(url: str) -> list[int]:
    """What stands on a revocation list."""
    with urllib.request.urlopen(url, timeout=_DEADLINE_S) as answer:
        return [each.serial_number for each in x509.load_der_x509_crl(answer.read())]


def test_central_stops_in_order_and_starts_again_with_the_same_certificate(central: CentralCommand) -> None:
    seen = []
    for _ in range(2):
        with central.serving() as process:
            port = str(central.endpoints["https"]).rpartition(":")[2]
            pem = openssl(
                central.state, "s_client", "-connect", f"localhost:{port}", "-showcerts", "-CAfile", "trust-anchors.pem"
            )
            assert "Verify return code: 0 (ok)" in pem
            seen.append(pem.partition("-----BEGIN CERTIFICATE-----")[2].partition("-----END")[0])
            process.send_signal(signal.SIGTERM)
            assert process.wait(_DEADLINE_S) == 0
        assert not (central.state / "endpoints.json").exists()
    assert seen[0] == seen[1]


def test_commands_work_beside_the_daemon_and_without_it(central: CentralCommand, tmp_path: Path) -> None:
    first = central.run("code")
    with central.serving():
        second = central.run("code")
        assert central.run("code", "--withdraw", str(first["name"]))["withdrawn"] is True
        central.run("settings", "central", "quotas", "-", stdin=b'{"ldevid": 5}')
        backup = tmp_path / "copy.db"
        central.run("backup", str(backup))
        assert backup.stat().st_size
        assert central.run("backup", str(backup), code=1)["error"] == "AlreadyExists"
    assert central.run("settings")["settings"] == {"quotas": {"ldevid": 5}}
    assert first["code"] != second["code"]
    central.run("settings", "central", "quotas", "-", stdin=b"null")
    assert central.run("settings")["settings"] == {}


def test_central_waits_for_the_pin_of_its_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = softhsm_token(softhsm_store(tmp_path / "hsm"), "root")
    for name, value in token.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "pin").write_text(token.pin + "\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    central = CentralCommand(tmp_path / "central").configure(f'[root]\nkey = "{token.uri("root")}"\n')
    central.run("init", "--pin", "credential:pin")
    log = tmp_path / "log"
    with log.open("wb") as output, subprocess.Popen(central.line("run"), stdout=output, stderr=output) as process:
        until(lambda: b"waits for its root's key" in log.read_bytes())
        process.send_signal(signal.SIGTERM)  # it can be stopped all the same
        assert process.wait(_DEADLINE_S) == 0
    with log.open("wb") as output, subprocess.Popen(central.line("run"), stdout=output, stderr=output) as process:
        try:
            until(lambda: b"waits for its root's key" in log.read_bytes())
            assert not (central.state / "endpoints.json").exists()
            assert central.run("unlock", "--pin", "credential:pin")["key"] == "up"
            until((central.state / "endpoints.json").exists)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(_DEADLINE_S) == 0
    assert token.pin.encode() not in log.read_bytes()


async def test_the_projector_knows_when_records_are_arriving(central: CentralCommand) -> None:
    """It then leaves most of the time to them: tables can wait, a backlog should not."""
    config = load_config(central.state / "central.toml").with_state(central.state)
    async with opened(config) as parts:
        assert not parts.projector._busy()
        async with parts.ingest._admitted("a gateway"):
            assert parts.projector._busy()
        assert not parts.projector._busy()

"""The whole machine as a process: it starts, says where it is, serves, stops in order, and says so when it cannot."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from tests.support.demo_gateway import command, running_demo

ROOT = Path(__file__).resolve().parents[1]


def records(state: Path) -> dict[str, object]:
    """The verified journal of a stopped gateway."""
    done = command(state, "--json", "verify")
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    report: dict[str, object] = json.loads(done.stdout)
    return report


def test_the_printed_example_enrols_a_device_when_pasted(tmp_path: Path) -> None:
    with running_demo(tmp_path / "s") as gateway:
        demo = gateway.endpoints["demo"]
        assert isinstance(demo, dict)
        work = tmp_path / "work"
        work.mkdir()
        done = subprocess.run(["sh", "-eu", str(demo["example"])], cwd=work, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert b"CN = device-1" in done.stdout
        assert len(Path(str(demo["example"])).read_text(encoding="utf-8").splitlines()) == 4


def test_every_address_of_the_endpoints_file_answers(tmp_path: Path) -> None:
    with running_demo(tmp_path) as gateway:
        endpoints = gateway.endpoints
        lists = endpoints["crls"]
        assert isinstance(lists, list)
        addresses = [f"{endpoints['est']}/cacerts", str(endpoints["ca_certificates"]), *map(str, lists)]
        for address in addresses:
            line = [
                "curl",
                "--silent",
                "--show-error",
                "--fail",
                "--cacert",
                str(endpoints["trust_anchors"]),
                "-o",
                "-",
                address,
            ]
            done = subprocess.run(line, capture_output=True, check=False)
            assert done.returncode == 0, f"{address}: {done.stderr.decode()}"
            assert done.stdout


def test_a_certificate_names_its_own_issuer_for_ever(tmp_path: Path) -> None:
    """caIssuers points to the issuing CA by its key, so the address stays right after a renewal of the CA."""
    with running_demo(tmp_path / "s") as gateway:
        demo = gateway.endpoints["demo"]
        assert isinstance(demo, dict)
        subprocess.run(["sh", "-eu", str(demo["example"])], cwd=tmp_path, capture_output=True, check=True)
        device = x509.load_pem_x509_certificate((tmp_path / "device.crt").read_bytes())
        access = device.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
        (address,) = (
            each.access_location.value for each in access if each.access_method == AuthorityInformationAccessOID.CA_ISSUERS
        )
        der = subprocess.run(["curl", "--silent", "--fail", str(address)], capture_output=True, check=True).stdout
        device.verify_directly_issued_by(x509.load_der_x509_certificate(der))


def test_openssl_checks_the_tls_certificate_with_lists_and_ocsp(tmp_path: Path) -> None:
    """Chain, both revocation lists and the OCSP answer hold for the gateway's own certificate."""
    with running_demo(tmp_path / "s") as gateway:
        endpoints = gateway.endpoints
        fetch = ["curl", "--silent", "--fail", "--cacert", str(endpoints["trust_anchors"])]
        p7 = subprocess.run([*fetch, str(endpoints["ca_certificates"])], capture_output=True, check=True).stdout
        chain = subprocess.run(
            ["openssl", "pkcs7", "-inform", "DER", "-print_certs"], input=p7, capture_output=True, check=True
        )
        (tmp_path / "chain.pem").write_bytes(chain.stdout)
        issuing = subprocess.run([*fetch, f"{endpoints['http']}/ca/issuing.cer"], capture_output=True, check=True).stdout
        (tmp_path / "issuing.cer").write_bytes(issuing)
        lists = endpoints["crls"]
        assert isinstance(lists, list)
        pem = b""
        for address in lists:
            der = subprocess.run([*fetch, str(address)], capture_output=True, check=True).stdout
            pem += subprocess.run(["openssl", "crl", "-inform", "DER"], input=der, capture_output=True, check=True).stdout
        (tmp_path / "lists.pem").write_bytes(pem)
        host = str(endpoints["https"]).removeprefix("https://")
        shown = subprocess.run(["openssl", "s_client", "-connect", host], input=b"", capture_output=True, check=True).stdout
        (tmp_path / "tls.pem").write_bytes(shown)
        verify = "openssl verify -crl_check_all -untrusted chain.pem -CRLfile lists.pem -CAfile"
        done = subprocess.run(
            [*verify.split(), str(endpoints["trust_anchors"]), "tls.pem"], cwd=tmp_path, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        ocsp = ["openssl", "ocsp", "-issuer", "issuing.cer", "-cert", "tls.pem", "-url", str(endpoints["ocsp"]), "-no_nonce"]
        done = subprocess.run(
            [*ocsp, "-CAfile", str(endpoints["trust_anchors"]), "-verify_other", "chain.pem"],
            cwd=tmp_path, capture_output=True, check=False,
        )  # fmt: skip
        assert b"tls.pem: good" in done.stdout, done.stdout.decode() + done.stderr.decode()
        assert b"Response verify OK" in done.stderr, done.stderr.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with running_demo(tmp_path) as gateway:
        gateway.process.send_signal(number)
        assert gateway.process.wait(60) == 0
    assert not (tmp_path / "endpoints.json").exists()
    assert records(tmp_path)["clean"] is True


def test_a_killed_gateway_starts_again_with_everything_it_had(tmp_path: Path) -> None:
    with running_demo(tmp_path) as gateway:
        before = json.loads(gateway.command("--json", "ca", "status").stdout)["generations"][0]["subject"]
        first = gateway.endpoints
        gateway.process.kill()
        gateway.process.wait(60)
    with running_demo(tmp_path) as gateway:
        assert json.loads(gateway.command("--json", "ca", "status").stdout)["generations"][0]["subject"] == before
        assert gateway.endpoints == first
    assert records(tmp_path)["clean"] is True


def test_ready_is_logged_with_the_addresses_and_no_secret(tmp_path: Path) -> None:
    with running_demo(tmp_path) as gateway:
        endpoints = gateway.endpoints
    log = gateway.log.read_text(encoding="utf-8")  # after the end: the line follows the file that says where
    assert f"READY {endpoints['https']} {endpoints['http']} NOT FOR PRODUCTION" in log
    demo = endpoints["demo"]
    assert isinstance(demo, dict)
    assert demo["token"]["secret"] not in log


def test_only_the_owner_may_look_into_the_state_directory(tmp_path: Path) -> None:
    state = tmp_path / "s"
    with running_demo(state):
        assert (state / "control.sock").stat().st_mode & 0o777 == 0o600
        assert (state / "keys" / "wrapping.key").stat().st_mode & 0o777 == 0o600
        assert (state / "demo" / "netrc").stat().st_mode & 0o777 == 0o600


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"}
        with running_demo(tmp_path / "s", environment) as gateway:
            assert manager.recv(1024).startswith(b"READY=1")
            assert manager.recv(1024) == b"WATCHDOG=1"
            gateway.stop()
            assert manager.recv(1024).startswith(b"STOPPING=1")


def test_a_port_in_use_is_said_in_words(tmp_path: Path) -> None:
    with running_demo(tmp_path) as gateway:
        port = int(str(gateway.endpoints["https"]).rsplit(":", 1)[1])
    with socket.create_server(("127.0.0.1", port)):
        done = command(tmp_path, "demo")
    assert done.returncode == 1
    assert f"port {port} cannot be used".encode() in done.stderr
    assert b"Traceback" not in done.stderr


def test_an_io_error_of_the_journal_ends_the_daemon_with_4_and_the_next_start_verifies(tmp_path: Path) -> None:
    with running_demo(tmp_path) as gateway:
        inject = "strace -f -qq -o /dev/null -e trace=fdatasync,fsync -e inject=fdatasync,fsync:error=EIO -p"
        tracer = subprocess.Popen([*inject.split(), str(gateway.process.pid)])
        while not traced(gateway.process.pid):
            assert tracer.poll() is None, "strace must be allowed to attach"
        done = gateway.command("token", "create", "--profile", "ldevid")
        assert done.returncode != 0
        assert gateway.process.wait(60) == 4
        tracer.wait(60)
    with running_demo(tmp_path):
        pass
    assert records(tmp_path)["clean"] is True


def traced(pid: int) -> bool:
    """Whether every thread of the process has a tracer."""
    statuses = [path.read_text(encoding="ascii") for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return all("TracerPid:\t0\n" not in status for status in statuses)


def test_a_state_path_too_long_for_a_socket_is_said(tmp_path: Path) -> None:
    done = command(tmp_path / ("x" * 100), "init")
    assert done.returncode == 2
    assert b"too long for a socket" in done.stderr


@pytest.mark.parametrize("unit", ["edge-gateway", "edge-central"])
def test_the_unit_is_hardened(unit: str) -> None:
    line = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", f"systemd/{unit}.service"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode().splitlines()[-1]


def test_the_lock_names_no_index_and_every_line_has_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not any(
        word in lock for word in ("--index-url", "--extra-index-url", "--find-links", "--trusted-host", "http:", "https:")
    )
    assert lock.count("==") * 1 <= lock.count("--hash=sha256:")


def test_scripts_run_goes_from_nothing_to_a_certificate_and_stops(tmp_path: Path) -> None:
    for _ in range(2):  # the second run finds everything there
        done = subprocess.run(
            [ROOT / "scripts" / "run", "--state", tmp_path / "s", "--once"], cwd=tmp_path, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        assert b"CN = device-1" in done.stdout
        assert b"simpleenroll" in done.stdout
    assert not (tmp_path / "s" / "endpoints.json").exists()


def test_another_python_is_refused_in_words() -> None:
    code = "import sys; sys.version_info = (3, 10, 1); import runpy; runpy.run_module('gateway', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False, env={**os.environ})
    assert done.returncode == 1
    assert b"needs Python 3.11, 3.12 or 3.13" in done.stderr

"""The commands against a real demo gateway: running, and not running."""

from __future__ import annotations

import base64
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.demo_gateway import DemoGateway, command, running, running_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoGateway]:
    with running_demo(tmp_path_factory.mktemp("demo")) as gateway:
        yield gateway


def answer(gateway: DemoGateway, *arguments: str, code: int = 0) -> dict[str, object]:
    done = gateway.command("--json", *arguments)
    assert done.returncode == code, done.stderr.decode()
    content: dict[str, object] = json.loads(done.stdout)
    return content


def request_file(folder: Path, name: str = "web.plant.example") -> Path:
    """A CSR made by openssl."""
    path = folder / "web.csr"
    line = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout web.key -out web.csr"
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run([*line.split(), *names], cwd=folder, check=True, capture_output=True)
    return path


def issued(gateway: DemoGateway, folder: Path, name: str = "web.plant.example") -> dict[str, object]:
    return answer(gateway, "issue", "--profile", "tls-server", str(request_file(folder, name)), str(folder / "web.pem"))


def test_issue_gives_a_certificate_that_openssl_verifies(demo: DemoGateway, tmp_path: Path) -> None:
    issued(demo, tmp_path)
    anchors = demo.state / "trust-anchors.pem"
    line = ["openssl", "verify", "-CAfile", anchors, "-untrusted", "web.pem", "web.pem"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, check=False)
    assert done.stdout == b"web.pem: OK\n", done.stderr


def test_issue_overwrites_nothing(demo: DemoGateway, tmp_path: Path) -> None:
    csr, target = request_file(tmp_path), tmp_path / "there.pem"
    target.write_text("mine", encoding="utf-8")
    done = demo.command("issue", "--profile", "tls-server", str(csr), str(target))
    assert done.returncode == 1
    assert target.read_text(encoding="utf-8") == "mine"


def test_the_same_request_gets_the_same_certificate(demo: DemoGateway, tmp_path: Path) -> None:
    first = issued(demo, tmp_path, "same.plant.example")
    second = answer(demo, "issue", "--profile", "tls-server", str(tmp_path / "web.csr"))
    assert second["serial"] == first["serial"]
    assert second["repeated"] is True


def test_the_operator_in_the_journal_is_the_sockets_peer(demo: DemoGateway, tmp_path: Path) -> None:
    serial = str(issued(demo, tmp_path, "peer.plant.example")["serial"])
    answer(demo, "prove", serial, str(tmp_path / "proof.json"))
    proof = json.loads((tmp_path / "proof.json").read_text(encoding="utf-8"))
    bodies = [base64.b64decode(record["record"]) for record in proof["records"]]
    user = pwd.getpwuid(os.getuid()).pw_name
    assert any(f"operator:{user}".encode() in body for body in bodies)


def test_revoke_and_release_follow_rfc_5280(demo: DemoGateway, tmp_path: Path) -> None:
    issued(demo, tmp_path, "hold.plant.example")
    certificate = str(tmp_path / "web.pem")
    assert answer(demo, "revoke", "--reason", "certificateHold", certificate)["reason"] == "certificateHold"
    assert answer(demo, "revoke", "--release", certificate)["released"] is True
    assert answer(demo, "revoke", "--reason", "keyCompromise", certificate)["reason"] == "keyCompromise"
    done = demo.command("revoke", "--release", certificate)
    assert done.returncode == 1
    assert b"not on hold" in done.stderr


def test_an_unknown_serial_is_said(demo: DemoGateway) -> None:
    done = demo.command("revoke", "deadbeef")
    assert done.returncode == 1
    assert b"no certificate with serial deadbeef" in done.stderr


def test_a_token_is_shown_once_and_can_be_revoked(demo: DemoGateway) -> None:
    token = answer(demo, "token", "create", "--profile", "ldevid", "--uses", "2", "--hours", "1")
    assert token["secret"]
    listed = demo.command("--json", "token", "list").stdout.decode()
    assert str(token["token_id"]) in listed
    assert str(token["secret"]) not in listed
    assert answer(demo, "token", "revoke", str(token["token_id"]))["revoked"] is True


def test_a_token_for_an_unknown_profile_is_refused(demo: DemoGateway) -> None:
    done = demo.command("--json", "token", "create", "--profile", "nothing")
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"] == "NotFound"


def test_nothing_waits_and_an_unknown_request_is_said(demo: DemoGateway) -> None:
    assert answer(demo, "waiting") == {"requests": []}
    assert demo.command("approve", "none").returncode == 1
    assert demo.command("deny", "none", "--reason", "x").returncode == 1


def test_status_names_journal_ca_and_lists(demo: DemoGateway) -> None:
    report = answer(demo, "status")
    assert report["journal"]["state"] in ("ok", "warning")  # type: ignore[index]
    assert report["generations"][0]["state"] == "active"  # type: ignore[index]
    words = demo.command("status").stdout.decode()
    assert "journal" in words
    assert "NOT FOR PRODUCTION" in words


def test_doctor_says_what_is_wrong_with_a_demo(demo: DemoGateway) -> None:
    done = demo.command("doctor")
    assert done.returncode == 4
    assert b"throw-away keys" in done.stdout
    assert b"same medium" in done.stdout


def test_verify_beside_the_running_gateway_is_clean(demo: DemoGateway) -> None:
    report = answer(demo, "verify")
    assert report["clean"] is True
    assert report["problems"] == []


def test_verify_under_another_key_is_not_clean(demo: DemoGateway) -> None:
    other = "demo+dd304c6a+AXOPlhNX38MQ/9H6ozbHqpuekcmmubhsXYWOgEkhKB7l"
    assert demo.command("verify", "--key", other).returncode == 4


def test_verify_finds_another_gateways_journal_in_the_place_of_its_own(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        assert command(tmp_path / name, "init").returncode == 0
    assert command(tmp_path / "ours", "verify").returncode == 0
    for name in ("journal.db", "anchor"):
        shutil.copy(tmp_path / "theirs" / name, tmp_path / "ours" / name)
    assert command(tmp_path / "ours", "verify").returncode == 4


def test_a_ca_step_out_of_order_is_refused(demo: DemoGateway) -> None:
    assert demo.command("ca", "keygen").returncode == 1
    assert demo.command("ca", "csr", "--subject", "CN=x").returncode == 1
    assert answer(demo, "ca", "status")["generations"]


def test_a_software_key_needs_no_pin(demo: DemoGateway) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"1234\n")
    os.close(writer)
    line = [sys.executable, "-m", "gateway", "--state", str(demo.state), "ca", "unlock", "--pin", f"fd:{reader}"]
    done = subprocess.run(line, pass_fds=[reader], capture_output=True, check=False, timeout=60)
    os.close(reader)
    assert done.returncode == 2
    assert b"needs no PIN" in done.stderr


def test_a_second_daemon_on_the_same_state_is_refused(demo: DemoGateway) -> None:
    done = demo.command("run")
    assert done.returncode != 0
    assert b"edge-gateway: " in done.stderr
    assert b"Traceback" not in done.stderr


def test_no_gateway_is_said_in_words(tmp_path: Path) -> None:
    done = command(tmp_path / "nothing", "status")
    assert done.returncode == 1
    assert b"init" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_wrong_configuration_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[gatway]\n", encoding="utf-8")
    done = command(tmp_path, "status")
    assert done.returncode == 2
    assert b"did you mean gateway?" in done.stderr


def test_a_ceremony_from_nothing_to_an_active_ca_and_its_renewal(tmp_path: Path) -> None:
    """keygen, csr, a root made by openssl, import, renew; all without a daemon."""
    state, work = tmp_path / "s", tmp_path / "work"
    work.mkdir()
    (work / "c.toml").write_text('[gateway]\nname = "plant"\n[crl]\nvalidity_hours = 48\n', encoding="utf-8")

    def run(*arguments: str) -> bytes:
        done = command(state, "--config", str(work / "c.toml"), *arguments)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    assert b"for auditors" in run("init")
    run("ca", "keygen", "--key-type", "p-384")
    run("ca", "csr", "--subject", "CN=Plant 7 CA,O=Example", str(work / "ca.csr"))
    root(work)
    run("ca", "import", str(work / "chain.pem"))
    assert b"generation 1  active" in run("ca", "status")
    run("ca", "renew", "--key", "software:ca-2")
    assert b"generation 2  key-generated" in run("ca", "status")
    assert command(state, "--config", str(work / "c.toml"), "init").returncode == 1


def test_a_running_gateway_takes_up_the_ca_that_is_imported_beside_it(tmp_path: Path) -> None:
    state, config = tmp_path / "s", tmp_path / "c.toml"
    config.write_text(
        '[tls]\nnames = ["localhost"]\n'
        '[listen.https]\nhost = "127.0.0.1"\nport = 0\n'
        '[listen.http]\nhost = "127.0.0.1"\nport = 0\n',
        encoding="utf-8",
    )
    assert command(state, "--config", str(config), "init").returncode == 0
    with running(state, "--config", str(config), "run") as gateway:
        findings = gateway.command("--config", str(config), "doctor")
        assert b"there is no active CA" in findings.stdout
        for step in (["keygen"], ["csr", "--subject", "CN=Plant 7 CA", str(tmp_path / "ca.csr")]):
            assert gateway.command("--config", str(config), "ca", *step).returncode == 0
        root(tmp_path)
        done = gateway.command("--config", str(config), "ca", "import", str(tmp_path / "chain.pem"))
        assert done.returncode == 0, done.stderr.decode()
        line = [
            "curl",
            "--silent",
            "--show-error",
            "--fail",
            "--retry",
            "20",
            "--retry-all-errors",
            "--retry-delay",
            "1",
            "-o",
            "-",
        ]
        address = [f"{gateway.endpoints['est']}/cacerts", "--cacert", str(state / "trust-anchors.pem")]
        done = subprocess.run([*line, *address], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.startswith(b"MI")


def root(work: Path) -> None:
    """A root that signs ``ca.csr``; both certificates go to ``chain.pem``."""
    (work / "ext").write_text(
        "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n",
        encoding="utf-8",
    )
    for line in (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout root.key -subj /CN=Root -days 3650"
        " -out root.pem -addext keyUsage=critical,keyCertSign,cRLSign",
        "x509 -req -in ca.csr -CA root.pem -CAkey root.key -CAcreateserial -days 365 -extfile ext -out ca.pem",
    ):
        subprocess.run(["openssl", *line.split()], cwd=work, check=True, capture_output=True)
    (work / "chain.pem").write_text((work / "ca.pem").read_text() + (work / "root.pem").read_text(), encoding="utf-8")


def test_backup_and_restore_carry_the_journal_to_another_place(tmp_path: Path) -> None:
    state, other = tmp_path / "s", tmp_path / "o"
    with running_demo(state) as gateway:
        size = answer(gateway, "backup", str(tmp_path / "b"))["size"]
    done = command(other, "--json", "restore", str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["size"] == size
    assert json.loads(command(other, "--json", "verify").stdout)["clean"] is True
    assert command(other, "restore", str(tmp_path / "b")).returncode == 1


def test_a_certificate_of_a_renewed_ca_is_a_credential_at_once(tmp_path: Path) -> None:
    """Not only once the gateway's own TLS certificate comes from the new generation, days later."""
    with running_demo(tmp_path / "s") as gateway:
        for step in (["renew", "--key", "software:ca-2"], ["csr", "--subject", "CN=Plant 7 CA 2", str(tmp_path / "ca.csr")]):
            done = gateway.command("ca", *step)
            assert done.returncode == 0, done.stderr.decode()
        root(tmp_path)
        done = gateway.command("ca", "import", str(tmp_path / "chain.pem"))
        assert done.returncode == 0, done.stderr.decode()
        answer(gateway, "issue", "--profile", "tls-client", str(request_file(tmp_path)), str(tmp_path / "web.pem"))
        address = [f"{gateway.endpoints['est']}/tls-client/simplereenroll", "--data-binary", f"@{tmp_path / 'web.csr'}"]
        line = ["curl", "--silent", "--show-error", "--cacert", str(gateway.endpoints["trust_anchors"]), "-o", "-"]
        own = [
            "--cert",
            str(tmp_path / "web.pem"),
            "--key",
            str(tmp_path / "web.key"),
            "-H",
            "Content-Type: application/pkcs10",
        ]
        done = subprocess.run([*line, *own, "--fail", *address], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.startswith(b"MI")

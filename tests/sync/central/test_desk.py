"""A central that runs: an operator is entered on the command line and asks over HTTPS; wrong adapters stop the start."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest

from gateway.journal.checkpoint import open_note
from sync.central.adapters.files import directory_of
from sync.central.adapters.http import sign
from tests.support.central_process import CentralCommand
from tests.support.demo_gateway import command, running
from tests.support.receiver import receiver
from tests.sync.central.test_app import GATEWAY, device_csr, edge, until


def ask(
    central: CentralCommand, path: str, secret: str, body: dict[str, object] | None = None, key: str = "a-key-of-the-test"
) -> tuple[int, bytes]:
    endpoints = central.endpoints
    context = ssl.create_default_context(cafile=str(endpoints["trust_anchors"]))
    headers = {"Authorization": f"Bearer {secret}"}
    data = None
    if body is not None:
        headers["Idempotency-Key"] = key
        data = json.dumps(body).encode()
    request = urllib.request.Request(f"{endpoints['https']}{path}", data, headers)
    try:
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_an_operator_from_the_command_line_works_over_https(tmp_path: Path) -> None:
    central = CentralCommand(tmp_path / "central").configure(
        f'[adapters.auditors]\ntype = "tiles"\ndirectory = "{tmp_path / "tiles"}"\n'
    )
    central.run("init")
    with central.serving():
        assert ask(central, "/api/v1/gateways", "nobody")[0] == 401
        secret = str(central.run("operator", "anna")["secret"])
        assert secret not in (central.state / "operators.json").read_text()
        assert ask(central, "/api/v1/gateways", secret) == (200, b'{"items": [], "next": ""}')
        status, made = ask(central, "/api/v1/codes", secret, {"group": "line-3"})
        assert status == 201
        viewer = str(central.run("operator", "vera", "--viewer")["secret"])
        assert ask(central, "/api/v1/codes", viewer, {})[0] == 403
        assert b"<title>edge-central</title>" in ask(central, "/page/", "")[1]
        central.run("operator", "anna", "--remove")
        assert ask(central, "/api/v1/gateways", secret)[0] == 401
    assert secret not in (central.state / "central.log").read_text()
    assert str(json.loads(made)["code"]) not in (central.state / "central.log").read_text()


async def test_what_a_real_gateway_issues_reaches_auditors_and_other_systems(tmp_path: Path) -> None:
    """The gateway joins with a code that was made over REST; its certificate is found, proven, handed on and revoked there."""
    async with receiver() as hook:
        (tmp_path / "central").mkdir()
        (tmp_path / "central" / "hook.key").write_text("key")
        central = CentralCommand(tmp_path / "central").configure(
            f'[adapters.auditors]\ntype = "tiles"\ndirectory = "{tmp_path / "tiles"}"\n'
            f'[adapters.hook]\ntype = "webhook"\nurl = "{hook.url}/in"\nsecret = "file:hook.key"\n'
            'kinds = ["issued", "revoked"]\n'
        )
        await asyncio.to_thread(_story, central, tmp_path)
        kinds = [each["kind"] for one in hook.got for each in json.loads(one.body)["events"]]
        assert kinds.count("revoked") == 1
        assert {one.head["edge-signature"] for one in hook.got} == {
            sign(b"key", one.head["edge-timestamp"], one.body) for one in hook.got
        }


def _story(central: CentralCommand, work: Path) -> None:
    central.run("init")
    state = work / "gateway"
    state.mkdir()
    (state / "config.toml").write_text(GATEWAY)
    assert command(state, "init").returncode == 0
    device_csr(work / "device.csr")
    with central.serving():
        secret = str(central.run("operator", "anna")["secret"])
        code = json.loads(ask(central, "/api/v1/codes", secret, {})[1])["code"]
        with running(state, "run"):
            edge(state, "join", str(central.endpoints["https"]), secret=code)
            edge(state, "issue", "--profile", "tls-server", str(work / "device.csr"), str(work / "device.pem"))
            until(lambda: bool(_search(central, secret)))
            (found,) = _search(central, secret)
            at = f"/api/v1/certificates/{found['serial']}"
            status, proof = ask(central, f"{at}/proof", secret)
            assert status == 200
            (work / "proof.json").write_bytes(proof)
            (gateway,) = json.loads(ask(central, "/api/v1/gateways", secret)[1])["items"]
            view = json.loads(ask(central, f"/api/v1/gateways/{quote(gateway['origin'], safe='')}", secret)[1])
            line = [sys.executable, "docs/check_proof.py", str(work / "proof.json"), view["verifier_key"]]
            assert subprocess.run(line, capture_output=True, check=True, timeout=60).stdout.startswith(b"OK: ")
            status, revoked = ask(central, f"{at}/revoke", secret, {"reason": "superseded"}, key="another-key")
            assert (status, json.loads(revoked)["state"]) == (200, "revoked")

            def carried_out() -> bool:
                return bool(json.loads(ask(central, at, secret)[1])["commands"][0]["finished"])

            until(carried_out)
            size = json.loads(ask(central, f"/api/v1/gateways/{quote(gateway['origin'], safe='')}", secret)[1])["records"]
            checkpoint = directory_of(work / "tiles", gateway["origin"]) / "checkpoint"
            until(lambda: checkpoint.exists() and open_note(checkpoint.read_text(), view["verifier_key"]).size >= size)
        assert json.loads(ask(central, "/api/v1/alerts", secret)[1])["items"] == []


def _search(central: CentralCommand, secret: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(ask(central, "/api/v1/certificates?text=web.example", secret)[1])["items"]
    return found


def test_a_wrong_adapter_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    central = CentralCommand(tmp_path / "central").configure('[adapters.hook]\ntype = "webhook"\nurl = "https://x.example"\n')
    central.run("init")
    assert "adapters.hook.secret" in str(central.run("run", code=2))


@pytest.mark.parametrize("arguments", [("two words",), ("anna", "--certificate", "/nonexistent"), ("nobody", "--remove")])
def test_a_wrong_operator_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    central = CentralCommand(tmp_path / "central").configure()
    central.run("operator", *arguments, code=1 if "--remove" in arguments else 2)

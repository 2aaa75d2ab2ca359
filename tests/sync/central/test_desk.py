"""A central that runs: an operator is entered on the command line, asks over HTTPS, and an adapter delivers."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.central_process import CentralCommand


def ask(central: CentralCommand, path: str, secret: str, body: dict[str, object] | None = None) -> tuple[int, bytes]:
    endpoints = central.endpoints
    context = ssl.create_default_context(cafile=str(endpoints["trust_anchors"]))
    headers = {"Authorization": f"Bearer {secret}"}
    data = None
    if body is not None:
        headers["Idempotency-Key"] = "a-key-of-the-test"
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


def test_a_wrong_adapter_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    central = CentralCommand(tmp_path / "central").configure('[adapters.hook]\ntype = "webhook"\nurl = "https://x.example"\n')
    central.run("init")
    assert "adapters.hook.secret" in str(central.run("run", code=2))


@pytest.mark.parametrize("arguments", [("two words",), ("anna", "--certificate", "/nonexistent"), ("nobody", "--remove")])
def test_a_wrong_operator_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    central = CentralCommand(tmp_path / "central").configure()
    central.run("operator", *arguments, code=1 if "--remove" in arguments else 2)

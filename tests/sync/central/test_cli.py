"""The command line of central: help for people, exit codes for scripts, and founding below a company's root."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sync.central.cli import HANDLERS, main
from sync.central.parser import build_parser
from tests.support.central_process import CentralCommand
from tests.support.ceremony_root import sub_ca
from tests.support.tokens import softhsm_store, softhsm_token


def parsers(parser: argparse.ArgumentParser, name: str = "edge-central") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                yield from parsers(below, f"{name} {word}")


@pytest.mark.parametrize(("name", "parser"), list(parsers(build_parser())), ids=lambda each: str(each)[:40])
def test_every_command_and_option_is_explained(name: str, parser: argparse.ArgumentParser) -> None:
    assert parser.description
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            assert all(each.help for each in action._choices_actions), name
        else:
            assert action.help, f"{name}: {action.dest}"
    assert parser.format_help()


def test_every_command_has_its_words() -> None:
    named = {parser.get_default("command") for _, parser in parsers(build_parser())} - {None, "ca"}
    assert named == set(HANDLERS)


@pytest.fixture
def central(tmp_path: Path) -> CentralCommand:
    return CentralCommand(tmp_path / "central").configure()


def call(central: CentralCommand, *arguments: str) -> int:
    return main(["--state", str(central.state), "--json", *arguments])


def test_exit_codes(central: CentralCommand, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(central, "status") == 3  # there is no central yet
    assert call(central, "init") == 0
    assert call(central, "init") == 1  # there is one
    assert call(central, "revoke", "7") == 1
    assert call(central, "gateways", "fence", "plant-7/1") == 2  # without --yes
    assert call(central, "settings", "central", "quotas", "/nonexistent") == 2
    (central.state / "central.toml").write_text("nonsense = 1")
    assert call(central, "status") == 2
    with pytest.raises(SystemExit) as caught:
        call(central, "gateways", "paint")
    assert caught.value.code == 2
    assert '"hint"' in capsys.readouterr().err


def test_a_changed_record_is_evidence(central: CentralCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(central, "init") == 0

    async def problems(_store: object) -> list[str]:
        return ["plant-7/1: record 5 is not the one that was confirmed"]

    monkeypatch.setattr("sync.central.operations.root_problems", problems)
    assert call(central, "verify") == 4


def test_a_code_is_shown_to_a_person_once(central: CentralCommand, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(central, "init") == 0
    capsys.readouterr()
    assert main(["--state", str(central.state), "code", "--hours", "1"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()[0].split("-")) == 14
    assert main(["--state", str(central.state), "status"]) == 0
    assert shown.splitlines()[0] not in capsys.readouterr().out


def test_a_central_below_a_companys_root(central: CentralCommand, tmp_path: Path) -> None:
    assert call(central, "init", "--subordinate", "--key-type", "p-256") == 0
    assert call(central, "status") == 3
    assert call(central, "ca", "csr", str(tmp_path / "central.csr")) == 0
    csr = x509.load_pem_x509_csr((tmp_path / "central.csr").read_bytes())
    certificate, root = sub_ca(csr.public_bytes(Encoding.DER), path_length=1)
    chain = b"".join(x509.load_der_x509_certificate(each).public_bytes(Encoding.PEM) for each in (certificate, root))
    (tmp_path / "chain.pem").write_bytes(chain)
    (tmp_path / "none.pem").write_bytes(b"none")
    assert call(central, "ca", "import", str(tmp_path / "none.pem")) == 2
    assert call(central, "ca", "import", str(tmp_path / "chain.pem")) == 0
    assert call(central, "ca", "import", str(tmp_path / "chain.pem")) == 1
    assert call(central, "status") == 0


def test_the_root_key_on_a_token_whose_pin_a_person_enters(
    central: CentralCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = softhsm_token(softhsm_store(tmp_path / "hsm"), "root")
    for name, value in token.environment.items():
        monkeypatch.setenv(name, value)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "pin").write_text(token.pin + "\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    central.configure(f'[root]\nkey = "{token.uri("root")}"\n')
    assert call(central, "init") == 3
    assert call(central, "init", "--pin", "credential:pin") == 0
    capsys.readouterr()
    assert call(central, "status") == 0
    assert json.loads(capsys.readouterr().out)["root"]["key"] != "up"
    assert call(central, "unlock", "--pin", "credential:pin") == 0
    assert json.loads(capsys.readouterr().out)["key"] == "up"
    said = capsys.readouterr()
    assert token.pin not in said.out + said.err


def test_a_work_order_from_the_command_line(central: CentralCommand, tmp_path: Path) -> None:
    central.run("init")
    order = tmp_path / "order.json"
    order.write_text(
        json.dumps({"id": "WO-1", "quantity": 100, "credit": 10, "product": "PLC", "profile": "idevid", "serials": ["*"]})
    )
    made = central.run("order", "set", order, "--group", "line-3")
    assert (made["scope"], made["revision"], made["gateways"]) == ("group:line-3", 1, [])
    assert "100 units" in central.words("order")
    assert central.run("order", "show", "WO-1")["body"] == json.loads(order.read_text())
    refused = central.run("order", "export", "WO-1", "plant-7/1", code=1)
    assert "grants 'plant-7/1' nothing" in str(refused["detail"])
    assert str(central.run("order", "close", "WO-1", "--reason", "enough")["closed"]).startswith("enough")
    assert central.words("device", "SN-1").strip() == "no gateway knows this device"
    order.write_text("{")
    assert "is not JSON" in str(central.run("order", "set", order, "--group", "line-3", code=2)["detail"])

"""The life of a gateway at central from both command lines: bundles for central alone, fenced, replaced, closed."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.main import main as edge_main
from sync.bundle import is_sealed
from sync.central.cli import main as central_main
from tests.support.central_process import CentralCommand
from tests.support.demo_gateway import running
from tests.sync.central.test_app import GATEWAY, device_csr, objects, until


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The commands set up logging for their process, which is the tests' here."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Commands:
    """Both command lines, called in this process: a new one for each command takes longer than the command."""

    def __init__(self, capsys: pytest.CaptureFixture[str], central: CentralCommand) -> None:
        self._capsys, self._central = capsys, central

    def central(self, *arguments: str | Path, code: int = 0) -> dict[str, object]:
        assert central_main(["--state", str(self._central.state), "--json", *map(str, arguments)]) == code
        return self._json(code)

    def edge(self, state: Path, *arguments: str | Path, secret: str = "", code: int = 0) -> dict[str, object]:
        line = ["--state", str(state), "--json", *map(str, arguments)]
        if secret:
            reading, writing = os.pipe()
            os.write(writing, secret.encode() + b"\n")
            os.close(writing)
            line += ["--code", f"fd:{reading}"]
        assert edge_main(line) == code
        return self._json(code)

    def words(self, state: Path, *arguments: str, code: int = 0) -> str:
        """What a person reads."""
        assert edge_main(["--state", str(state), *arguments]) == code
        said = self._capsys.readouterr()
        return said.out + said.err

    def _json(self, code: int) -> dict[str, object]:
        said = self._capsys.readouterr()
        text = said.err if code else said.out
        content: dict[str, object] = json.loads(text[text.index("{") :])
        return content

    def prepared(self, state: Path, *arguments: str) -> str:
        """A new gateway; its origin."""
        state.mkdir()
        (state / "config.toml").write_text(GATEWAY)
        return str(self.edge(state, "init", *arguments)["origin"])

    def entry(self, origin: str) -> dict[str, object]:
        (found,) = (each for each in objects(self.central("gateways"), "gateways") if each["origin"] == origin)
        return found


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Commands:
    made = Commands(capsys, CentralCommand(tmp_path / "central").configure())
    made.central("init")
    return made


def test_bundles_are_for_central_alone_unless_a_person_wants_them_plain(run: Commands, tmp_path: Path) -> None:
    """All by files: no daemon anywhere."""
    state, stick = tmp_path / "gateway", tmp_path / "stick"
    stick.mkdir()
    origin = run.prepared(state)
    code = str(run.central("code")["code"])
    run.edge(state, "join", "--request", stick / "request", secret=code)
    run.central("join", stick / "request", stick / "answer")
    run.edge(state, "join", "--answer", stick / "answer", secret=code)
    for name, options, sealed in (("one", (), True), ("two", ("--plain", "--since", "0"), False)):
        up, down = stick / f"{name}.bundle", stick / f"{name}.answer"
        made = run.edge(state, "export", up, *options)
        assert made["encrypted"] is sealed
        assert is_sealed(up.read_bytes()) is sealed
        assert (origin.encode() in up.read_bytes()) is not sealed
        assert run.central("import", up, down)["origin"] == origin
        assert run.edge(state, "import", down)["confirmed"] == made["stop"]
    assert "for central alone" in run.words(state, "export", str(stick / "three.bundle"))
    assert "NOT encrypted" in run.words(state, "export", "--plain", str(stick / "four.bundle"))


def test_a_fenced_gateway_says_so_and_a_new_journal_takes_its_place(run: Commands, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    origin = run.prepared(old)
    for name in ("zero", "one", "two"):
        device_csr(tmp_path / f"{name}.csr")
    central = CentralCommand(tmp_path / "central")
    with central.serving():
        url = str(central.endpoints["https"])
        with running(old, "run"):
            run.edge(old, "join", url, secret=str(run.central("code")["code"]))
            run.edge(old, "issue", "--profile", "tls-server", tmp_path / "zero.csr", tmp_path / "zero.pem")
            # Retired, it is expected no more; until its document ends it works as before, and nothing of it is lost.
            run.central("gateways", "retire", origin, "--reason", "sold")
            run.edge(old, "issue", "--profile", "tls-server", tmp_path / "one.csr", tmp_path / "one.pem")
            until(lambda: len(objects(run.central("search", "web.example"), "certificates")) == 2)
            report = run.edge(old, "central")
            assert (report["fenced"], report["closed"], report["trouble"]) == ("", "", "")
            assert "sold" in str(run.entry(origin)["closed"])
            run.central("gateways", "fence", origin, "--reason", "restored from a backup", "--yes")
            run.edge(old, "central", "--now")
            until(lambda: bool(run.edge(old, "central")["fenced"]))
        # Also after a restart, and without its daemon.
        assert "restored from a backup" in run.words(old, "status")
        assert "fenced: restored from a backup" in run.words(old, "central")
        assert f"edge-gateway init --predecessor {origin}" in run.words(old, "doctor", code=4)
        refused = run.edge(old, "issue", "--profile", "tls-server", tmp_path / "two.csr", tmp_path / "no.pem", code=4)
        assert "edge-gateway doctor" in str(refused["hint"])
        assert "origin of the old journal" in run.words(tmp_path / "nothing", "init", "--predecessor", "no origin", code=2)

        successor = run.prepared(new, "--predecessor", origin)
        with running(new, "run"):
            run.edge(new, "join", url, secret=str(run.central("code")["code"]))
            run.edge(new, "issue", "--profile", "tls-server", tmp_path / "two.csr", tmp_path / "two.pem")
            until(lambda: len(objects(run.central("search", "web.example"), "certificates")) == 3)
            before, after = run.entry(origin), run.entry(successor)
            assert (before["closed"], after["closed"]) == (f"replaced by {successor}", "")
            assert "restored from a backup" in str(before["fenced"])
            found = objects(run.central("search", "web.example"), "certificates")
            assert {(each["origin"], each["state"]) for each in found} == {(origin, "issued"), (successor, "issued")}
            # The hardware is replaced one day.
            run.edge(new, "close", "--reason", "new hardware", "--yes")
            until(lambda: run.entry(successor)["closed"] == "new hardware")
            until(lambda: run.edge(new, "central")["waiting"] == 0)
            assert "switch it off" in run.words(new, "doctor", code=4)
        said = run.edge(new, "central")
        assert (said["closed"], said["fenced"]) == ("new hardware", "")
        assert "closed: new hardware" in run.words(new, "central")
        assert objects(run.central("status"), "open_alerts") == []

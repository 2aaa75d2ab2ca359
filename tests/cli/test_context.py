"""What commands print, and what they say when the system says no."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import main as command_line
from gateway.cli.context import Context, printable
from gateway.config import Config


def context(*, as_json: bool = False) -> Context:
    return Context(argparse.Namespace(uses=0, hours=None), Config(), None, as_json)


def test_a_devices_name_cannot_write_over_what_a_terminal_shows(capsys: pytest.CaptureFixture[str]) -> None:
    context().show({}, "plc\x1b[2J\x07\u202e\nnext line ü")
    assert capsys.readouterr().out == "plc\\x1b[2J\\x07\\u202e\nnext line ü\n"


def test_a_devices_name_cannot_begin_a_line() -> None:
    assert printable("plc\nr-7  ldevid  CN=good", lines=False) == "plc\\nr-7  ldevid  CN=good"


def test_a_zero_that_was_typed_is_not_taken_for_the_default() -> None:
    assert (context().number("uses", 1), context().number("hours", 24)) == (0, 24)


@pytest.mark.parametrize("as_json", [False, True])
def test_what_the_system_refuses_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    """A state directory of another user, for instance."""

    async def refused(_handler: object, _context: object) -> int:
        raise PermissionError(13, "Permission denied", str(tmp_path / "journal.db"))

    monkeypatch.setattr(command_line, "_run", refused)
    assert command_line.main([*(["--json"] if as_json else []), "--state", str(tmp_path), "status"]) == 1
    said = capsys.readouterr().err
    assert "journal.db: Permission denied" in said
    assert "Traceback" not in said


def test_a_daemon_leaves_no_core_file_and_may_open_many_connections() -> None:
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096));"
        "from gateway.cli.main import _set_limits; _set_limits();"
        "print(resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout == "(0, 0) (4096, 4096)\n"

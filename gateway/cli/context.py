"""What every command gets, and the two ways it speaks: words for a person, one JSON object for a machine."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TypeAlias

from gateway.config import Config
from gateway.errors import (
    AlreadyExists,
    ConfigError,
    Fenced,
    GatewayError,
    IntegrityError,
    JournalFailed,
    PinError,
    Unavailable,
)
from gateway.journal.canonical import JsonValue

JsonObject: TypeAlias = dict[str, JsonValue]


class ExitCode(IntEnum):
    """Documented in ``edge-gateway --help``; scripts may rely on them."""

    OK = 0
    REFUSED = 1  # the gateway understood and said no, or the command could not be carried out
    USAGE = 2  # the command line or the configuration is wrong
    UNAVAILABLE = 3  # not running, locked by another process, HSM away: later may work
    EVIDENCE = 4  # verify or doctor found something wrong
    WAITING = 5  # a person must approve the request first


def exit_code(error: GatewayError) -> ExitCode:
    """Which code an error ends a command with."""
    if isinstance(error, IntegrityError | JournalFailed | Fenced):
        return ExitCode.EVIDENCE
    if isinstance(error, Unavailable | PinError):
        return ExitCode.UNAVAILABLE
    if isinstance(error, ConfigError):
        return ExitCode.USAGE
    return ExitCode.REFUSED


@dataclass(frozen=True, slots=True)
class Context:
    arguments: argparse.Namespace
    config: Config
    config_path: Path | None
    as_json: bool

    @property
    def state(self) -> Path:
        return self.config.gateway.state

    def text(self, name: str) -> str:
        """A text argument; empty when it was not given."""
        value: object = getattr(self.arguments, name)
        return "" if value is None else str(value)

    def path(self, name: str) -> Path:
        """A path argument, absolute, because the daemon's working directory is another."""
        return Path(self.text(name)).absolute()

    def number(self, name: str, default: int) -> int:
        """A number argument; ``default`` when it was not given."""
        value: object = getattr(self.arguments, name)
        return value if isinstance(value, int) else default

    def flag(self, name: str) -> bool:
        return bool(getattr(self.arguments, name))

    def show(self, result: JsonObject, words: str) -> None:
        """The result of a command on standard output: as one JSON object with ``--json``, else in words."""
        print(json.dumps(result, indent=2, sort_keys=True) if self.as_json else printable(words))

    def progress(self, words: str) -> None:
        """How far long work has come; on standard error and only when a person watches."""
        if sys.stderr.isatty():
            print(f"\r{words}\033[K", end="", file=sys.stderr, flush=True)

    def end_progress(self) -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)


def printable(text: str, *, lines: bool = True) -> str:
    """``text`` with control characters escaped, so that a device's name cannot write over what a terminal shows; without
    ``lines`` it cannot begin a line of its own either."""
    return "".join(
        each if each.isprintable() or (lines and each == "\n") else each.encode("unicode_escape").decode() for each in text
    )


def report(error: GatewayError, *, as_json: bool) -> None:
    """An error on standard error: what happened, then what to do."""
    if as_json:
        print(json.dumps({"error": type(error).__name__, "detail": str(error), "hint": error.hint}), file=sys.stderr)
    else:
        print(printable(f"edge-gateway: {error}\n    {error.hint}"), file=sys.stderr)


def read_input(path: str) -> bytes:
    """A file named on the command line; ``-`` is standard input. Raises ConfigError."""
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def write_output(path: str, content: bytes) -> None:
    """A result into a new file, or to standard output for ``-``. Raises AlreadyExists, ConfigError."""
    if path == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        with Path(path).open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise AlreadyExists(f"{path} exists already") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def read_pin(source: str) -> str:
    """A PIN; see :func:`read_secret`."""
    return read_secret(source, "PIN of the token (one attempt only)")


def read_secret(source: str, what: str) -> str:
    """A secret from ``prompt``, ``fd:NUMBER`` or ``credential:NAME``, never from an argument. Raises PinError, ConfigError."""
    kind, _, name = source.partition(":")
    try:
        if kind == "prompt" and not name:
            secret = getpass.getpass(f"{what}: ")
        elif kind == "fd" and name.isdecimal():
            with os.fdopen(int(name), "r", encoding="utf-8", closefd=False) as file:
                secret = file.readline().rstrip("\r\n")
        elif kind == "credential" and name and "/" not in name:
            directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
            if not directory:
                raise ConfigError("no credentials here: only a systemd service has CREDENTIALS_DIRECTORY")
            secret = Path(directory, name).read_text(encoding="utf-8").rstrip("\r\n")
        else:
            raise ConfigError("a secret comes from prompt, fd:NUMBER or credential:NAME")
    except (OSError, EOFError) as error:
        raise PinError(f"no secret could be read from {source}") from error
    if not secret:
        raise PinError(f"the secret from {source} is empty")
    return secret

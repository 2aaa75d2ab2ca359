"""Tokens to test with: SoftHSM2, a TPM 2.0 in software behind tpm2-pkcs11, and either of them behind our fault module.

Packages: softhsm2, opensc, libtpm2-pkcs11-1, swtpm, swtpm-tools, tpm2-tools, gcc, libp11-kit-dev.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateway.keys.uri import KeyUri

PIN = "482913"
SO_PIN = "71029384"
_FAULT_SOURCE = Path(__file__).parent.parent / "faults" / "p11fault.c"


def library(name: str) -> Path:
    """An installed PKCS #11 module by file name."""
    for pattern in (f"softhsm/{name}", f"*/softhsm/{name}", f"*/pkcs11/{name}", f"pkcs11/{name}"):
        found = sorted(Path("/usr/lib").glob(pattern))
        if found:
            return found[0]
    raise FileNotFoundError(name)


@dataclass(frozen=True)
class Token:
    """An initialised token: the module to load, and what the module needs in its environment."""

    module: Path
    label: str
    serial: str
    environment: dict[str, str] = field(default_factory=dict)
    pin: str = PIN

    def uri(self, name: str = "ca", *, pin_source: str = "", serial: bool = True) -> str:
        """The URI of the key ``name`` on this token."""
        return KeyUri(
            token=self.label,
            serial=self.serial if serial else "",
            object=name,
            module_path=str(self.module),
            pin_source=pin_source,
        ).format()


def softhsm_store(directory: Path) -> dict[str, str]:
    """An empty SoftHSM2 store in ``directory``; the environment that selects it."""
    (directory / "tokens").mkdir(parents=True)
    configuration = directory / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    return {"SOFTHSM2_CONF": str(configuration)}


def softhsm_token(environment: dict[str, str], label: str, pin: str = PIN) -> Token:
    """Initialise one more token in a SoftHSM2 store."""
    command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", SO_PIN]
    subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True)
    module = library("libsofthsm2.so")
    return Token(module, label, serial_of(module, label, environment), environment, pin)


def serial_of(module: Path, label: str, environment: dict[str, str]) -> str:
    """The serial number of the token ``label``, asked with OpenSC's pkcs11-tool: an independent reader."""
    command = ["pkcs11-tool", "--module", str(module), "--list-slots"]
    listing = subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True).stdout
    found = ""
    for line in listing.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "token label":
            found = value.strip()
        if name.strip() == "serial num" and found == label:
            return value.strip()
    raise LookupError(f"{label} not in {listing}")


@contextmanager
def tpm_token(directory: Path, label: str = "tpm") -> Iterator[Token]:
    """A TPM 2.0 (swtpm) with a tpm2-pkcs11 token on it, for the time of the block."""
    state, store = directory / "state", directory / "store"
    state.mkdir(parents=True)
    store.mkdir()
    setup = ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--overwrite"]
    subprocess.run(setup, check=True, capture_output=True)
    port = _free_port_pair()
    process = subprocess.Popen(
        [
            "swtpm",
            "socket",
            "--tpm2",
            "--tpmstate",
            f"dir={state}",
            "--server",
            f"type=tcp,bindaddr=127.0.0.1,port={port}",
            "--ctrl",
            f"type=tcp,bindaddr=127.0.0.1,port={port + 1}",
            "--flags",
            "not-need-init,startup-clear",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    environment = {
        "TPM2_PKCS11_TCTI": f"swtpm:host=127.0.0.1,port={port}",
        "TPM2_PKCS11_STORE": str(store),
        "TPM2_PKCS11_LOG_LEVEL": "0",
        "TSS2_LOG": "all+none",
    }
    try:
        _wait_for_port(port + 1)
        module = library("libtpm2_pkcs11.so")
        tool = ["pkcs11-tool", "--module", str(module), "--slot-index", "0"]
        complete = {**os.environ, **environment}
        for arguments in (
            ["--init-token", "--label", label, "--so-pin", SO_PIN],
            ["--init-pin", "--login", "--login-type", "so", "--so-pin", SO_PIN, "--new-pin", PIN],
        ):
            subprocess.run([*tool, *arguments], env=complete, check=True, capture_output=True)
            flush_tpm(environment)
        yield Token(module, label, serial_of(module, label, environment), environment)
    finally:
        process.kill()
        process.wait()


def flush_tpm(environment: dict[str, str]) -> None:
    """Drop what ended processes left loaded: the bare TPM has three places, and only the kernel's /dev/tpmrm0 tidies up."""
    for what in ("--transient-object", "--loaded-session"):
        subprocess.run(
            ["tpm2_flushcontext", what],
            env={**os.environ, "TPM2TOOLS_TCTI": environment["TPM2_PKCS11_TCTI"]},
            check=True,
            capture_output=True,
        )


def _free_port_pair() -> int:
    """A port whose successor is free too: the TSS expects the control channel there."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def _wait_for_port(port: int) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 10).close()
        except ConnectionRefusedError:
            continue
        return


def build_fault_module(directory: Path) -> Path:
    """Compile ``p11fault.c``; the result is copied for each faulty token."""
    target = directory / "p11fault.so"
    include = "/usr/include/p11-kit-1"
    command = [
        "gcc",
        "-Wall",
        "-Werror",
        "-O1",
        "-shared",
        "-fPIC",
        f"-I{include}",
        "-o",
        str(target),
        str(_FAULT_SOURCE),
        "-ldl",
    ]
    subprocess.run(command, check=True)
    return target


class FaultyToken:
    """A token behind the fault module, and the levers to make it fail."""

    def __init__(self, built: Path, directory: Path, real: Token) -> None:
        directory.mkdir()
        shutil.copy(built, directory / "p11fault.so")
        (directory / "module").write_text(f"{real.module}\n")
        (directory / "environment").write_text("".join(f"{name}={value}\n" for name, value in real.environment.items()))
        self._directory = directory
        self._plug = 0
        self.token = Token(directory / "p11fault.so", real.label, real.serial, {}, real.pin)

    def order(self, *words: str) -> None:
        """Replace the present faults by ``words``; none makes the token healthy."""
        temporary = self._directory / "control.new"
        temporary.write_text(" ".join((f"plug={self._plug}", *words)))
        temporary.replace(self._directory / "control")

    def unplug(self) -> None:
        self.order("unplugged")

    def replug(self) -> None:
        """Plugged in again: sessions from before are invalid."""
        self._plug += 1
        self.order()

    def count(self, call: str) -> int:
        """How often ``C_Login``, ``C_SignInit`` or ``C_Sign`` was called, by any process."""
        log = self._directory / "log"
        return log.read_text().splitlines().count(call) if log.exists() else 0

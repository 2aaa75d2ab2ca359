"""Devices with a TPM 2.0 for tests: swtpm as the chip, a shell with the unmodified tpm2-tools as the device.

A TPM is made once (a maker's CA of the test's own signs its EK certificate) and its state copied for every device. What a
device shall lie about it lies about with a script of its own before the tool of that name; the tools are the vendor's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from provisioning.device import Address


class Maker:
    """A maker of TPMs with a CA of its own: swtpm's certificate tool with its files in ``directory``."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        (directory / "localca.options").write_text(
            "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n"
        )
        files = {"statedir": "", "signingkey": "signkey.pem", "issuercert": "issuercert.pem", "certserial": "certserial"}
        (directory / "localca.conf").write_text("".join(f"{name} = {directory / file}\n" for name, file in files.items()))
        (directory / "setup.conf").write_text(
            "create_certs_tool = /usr/bin/swtpm_localca\n"
            f"create_certs_tool_config = {directory / 'localca.conf'}\n"
            f"create_certs_tool_options = {directory / 'localca.options'}\n"
            "active_pcr_banks = sha256\n"
        )

    @property
    def certificates(self) -> Path:
        """Root and intermediate of this maker, once it made its first TPM."""
        path = self.directory / "makers.pem"
        root = self.directory / "swtpm-localca-rootca-cert.pem"
        path.write_bytes(root.read_bytes() + (self.directory / "issuercert.pem").read_bytes())
        return path

    def make(self, name: str) -> Path:
        """The state of one more TPM."""
        state = self.directory / name
        state.mkdir()
        command = ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--config", str(self.directory / "setup.conf")]
        subprocess.run([*command, "--create-ek-cert", "--overwrite"], check=True, capture_output=True)
        return state


@dataclass
class TpmDevice:
    """A device: its shell's place, and how the TPM is reached from there."""

    folder: Path
    tcti: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> Address:
        return Address.parse(f"exec:?argv={quote(str(self.folder / 'shell'))}")

    def tool(self, *arguments: str) -> str:
        """Run a tool on the device, as somebody who is there would."""
        environment = {**os.environ, "TPM2TOOLS_TCTI": self.tcti, "TSS2_LOG": "all+NONE"}
        done = subprocess.run(arguments, env=environment, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ChildProcessError(f"{arguments}: {done.stderr}")
        return done.stdout

    def lie(self, tool: str, script: str) -> None:
        """From now on ``tool`` is this script; ``$real`` is the tool itself, ``$folder`` the device's place."""
        path = self.folder / "bin" / tool
        path.write_text(f"#!/bin/sh\nreal={shutil.which(tool)}\nfolder={self.folder}\n{script}\n")
        path.chmod(0o755)


@contextmanager
def running_tpm(state: Path, folder: Path) -> Iterator[str]:
    """A TPM with a copy of ``state``, without a resource manager; the TCTI that reaches it.

    On Unix sockets, in a directory with a short name: they have no port that somebody else may take, and a path of 107 octets.
    """
    shutil.copytree(state, folder / "tpm")
    with tempfile.TemporaryDirectory(prefix="tpm") as sockets:
        commands, control = Path(sockets) / "tpm", Path(sockets) / "control"
        argv = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder / 'tpm'}", "--flags", "not-need-init,startup-clear"]
        argv += ["--server", f"type=unixio,path={commands}", "--ctrl", f"type=unixio,path={control}"]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not (commands.exists() and control.exists()):
                if process.poll() is not None:
                    raise ChildProcessError(f"swtpm ended with {process.returncode}")
                time.sleep(0.005)
            yield f"cmd:{shutil.which('socat')} - UNIX-CONNECT:{commands}"
        finally:
            process.kill()
            process.wait()


@contextmanager
def tpm_device(state: Path, folder: Path) -> Iterator[TpmDevice]:
    """A device with a copy of that TPM. Only its own shell knows how to reach it."""
    (folder / "bin").mkdir(parents=True)
    with running_tpm(state, folder) as tcti:
        shell = folder / "shell"
        shell.write_text(
            f"#!/bin/sh\nexport TPM2TOOLS_TCTI='{tcti}' TSS2_LOG=all+NONE PATH={folder / 'bin'}:$PATH\n"
            f"cd {folder}\nexec /bin/sh\n"
        )
        shell.chmod(0o755)
        yield TpmDevice(folder, tcti)

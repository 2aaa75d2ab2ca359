"""dropbear as a device's SSH server, in a mount namespace where the user's home is the test's."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.fleet import free_ports


@dataclass(frozen=True, slots=True)
class SshDevice:
    user: str
    port: int
    key: Path  # of the gateway; the device lets its owner in
    host_keys: Path  # a known_hosts file with the device's true keys

    def address(self, options: str = "") -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}?key=file:{self.key}{options}"


def make_key(path: Path, kind: str = "ed25519") -> str:
    """The public half, as a line."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "test", "-f", path], check=True)
    return path.with_suffix(".pub").read_text().strip()


@asynccontextmanager
async def dropbear(folder: Path, name: str = "device") -> AsyncIterator[SshDevice]:
    folder = folder / name
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    os.chmod(home, 0o700)
    allowed = home / ".ssh" / "authorized_keys"
    allowed.write_text(make_key(folder / "key") + "\n")
    allowed.chmod(0o600)
    (port,) = free_ports(1)
    lines, keys = [], []
    for kind in ("rsa", "ecdsa"):
        path = folder / f"host_{kind}"
        made = subprocess.run(["dropbearkey", "-t", kind, "-f", path], check=True, capture_output=True, text=True).stdout
        public = next(line for line in made.splitlines() if line.startswith(("ssh-", "ecdsa-")))
        lines.append(f"[127.0.0.1]:{port} {' '.join(public.split()[:2])}\n")
        keys += ["-r", str(path)]
    known = folder / "known_hosts"
    known.write_text("".join(lines))
    account = pwd.getpwuid(os.getuid())
    server = ["dropbear", "-F", "-E", "-s", "-p", f"127.0.0.1:{port}", "-P", str(folder / "pid"), *keys]
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(home), account.pw_dir, *server),
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await _listening(port)
        yield SshDevice(account.pw_name, port, folder / "key", known)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _listening(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            await writer.wait_closed()
            return

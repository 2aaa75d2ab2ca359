"""A PostgreSQL server from Debian's package for the length of a test run: a directory of its own, a unix socket, no network.

The server refuses to run as root, so it then runs as the package's user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

_USER = "postgres"
_READY = "ready to accept connections"


def _programs() -> Path:
    """Where the newest version's programs are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        raise FileNotFoundError("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1]


class PostgresServer:
    """A running server. ``process`` may be killed, and begun again with :meth:`start`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._numbers = count(1)
        self._log: list[str] = []
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            account = pwd.getpwnam(_USER)
            os.chown(directory, account.pw_uid, account.pw_gid)
            ids = (f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}")
            self._as_user = ["setpriv", *ids, "--clear-groups", "--pdeathsig=QUIT"]
        self._run("initdb", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "--username=central", str(self._data))
        self.process = self.start()

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(_programs() / program), *arguments]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stderr}")

    def start(self) -> subprocess.Popen[str]:
        """Start the server and wait until it answers."""
        options = {"listen_addresses": "", "unix_socket_directories": str(self.directory), "max_connections": "60"}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        command = [*self._as_user, str(_programs() / "postgres"), "-D", str(self._data), *settings]
        self.process = subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        ready = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(self.process, ready), daemon=True)
        self._reader.start()
        ready.wait()
        if self.process.poll() is not None:
            raise RuntimeError("".join(self._log[-20:]))
        return self.process

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self._log.append(line)
            if _READY in line:
                ready.set()
        process.wait()
        process.stderr.close()
        ready.set()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Disconnect everybody and end; with SIGQUIT at once and with nothing written back, which costs a recovery later."""
        self.process.send_signal(how)
        self.process.wait()
        self._reader.join()

    def dsn(self, database: str) -> str:
        return f"postgresql://central@/{database}?host={self.directory}"

    def new_database(self) -> str:
        """The DSN of an empty database."""
        name = f"central_{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name}")
        return self.dsn(name)

    def sql(self, statement: str, database: str = "postgres") -> None:
        self._run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(database), "-c", statement)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server in a temporary directory, which is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="central-pg-", dir="/tmp"))  # a socket's path must be short
    try:
        server = PostgresServer(directory)
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(directory, ignore_errors=True)

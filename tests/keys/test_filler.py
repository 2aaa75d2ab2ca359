"""The child that makes keys ahead works where it is not allowed to step back."""

from __future__ import annotations

import socket
import subprocess
import sys

_SCRIPT = """
import os, sys
from gateway.keys import filler

def forbidden(*_):
    raise PermissionError(1, "Operation not permitted")

os.nice = os.sched_setscheduler = forbidden
filler.main(int(sys.argv[1]))
"""


def test_a_sandbox_that_forbids_priorities_does_not_stop_the_filler() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        line = [sys.executable, "-c", _SCRIPT, str(theirs.fileno())]
        done = subprocess.run(line, pass_fds=(theirs.fileno(),), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()

"""What a process that holds secrets does first, asked of the kernel by the process itself."""

from __future__ import annotations

import json
import subprocess
import sys

_SCRIPT = """
import ctypes, json, resource, signal
from gateway.keys.confine import confine
confine()
prctl, death = ctypes.CDLL(None).prctl, ctypes.c_int()
prctl(2, ctypes.byref(death), 0, 0, 0)  # PR_GET_PDEATHSIG
print(json.dumps({
    "dumpable": prctl(3, 0, 0, 0, 0),  # PR_GET_DUMPABLE
    "dies with its parent by": death.value,
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "Ctrl-C": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
}))
"""


def test_nobody_reads_the_memory_of_a_child_that_holds_secrets() -> None:
    ran = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, check=True)
    assert json.loads(ran.stdout) == {"dumpable": 0, "dies with its parent by": 9, "core": [0, 0], "Ctrl-C": True}

"""The child that makes RSA keys ahead of time, when the machine has nothing better to do.

``python -m gateway.keys.filler DESCRIPTOR``. It makes one key per request and keeps none.
"""

from __future__ import annotations

import contextlib
import os
import sys

from gateway.keys.confine import Channel, confine
from gateway.keys.frames import Kind
from gateway.keys.generation import generate_key, private_to_der
from gateway.keys.signer import KeySpec

_NICENESS = 19


def main(descriptor: int) -> None:
    confine()
    with contextlib.suppress(PermissionError):  # a sandbox may forbid it: a pool that fills at a price is better than none
        os.nice(_NICENESS)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # runs only when nobody else wants the core
    channel = Channel(descriptor)
    while (request := channel.receive()) is not None:
        channel.send(Kind.OK, private_to_der(generate_key(KeySpec(request[1].decode()))))


if __name__ == "__main__":
    main(int(sys.argv[1]))

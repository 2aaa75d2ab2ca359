"""A key child that gives the answers it was started with, for what no token in software says.

``python -m tests.support.scripted_child DESCRIPTOR`` with :data:`ANSWERS` in the environment: JSON, a list of kind and payload
in hexadecimal, one for each request in order.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.keys.confine import Channel
from gateway.keys.frames import Kind
from gateway.keys.process import ChildProcess

if TYPE_CHECKING:
    import pytest  # the child starts faster without it

ANSWERS = "SCRIPTED_ANSWERS"


SCRIPTED = "tests.support.scripted_child"


def script(monkeypatch: pytest.MonkeyPatch, *answers: tuple[Kind, bytes]) -> None:
    """What every scripted child says that is started from now on."""
    root, path = str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{root}:{path}")
    monkeypatch.setenv(ANSWERS, json.dumps([(int(kind), payload.hex()) for kind, payload in answers]))


@asynccontextmanager
async def scripted_child(monkeypatch: pytest.MonkeyPatch, *answers: tuple[Kind, bytes]) -> AsyncIterator[ChildProcess]:
    """A real process behind a real socket; only what it says is made up."""
    with monkeypatch.context() as patch:
        script(patch, *answers)
        child = await ChildProcess.spawn(SCRIPTED)
    try:
        yield child
    finally:
        await child.close()


def main(descriptor: int) -> None:
    channel = Channel(descriptor)
    for kind, payload in json.loads(os.environ[ANSWERS]):
        if channel.receive() is None:
            return
        channel.send(Kind(kind), bytes.fromhex(payload))
    channel.receive()  # then it ends, whatever it is asked


if __name__ == "__main__":
    main(int(sys.argv[1]))

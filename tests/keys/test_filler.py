"""The child that makes keys ahead works where it is not allowed to step back."""

from __future__ import annotations

import os
import socket

import pytest

from gateway.keys import filler


def test_a_sandbox_that_forbids_priorities_does_not_stop_the_filler(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(filler, "confine", lambda: None)  # it would bind the test process itself
    monkeypatch.setattr(os, "nice", forbidden)
    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    ours, theirs = socket.socketpair()
    ours.close()
    filler.main(theirs.detach())

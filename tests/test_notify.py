"""sd_notify: the datagrams that systemd's own documentation shows, and silence where nobody listens."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.notify import ServiceNotifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        name = f"@edge-gateway-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "n")
        channel.bind("\0" + name[1:] if name.startswith("@") else name)
        channel.settimeout(5)
        yield name, channel


def test_each_change_is_one_datagram(manager: tuple[str, socket.socket]) -> None:
    address, channel = manager
    notifier = ServiceNotifier({"NOTIFY_SOCKET": address})
    notifier.ready("serving")
    notifier.status("one token is away")
    notifier.watchdog()
    notifier.stopping()
    assert [channel.recv(4096) for _ in range(4)] == [
        b"READY=1\nSTATUS=serving",
        b"STATUS=one token is away",
        b"WATCHDOG=1",
        b"STOPPING=1\nSTATUS=stopping",
    ]


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    ServiceNotifier({}).ready("serving")
    ServiceNotifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready("serving")
    assert ServiceNotifier({}).watchdog_interval is None


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_time(variables: dict[str, str], interval: float | None) -> None:
    assert ServiceNotifier(variables).watchdog_interval == interval

"""Lives of a gateway at its line: killed at any moment, beside devices that lose their power at any write.

The lives are forked, so they have a process of their own without threads.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Fewer ticks than one undisturbed device has; a test says so.
SWEPT = 40


def simulated(*arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.sim.line", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert ended.stdout, ended.stderr
    results = json.loads(ended.stdout)
    assert ended.returncode == (0 if all(each["clean"] for each in results) else 1)
    return list(results)


@pytest.mark.parametrize("option", [(), ("--pool",)], ids=["key on the device", "key from the pool"])
def test_killed_gateways_and_cut_devices_make_every_device_once(option: tuple[str, ...]) -> None:
    (result,) = simulated("--devices", "96", "--kill-every", "500", *option)
    assert result["clean"], result
    assert result["kills"] >= 8
    assert result["cuts"] >= 16
    assert result["confirmed"] == result["certificates"] == result["credit_used"] == 96


def test_a_kill_at_every_moment_of_one_device_makes_it_once() -> None:
    results = simulated("--sweep", str(SWEPT))
    assert [result for result in results if not result["clean"]] == []
    assert [result["kills"] for result in results] == [1] * SWEPT, "the sweep goes beyond the last moment"


def test_the_control_that_records_after_writing_is_caught() -> None:
    (result,) = simulated("--devices", "48", "--kill-every", "300", "--naive")
    assert not result["clean"]
    assert len(result["doubled"]) > 4
    assert result["certificates"] > result["confirmed"] == 48

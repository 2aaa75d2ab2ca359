"""Virtual environments of their own for what tests run against: programs whose packages are not ours.

Each is made with pip when it is first needed, below ``build/``, from a list with the hashes of all its files.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
_PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")


def environment(name: str) -> Path:
    """The directory of the environment that ``tests/NAME.lock`` lists; created on first use, by one process at a time."""
    place = BUILD / f"{name}-venv"
    lock = ROOT / "tests" / f"{name}.lock"

    def create() -> None:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        subprocess.run([str(place / "bin" / "python"), *_PIP, "install", "--require-hashes", "-r", str(lock)], check=True)

    once(place, lock.read_bytes(), create)
    return place


def once(place: Path, what: bytes, create: Callable[[], None]) -> None:
    """Have ``create`` fill the directory ``place``, unless it was filled from ``what`` before; by one process at a time."""
    BUILD.mkdir(exist_ok=True)
    complete = place / hashlib.sha256(what).hexdigest()
    with (BUILD / f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            create()
            complete.touch()


def source_archive(name: str, environment_name: str) -> Path:
    """The directory with the source archive that ``tests/NAME.lock`` lists; the environment has what pip needs to read it."""
    place = BUILD / f"{name}-source"
    lock = ROOT / "tests" / f"{name}.lock"
    python = environment(environment_name) / "bin" / "python"

    def create() -> None:
        place.mkdir(exist_ok=True)
        command = [str(python), *_PIP, "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        subprocess.run([*command, "--require-hashes", "-r", str(lock), "-d", str(place)], check=True)

    once(place, lock.read_bytes(), create)
    return place

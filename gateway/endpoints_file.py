"""``endpoints.json``: everything a script needs to talk to the running gateway, in one file in the state directory.

It is written last, in one piece, when every listener answers, and removed at a clean stop: whoever sees it may connect.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from gateway.journal.canonical import JsonValue

NAME = "endpoints.json"
DEMO_WARNING = "NOT FOR PRODUCTION: throw-away keys, a published secret"


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` in one step: a reader sees the old file or the new one, never a part. ``mode`` are its permissions."""
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    os.replace(beside, path)


def write_endpoints(state: Path, content: Mapping[str, JsonValue]) -> Path:
    """Write ``STATE/endpoints.json``; 0600, because a demo's holds a credential."""
    path = state / NAME
    write_whole(path, json.dumps(content, indent=2, sort_keys=True).encode() + b"\n", mode=0o600)
    return path


def remove_endpoints(state: Path) -> None:
    (state / NAME).unlink(missing_ok=True)

"""endpoints.json appears whole, for its owner alone."""

from __future__ import annotations

import json
from pathlib import Path

from gateway.endpoints_file import remove_endpoints, write_endpoints, write_whole


def test_it_is_whole_and_private(tmp_path: Path) -> None:
    path = write_endpoints(tmp_path, {"https": "https://localhost:1", "crl": ["a"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"https": "https://localhost:1", "crl": ["a"]}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["endpoints.json"]


def test_a_second_start_replaces_it_and_a_stop_removes_it(tmp_path: Path) -> None:
    write_endpoints(tmp_path, {"https": "old"})
    path = write_endpoints(tmp_path, {"https": "new"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"https": "new"}
    remove_endpoints(tmp_path)
    remove_endpoints(tmp_path)
    assert not path.exists()


def test_a_public_file_is_readable_by_all_whatever_the_umask(tmp_path: Path) -> None:
    write_whole(tmp_path / "anchors.pem", b"x", mode=0o644)
    assert (tmp_path / "anchors.pem").stat().st_mode & 0o777 == 0o644

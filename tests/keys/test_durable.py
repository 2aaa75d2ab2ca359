"""Secret files are private, whole, and never overwritten by accident."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gateway.errors import AlreadyExists
from gateway.keys import durable


def test_a_new_file_is_private_and_alone(tmp_path: Path) -> None:
    durable.write_new(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    durable.write_new(tmp_path / "a", b"first")
    with pytest.raises(AlreadyExists):
        durable.write_new(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_replacing_leaves_one_file(tmp_path: Path) -> None:
    durable.replace(tmp_path / "a", b"first")
    durable.replace(tmp_path / "a", b"second")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"second")]


def test_erasing_overwrites_the_blocks_before_it_frees_them(tmp_path: Path) -> None:
    durable.write_new(tmp_path / "a", b"secret")
    with (tmp_path / "a").open("rb") as reader:
        durable.erase(tmp_path / "a")
        assert reader.read() == bytes(6)
    assert not (tmp_path / "a").exists()
    durable.erase(tmp_path / "a")


def test_the_content_is_synced_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        steps.append(f"{kind} synced, name {'there' if (tmp_path / 'a').exists() else 'absent'}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    durable.write_new(tmp_path / "a", b"content")
    assert steps == ["file synced, name absent", "directory synced, name there"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output"):
        durable.write_new(tmp_path / "a", b"content")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_private(tmp_path: Path) -> None:
    for _ in range(2):
        durable.make_directory(tmp_path / "x" / "keys")
    assert stat.S_IMODE((tmp_path / "x" / "keys").stat().st_mode) == 0o700


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What each fsync made durable: a file's bytes as the kernel has them by then, or a directory's names."""
    found: list[object] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}")
        found.append(sorted(os.listdir(path)) if path.is_dir() else path.read_bytes())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    return found


def test_a_replacement_is_durable_before_it_counts(tmp_path: Path, synced: list[object]) -> None:
    (tmp_path / "a").write_bytes(b"first")
    durable.replace(tmp_path / "a", b"second")
    assert synced == [b"second", ["a"]]


def test_an_erased_secret_is_gone_for_good_before_the_return(tmp_path: Path, synced: list[object]) -> None:
    (tmp_path / "a").write_bytes(b"secret")
    durable.erase(tmp_path / "a")
    assert synced == [bytes(6), []]


def test_a_directory_is_durable_and_made_with_what_is_missing_above(tmp_path: Path, synced: list[object]) -> None:
    durable.make_directory(tmp_path / "x" / "y" / "keys")
    assert synced == [["keys"]]
    (tmp_path / "x" / "y" / "other").mkdir()
    durable.make_directory(tmp_path / "x" / "y" / "other" / "keys")
    assert (tmp_path / "x" / "y" / "other" / "keys").is_dir()


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    durable.make_directory(tmp_path / "keys")
    durable.write_new(tmp_path / "keys" / "a", b"content")
    durable.replace(tmp_path / "keys" / "a", b"other")
    durable.erase(tmp_path / "keys" / "a")
    assert set(os.listdir("/proc/self/fd")) == before

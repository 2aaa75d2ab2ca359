"""The file drop: what a station gets back, that nothing is made twice, and that whatever is put down costs little."""

from __future__ import annotations

import asyncio
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from gateway.errors import ConfigError, Forbidden, SignerUnavailable
from provisioning import dropfiles
from provisioning.dropanswer import UnitPapers
from provisioning.droplist import MOST_LINES
from provisioning.filedrop import FileDrop, Folders
from tests.support.drops import HEAD, Answer, MemoryLine, Place, request, units, zipped
from tests.support.parties import issuers


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.make(tmp_path)


@pytest.mark.parametrize("name", ["shift 1.zip", "shift 1.ready"])
async def test_a_station_gets_a_chain_for_every_line(place: Place, name: str) -> None:
    files = units([1, 2, 3])
    place.drop(name, zipped(files) if name.endswith(".zip") else files)
    assert await place.settle() == 1
    answer = place.answer()
    assert answer.facts | {"sha256": ""} == {
        "drop": "shift 1",
        "sha256": "",
        "answered": "2026-09-21T14:13:20.000Z",
        "station": "bench-4",
        "issued": 3,
        "taken": 0,
        "refused": 0,
        "error": "",
    }
    assert answer.rows == [
        ["units.csv", str(line), "A-1", f"S-{line - 1}", "issued", "", f"chains/00000{line}-S-{line - 1}.pem"]
        for line in (2, 3, 4)
    ]
    assert not {"errors.txt", "manifest.jsonl"} & set(answer.files)
    chain = answer.files["chains/000002-S-1.pem"]
    assert chain.count(b"-----BEGIN CERTIFICATE-----") == 3
    issuer = chain.split(b"-----END CERTIFICATE-----\n")[1] + b"-----END CERTIFICATE-----\n"
    assert x509.load_pem_x509_certificate(issuer) == x509.load_der_x509_certificate(issuers()[0])
    assert list(place.folders.inbox.iterdir()) == []
    assert [path.name for path in place.folders.outbox.iterdir()] == [f"shift_1.{str(answer.facts['sha256'])[:12]}.answer.zip"]


async def test_every_refused_line_is_named_with_the_reason_and_stops_no_other(place: Place) -> None:
    place.line.refusals["S-2"] = Forbidden("the order A-1 is used up")
    files = units([1, 2, 3, 4])
    files["3.csr"] = b"hello"
    del files["4.csr"]
    files["units.csv"] = str(files["units.csv"]) + "A-1,,,5.csr\n"
    place.drop("mixed.zip", zipped(files))
    await place.settle()
    answer = place.answer()
    assert [(row[1], row[4]) for row in answer.rows] == [
        ("2", "issued"), ("3", "refused"), ("4", "refused"), ("5", "refused"), ("6", "refused"),
    ]  # fmt: skip
    assert answer.errors.splitlines() == [
        f"units.csv line 3 (A-1 S-2): the order A-1 is used up. {Forbidden.hint}",
        "units.csv line 4 (A-1 S-3): the file is no certification request: neither DER nor PEM with BEGIN CERTIFICATE REQUEST."
        " Correct the request; sending it again unchanged will give the same answer.",
        "units.csv line 5 (A-1 S-4): the file '4.csr' is not in the drop",
        "units.csv line 6 (A-1 ): serial is empty",
    ]


async def test_reports_are_told_in_their_order_and_stop_at_a_no(place: Place) -> None:
    place.line.refusals["S-2"] = Forbidden("no such unit")
    events = ["written", "verified", "confirmed"]
    lines = [f"A-1,S-{unit},{event},\n" for event in events for unit in (1, 2, 3)]
    place.drop("reports.ready", {"reports.csv": "order,serial,event,detail\n" + "".join(lines)})
    await place.settle()
    for unit in ("S-1", "S-3"):
        assert [event for serial, event in place.line.events if serial == unit] == events
    refused = [row for row in place.answer().rows if row[4] == "refused"]
    assert [(row[1], row[5].split(".")[0]) for row in refused] == [
        ("3", "no such unit"),
        ("6", "not looked at, because line 3 was refused"),
        ("9", "not looked at, because line 3 was refused"),
    ]
    assert place.answer().facts["taken"] == 6


async def test_a_finished_unit_comes_with_its_papers_and_a_line_of_the_manifest(place: Place) -> None:
    place.line.papers = UnitPapers(b'{"ticket":{}}', b'{"payload":""}')
    lines = "A-1,S/1,written,\nA-1,S/1,confirmed,\nA-1,S-2,confirmed,\n"
    place.drop("reports.zip", zipped({"reports.csv": "order,serial,event,detail\n" + lines}))
    await place.settle()
    answer = place.answer()
    assert [row[6] for row in answer.rows] == ["", "papers/000003-S_1.json", "papers/000004-S-2.json"]
    assert answer.files["papers/000004-S-2.json"] == b'{"ticket":{}}'
    assert answer.files["manifest.jsonl"] == b'{"payload":""}\n' * 2


async def test_the_same_drop_again_gets_the_same_octets_and_nothing_is_made(place: Place) -> None:
    place.drop("a.zip", zipped(units([1, 2])))
    await place.settle()
    (first,) = place.answers().items()
    (place.folders.outbox / first[0]).unlink()
    calls = place.line.calls
    place.drop("a.zip", zipped(units([1, 2])))
    await place.settle(place.watcher())  # another process, a day later
    assert list(place.answers().items()) == [first]
    assert place.line.calls == calls


async def test_another_drop_of_the_same_name_has_an_answer_of_its_own(place: Place) -> None:
    watcher = place.watcher()
    for number in (1, 2):
        place.drop("a.zip", zipped(units([number])))
        await place.settle(watcher)
    assert len(place.answers()) == 2


async def test_what_was_refused_is_tried_again_and_the_answer_changes_only_if_that_changes(place: Place) -> None:
    place.line.refusals["S-2"] = Forbidden("the order is used up")
    content = zipped(units([1, 2]))
    place.drop("a.zip", content)
    await place.settle()
    first = place.answers()
    place.drop("a.zip", content)
    await place.settle()
    assert place.answers() == first
    place.line.refusals.clear()
    place.drop("a.zip", content)
    await place.settle()
    assert place.answer().facts["issued"] == 2
    assert set(place.answers()) == set(first)


async def test_a_second_drop_with_another_key_for_a_unit_is_refused_by_the_line(place: Place) -> None:
    watcher = place.watcher()
    place.drop("a.zip", zipped(units([1])))
    await place.settle(watcher)
    place.drop("b.zip", zipped(units([1]) | {"1.csr": request(99)}))
    await place.settle(watcher)
    assert "another key" in Answer(place.answers()[sorted(place.answers())[1]]).errors


async def test_while_the_line_cannot_issue_the_drop_stays_and_others_go_on(place: Place) -> None:
    place.line.refusals["S-2"] = SignerUnavailable("the HSM is unplugged", retry_after=0)
    watcher = place.watcher()
    waiting = place.drop("a.zip", zipped(units([1, 2])))
    place.drop("b.zip", zipped(units([3])))
    assert await place.settle(watcher) == 1
    assert waiting.exists()
    assert [name[0] for name in place.answers()] == ["b"]
    place.line.refusals.clear()
    assert await watcher.look() == 0  # not at once again
    assert await place.settle(place.watcher()) == 1
    assert place.line.requests.keys() == {("A-1", "S-1"), ("A-1", "S-2"), ("A-1", "S-3")}
    assert [path.name for path in place.folders.kept.iterdir() if path.suffix != ".zip"] == []


async def test_a_drop_that_is_still_being_written_is_left_alone(place: Place) -> None:
    watcher = place.watcher()
    content = zipped(units([1]))
    growing = place.folders.inbox / "a.zip"
    for size in (10, 100, len(content)):
        growing.write_bytes(content[:size])
        assert await watcher.look() == 0
    (place.folders.inbox / "b.zip.part").write_bytes(content)
    (place.folders.inbox / "c.part").mkdir()
    (place.folders.inbox / ".d.zip").write_bytes(content)
    (place.folders.inbox / "readme.txt").write_bytes(content)
    assert await watcher.look() == 1
    assert await watcher.look() == 0
    assert len(list(place.folders.inbox.iterdir())) == 4


BOMB = 200 << 20


def bomb() -> bytes:
    return zipped({"units.csv": HEAD + "A,S,,1.csr\n", "1.csr": b"\x30" * BOMB})


def bomb_list() -> bytes:
    return zipped({"units.csv": b"a" * BOMB})


def many_entries() -> bytes:
    # 200,000 entries of a directory at the end, which a reader would turn into objects before looking at one
    return zipped({"units.csv": HEAD}) + b"PK\x01\x02" * 200_000


def lied_size() -> bytes:
    content = bytearray(zipped({"units.csv": HEAD + "A,S,,1.csr\n", "1.csr": b"\x30" * 100_000}))
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = (10).to_bytes(4, "little")  # the unpacked size in the directory
    return bytes(content)


def encrypted() -> bytes:
    content = bytearray(zipped({"units.csv": HEAD}, zipfile.ZIP_STORED))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    return bytes(content)


def twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("units.csv", HEAD)
        archive.writestr("units.cs_", HEAD)  # zipfile warns of a second one of the same name
    return buffer.getvalue().replace(b"units.cs_", b"units.csv")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: b"", "cannot be read"),
        (lambda: b"hello" * 100, "cannot be read"),
        (lambda: zipped(units([1]))[:-30], "cannot be read"),
        (lambda: zipped({}), "neither units.csv nor reports.csv"),
        (lambda: zipped({"units.txt": HEAD}), "neither"),
        (lambda: zipped({"../units.csv": HEAD}), "leads out"),
        (lambda: zipped({"/units.csv": HEAD}), "leads out"),
        (lambda: zipped({"a\\units.csv": HEAD}), "leads out"),
        (lambda: zipped({"C:units.csv": HEAD}), "leads out"),
        (twice, "two files of one name"),
        (encrypted, "encrypted"),
        (lambda: zipped({"units.csv": HEAD}, zipfile.ZIP_LZMA), "packed in a way"),
        (lambda: zipped({"units.csv": HEAD + "A,S,,f\n" * (MOST_LINES + 1)}), "more than 100000 lines"),
        (lambda: zipped({"units.csv": "order;serial\n"}), "units.csv: line 1: the column 'csr' is missing"),
        (lambda: zipped({"units.csv": (HEAD + "A,S,,f\n").encode("utf-16")}), "CSV UTF-8"),
        (bomb_list, "units.csv has more than 33554432 octets"),
        (many_entries, "more than 100100 files"),
    ],
    ids=map(str, range(17)),
)
async def test_a_drop_that_cannot_be_understood_is_refused_whole_in_words(
    place: Place, content: Callable[[], bytes], says: str
) -> None:
    place.drop("a.zip", content())
    assert await place.settle() == 1
    answer = place.answer()
    assert says in str(answer.facts["error"])
    assert says in answer.errors
    assert answer.errors.startswith("The whole drop was refused and nothing was done")
    assert place.line.calls == 0
    assert [path for path in place.folders.inbox.iterdir() if path.suffix != ".refused"] == []


@pytest.mark.parametrize("content", [bomb, lied_size], ids=["bomb", "lie"])
async def test_a_file_that_grows_costs_its_own_line(place: Place, content: Callable[[], bytes]) -> None:
    place.drop("a.zip", content())
    await place.settle()
    assert place.answer().facts["refused"] == 1
    assert place.line.calls == 0


async def test_a_drop_beyond_the_limit_is_set_aside_with_an_answer(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropfiles, "MOST_OCTETS", 1000)
    place.drop("a.zip", zipped({"units.csv": "x" * 5000}, zipfile.ZIP_STORED))
    place.drop("b.ready", {"units.csv": "x" * 600, "1.csr": "x" * 600})
    await place.settle()
    assert sorted(path.suffix for path in place.folders.inbox.iterdir()) == [".refused", ".refused"]
    assert len(place.answers()) == 2


async def test_links_are_not_followed(place: Place, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csr"
    secret.write_bytes(request(1))
    (place.folders.inbox / "a.zip").symlink_to(secret)
    folder = place.folders.inbox / "b.ready"
    folder.mkdir()
    (folder / "units.csv").write_text(HEAD + "A,S,,1.csr\n")
    (folder / "1.csr").symlink_to(secret)
    fifo = place.folders.inbox / "c.ready"
    fifo.mkdir()
    os.mkfifo(fifo / "units.csv")
    await place.settle()
    assert place.line.calls == 0
    assert (place.folders.inbox / "a.zip").is_symlink()
    assert secret.exists()
    assert [Answer(content).facts["error"] for content in place.answers().values()] == [
        "'1.csr' in the drop is no file",
        "'units.csv' in the drop is no file",
    ]


async def test_a_folder_that_was_zipped_as_a_whole_is_read(place: Place) -> None:
    place.drop("a.zip", zipped({f"shift/{name}": content for name, content in units([1]).items()}))
    await place.settle()
    assert place.answer().facts["issued"] == 1


async def test_an_error_of_ours_keeps_one_drop_waiting_and_no_other(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryLine):
        async def issue(self, **line: object) -> object:  # type: ignore[override]
            if line["serial"] == "S-1":
                raise ZeroDivisionError
            return await super().issue(**line)  # type: ignore[arg-type]

    place.line = Broken()
    place.drop("a.zip", zipped(units([1])))
    place.drop("b.zip", zipped(units([2])))
    assert await place.settle() == 1
    assert [name[0] for name in place.answers()] == ["b"]
    assert "ZeroDivisionError" in caplog.text


async def test_a_thousand_lines_are_issued_a_window_at_a_time(place: Place) -> None:
    class Counting(MemoryLine):
        now = most = 0

        async def issue(self, **line: object) -> object:  # type: ignore[override]
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0)
            self.now -= 1
            return await super().issue(**line)  # type: ignore[arg-type]

    place.line = line = Counting()
    place.drop("a.zip", zipped(units(range(1000))))
    await place.settle()
    assert place.answer().facts["issued"] == 1000
    assert 1 < line.most <= 64


async def test_an_answer_that_cannot_be_handed_out_waits_and_nothing_is_asked_twice(place: Place) -> None:
    place.drop("a.zip", zipped(units([1])))
    place.folders.outbox.rmdir()
    assert await place.settle() == 0
    calls = place.line.calls
    place.folders.outbox.mkdir()
    assert await place.settle() == 1
    assert (place.answer().facts["issued"], place.line.calls) == (1, calls)


async def test_a_kept_answer_that_was_damaged_is_made_anew(place: Place) -> None:
    content = zipped(units([1]))
    place.drop("a.zip", content)
    await place.settle()
    before = place.answers()
    (kept,) = place.folders.kept.iterdir()
    kept.write_bytes(b"damaged")
    place.drop("a.zip", content)
    await place.settle()
    assert place.answers() == before


async def test_a_directory_with_too_much_in_it_is_set_aside(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropfiles, "_MOST_ENTRIES", 2)
    place.drop("a.ready", units([1, 2]))
    await place.settle()
    assert "more than 2 files" in place.answer().errors


@pytest.mark.parametrize("name", ["a.zip", "a.ready"])
async def test_a_request_that_is_too_large_costs_its_own_line(place: Place, name: str) -> None:
    files = units([1, 2]) | {"2.csr": b"\x30" * 20_000}
    place.drop(name, zipped(files) if name.endswith("zip") else files)
    await place.settle()
    assert "line 3" in place.answer().errors
    assert "2.csr has more than 16384 octets" in place.answer().errors
    assert place.answer().facts["issued"] == 1


class PowerCut(BaseException):
    """The process is gone: nothing catches it, and nothing after it is done."""


async def test_after_a_crash_at_any_write_there_is_one_answer_and_one_certificate_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = 0
    for crash_at in range(1, 100):
        root = tmp_path / str(crash_at)
        root.mkdir()
        place = Place.make(root)
        place.drop("a.zip", zipped(units([1, 2, 3])))
        with monkeypatch.context() as patch:
            crash_after(patch, crash_at)
            try:
                await place.settle()
                done = True
            except PowerCut:
                done = False
        for path in place.folders.outbox.iterdir():  # what a station may see is whole
            assert path.name.startswith(".") or Answer(path.read_bytes()).facts["issued"] == 3
        for folder in (place.folders.outbox, place.folders.kept):
            dropfiles.tidy(folder)  # as at every start
        await place.settle()
        assert place.answer().facts["issued"] == 3
        assert list(place.folders.inbox.iterdir()) == []
        assert len(place.line.requests) == 3
        if done:
            break
        points += 1
    else:
        pytest.fail("it never came to an end")
    assert points >= 8  # open, sync, rename and sync the directory, for both files; removal


def crash_after(patch: pytest.MonkeyPatch, operations: int) -> None:
    """The current fails at this file operation: before it is done. Once it has failed, nothing more is written."""
    left = operations

    def counted(original: Callable[..., object]) -> Callable[..., object]:
        def operation(*arguments: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left <= 0:
                raise PowerCut
            return original(*arguments, **options)

        return operation

    for name in ("open", "fsync"):
        patch.setattr(dropfiles.os, name, counted(getattr(os, name)))
    for name in ("replace", "unlink"):
        patch.setattr(Path, name, counted(getattr(Path, name)))


async def test_what_a_power_cut_left_half_written_is_removed_at_the_start(place: Place) -> None:
    for folder in (place.folders.outbox, place.folders.kept):
        (folder / f".a.zip.{'0' * 16}.part").write_bytes(b"half")
    (place.folders.outbox / ".somebody-elses.part").write_bytes(b"")
    watching = asyncio.create_task(place.watcher(interval_s=0).run())
    while len(list(place.folders.kept.iterdir())) > 0:
        await asyncio.sleep(0)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert [path.name for path in place.folders.outbox.iterdir()] == [".somebody-elses.part"]


async def test_answers_that_are_too_old_are_forgotten_and_made_again_without_making_anything(place: Place) -> None:
    place.drop("a.zip", zipped(units([1])))
    await place.settle()
    (kept,) = place.folders.kept.iterdir()
    os.utime(kept, (0, 0))
    made = dict(place.line.requests)
    place.drop("a.zip", zipped(units([1])))
    await place.settle()
    assert place.line.requests == made
    assert len(place.answers()) == 1


async def test_a_missing_folder_is_said_at_the_start_and_a_lost_one_is_waited_for(place: Place, tmp_path: Path) -> None:
    folders = Folders(tmp_path / "none", place.folders.outbox, place.folders.kept)
    watcher = FileDrop(folders, place.line, station="s", now_ms=lambda: 0)
    with pytest.raises(ConfigError, match="none"):
        await watcher.run()
    assert await watcher.look() == 0

"""Files over a line that damages octets: whole or not at all, and never reported before."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import DeviceRefused, DeviceSilent
from provisioning.console import Console
from provisioning.console_files import PATH, ConsoleFiles, Tools
from provisioning.device import Address
from provisioning.transports import open_stream
from provisioning.transports.stream import Stream

TEXT = "".join(f"line {number}\n" for number in range(400)).encode()


class Noise:
    """Damages the first so many occurrences of an octet string, in either direction."""

    def __init__(self, victim: bytes, times: int) -> None:
        self.victim, self.times = victim, times

    def hit(self, data: bytes) -> bytes:
        if self.times and self.victim in data:
            self.times -= 1
            return data.replace(self.victim, bytes(octet ^ 1 for octet in self.victim), 1)
        return data


class NoisyWriter:
    def __init__(self, stream: Stream, noise: Noise) -> None:
        self._writer, self._noise = stream.writer, noise

    def write(self, data: bytes) -> None:
        self._writer.write(self._noise.hit(data))

    async def drain(self) -> None:
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()


class NoisyReader:
    def __init__(self, stream: Stream, noise: Noise) -> None:
        self._reader, self._noise = stream.reader, noise

    async def read(self, size: int) -> bytes:
        return self._noise.hit(await self._reader.read(size))


NO_NOISE = Noise(b"\0", 0)


@asynccontextmanager
async def files(sending: Noise = NO_NOISE, receiving: Noise = NO_NOISE, buffer: int = 512) -> AsyncIterator[ConsoleFiles]:
    async with open_stream(Address.parse("exec:?argv=sh")) as stream:
        noisy = replace(stream, reader=NoisyReader(stream, receiving), writer=NoisyWriter(stream, sending))  # type: ignore[arg-type]
        console = Console(noisy, b"\x5f\x3a\x91\xc2")
        await console.attach(timeout_s=30)
        yield ConsoleFiles(console, Tools.of(frozenset({"base64", "sha256sum"})), buffer)


CONTENTS = {"text": TEXT, "binary": bytes(range(256)) * 9, "open": b"no newline at the end", "cr": b"\r\n", "colon": b":\n"}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=list(CONTENTS))
async def test_what_is_put_is_what_is_got(tmp_path: Path, content: bytes) -> None:
    async with files() as device:
        await device.put({f"{tmp_path}/file": content}, "640")
        assert (tmp_path / "file").read_bytes() == content
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
        assert await device.get(f"{tmp_path}/file") == content
        assert await device.get(f"{tmp_path}/none") == b""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_octets_that_are_damaged_on_the_way_out_are_sent_again(tmp_path: Path) -> None:
    async with files(sending=Noise(b"line 77", 1)) as device:
        await device.put({f"{tmp_path}/a": b"right\n", f"{tmp_path}/b": TEXT}, "644")
    assert (tmp_path / "b").read_bytes() == TEXT


async def test_octets_that_are_damaged_on_the_way_in_are_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(TEXT)
    async with files(receiving=Noise(b"line 77", 2)) as device:
        assert await device.get(f"{tmp_path}/file") == TEXT


async def test_a_line_that_always_damages_is_a_fault_and_the_old_file_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old\n")
    async with files(sending=Noise(b"line 77", 99)) as device:
        with pytest.raises(DeviceSilent, match="arrived damaged 3 times"):
            await device.put({f"{tmp_path}/file": TEXT}, "644")
    assert (tmp_path / "file").read_bytes() == b"old\n"
    (tmp_path / "file").write_bytes(TEXT)
    async with files(receiving=Noise(hashlib.sha256(TEXT).hexdigest()[:9].encode(), 99)) as device:
        with pytest.raises(DeviceSilent, match="came damaged 3 times"):
            await device.get(f"{tmp_path}/file")


async def test_the_last_file_is_in_place_only_when_all_are(tmp_path: Path) -> None:
    (tmp_path / "chain").mkdir()  # mv -f onto it puts the file inside; chmod and mv of the last come after
    (tmp_path / "chain" / "chain.new").mkdir()
    async with files() as device:
        with pytest.raises(DeviceRefused):
            await device.put({f"{tmp_path}/chain": TEXT, f"{tmp_path}/certificate": TEXT}, "644")
    assert not (tmp_path / "certificate").exists()


@settings(max_examples=15, deadline=None)
@given(st.binary(min_size=1, max_size=800), st.integers(256, 600))
def test_any_octets_arrive_through_any_buffer(tmp_path_factory: pytest.TempPathFactory, content: bytes, buffer: int) -> None:
    import asyncio

    folder = tmp_path_factory.mktemp("any")

    async def go() -> None:
        async with files(buffer=buffer) as device:
            await device.put({f"{folder}/file": content}, "600")
            assert await device.get(f"{folder}/file") == content

    asyncio.run(go())


@pytest.mark.parametrize("path", ["relative", "/with space", "/$(reboot)", "/a;b", "/a'b", "/", ""])
def test_paths_that_a_shell_would_take_apart_are_none(path: str) -> None:
    assert PATH.fullmatch(path) is None

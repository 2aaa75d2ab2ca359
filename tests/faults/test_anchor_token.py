"""The journal's anchor on a token that is pulled out, comes back, waits for its PIN, hangs, or loses power while it writes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gateway.errors import AlreadyExists, Fenced, SignerUnavailable
from gateway.journal.anchor import AnchoredHead
from gateway.journal.journal import Journal, JournalState
from gateway.keys import token_anchor
from gateway.keys.keeper import RemoteToken, TokenTimes
from gateway.keys.provider import KeyRing
from gateway.keys.signer import KeyState
from gateway.keys.token_anchor import TokenAnchor
from gateway.keys.uri import KeyUri
from gateway.keys.wrapping import WrappingKey
from tests.support.journal import Place, intent
from tests.support.tokens import FaultyToken, build_fault_module, softhsm_store, softhsm_token

TIMES = TokenTimes(sign=60.0, attach=60.0, poll=0.05)
HANG_TIMES = replace(TIMES, sign=0.5)


@pytest.fixture(scope="session")
def fault_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_fault_module(tmp_path_factory.mktemp("p11fault"))


@dataclass(frozen=True)
class Running:
    journal: Journal
    token: RemoteToken


class Stand:
    """A journal with its anchor on a faulty token."""

    def __init__(self, faulty: FaultyToken, directory: Path, name: str = "state") -> None:
        self.faulty = faulty
        self.place = Place(directory / name)
        self.place.directory.mkdir()
        self.directory = directory
        self.pin_file = directory / "pin"
        self.pin_file.write_text(faulty.token.pin)

    def uri(self, pin_source: str | None = None) -> KeyUri:
        source = f"file:{self.pin_file}" if pin_source is None else pin_source
        return KeyUri.parse(self.faulty.token.uri("", pin_source=source))

    @asynccontextmanager
    async def running(
        self,
        *,
        new: bool = False,
        interval_s: float = 0.02,
        pin_source: str | None = None,
        times: TokenTimes = TIMES,
        origin: str = "gateway.test/1",
    ) -> AsyncIterator[Running]:
        """One run of the gateway's journal."""
        ring = KeyRing(self.place.directory / "keys", WrappingKey(bytes(32)), times=times)
        uri = self.uri(pin_source)
        token = ring.token(uri.format())
        options = replace(self.place.options, anchor=None, anchor_interval_s=interval_s)
        anchor, key, clock = TokenAnchor(token, uri), self.place.key, self.place.clock()
        try:
            if new:
                journal = await Journal.create(
                    options, origin=origin, key_name=origin, key=key, clock=clock, random=bytes(16), anchor=anchor
                )
            else:
                journal = await Journal.open(options, key=key, clock=clock, anchor=anchor)
            try:
                yield Running(journal, token)
            finally:
                await journal.close()
        finally:
            await ring.close()

    async def stored(self) -> bytes | None:
        """What a gateway that starts now would find on the token."""
        ring = KeyRing(self.place.directory / "keys", WrappingKey(bytes(32)), times=TIMES)
        try:
            return await TokenAnchor(ring.token(self.uri().format()), self.uri()).load()
        finally:
            await ring.close()

    async def restored_disk(self) -> bytes:
        """Twenty certificates are planned, then the disk is as it was before; what the token knows of them."""
        async with self.running(new=True):
            pass
        shutil.copy(self.place.path, self.directory / "old")
        async with self.running() as run:
            for number in range(20):
                await run.journal.append(intent(number))
        shutil.copy(self.directory / "old", self.place.path)
        self.place.path.with_name("journal.db-wal").unlink(missing_ok=True)
        witness = await self.stored()
        assert witness is not None
        return witness


@pytest.fixture
def stand(fault_module: Path, tmp_path: Path) -> Stand:
    real = softhsm_token(softhsm_store(tmp_path / "softhsm"), "anchor token")
    return Stand(FaultyToken(fault_module, tmp_path / "faulty", real), tmp_path)


async def until(condition: Callable[[], bool]) -> None:
    """Poll; a minute is for a machine with a hundred other things to do."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def size_of(value: bytes | None) -> int:
    """How many records the anchored checkpoint covers (C2SP tlog-checkpoint: the note's second line)."""
    assert value is not None
    return int(AnchoredHead.from_bytes(value).note.splitlines()[1])


async def test_a_restored_disk_is_found_by_the_token_and_by_nothing_else(stand: Stand) -> None:
    witness = await stand.restored_disk()
    async with stand.running() as run:
        assert run.journal.state is JournalState.FENCED
        assert "the anchor has seen" in run.journal.state_detail
        with pytest.raises(Fenced):
            await run.journal.append(intent(50))
    assert await stand.stored() == witness
    blind = await stand.place.open(replace(stand.place.options, anchor=None))  # the control: nobody asks the token
    assert blind.state is JournalState.OK
    await blind.close()


async def test_a_token_that_is_away_at_the_start_stops_nothing_and_is_compared_when_it_comes(stand: Stand) -> None:
    async with stand.running(new=True):
        pass
    stand.faulty.unplug()
    async with stand.running(interval_s=3600) as run:
        assert run.journal.state is JournalState.WARNING
        assert "out of reach" in run.journal.state_detail
        assert "plug in the token" in run.journal.state_detail
        await run.journal.append(intent(1))
        stand.faulty.replug()
        await until(lambda: run.journal.state is JournalState.OK)
    assert size_of(await stand.stored()) == run.journal.head.size


async def test_a_restored_disk_issues_nothing_once_the_token_is_there(stand: Stand) -> None:
    witness = await stand.restored_disk()
    stand.faulty.unplug()
    async with stand.running(interval_s=3600) as run:
        await run.journal.append(intent(50))
        stand.faulty.replug()
        await until(lambda: run.token.state is KeyState.UP)
        with pytest.raises(Fenced):  # this very first one, not one after the next look
            await run.journal.append(intent(51))
        assert run.journal.state is JournalState.FENCED
    assert await stand.stored() == witness


async def test_a_token_that_waits_for_its_pin_is_compared_when_a_person_enters_it(stand: Stand) -> None:
    witness = await stand.restored_disk()
    before = stand.faulty.count("C_Login")
    async with stand.running(pin_source="") as run:
        assert run.journal.state is JournalState.WARNING
        assert f"ca unlock --key '{stand.uri('')}'" in run.journal.state_detail
        await run.token.unlock(stand.faulty.token.pin)
        with pytest.raises(Fenced):
            await run.journal.append(intent(50))
    assert stand.faulty.count("C_Login") == before + 1
    assert await stand.stored() == witness


async def test_a_refused_pin_is_tried_once_however_often_the_gateway_starts(stand: Stand) -> None:
    async with stand.running(new=True):
        pass
    stand.pin_file.write_text("000000")
    before = stand.faulty.count("C_Login")
    for _ in range(3):
        async with stand.running() as run:
            assert run.journal.state is JournalState.WARNING
            await run.journal.append(intent(stand.faulty.count("C_Login") * 10 + run.journal.head.size))
    assert stand.faulty.count("C_Login") == before + 1


async def test_a_pulled_token_warns_and_is_written_again_when_it_is_back(stand: Stand) -> None:
    async with stand.running(new=True) as run:
        stand.faulty.unplug()
        await run.journal.append(intent(1))
        await until(lambda: run.journal.state is JournalState.WARNING)
        await run.journal.append(intent(2))
        stand.faulty.replug()
        await until(lambda: run.journal.anchor is not None and run.journal.anchor.records == run.journal.head.size)
        assert run.journal.state is JournalState.OK


async def test_another_gateways_anchor_is_left_alone_and_said(stand: Stand) -> None:
    async with stand.running(new=True):
        pass
    other = Stand(stand.faulty, stand.directory, "other")
    await _forget(stand)
    async with other.running(new=True, origin="gateway.test/2"):
        pass
    theirs = await stand.stored()
    stand.faulty.unplug()
    async with stand.running() as run:
        stand.faulty.replug()
        await until(lambda: "left alone" in run.journal.state_detail)
        assert run.journal.state is JournalState.WARNING
        assert "another journal" in run.journal.state_detail
        await run.journal.append(intent(1))
    assert await stand.stored() == theirs


async def _forget(stand: Stand) -> None:
    """Make the token a new one: as if a drawer had held two of them."""
    directory = stand.directory / "second"
    real = softhsm_token(softhsm_store(directory), "anchor token")
    (stand.directory / "faulty" / "environment").write_text(
        "".join(f"{name}={value}\n" for name, value in real.environment.items())
    )
    stand.faulty.token = replace(stand.faulty.token, serial=real.serial)


async def test_a_new_gateway_does_not_take_the_anchor_of_another(stand: Stand) -> None:
    async with stand.running(new=True):
        pass
    other = Stand(stand.faulty, stand.directory, "other")
    with pytest.raises(AlreadyExists, match="anchor"):
        async with other.running(new=True, origin="gateway.test/2"):
            pass
    stand.faulty.unplug()
    with pytest.raises(SignerUnavailable, match="plug in"):
        async with other.running(new=True, origin="gateway.test/2"):
            pass
    assert not other.place.path.exists()


@pytest.mark.parametrize("death", ["create-abort", "create-torn"])
async def test_a_write_that_is_cut_off_leaves_the_one_before(stand: Stand, death: str) -> None:
    async with stand.running(new=True) as run:
        await run.journal.append(intent(1))
    whole = await stand.stored()
    async with stand.running() as run:
        await until(lambda: run.journal.anchor is not None and run.journal.anchor.records == run.journal.head.size)
        second = run.journal.head.size
        stand.faulty.order(death)
        await run.journal.append(intent(2))  # the next writing destroys the older of the two, and dies before it made the new
        await until(lambda: run.journal.state is JournalState.WARNING)
    stand.faulty.order()
    assert size_of(whole) < second == size_of(await stand.stored())
    async with stand.running() as run:
        assert run.journal.state is JournalState.OK
    assert size_of(await stand.stored()) == run.journal.head.size


async def test_a_token_that_hangs_on_its_data_objects_stops_nothing(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_anchor, "_REST_S", 0.2)
    async with stand.running(new=True):
        pass
    stand.faulty.order("data-hang")
    async with stand.running(times=HANG_TIMES) as run:
        assert run.journal.state is JournalState.WARNING
        assert "did not answer" in run.journal.state_detail
        await run.journal.append(intent(1))
        stand.faulty.order()
        await until(lambda: run.journal.state is JournalState.OK)


async def test_it_is_written_at_intervals_and_at_a_clean_end(stand: Stand) -> None:
    async with stand.running(new=True):
        pass
    before = stand.faulty.count("C_CreateObject")
    async with stand.running(interval_s=3600) as run:
        await until(lambda: stand.faulty.count("C_CreateObject") == before + 1)  # that it has started
        for number in range(10):
            await run.journal.append(intent(number))
    assert stand.faulty.count("C_CreateObject") == before + 2
    assert size_of(await stand.stored()) == run.journal.head.size

"""The pool: filled by a child, each key with one owner, the same key for the same request."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.clock import MonotonicClock
from gateway.errors import Conflict, IntegrityError
from gateway.keys.generation import generate_key, private_to_der
from gateway.keys.pool import KeyPool, PooledKey
from gateway.keys.process import ChildGone, ChildProcess
from gateway.keys.signer import KeySpec
from gateway.keys.wrapping import WrappingKey
from gateway.pki.algorithms import PrivateKey

SIZES = {KeySpec.RSA_2048: 2}


class Pools:
    """Gateways that start one after the other over the same directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now_ms = 1_700_000_000_000
        self.clock = MonotonicClock(lambda: self.now_ms)

    @asynccontextmanager
    async def start(self, sizes: Mapping[KeySpec, int] = SIZES) -> AsyncIterator[KeyPool]:
        pool = KeyPool(self.directory, WrappingKey(bytes(32)), sizes, self.clock)
        await pool.start()
        try:
            yield pool
        finally:
            await pool.close()

    def names(self, kind: str) -> list[str]:
        return sorted(path.name for path in self.directory.glob(f"{kind}-*"))


@pytest.fixture
def pools(tmp_path: Path) -> Pools:
    return Pools(tmp_path / "pool")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.01)


def der(key: PooledKey | None) -> bytes:
    assert key is not None
    return private_to_der(key.private_key)


async def test_the_child_fills_the_pool_and_fills_it_again(pools: Pools) -> None:
    async with pools.start() as pool:
        await until(lambda: pool.level() == {KeySpec.RSA_2048: (2, 2)})
        keys = {der(await pool.take(KeySpec.RSA_2048, owner)) for owner in (b"1", b"2")}
        assert len(keys) == 2
        await until(lambda: pool.level() == {KeySpec.RSA_2048: (2, 2)})
    assert (len(pools.names("ready")), len(pools.names("taken"))) == (2, 2)


async def test_keys_made_before_are_found_after_a_restart(pools: Pools) -> None:
    async with pools.start() as pool:
        await until(lambda: pool.level()[KeySpec.RSA_2048][0] == 2)
    before = pools.names("ready")
    async with pools.start() as pool:
        assert pool.level() == {KeySpec.RSA_2048: (2, 2)}
    assert pools.names("ready") == before


async def test_the_same_owner_gets_the_same_key_also_after_a_restart(pools: Pools) -> None:
    async with pools.start() as pool:
        await until(lambda: pool.level()[KeySpec.RSA_2048][0] == 2)
        first, again = await asyncio.gather(*(pool.take(KeySpec.RSA_2048, b"request") for _ in range(2)))
        assert der(first) == der(again)
    async with pools.start({}) as pool:
        assert der(await pool.recall(b"request")) == der(first)
        assert der(await pool.take(KeySpec.RSA_2048, b"request")) == der(first)
        assert await pool.recall(b"another") is None


@pytest.mark.parametrize("spec", [KeySpec.RSA_2048, KeySpec.P256, KeySpec.ED25519, KeySpec.ML_DSA_44])
async def test_an_empty_pool_makes_the_key_now(pools: Pools, spec: KeySpec) -> None:
    async with pools.start({}) as pool:
        key = await pool.take(spec, b"request")
        assert key.spec is spec
        assert der(await pool.recall(b"request")) == der(key)


async def test_another_type_for_the_same_request_is_a_conflict(pools: Pools) -> None:
    async with pools.start({}) as pool:
        await pool.take(KeySpec.P256, b"request")
        with pytest.raises(Conflict):
            await pool.take(KeySpec.P384, b"request")


async def test_an_erased_key_cannot_be_recalled(pools: Pools) -> None:
    async with pools.start({}) as pool:
        first = await pool.take(KeySpec.P256, b"request")
        await pool.erase(b"request")
        assert await pool.recall(b"request") is None
        assert pools.names("taken") == []
        assert der(await pool.take(KeySpec.P256, b"request")) != der(first)


async def test_old_keys_are_erased_by_the_time_they_were_taken(pools: Pools) -> None:
    async with pools.start({}) as pool:
        await pool.take(KeySpec.P256, b"old")
        pools.now_ms += 10_000
        await pool.take(KeySpec.P256, b"young")
        assert await pool.erase_older_than(5_000) == 1
        assert await pool.recall(b"old") is None
        assert await pool.recall(b"young") is not None


async def test_a_damaged_file_is_given_to_nobody(pools: Pools) -> None:
    async with pools.start() as pool:
        await until(lambda: pool.level()[KeySpec.RSA_2048][0] == 2)
    for path in pools.directory.glob("ready-*"):
        path.write_bytes(b"{}")
    async with pools.start() as pool:
        with pytest.raises(IntegrityError):
            await pool.take(KeySpec.RSA_2048, b"request")
        assert await pool.recall(b"request") is None


async def test_no_key_stands_in_the_clear(pools: Pools) -> None:
    async with pools.start({}) as pool:
        key = await pool.take(KeySpec.ED25519, b"request")
    for path in pools.directory.iterdir():
        assert der(key)[-32:].hex() not in path.read_text()


async def test_one_owner_never_waits_for_a_key_being_made_for_another(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, finish = threading.Event(), threading.Event()

    def slow(spec: KeySpec) -> PrivateKey:
        if spec is KeySpec.RSA_4096:
            begun.set()
            assert finish.wait(60)
        return generate_key(KeySpec.P256 if spec is KeySpec.RSA_4096 else spec)

    monkeypatch.setattr("gateway.keys.pool.generate_key", slow)
    async with pools.start({}) as pool:
        first = asyncio.create_task(pool.take(KeySpec.RSA_4096, b"slow"))
        assert await asyncio.to_thread(begun.wait, 60)
        async with asyncio.timeout(60):
            await pool.take(KeySpec.P256, b"quick")
            assert await pool.recall(b"quick") is not None
            await pool.erase(b"quick")
            await pool.erase_older_than(0)
        assert not first.done()
        finish.set()
        await first


async def test_retries_beside_each_other_get_one_key(pools: Pools) -> None:
    async with pools.start({}) as pool:
        keys = await asyncio.gather(*(pool.take(KeySpec.P256, b"request") for _ in range(8)))
    assert len({der(key) for key in keys}) == 1


async def test_a_full_pool_starts_no_process(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    spawn, started = ChildProcess.spawn, list[str]()

    async def counted(module: str) -> ChildProcess:
        started.append(module)
        return await spawn(module)

    monkeypatch.setattr(ChildProcess, "spawn", counted)
    async with pools.start() as pool:
        for owner in (b"1", b"2", b"3"):
            await until(lambda: pool.level() == {KeySpec.RSA_2048: (2, 2)})
            await pool.take(KeySpec.RSA_2048, owner)
        await until(lambda: pool.level() == {KeySpec.RSA_2048: (2, 2)})
    assert len(started) <= 4  # one to begin with, one for each key that was taken


async def test_a_key_made_long_before_is_kept_from_when_it_was_taken(pools: Pools) -> None:
    async with pools.start() as pool:
        await until(lambda: pool.level()[KeySpec.RSA_2048][0] == 2)
    async with pools.start({KeySpec.RSA_2048: 1}) as pool:
        await pool.take(KeySpec.RSA_2048, b"owner")
        pools.now_ms += 5_000
        assert await pool.erase_older_than(5_000) == 0
        pools.now_ms += 1
        assert await pool.erase_older_than(5_000) == 1


async def test_a_taken_key_is_durable_with_its_time_before_it_leaves(
    pools: Pools, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with pools.start() as pool:
        await until(lambda: pool.level()[KeySpec.RSA_2048][0] == 2)
    synced: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.partition("-")[0])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    pool = KeyPool(pools.directory, WrappingKey(bytes(32)), SIZES, pools.clock)
    pool._scan()
    before = set(os.listdir("/proc/self/fd"))
    await pool.take(KeySpec.RSA_2048, b"owner")
    assert synced == ["ready", "pool"]
    assert len(set(os.listdir("/proc/self/fd"))) == len(before)


async def test_a_pool_that_was_not_started_makes_keys_on_demand(pools: Pools) -> None:
    pool = KeyPool(pools.directory, WrappingKey(bytes(32)), {}, pools.clock)
    assert (await pool.take(KeySpec.P256, b"owner")).spec is KeySpec.P256


async def test_a_pool_that_cannot_be_filled_is_tried_again_after_a_pause(
    pools: Pools, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sleep, spawn, pauses = asyncio.sleep, ChildProcess.spawn, list[float]()

    async def noted(seconds: float) -> None:
        if seconds > 1:
            pauses.append(seconds)
        await sleep(0 if seconds > 1 else seconds)

    async def refused(module: str) -> ChildProcess:
        if len(pauses) < 2:
            raise ChildGone("no process")
        return await spawn(module)

    monkeypatch.setattr(asyncio, "sleep", noted)
    monkeypatch.setattr(ChildProcess, "spawn", refused)
    async with pools.start({KeySpec.RSA_2048: 1}) as pool:
        await until(lambda: pool.level() == {KeySpec.RSA_2048: (1, 1)})
    assert pauses == [5.0, 5.0]
    assert "is not being filled: no process" in caplog.text

"""Keys for server-side key generation, made ahead: an RSA-4096 key takes a core a second, a device waits milliseconds.

Each key is one wrapped file. Taking one gives the file its owner's name before the key is returned, durably: a key never has
two owners, and an owner who asks again after a crash gets the same key. What is erased or old is overwritten and removed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from gateway.clock import Clock
from gateway.errors import Conflict, IntegrityError, SignerUnavailable
from gateway.keys import durable
from gateway.keys.frames import Kind
from gateway.keys.generation import RSA_BITS, generate_key, private_from_der, spec_of
from gateway.keys.process import ChildProcess
from gateway.keys.signer import KeySpec
from gateway.keys.software import open_key, seal_key
from gateway.keys.wrapping import WrappingKey
from gateway.pki.algorithms import PrivateKey

_log = logging.getLogger(__name__)

_FILLER = "gateway.keys.filler"
_READY, _TAKEN = "ready", "taken"
#: An RSA-4096 key at idle priority beside a busy gateway may take minutes; a filler silent for longer is hung.
_MAKE_DEADLINE_S = 600.0
_RESPAWN_S = 5.0
#: RSA keys made on demand side by side: more would keep others from the event loop's few threads.
_MOST_MADE_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class PooledKey:
    """A key that belongs to one owner from now on."""

    spec: KeySpec
    private_key: PrivateKey


class KeyPool:
    """``sizes`` says how many keys of each RSA type to keep ready; other types are made on demand in microseconds."""

    def __init__(self, directory: Path, wrapping: WrappingKey, sizes: Mapping[KeySpec, int], clock: Clock) -> None:
        self._directory = directory
        self._wrapping = wrapping
        self._sizes = {spec: size for spec, size in sizes.items() if spec in RSA_BITS}
        self._clock = clock
        self._ready: dict[KeySpec, list[Path]] = {spec: [] for spec in self._sizes}
        # One request of an owner at a time; owners do not wait for each other, as making a key may take seconds.
        self._locks: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
        self._making = asyncio.Semaphore(_MOST_MADE_AT_ONCE)
        self._taken = asyncio.Event()
        self._filling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Find the keys made earlier and begin filling up."""
        await asyncio.to_thread(self._scan)
        self._filling = asyncio.create_task(self._fill(), name="key-pool")

    async def close(self) -> None:
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait([self._filling])

    def level(self) -> dict[KeySpec, tuple[int, int]]:
        """For each type: how many keys are ready, and how many are wanted."""
        return {spec: (len(self._ready[spec]), size) for spec, size in self._sizes.items()}

    async def take(self, spec: KeySpec, owner: bytes) -> PooledKey:
        """The key of ``owner`` (any bytes that name the request), assigned durably when it is returned.

        The same owner gets the same key again; asking for another type then raises Conflict. Raises IntegrityError for a
        changed file. An empty pool means that the key is made now, in a thread.
        """
        async with self._owner(self._path(owner)):
            key = await asyncio.to_thread(self._recall, owner)
            if key is not None:
                if key.spec is not spec:
                    raise Conflict(f"this request has a {key.spec.value} key already, not a {spec.value} one")
                return key
            ready = self._ready.get(spec)
            if ready:
                path = ready.pop()
                self._taken.set()
                return await asyncio.to_thread(self._assign, path, owner)
            if spec not in RSA_BITS:
                return await asyncio.to_thread(self._make, spec, owner)
            async with self._making:
                return await asyncio.to_thread(self._make, spec, owner)

    async def recall(self, owner: bytes) -> PooledKey | None:
        """The key ``owner`` took before, or ``None``."""
        async with self._owner(self._path(owner)):
            return await asyncio.to_thread(self._recall, owner)

    async def erase(self, owner: bytes) -> None:
        """Destroy the key of ``owner``: it was delivered, and nobody may read it here again."""
        path = self._path(owner)
        async with self._owner(path):
            await asyncio.to_thread(durable.erase, path)

    async def erase_older_than(self, age_ms: int) -> int:
        """Destroy the keys taken more than ``age_ms`` ago, past any retry; how many."""
        old = await asyncio.to_thread(self._taken_before, self._clock.now_ms() - age_ms)
        for path in old:
            async with self._owner(path):
                await asyncio.to_thread(durable.erase, path)
        return len(old)

    def _owner(self, path: Path) -> asyncio.Lock:
        lock = self._locks.get(path)
        if lock is None:
            lock = self._locks[path] = asyncio.Lock()
        return lock

    def _path(self, owner: bytes) -> Path:
        return self._directory / f"{_TAKEN}-{hashlib.sha256(owner).hexdigest()}.key"

    def _scan(self) -> None:
        durable.make_directory(self._directory)
        for spec, ready in self._ready.items():
            ready[:] = sorted(self._directory.glob(f"{_READY}-{spec.value}-*.key"))

    def _open(self, path: Path) -> PooledKey:
        content = path.read_bytes()
        try:
            name = str(json.loads(content)["name"])  # the file was renamed since: its content knows its first name
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"the pool's file {path.name} is damaged") from error
        key = open_key(self._wrapping, name, content)
        return PooledKey(spec_of(key.public_key()), key)

    def _recall(self, owner: bytes) -> PooledKey | None:
        path = self._path(owner)
        return self._open(path) if path.exists() else None

    def _assign(self, path: Path, owner: bytes) -> PooledKey:
        key = self._open(path)  # before the renaming: a damaged file gets no owner
        target = self._path(owner)
        self._stamp(path)
        path.rename(target)
        durable.sync_directory(self._directory)  # only then may the key leave: after a power cut it has one owner
        return key

    def _make(self, spec: KeySpec, owner: bytes) -> PooledKey:
        key, path = generate_key(spec), self._path(owner)
        durable.make_directory(self._directory)
        durable.write_new(path, seal_key(self._wrapping, secrets.token_hex(16), key))
        self._stamp(path)
        return PooledKey(spec, key)

    def _stamp(self, path: Path) -> None:
        """The file's time says when it was taken, by the gateway's own clock; durably, or a power cut would make it old."""
        now_ns = self._clock.now_ms() * 1_000_000
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.utime(descriptor, ns=(now_ns, now_ns))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _taken_before(self, limit_ms: int) -> list[Path]:
        return [path for path in self._directory.glob(f"{_TAKEN}-*.key") if path.stat().st_mtime_ns < limit_ms * 1_000_000]

    def _store(self, spec: KeySpec, der: bytes) -> Path:
        name = secrets.token_hex(16)
        path = self._directory / f"{_READY}-{spec.value}-{name}.key"
        durable.write_new(path, seal_key(self._wrapping, name, private_from_der(der, spec)))
        return path

    def _wanted(self) -> KeySpec | None:
        """The type that lacks the largest share of its keys."""
        lacking = [(len(self._ready[spec]) / size, spec) for spec, size in self._sizes.items() if len(self._ready[spec]) < size]
        return min(lacking, key=lambda entry: entry[0])[1] if lacking else None

    async def _fill(self) -> None:
        while True:
            self._taken.clear()
            if self._wanted() is None:
                await self._taken.wait()
            try:
                await self._fill_up()
            except (SignerUnavailable, OSError) as fault:  # the pool is a comfort: without it keys are made on demand
                _log.warning("the key pool is not being filled: %s", fault)
                await asyncio.sleep(_RESPAWN_S)

    async def _fill_up(self) -> None:
        """Run a filler until nothing is wanted; an idle one would only hold memory."""
        child = await ChildProcess.spawn(_FILLER)
        try:
            while (spec := self._wanted()) is not None:
                der = await child.call(Kind.MAKE, spec.value.encode(), deadline_s=_MAKE_DEADLINE_S)
                self._ready[spec].append(await asyncio.to_thread(self._store, spec, der))
        finally:
            await child.end("the pool is full")

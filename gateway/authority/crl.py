"""Publishing revocation lists: on schedule, soon after a revocation, and still when the token is away.

Each generation has a full list ``1.crl``; where deltas are switched on ``1-delta.crl``, relative to the last full list of
the schedule; and, once it grows, shards ``1-3of8.crl`` beside the full one (RFC 5280 section 5.2.5). A certificate names one
list for its whole life, so the number of shards only applies to certificates issued from then on: a number that was ever
used stays in the names of its lists and is published as long as the generation.

The life of a list: snapshot of the entries; TBS built in a thread; one operation of the token; ``crl-published`` durable
in the journal; file in the cache; served. The number is the time, so it does not go back after a restore either, and all
lists of a generation share one sequence (RFC 5280 section 5.2.3). The files are a cache, never the truth: a file counts
when its digest stands in the journal, and a missing one is signed anew.

Entries stay on the list after the certificate expired: devices without a clock cannot tell, and an IDevID never expires.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from gateway.authority.crl_scopes import CrlHealth, CrlOptions, Scope, scope_of
from gateway.authority.generations import Generations
from gateway.authority.parents import ParentCrls, PublishedCrl
from gateway.authority.status import PARTITIONS, RevocationStatus
from gateway.clock import Clock
from gateway.errors import GatewayError, JournalFailed, NotFound, NotReady, Unavailable
from gateway.journal.records import CrlPublished, Payload, Record
from gateway.keys import durable
from gateway.keys.signer import Priority
from gateway.pki.crl import assemble, build_crl_tbs, next_crl_number, shard_of
from gateway.pki.tbs import Publication

__all__ = ["CrlHealth", "CrlOptions", "CrlPublisher", "PublishedCrl"]

_log = logging.getLogger(__name__)
#: From how many shards to how many: 10,000 entries each make 640,000 in the last step.
_SHARD_STEP = 8
#: A change may become durable up to this long after the clock was read for its record.
_DELTA_MARGIN_MS = 600_000
_RETRY_LIMIT_S = 15.0
#: The loop looks at the clock at least this often: a wall clock can jump.
_LONGEST_WAIT_S = 60.0


@dataclass(slots=True)
class _State:
    """Where one list stands. Moments are of the monotonic clock, in seconds."""

    published: PublishedCrl | None = None
    entries: int = 0
    recorded: int = 0  # the highest number in the journal
    dirty_since: float | None = None
    retry_at: float = 0.0
    attempts: int = 0
    build_s: float = 0.0
    failure: str = ""


@dataclass(slots=True)
class _Lists:
    """All lists of one generation."""

    last_number: int = 0
    base: CrlPublished | None = None  # the full list deltas refer to
    shards: int = 1  # what new certificates name
    counts: set[int] = field(default_factory=lambda: {1})


class PublicationJournal(Protocol):
    """What is needed of the journal."""

    async def append(self, *payloads: Payload, urgent: bool = False) -> tuple[Record, ...]: ...

    def scan(self, *kinds: type[Payload]) -> AsyncIterator[Record]: ...


class CrlPublisher:
    """Keeps every list fresh. :meth:`load` once, then :meth:`run` for ever."""

    def __init__(
        self,
        *,
        generations: Generations,
        status: RevocationStatus,
        journal: PublicationJournal,
        clock: Clock,
        options: CrlOptions,
    ) -> None:
        options.check()
        self._generations = generations
        self._status = status
        self._journal = journal
        self._clock = clock
        self._options = options
        self._states: dict[str, _State] = {}
        self._lists: dict[int, _Lists] = {}
        self._publications: dict[tuple[int, int], tuple[Publication, ...]] = {}
        self._parents = ParentCrls(options.parents, lambda: [der for each in generations.all for der in each.chain])
        self._wake = asyncio.Event()
        self._publishing = asyncio.Lock()
        self._watchers: list[Callable[[PublishedCrl], None]] = []
        status.watch(self._changed)
        generations.watch(self._wake.set)

    async def load(self) -> None:
        """Take up the lists published before the last stop, as far as cache and journal agree on them."""
        files = await asyncio.to_thread(_read_cache, self._options.directory)
        async for record in self._journal.scan(CrlPublished):
            payload = cast(CrlPublished, record.payload)
            scope = scope_of(payload)
            state, lists = self._state(scope.name), self._of(payload.generation)
            state.recorded = max(state.recorded, payload.number)
            lists.last_number = max(lists.last_number, payload.number)
            lists.counts.add(scope.count)
            if scope.label == "full":
                self._note_base(lists, payload)
            der = files.get(scope.name)
            if der is not None and _digest(der) == payload.digest:
                state.published = _published(scope, payload, der)
                state.entries = payload.entries
        for number, lists in self._lists.items():
            lists.shards = max(count for count in lists.counts if self._is_complete(number, count))
        await self._parents.refresh()

    def get(self, name: str) -> PublishedCrl:
        """The list served as ``name``. Raises NotFound for a name no certificate carries, NotReady before it was signed."""
        state = self._states.get(name)
        if state is not None and state.published is not None:
            return state.published
        parent = self._parents.get(name)
        if parent is not None:
            return parent
        if any(scope.name == name for scope in self._scopes()):
            raise NotReady(f"the list {name} is not signed yet", retry_after=10)
        raise NotFound(f"there is no list {name[:80]!r}")

    def names(self) -> tuple[str, ...]:
        """The names of all lists that are served now."""
        own = (name for name, state in self._states.items() if state.published is not None)
        return (*own, *(name for name in self._parents.names() if self._parents.get(name)))

    def watch(self, watcher: Callable[[PublishedCrl], None]) -> None:
        """Call ``watcher`` with every list of ours that comes into service."""
        self._watchers.append(watcher)

    def publication_for(self, serial: int, generation: int | None = None) -> Publication:
        """What a certificate with this serial says about where its status is found. Fixed at issuance: it names the shard."""
        number = self._generations.active.number if generation is None else generation
        shards = self._of(number).shards
        publications = self._publications.get((number, shards))
        if publications is None:
            scopes = (Scope(number, index, shards) for index in range(shards))
            publications = tuple(self._publication(scope) for scope in scopes)
            self._publications[number, shards] = publications
        return publications[shard_of(serial, shards)]

    def serve_also(self, path: Path) -> None:
        """Serve a parent's list from a file that the configuration does not name. Raises ConfigError."""
        self._parents.add(path)
        self._wake.set()

    def health(self) -> tuple[CrlHealth, ...]:
        now_ms = self._clock.now_ms()
        report = []
        for scope in self._scopes():
            state = self._state(scope.name)
            number = state.published.number if state.published else 0
            next_update_ms = state.published.next_update_ms if state.published else 0
            degraded = bool(state.failure) or next_update_ms <= now_ms
            report.append(CrlHealth(scope.name, number, next_update_ms, state.entries, state.failure, degraded))
        return (*report, *(CrlHealth(*facts) for facts in self._parents.health(now_ms)))

    async def run(self) -> None:
        """Publish whatever is due, for ever."""
        while True:
            self._wake.clear()
            wait_s = await self.publish_due()
            try:
                async with asyncio.timeout(max(0.0, wait_s)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def publish_due(self) -> float:
        """Publish every list that is due; returns in how many seconds to look again. Failures are kept for :meth:`health`."""
        async with self._publishing:
            await self._parents.refresh()
            self._add_shards()
            self._drop_old_bases()
            for scope in tuple(self._scopes()):
                if self._due_in(scope) <= 0:
                    await self._try(scope)
            for number, lists in self._lists.items():
                lists.shards = max(count for count in lists.counts if self._is_complete(number, count))
            return min((_LONGEST_WAIT_S, *(self._due_in(scope) for scope in self._scopes())))

    async def publish_now(self, generation: int | None = None) -> None:
        """Publish every list (of one generation) at once, whether due or not. Raises what the signer or the journal raise."""
        async with self._publishing:
            self._drop_old_bases()
            for scope in tuple(self._scopes()):
                if generation in (None, scope.generation):
                    await self._publish(scope)

    async def _try(self, scope: Scope) -> None:
        state = self._state(scope.name)
        try:
            await self._publish(scope)
        except JournalFailed:
            raise  # nothing can be published any more; the daemon is about to end
        except GatewayError as error:
            state.attempts += 1
            delay_s = min(2.0 ** min(state.attempts - 1, 6), _RETRY_LIMIT_S)
            state.retry_at = time.monotonic() + delay_s
            if isinstance(error, Unavailable):
                # The other lists of this generation need the same signer, which may take its time to say no again.
                state.retry_at = max(state.retry_at, time.monotonic() + min(float(error.retry_after), _RETRY_LIMIT_S))
                for other in self._scopes():
                    if other.generation == scope.generation:
                        self._state(other.name).retry_at = state.retry_at
            if not state.failure:
                _log.warning("the list %s cannot be signed: %s; the previous one is served on", scope.name, error)
            state.failure = str(error)

    async def _publish(self, scope: Scope) -> None:
        state, lists = self._state(scope.name), self._of(scope.generation)
        dirty_since, state.dirty_since = state.dirty_since, None  # a change from here on is not in the snapshot
        try:
            lists.last_number = next_crl_number(self._clock.now_ms(), lists.last_number)
            der, record = await self._sign(scope, lists.last_number)
            await self._journal.append(record, urgent=True)
        except BaseException:  # also when cancelled: what changed is still not on a list
            if dirty_since is not None:
                state.dirty_since = dirty_since
            raise
        if scope.label == "full":
            before = lists.base
            self._note_base(lists, record)
            if self._options.delta and lists.base is not before:
                self._state(Scope(scope.generation, delta=True).name).dirty_since = time.monotonic()
            self._status.forget_changes(min(_since_ms(other.base) for other in self._lists.values() if other.base))
        state.failure, state.attempts, state.retry_at = "", 0, 0.0
        try:
            await asyncio.to_thread(_write_cache, self._options.directory / scope.name, der)
        except OSError as error:
            # It is served all the same: only a restart without the token would miss it.
            state.failure = f"cannot be kept on disk: {error.strerror}"
            _log.warning("the list %s %s", scope.name, state.failure)
        state.published, state.entries, state.recorded = _published(scope, record, der), record.entries, record.number
        for watcher in self._watchers:
            watcher(state.published)

    async def _sign(self, scope: Scope, number: int) -> tuple[bytes, CrlPublished]:
        generation = self._generations.get(scope.generation)
        if generation is None:
            raise NotFound(f"there is no generation {scope.generation}")
        this_update_ms = self._clock.now_ms() - self._options.backdate_s * 1000
        next_update_ms = this_update_ms + (self._options.backdate_s + self._options.validity_s) * 1000
        base = self._of(scope.generation).base if scope.delta else None
        if base is not None:
            changed = self._status.changed_entries(scope.generation, _since_ms(base))
            if changed is None:
                raise NotReady("too much changed since the base of the delta; a new full list is needed first")
            parts, entries = changed, len(changed)
        else:
            parts = self._status.entries(scope.generation, scope.index, scope.count)
            entries = self._status.size(scope.generation, scope.index, scope.count)
        started = time.monotonic()
        tbs = await asyncio.to_thread(
            build_crl_tbs,
            ca=generation.ca,
            entries=parts,
            number=number,
            this_update_ms=this_update_ms,
            next_update_ms=next_update_ms,
            idp_url=self._urls(scope)[0] if scope.count > 1 else None,
            base_number=base.number if base else None,
            delta_urls=self._delta_urls(scope),
        )
        self._state(scope.name).build_s = time.monotonic() - started
        signature = await generation.signer.sign(tbs, priority=Priority.STATUS)
        der = await asyncio.to_thread(assemble, tbs, generation.ca.algorithm, signature)
        digest = await asyncio.to_thread(_digest, der)
        return der, CrlPublished(scope.generation, scope.label, number, this_update_ms, next_update_ms, digest, entries)

    def _changed(self, generation: int, serial: int) -> None:
        for scope in self._scopes():
            if scope.generation == generation and shard_of(serial, scope.count) == scope.index:
                state = self._state(scope.name)
                if state.dirty_since is None:
                    state.dirty_since = time.monotonic()
        self._wake.set()

    def _scopes(self) -> Iterator[Scope]:
        """Every list that must be kept fresh; a delta after the full list it may refer to."""
        now_ms = self._clock.now_ms()
        for generation in self._generations.all:
            if generation.ca.not_after_ms <= now_ms:
                continue  # nobody can verify a new list; the last one stays
            for count in sorted(self._of(generation.number).counts):
                for index in range(count):
                    yield Scope(generation.number, index, count)
            if self._options.delta:
                yield Scope(generation.number, delta=True)

    def _due_in(self, scope: Scope) -> float:
        """Seconds until this list is to be published; 0 or less when it is due."""
        state = self._state(scope.name)
        if scope.delta and self._of(scope.generation).base is None:
            return _LONGEST_WAIT_S
        due_s = 0.0
        if state.published is not None and state.published.number >= state.recorded:
            period_ms = (self._options.backdate_s + self._options.interval_s) * 1000
            due_s = (state.published.this_update_ms + period_ms - self._clock.now_ms()) / 1000
        now = time.monotonic()
        if state.dirty_since is not None:
            window_s = max(self._options.coalesce_s, self._options.build_share * state.build_s)
            due_s = min(due_s, state.dirty_since + window_s - now)
        return max(due_s, state.retry_at - now)

    def _note_base(self, lists: _Lists, full: CrlPublished) -> None:
        """A delta refers to the first full list of a period, so that whoever fetched any list since can use it."""
        if lists.base is None or full.this_update - lists.base.this_update >= self._options.interval_s * 1000:
            lists.base = full

    def _drop_old_bases(self) -> None:
        """Where the base is too old to know what changed since, the next full list becomes the new one."""
        for number, lists in self._lists.items():
            if self._options.delta and lists.base and _since_ms(lists.base) < self._status.changes_from_ms:
                lists.base = None
                self._state(Scope(number).name).dirty_since = 0.0

    def _add_shards(self) -> None:
        if not self._generations.all or not self._options.urls:
            return
        number = self._generations.active.number
        counts = self._of(number).counts
        counts.add(self._options.shards)
        while max(counts) < PARTITIONS and self._status.size(number) > max(counts) * self._options.shard_entries:
            counts.add(min(max(counts) * _SHARD_STEP, PARTITIONS))

    def _is_complete(self, generation: int, count: int) -> bool:
        """Whether every one of these shards exists; a certificate must not name a list that was never published."""
        return count == 1 or all(self._state(Scope(generation, i, count).name).recorded for i in range(count))

    def _state(self, name: str) -> _State:
        return self._states.setdefault(name, _State())

    def _of(self, generation: int) -> _Lists:
        return self._lists.setdefault(generation, _Lists())

    def _urls(self, scope: Scope) -> tuple[str, ...]:
        return tuple(prefix + scope.name for prefix in self._options.urls)

    def _delta_urls(self, scope: Scope) -> tuple[str, ...]:
        """Where a full list's deltas are; a shard is small enough to be fetched whole."""
        if not self._options.delta or scope.label != "full":
            return ()
        return self._urls(Scope(scope.generation, delta=True))

    def _publication(self, scope: Scope) -> Publication:
        generation = self._generations.get(scope.generation)
        key = generation.ca.key_identifier.hex() if generation is not None else ""
        return Publication(
            crl_urls=self._urls(scope),
            delta_crl_urls=self._delta_urls(scope),
            ocsp_urls=self._options.ocsp_urls,
            issuer_urls=tuple(url.format(generation=scope.generation, key=key) for url in self._options.issuer_urls),
        )


def _since_ms(base: CrlPublished) -> int:
    """From when on a change may be missing in ``base``; one too many in a delta does no harm, one too few would."""
    return base.number - _DELTA_MARGIN_MS


def _published(scope: Scope, record: CrlPublished, der: bytes) -> PublishedCrl:
    return PublishedCrl(scope.name, der, record.number, record.this_update, record.next_update, record.digest)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _read_cache(directory: Path) -> dict[str, bytes]:
    """The cached lists by name; an unreadable one is as good as missing."""
    found = {}
    for path in directory.glob("*.crl"):
        try:
            found[path.name] = path.read_bytes()
        except OSError as error:
            _log.warning("the cached list %s cannot be read: %s", path.name, error.strerror)
    return found


def _write_cache(path: Path, der: bytes) -> None:
    durable.make_directory(path.parent)
    durable.replace(path, der)

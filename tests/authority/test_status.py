"""What is revoked, in memory and from the journal."""

import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.authority import status as status_module
from gateway.authority.status import FORMS, PARTITIONS, EntryTable, Revocation, RevocationStatus
from gateway.errors import IntegrityError
from gateway.journal.records import Record, Released, Revoked, Started, Void, encode
from gateway.pki.crl import CrlEntry, Reason, encode_entry
from gateway.pki.tbs import new_serial
from tests.support.status_stack import status_stack

NOW_MS = 1_790_000_000_000
_rng = random.Random(7)


def serials(count: int) -> list[int]:
    return [new_serial(NOW_MS + i, _rng.randbytes(12)) for i in range(count)]


def revoked(serial: int, reason: str = "superseded", *, at: int = NOW_MS, generation: int = 1, time: int = NOW_MS) -> Record:
    return Record(1, time, Revoked(f"{serial:x}", generation, reason, at, "test"))


def released(serial: int, *, time: int = NOW_MS) -> Record:
    return Record(2, time, Released(f"{serial:x}", 1, "test"))


Step = tuple[str, int, Reason]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "remove", "join"]),
            st.one_of(st.integers(1, 40), st.sampled_from([2**159 - 1, 2**61 - 1, 2**61, 127, 128, 255, 256])),
            st.sampled_from(list(Reason)),
        ),
        max_size=120,
    )
)
@settings(max_examples=200)
def test_the_table_is_a_dictionary(steps: list[Step]) -> None:
    table = EntryTable()
    model: dict[int, tuple[int, Reason]] = {}
    for action, serial, reason in steps:
        if action == "put":
            table.put(serial, NOW_MS, reason)
            model[serial] = (NOW_MS, reason)
        elif action == "remove":
            table.remove(serial)
            model.pop(serial, None)
        else:
            table.joined()
    assert len(table) == len(model)
    for serial in range(1, 45):
        assert table.find(serial) == model.get(serial)
    for serial, (when, reason) in model.items():
        assert table.entry(serial) == encode_entry(CrlEntry(serial, when, reason))
    entries = {encode_entry(CrlEntry(serial, *facts)) for serial, facts in model.items()}
    joined = table.joined()
    assert len(joined) == sum(map(len, entries))
    assert all(entry in joined for entry in entries)


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "add", "put", "remove", "join"]), st.integers(1, 9), st.sampled_from(list(Reason))),
        max_size=60,
    )
)
@settings(max_examples=200)
def test_adding_many_is_putting_each(steps: list[Step]) -> None:
    quick, live = EntryTable(), EntryTable()
    for at, (action, serial, reason) in enumerate(steps):
        if action == "add":
            quick.add(serial, NOW_MS + at * 1000, FORMS[reason.value])
            live.put(serial, NOW_MS + at * 1000, reason)
        elif action == "put":
            quick.put(serial, NOW_MS + at * 1000, reason)
            live.put(serial, NOW_MS + at * 1000, reason)
        elif action == "remove":
            quick.remove(serial)
            live.remove(serial)
        else:
            assert len(quick.joined()) == len(live.joined())
    assert [quick.find(serial) for serial in range(1, 10)] == [live.find(serial) for serial in range(1, 10)]
    assert [quick.entry(serial) for serial in range(1, 10)] == [live.entry(serial) for serial in range(1, 10)]
    assert len(quick) == len(live)
    assert len(quick.joined()) == len(live.joined())


async def test_a_loaded_status_says_what_the_live_one_said() -> None:
    """Also where a serial was revoked twice, released between, or has a record that the quick reader leaves to the other."""
    one, two, three, four = serials(4)
    records = [revoked(serial, at=NOW_MS + number) for number, serial in enumerate(serials(3000))]
    records += [revoked(one, "certificateHold"), released(one), revoked(one, "keyCompromise", at=NOW_MS + 5000)]
    records += [revoked(two, "certificateHold"), revoked(two, "superseded"), revoked(three, generation=2), released(three)]
    records += [Record(7, NOW_MS, Revoked(f"{four:x}", 1, "cACompromise", NOW_MS, 'a "quoted" name\N{SNOWMAN}'))]
    live = RevocationStatus()
    for record in records:
        live.apply(record)

    class Journal:
        async def pages(self, *_kinds: object):  # type: ignore[no-untyped-def]
            for start in range(0, len(records), 700):
                yield [encode(record) for record in records[start : start + 700]]

    loaded = await RevocationStatus.load(Journal())  # type: ignore[arg-type]
    for generation in (1, 2):
        assert loaded.size(generation) == live.size(generation)
        for shard in range(PARTITIONS):
            ours = [b"".join(each.entries(generation, shard, PARTITIONS)) for each in (loaded, live)]
            assert ours[0] == ours[1]
    everybody = [int(record.payload.serial, 16) for record in records if isinstance(record.payload, Revoked)]
    assert [loaded.find(serial) for serial in everybody] == [live.find(serial) for serial in everybody]
    assert sorted(loaded.changed_entries(1, 0) or ()) == sorted(live.changed_entries(1, 0) or ())


def test_too_many_changes_are_forgotten_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_module, "_MOST_CHANGES", 5000)
    status = RevocationStatus()
    for number, serial in enumerate(serials(5100)):
        status.apply(revoked(serial, time=NOW_MS + number))
    assert status.size(1) == 5100
    assert status.changed_entries(1, NOW_MS) is None  # so a new full list becomes the base
    assert len(status.changed_entries(1, NOW_MS + 5000) or ()) == 100


def test_too_many_changes_at_one_moment_are_forgotten_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody revokes a whole order."""
    monkeypatch.setattr(status_module, "_MOST_CHANGES", 5000)
    status = RevocationStatus()
    for serial in serials(5100):
        status.apply(revoked(serial, time=NOW_MS))
    assert status.changed_entries(1, NOW_MS) is None
    assert status.changes_from_ms == NOW_MS + 1


def test_replacing_and_removing_leave_nothing_behind() -> None:
    table = EntryTable()
    (serial,) = serials(1)
    for _ in range(1000):
        table.put(serial, NOW_MS, Reason.CERTIFICATE_HOLD)
        table.remove(serial)
        assert table.joined() == b""
    assert table.entry(serial) is None
    table.put(serial, NOW_MS, Reason.SUPERSEDED)
    assert table.joined() == encode_entry(CrlEntry(serial, NOW_MS, Reason.SUPERSEDED))


def test_a_revocation_costs_less_than_a_hundred_bytes() -> None:
    table = EntryTable()
    for serial in serials(5000):
        table.put(serial, NOW_MS, Reason.KEY_COMPROMISE)
    used = sum(sys.getsizeof(getattr(table, name)) for name in EntryTable.__slots__)
    assert used / 5000 < 100


def test_every_serial_is_on_exactly_one_shard() -> None:
    status = RevocationStatus()
    for serial in serials(300):
        status.apply(revoked(serial))
    whole = b"".join(status.entries(1))
    for shards in (1, 2, 8, PARTITIONS):
        parts = [b"".join(status.entries(1, shard, shards)) for shard in range(shards)]
        assert sum(map(len, parts)) == len(whole)
        assert sum(status.size(1, shard, shards) for shard in range(shards)) == 300


def test_a_release_takes_a_serial_off_the_list_and_puts_it_on_the_delta() -> None:
    status = RevocationStatus()
    one, two = serials(2)
    status.apply(revoked(one, "certificateHold", time=NOW_MS))
    status.apply(revoked(two, "keyCompromise", time=NOW_MS + 5))
    status.apply(released(one, time=NOW_MS + 10))
    assert status.find(one) is None
    assert status.size(1) == 1
    changed = status.changed_entries(1, NOW_MS + 5)
    assert changed is not None
    assert set(changed) == {
        encode_entry(CrlEntry(one, NOW_MS + 10, Reason.REMOVE_FROM_CRL)),
        encode_entry(CrlEntry(two, NOW_MS, Reason.KEY_COMPROMISE)),
    }
    assert status.changed_entries(1, NOW_MS + 11) == []


def test_what_was_forgotten_cannot_make_a_delta() -> None:
    status = RevocationStatus(changes_from_ms=NOW_MS)
    old, new = serials(2)
    status.apply(revoked(old, time=NOW_MS - 1))
    status.apply(revoked(new, time=NOW_MS + 100))
    assert status.changed_entries(1, NOW_MS - 1) is None
    assert len(status.changed_entries(1, NOW_MS) or ()) == 1
    status.forget_changes(NOW_MS + 101)
    status.forget_changes(NOW_MS + 1)  # it never grows back
    assert status.changed_entries(1, NOW_MS + 100) is None
    assert status.changed_entries(1, NOW_MS + 101) == []
    assert status.size(1) == 2


def test_the_memory_of_changes_does_not_grow_for_ever() -> None:
    status = RevocationStatus()
    day_ms = 86_400_000
    for day, serial in enumerate(serials(6000)):
        status.apply(revoked(serial, time=NOW_MS + day * day_ms))
    assert status.size(1) == 6000
    assert status.changes_from_ms > NOW_MS
    assert sum(map(len, status._changes.values())) < 4096
    assert len(status.changed_entries(1, NOW_MS + 5998 * day_ms) or ()) == 2


def test_generations_are_kept_apart() -> None:
    status = RevocationStatus()
    (serial,) = serials(1)
    status.apply(revoked(serial, generation=2))
    assert status.find(serial, 1) is None
    expected = Revocation(serial, 2, NOW_MS, Reason.SUPERSEDED)
    assert status.find(serial, 2) == status.find(serial) == expected
    assert status.entries(1) == []
    assert status.size(1) == 0


def test_a_void_never_hides_a_reason() -> None:
    status = RevocationStatus()
    (serial,) = serials(1)
    status.apply(revoked(serial, "keyCompromise"))
    status.apply(Record(3, NOW_MS, Void(1, f"{serial:x}", "test")), 1)
    found = status.find(serial)
    assert found is not None
    assert found.reason is Reason.KEY_COMPROMISE


def test_watchers_hear_of_every_change_and_of_nothing_else() -> None:
    status = RevocationStatus()
    heard: list[tuple[int, int]] = []
    status.watch(lambda generation, serial: heard.append((generation, serial)))
    (serial,) = serials(1)
    status.apply(Record(0, NOW_MS, Started("1", True, True)))
    status.apply(Record(1, NOW_MS, Void(0, f"{serial:x}", "test")), 3)
    assert heard == [(3, serial)]


async def test_the_state_after_a_restart_is_the_state_before(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        certificates = [await stack.issue() for _ in range(4)]
        numbers = [certificate.serial_number for certificate in certificates]
        await stack.revoker.revoke(numbers[0], Reason.KEY_COMPROMISE, "test")
        await stack.revoker.hold(numbers[1], "test")
        await stack.revoker.hold(numbers[2], "test")
        await stack.revoker.release(numbers[2], "test")
        (planned,) = serials(1)
        await stack.void(planned)
        numbers.append(planned)
        before = [stack.status.find(number) for number in numbers]
        entries = stack.status.entries(1)
    assert [found.reason if found else None for found in before] == [
        Reason.KEY_COMPROMISE,
        Reason.CERTIFICATE_HOLD,
        None,
        None,
        Reason.UNSPECIFIED,
    ]
    async with status_stack(tmp_path) as stack:
        assert [stack.status.find(number) for number in numbers] == before
        assert sorted(b"".join(stack.status.entries(1))) == sorted(b"".join(entries))


async def test_an_intent_open_at_a_crash_is_on_the_list_after_the_restart(tmp_path: Path) -> None:
    (serial,) = serials(1)
    async with status_stack(tmp_path) as stack:
        await stack.plan(serial)
        assert stack.status.find(serial) is None
    async with status_stack(tmp_path) as stack:
        found = stack.status.find(serial)
        assert found is not None
        assert (found.generation, found.reason) == (1, Reason.UNSPECIFIED)


async def test_a_void_without_its_intent_is_reported() -> None:
    class Journal:
        async def pages(self, *_kinds: object):  # type: ignore[no-untyped-def]
            yield [encode(Record(5, NOW_MS, Void(4, "aa", "test")))]

        async def get(self, _seq: int) -> None:
            return None

    with pytest.raises(IntegrityError, match="record 5 voids 4"):
        await RevocationStatus.load(Journal())  # type: ignore[arg-type]

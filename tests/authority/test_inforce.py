"""The policy in force: recorded before it applies, never an older one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.authority.inforce import PolicyInForce
from gateway.authority.quota import Ledger, profile_quota
from gateway.errors import ConfigError, JournalFailed
from gateway.journal.records import OperatorAction, Payload, PolicyApplied, Record
from tests.support.authority import SteppedClock, TestCa, authority_in, policy_of


async def test_the_same_policy_is_recorded_once_over_restarts(tmp_path: Path) -> None:
    root, clock = TestCa.make("Root"), SteppedClock()
    for _ in range(2):
        async with authority_in(tmp_path, root=root, clock=clock) as world:
            assert len(await world.recorded(PolicyApplied)) == 1
    async with authority_in(tmp_path, root=root, clock=clock, tables={"ldevid": {"quota": 3}}) as world:
        assert len(await world.recorded(PolicyApplied)) == 2


async def test_an_older_version_does_not_start(tmp_path: Path) -> None:
    root, clock = TestCa.make("Root"), SteppedClock()
    async with authority_in(tmp_path, root=root, clock=clock, policy=policy_of(version=5)):
        pass
    with pytest.raises(ConfigError, match="older than version 5"):
        async with authority_in(tmp_path, root=root, clock=clock, policy=policy_of(version=4)):
            pass


async def test_a_new_policy_replaces_rules_and_limits_as_a_whole(tmp_path: Path) -> None:
    async with authority_in(tmp_path, tables={"ldevid": {"quota": 3}}) as world:
        await world.authority.policy.replace(
            policy_of({"tls-client": {"quota": 2}}, version=2), "central", journal=world.authority.journal
        )
        assert world.authority.rule("tls-client").quota == 2
        assert world.authority.ledger.remaining(profile_quota("ldevid")) is None
        assert world.authority.ledger.remaining(profile_quota("tls-client")) == 2
        with pytest.raises(ConfigError):
            await world.authority.policy.replace(policy_of(version=1), "central", journal=world.authority.journal)


async def test_a_policy_whose_record_failed_does_not_apply(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        world.journal.fail_append(1, JournalFailed("injected"))
        with pytest.raises(JournalFailed):
            await world.authority.policy.replace(policy_of(version=2), "central", journal=world.authority.journal)
        assert world.authority.policy.current.version == 1


async def test_a_refused_older_version_leaves_no_record(tmp_path: Path) -> None:
    async with authority_in(tmp_path, policy=policy_of(version=2)) as world:
        before = await world.recorded(PolicyApplied)
        with pytest.raises(ConfigError, match="older than version 2"):
            await world.authority.policy.replace(policy_of(version=1), "file", journal=world.authority.journal)
        assert await world.recorded(PolicyApplied) == before


async def test_the_version_in_force_may_come_again(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        again = policy_of({"ldevid": {"quota": 3}})
        await world.authority.policy.replace(again, "file", journal=world.authority.journal)
        assert world.authority.policy.current is again


async def test_the_version_of_one_source_does_not_bind_the_other(tmp_path: Path) -> None:
    root, clock = TestCa.make("Root"), SteppedClock()
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        await world.authority.policy.replace(policy_of(version=5), "central", journal=world.authority.journal)
        before = await world.recorded(PolicyApplied)
        assert [(each.version, each.source) for each in before if isinstance(each, PolicyApplied)] == [
            (1, "file"),
            (5, "central"),
        ]
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        assert world.authority.policy.current.version == 1
        assert await world.recorded(PolicyApplied) == before


async def test_a_profile_that_left_the_policy_leaves_no_limit_behind(tmp_path: Path) -> None:
    async with authority_in(tmp_path, tables={"ldevid": {"quota": 3}}) as world:
        current = world.authority.policy.current
        rules = {name: rule for name, rule in current.rules.items() if name != "ldevid"}
        await world.authority.policy.replace(replace(current, rules=rules), "file", journal=world.authority.journal)
        assert world.authority.ledger.remaining(profile_quota("ldevid")) is None


class Recording:
    """A journal that keeps nothing; ``meanwhile`` runs inside an append."""

    def __init__(self) -> None:
        self.urgent: list[bool] = []
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def append(self, *payloads: Payload, urgent: bool = False) -> tuple[Record, ...]:
        self.urgent.append(urgent)
        if (meanwhile := self.meanwhile) is not None:
            self.meanwhile = None
            await meanwhile()
        return ()

    async def scan(self, *kinds: type[Payload]) -> AsyncIterator[Record]:
        return
        yield  # the signature of an asynchronous generator


async def test_a_new_policy_is_recorded_on_a_full_disk_too() -> None:
    journal = Recording()
    in_force = PolicyInForce(policy_of(), Ledger())
    await in_force.replace(policy_of(version=2), "central", journal=journal)
    assert journal.urgent == [True]


async def test_a_policy_overtaken_while_it_was_recorded_does_not_apply() -> None:
    journal = Recording()
    in_force = PolicyInForce(policy_of(), Ledger())

    async def overtake() -> None:
        await in_force.replace(policy_of(version=3), "file", journal=journal)

    journal.meanwhile = overtake
    with pytest.raises(ConfigError, match="older than version 3"):
        await in_force.replace(policy_of(version=2), "file", journal=journal)
    assert in_force.current.version == 3


async def test_versions_of_file_and_central_are_counted_apart(tmp_path: Path) -> None:
    root, clock = TestCa.make("Root"), SteppedClock()
    async with authority_in(tmp_path, root=root, clock=clock, policy=policy_of(version=7)) as world:
        journal, in_force = world.authority.journal, world.authority.policy
        reason = OperatorAction("test", "nobody")
        await in_force.replace(policy_of(version=2), "central", journal=journal, because=(reason,))
        assert in_force.current.version == 2
        with pytest.raises(ConfigError, match="older than version 2"):
            await in_force.replace(policy_of(version=1), "central", journal=journal)
        (done,) = [record async for record in journal.scan(OperatorAction)]
        assert [record.seq async for record in journal.scan(PolicyApplied)][-1] == done.seq + 1

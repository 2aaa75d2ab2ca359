"""The policy in force: recorded before it applies, never an older one."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.authority.quota import profile_quota
from gateway.errors import ConfigError, JournalFailed
from gateway.journal.records import PolicyApplied
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

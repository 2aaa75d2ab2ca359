"""Seeded whole histories on the real machines keep every promise, and each wrong rule put in on purpose is found."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

import pytest

from gateway.pki.crl import Reason
from sync import session as say
from tests.sim.history import HONEST, RESTORED, WRONG_RULES, Broken, History
from tests.sim.runner import run_many, run_seeds

#: More with scripts/simulate.
HISTORIES = int(os.environ.get("SIM_HISTORIES", "100000"))
#: By chance a wrong rule must show within so many histories.
_PATIENCE = 4_000


@pytest.mark.alone
def test_whole_histories_keep_every_promise() -> None:
    figures = deque(run_many(0, HISTORIES), maxlen=1).pop()
    assert not figures.broken, f"again: scripts/simulate --histories 1 --seed {next(iter(figures.broken.items()))}"
    assert figures.histories == HISTORIES
    print(figures.text())


def test_histories_with_real_records_signatures_and_octets_keep_every_promise() -> None:
    figures = run_seeds(range(300), real=True)
    assert not figures.broken


def test_clones_and_restores_are_found_in_every_way_there_is() -> None:
    found = " ".join(run_seeds(range(2_500)).found)
    for way in (
        "cloned: the gateway has", "cloned: the records do not have the root", "cloned: a start of the gateway speaks",
        "cloned: another journal of the same", "restored: the gateway has", "restored: the anchor has seen another journal",
    ):  # fmt: skip
        assert way in found


def test_a_seed_is_one_history() -> None:
    assert [History(seed).run() for seed in range(20)] == [History(seed).run() for seed in range(20)]


# What chance finds too seldom is played by hand.


class Play(History):
    """No chance: what happens is told by a test."""

    def __init__(self, wrong: str, kind: str = HONEST) -> None:
        super().__init__(1, wrong)
        self.kind, self.anchored, self.gateway.anchor, self.calm = kind, False, None, True

    def perform(self, until: type[say.Action]) -> None:  # type: ignore[valid-type]
        """Go on until the machine wants to do ``until``."""
        while not isinstance(self.action[id(self.gateway)], until):
            action = self.action[id(self.gateway)]
            assert action is not None
            if isinstance(action, say.Wait):
                self._feed(self.gateway, say.Tick())
            else:
                self._perform(self.gateway, action)

    def issue(self) -> None:
        self._issue(self.gateway)

    def at_edge(self, deed: Callable[..., None], *arguments: object) -> None:
        deed(*arguments)
        self._tell(self.gateway)

    def finish(self) -> None:
        self._check_always()
        self._settle()


def play_late_hello_after_a_bundle(wrong: str) -> None:
    """A hello waits in the network while a bundle brings records that were made after it was signed."""
    play = Play(wrong)
    play.issue()
    play.perform(say.SendHello)
    message, _ = play._request(play.gateway, play.action[id(play.gateway)])  # type: ignore[arg-type]
    play._feed(play.gateway, say.LinkLost())
    play.issue()
    batches = [play._batch(play.gateway, at, "") for at in range(0, len(play.gateway.journal), 5)]
    for batch in batches:
        play._central_takes(batch)
    message()
    play.finish()


def play_release_told_ahead_and_lost(wrong: str) -> None:
    """A hold is lifted, the message about it overtakes, and a restore takes the record back before central has it."""
    play = Play(wrong, RESTORED)
    play.issue()
    play.at_edge(play.gateway.revoke, "1", Reason.CERTIFICATE_HOLD, "anna", play.now_ms)
    play._sync(play.gateway)
    play._back_up(play.gateway)
    play.at_edge(play.gateway.release, "1", "anna")
    play.issue()
    play.central.urgent((play.gateway.journal.bodies[-3],))
    assert play.saved is not None
    play.gateway.journal = play.saved[0]
    play.lost_records = True
    play._boot(play.gateway)
    play.finish()


def play_hold_of_a_restored_central(wrong: str) -> None:
    """Central held and released a certificate, both was done, and central's backup remembers the hold alone."""
    play = Play(wrong)
    play.issue()
    play._sync(play.gateway)
    play.central.decide("1", Reason.CERTIFICATE_HOLD, play.now_ms)
    backup = play.central.backup()
    play.central.decide("1", None, play.now_ms)
    play._sync(play.gateway)
    play.central.restore(backup)
    play.confirmed, play.central_was_restored = 0, True
    play.finish()


def play_hold_on_both_sides(wrong: str) -> None:
    """Both sides put a certificate on hold; the edge's operator wants to lift both."""
    play = Play(wrong)
    play.issue()
    play.at_edge(play.gateway.revoke, "1", Reason.CERTIFICATE_HOLD, "anna", play.now_ms)
    play._sync(play.gateway)
    play.central.decide("1", Reason.CERTIFICATE_HOLD, play.now_ms)
    play._sync(play.gateway)
    play.at_edge(play.gateway.release, "1", "anna")
    play.finish()


def play_quota_after_a_crash(wrong: str) -> None:
    """A gateway that used up its quota starts again."""
    play = Play(wrong)
    for _ in range(20):
        play.issue()
    play._boot(play.gateway)
    for _ in range(20):
        play.issue()
    play._sync(play.gateway)
    play._check_always()


PLAYS: dict[str, Callable[[str], None]] = {
    "a nonce survives a bundle": play_late_hello_after_a_bundle,
    "releases overtake": play_release_told_ahead_and_lost,
    "a restored central keeps its holds": play_hold_of_a_restored_central,
    "central's hold of a held certificate is not recorded": play_hold_on_both_sides,
    "quota is forgotten by a crash": play_quota_after_a_crash,
}


@pytest.mark.parametrize("wrong", PLAYS)
def test_a_played_history_keeps_every_promise_and_finds_its_wrong_rule(wrong: str) -> None:
    PLAYS[wrong]("")
    with pytest.raises(Broken):
        PLAYS[wrong](wrong)


@pytest.mark.parametrize("wrong", [rule for rule in WRONG_RULES if rule not in PLAYS])
def test_a_wrong_rule_is_found(wrong: str) -> None:
    for seed in range(_PATIENCE):
        try:
            History(seed, wrong).run()
        except Broken:
            return
    pytest.fail(f"{_PATIENCE} histories and no promise broken")

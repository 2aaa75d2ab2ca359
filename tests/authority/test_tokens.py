"""One-time tokens: shown once, hashed in the journal, counted by intents, worthless after revocation or expiry."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.authority.requests import Issued, RequesterKind
from gateway.errors import JournalFailed, NotFound, OperatorError, Unauthenticated
from gateway.journal.records import Payload, Record, TokenCreated, TokenRevoked
from tests.support.authority import DAY_MS, SteppedClock, TestCa, authority_in, device_csr, enrollment


async def test_a_token_authenticates_and_says_what_it_is_for(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        requester = await world.token(subject="SN-*", uses=2)
        assert requester.kind is RequesterKind.TOKEN
        assert requester.token is not None
        assert requester.identity == f"token:{requester.token_id}"
        assert (requester.token.profile, requester.token.subject, requester.token.spent) == ("ldevid", "SN-*", False)


async def test_a_station_token_makes_a_station(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        assert (await world.token(station=True)).kind is RequesterKind.STATION


async def test_the_secret_is_nowhere_but_in_the_answer(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        made = await world.authority.tokens.create("ldevid", operator="anna", validity_s=60)
        (created,) = await world.recorded(TokenCreated)
        assert made.secret not in repr(made)
        assert made.secret not in repr(created)
        assert made.secret not in repr(world.authority.tokens.list())
        assert made.secret.replace("-", "").encode() not in (tmp_path / "journal.db-wal").read_bytes()


async def test_a_secret_has_more_than_128_bits_in_groups_that_can_be_typed(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        secret = (await world.authority.tokens.create("ldevid", operator="anna", validity_s=60)).secret
        groups = secret.split("-")
        assert [len(group) for group in groups] == [4] * 7
        assert 5 * sum(map(len, groups)) >= 128
        assert not set(secret) & set("0189")


@pytest.mark.parametrize("typed", [str.lower, lambda text: text.replace("-", ""), lambda text: text.replace("-", " ")])
async def test_a_secret_may_be_typed_as_people_type(tmp_path: Path, typed) -> None:  # type: ignore[no-untyped-def]
    async with authority_in(tmp_path) as world:
        made = await world.authority.tokens.create("ldevid", operator="anna", validity_s=60)
        await world.authority.authenticator.password(f" {made.token_id.upper()} ", typed(made.secret))


async def test_what_does_not_fit_is_refused_alike(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        tokens, authenticator = world.authority.tokens, world.authority.authenticator
        good = await tokens.create("ldevid", operator="anna", validity_s=60)
        other = await tokens.create("ldevid", operator="anna", validity_s=3600)
        revoked = await tokens.create("ldevid", operator="anna", validity_s=3600)
        await tokens.revoke(revoked.token_id, "anna")
        texts = set()
        world.clock.advance(59_999)
        await authenticator.password(good.token_id, good.secret)
        world.clock.advance(1)
        for user, secret in [
            (good.token_id, good.secret),
            (other.token_id, good.secret),
            (other.token_id, ""),
            (other.token_id, "\udc80"),
            (revoked.token_id, revoked.secret),
            ("no-such", other.secret),
            ("", ""),
        ]:
            with pytest.raises(Unauthenticated) as caught:
                await authenticator.password(user, secret)
            texts.add(str(caught.value))
        assert len(texts) == 1


async def test_tokens_outlive_a_restart_with_their_uses(tmp_path: Path) -> None:
    root, clock = TestCa.make("Root"), SteppedClock()
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        made = await world.authority.tokens.create("ldevid", operator="anna", validity_s=3600, uses=2, subject="SN-7")
        gone = await world.authority.tokens.create("ldevid", operator="anna", validity_s=3600)
        await world.authority.tokens.revoke(gone.token_id, "anna")
        requester = await world.authority.authenticator.password(made.token_id, made.secret)
        assert isinstance(await world.authority.enroll(enrollment(requester=requester)), Issued)
        before = world.authority.tokens.list()
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        assert world.authority.tokens.list() == before
        assert [(token.remaining, token.revoked) for token in before] == [(1, False), (1, True)]
        requester = await world.authority.authenticator.password(made.token_id, made.secret)
        assert isinstance(await world.authority.enroll(enrollment(device_csr(key=1), requester=requester)), Issued)
        assert world.authority.tokens.list()[0].remaining == 0
        with pytest.raises(Unauthenticated):
            await world.authority.authenticator.password(gone.token_id, gone.secret)


async def test_tokens_long_expired_leave_the_list_at_a_restart(tmp_path: Path) -> None:
    root, clock = TestCa.make("Root"), SteppedClock()
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        await world.authority.tokens.create("ldevid", operator="anna", validity_s=60)
        await world.authority.tokens.create("ldevid", operator="anna", validity_s=3600)
    clock.advance(7 * DAY_MS + 60_000)
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        assert len(world.authority.tokens.list()) == 1


async def test_revoking_twice_records_once(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        made = await world.authority.tokens.create("ldevid", operator="anna", validity_s=60)
        await world.authority.tokens.revoke(made.token_id, "anna")
        await world.authority.tokens.revoke(made.token_id, "anna")
        assert len(await world.recorded(TokenRevoked)) == 1
        with pytest.raises(NotFound):
            await world.authority.tokens.revoke("no-such", "anna")


async def test_a_token_whose_record_failed_does_not_exist(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        world.journal.fail_append(1, JournalFailed("injected"))
        with pytest.raises(JournalFailed):
            await world.authority.tokens.create("ldevid", operator="anna", validity_s=60)
        assert world.authority.tokens.list() == ()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"profile": "no-such"}, NotFound),
        ({"uses": 0}, OperatorError),
        ({"uses": 1_000_001}, OperatorError),
        ({"validity_s": 366 * 86_400 + 1}, OperatorError),
        ({"validity_s": 0}, OperatorError),
        ({"subject": "CN=a,=b"}, OperatorError),
    ],
)
async def test_a_token_that_makes_no_sense_is_not_made(tmp_path: Path, arguments, error) -> None:  # type: ignore[no-untyped-def]
    async with authority_in(tmp_path) as world:
        with pytest.raises(error):
            await world.authority.tokens.create(**{"profile": "ldevid", "operator": "anna", "validity_s": 60, **arguments})
        assert await world.recorded(TokenCreated) == []


async def test_a_name_that_is_taken_is_not_given_twice(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        world.authority.tokens._random = bytes  # the same "random" bytes every time
        await world.authority.tokens.create("ldevid", operator="anna", validity_s=60)
        with pytest.raises(OperatorError, match="try again"):
            await world.authority.tokens.create("ldevid", operator="anna", validity_s=60)


@pytest.mark.parametrize("limits", [{"uses": 1, "validity_s": 1}, {"uses": 1_000_000, "validity_s": 366 * 86_400}])
async def test_a_token_may_go_to_the_limits(tmp_path: Path, limits: dict[str, int]) -> None:
    async with authority_in(tmp_path) as world:
        made = await world.authority.tokens.create("ldevid", operator="anna", **limits)
        assert made.not_after_ms == world.clock.now_ms() + limits["validity_s"] * 1000


async def test_a_token_is_revoked_on_a_full_disk_too(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        made = await world.authority.tokens.create("ldevid", operator="anna", validity_s=60)
        append, urgencies = world.journal.append, list[bool]()

        async def watched(*payloads: Payload, urgent: bool = False) -> tuple[Record, ...]:
            urgencies.append(urgent)
            return await append(*payloads, urgent=urgent)

        world.journal.append = watched  # type: ignore[method-assign]
        await world.authority.tokens.revoke(made.token_id, "bert")
        assert urgencies == [True]

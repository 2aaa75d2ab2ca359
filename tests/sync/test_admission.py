"""Joining where the CA key is on a token that is away, or waits for its PIN: said clearly, nothing half done, then repeated."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.authority.lifecycle import Ceremony
from gateway.errors import PinError, SignerUnavailable
from gateway.journal.journal import Journal
from gateway.journal.records import CaKeyGenerated, CaRequested, Payload
from gateway.keys.keeper import TokenTimes
from gateway.keys.provider import KeyRing
from gateway.keys.signer import KeySpec
from gateway.keys.wrapping import WrappingKey
from gateway.pki.csr import read_csr
from sync.admission import Admission
from sync.joining import make_code, open_request
from tests.support.journal import Place
from tests.support.key_places import TIMES
from tests.support.tokens import Token, softhsm_store, softhsm_token

AWAY = TokenTimes(poll=0.05, respawn=0.05, grace=0.0, attach=0.5)
CODE = make_code(bytes(range(16)), b"central's CA certificate")


@asynccontextmanager
async def admission(
    place: Place, journal: Journal, uri: str, times: TokenTimes = TIMES
) -> AsyncIterator[tuple[Admission, KeyRing]]:
    """A start of the gateway; the journal and what lies in its directory outlive it."""
    directory = place.options.path.parent
    ring = KeyRing(directory / "keys", WrappingKey(bytes(32)), times=times)

    async def activated() -> None: ...

    ceremony = Ceremony(journal, ring, place.clock())
    try:
        yield (
            Admission(
                journal,
                ceremony,
                ring.software,
                place.clock(),
                directory / "central",
                name="plant",
                ca_key=uri,
                activated=activated,
            ),
            ring,
        )
    finally:
        await ring.close()


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Journal]:
    journal = await place.create()
    try:
        yield journal
    finally:
        await journal.close()


async def recorded(journal: Journal, *kinds: type[Payload]) -> list[Payload]:
    return [record.payload async for record in journal.scan(*kinds)]


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Token:
    made = softhsm_token(softhsm_store(tmp_path / "softhsm"), "line 4")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@contextmanager
def pulled_out(directory: Path) -> Iterator[None]:
    """For the time of the block the token is not there."""
    with pytest.MonkeyPatch.context() as pulling:
        for name, value in softhsm_store(directory / "nothing").items():
            pulling.setenv(name, value)
        yield


def with_pin(token: Token, directory: Path) -> str:
    (directory / "pin").write_text(token.pin + "\n")
    return token.uri(pin_source=f"file:{directory / 'pin'}")


async def test_a_join_whose_token_is_away_leaves_nothing_and_works_when_it_is_there(tmp_path: Path, token: Token) -> None:
    place, uri = Place(tmp_path), with_pin(token, tmp_path)
    async with opened(place) as journal:
        before = journal.head
        with pulled_out(tmp_path):
            async with admission(place, journal, uri, AWAY) as (away, _):
                for _ in range(2):
                    with pytest.raises(SignerUnavailable, match="the code is still good") as refused:
                        await away.request(CODE, "", "anna")
                    assert "the CA's key" in str(refused.value)
        assert journal.head == before
        assert not (tmp_path / "central").exists()
        async with admission(place, journal, uri) as (back, _):
            made = await back.request(CODE, "", "anna")
            assert await back.request(CODE, "", "anna") == made
        assert open_request(made, CODE.secret).origin == journal.genesis.origin
        assert len(await recorded(journal, CaKeyGenerated)) == 1


async def test_a_join_whose_token_waits_for_its_pin_says_how_it_is_entered(tmp_path: Path, token: Token) -> None:
    place = Place(tmp_path)
    async with opened(place) as journal:
        before = journal.head
        async with admission(place, journal, token.uri()) as (one, ring):
            with pytest.raises(PinError, match="edge-gateway ca unlock") as refused:
                await one.request(CODE, "", "anna")
            assert "the code is still good" in str(refused.value)
            assert journal.head == before
            assert not (tmp_path / "central").exists()
            await ring.token(token.uri()).unlock(token.pin)
            made = await one.request(CODE, "", "anna")
        assert open_request(made, CODE.secret).code == CODE.name


async def test_a_token_that_goes_away_after_the_key_was_made_costs_nothing(tmp_path: Path, token: Token) -> None:
    place, uri = Place(tmp_path), with_pin(token, tmp_path)
    async with opened(place) as journal:
        async with admission(place, journal, uri) as (_, ring):
            await Ceremony(journal, ring, place.clock()).keygen(uri, KeySpec.P256, "anna")
        with pulled_out(tmp_path):
            async with admission(place, journal, uri, AWAY) as (away, _):
                with pytest.raises(SignerUnavailable, match="the code is still good"):
                    await away.request(CODE, "", "anna")
        assert not (tmp_path / "central").exists()
        assert await recorded(journal, CaRequested) == []
        async with admission(place, journal, uri) as (back, _):
            made = await back.request(CODE, "", "anna")
        (generated,) = await recorded(journal, CaKeyGenerated)
        assert isinstance(generated, CaKeyGenerated)
        asked = open_request(made, CODE.secret).certification_request()
        assert asked.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == generated.spki


async def test_a_key_that_was_made_without_a_record_is_taken_up(tmp_path: Path, token: Token) -> None:
    place, uri = Place(tmp_path), with_pin(token, tmp_path)
    async with opened(place) as journal:
        async with admission(place, journal, uri) as (_, ring):
            orphan = await ring.generate(uri, KeySpec.P256)  # and the power went
            spki = orphan.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        async with admission(place, journal, uri) as (one, _):
            made = await one.request(CODE, "", "anna")
        assert open_request(made, CODE.secret).certification_request().spki == spki
        (requested,) = await recorded(journal, CaRequested)
        assert isinstance(requested, CaRequested)
        assert read_csr(requested.csr).spki == spki

"""Central's TLS certificate: below the root, kept over restarts, renewed in time, never without need."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from gateway.errors import ConfigError, SignerUnavailable
from gateway.keys.signer import Priority
from sync.central.server_identity import ServerIdentity, TlsIdentity, general_name
from tests.support.authority import DAY_MS
from tests.support.central import Central, central

NAMES = ("central.example", "192.0.2.7", "2001:db8::7")


class Kept:
    """What came into use."""

    def __init__(self, one: Central, names: tuple[str, ...] = NAMES) -> None:
        self.used: list[TlsIdentity] = []
        self.identity = ServerIdentity(
            store=one.store, authority=one.authority, keys=one.ring.software, clock=one.clock, names=names, validity_hours=720,
            use=self.used.append,
        )  # fmt: skip

    async def renew(self) -> bool:
        return await self.identity.renew_due()

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.used[-1].certificate)


async def test_it_lies_below_the_root_and_has_the_names(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        kept = Kept(one)
        assert await kept.renew()
        kept.certificate.verify_directly_issued_by(one.authority.root.certificate)
        assert kept.used[-1].chain == one.authority.chain
        names = kept.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [general_name(name) for name in NAMES]
        assert not await kept.renew()
        assert len(kept.used) == 1


async def test_a_restart_takes_the_one_there_is_and_other_names_another_one(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        first, again, other = Kept(one), Kept(one), Kept(one, ("other.example",))
        for each in (first, again, other):
            await each.renew()
        assert first.certificate == again.certificate != other.certificate


async def test_it_is_renewed_when_two_thirds_of_its_time_are_over(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        kept = Kept(one)
        await kept.renew()
        before = kept.certificate
        one.clock.advance(19 * DAY_MS)
        assert not await kept.renew()
        one.clock.advance(2 * DAY_MS)
        assert await kept.renew()
        assert kept.certificate != before


class Away:
    def __init__(self, one: Central) -> None:
        self.public_key, self.algorithm = one.authority.signer().public_key, one.authority.signer().algorithm

    async def ready(self) -> None:
        raise SignerUnavailable("unplugged")

    async def sign(self, message: bytes, *, priority: Priority = Priority.BULK) -> bytes:
        raise SignerUnavailable("unplugged")


async def test_while_the_root_is_away_the_old_one_stays(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        one.authority._signer, whole = Away(one), one.authority._signer  # type: ignore[assignment]
        kept = Kept(one)
        with pytest.raises(SignerUnavailable):
            await kept.renew()
        one.authority._signer = whole
        await kept.renew()
        before = kept.certificate
        one.authority._signer = Away(one)  # type: ignore[assignment]
        one.clock.advance(21 * DAY_MS)
        await kept.renew()
        assert kept.certificate == before
        one.clock.advance(20 * DAY_MS)
        with pytest.raises(SignerUnavailable):
            await kept.renew()


@pytest.mark.parametrize("name", ["", "two words", "*.example", "a..b"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"tls\.names"):
        general_name(name)

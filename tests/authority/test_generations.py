"""The journal says which CA generations there are."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.authority.generations import Generations
from gateway.errors import NotReady, SignerUnavailable
from gateway.journal.records import CaActivated
from gateway.keys.signer import KeySpec, KeyState
from gateway.pki.algorithms import PublicKey
from gateway.pki.names import name_from_text
from tests.support.ceremony_root import sub_ca
from tests.support.status_stack import OPERATOR, status_stack


async def test_before_the_first_activation_nothing_issues(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        assert stack.generations.all == ()
        with pytest.raises(NotReady):
            _ = stack.generations.active


async def test_the_demo_ca_becomes_generation_one(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        active = stack.generations.active
        assert (active.number, active.demo) == (1, True)
        assert active.chain == (stack.root.certificate,) if stack.root else False
        assert stack.generations.by_key_identifier(active.ca.key_identifier) is active
        assert stack.generations.by_key_identifier(b"other") is None
        assert stack.generations.get(2) is None


async def test_generations_are_found_again_after_a_restart(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        certificate = stack.generations.active.certificate
    async with status_stack(tmp_path) as stack:
        assert stack.generations.active.certificate == certificate


async def test_the_newest_generation_issues_and_the_older_one_stays(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        first = stack.generations.active
        await stack.ceremony.renew("software:ca-2", KeySpec.P384, OPERATOR)
        step = await stack.ceremony.csr(name_from_text("CN=Plant CA 2"), OPERATOR)
        certificate, root = sub_ca(step.der)
        await stack.ceremony.import_certificate(certificate, (root,), OPERATOR)
        (second,) = await stack.generations.refresh()
        assert stack.generations.all == (second, first)
        assert stack.generations.active is second
        assert stack.generations.by_key_identifier(first.ca.key_identifier) is first
        assert await stack.generations.refresh() == ()


async def test_each_signer_is_opened_with_the_public_key_of_its_certificate(tmp_path: Path) -> None:
    """So that a token which is away does not stop the start."""
    seen: list[PublicKey | None] = []
    async with status_stack(tmp_path) as stack:
        ring = stack.ring

        class Recorder:
            async def open(self, uri: str, expected: PublicKey | None = None):  # type: ignore[no-untyped-def]
                seen.append(expected)
                return await ring.open(uri, expected)

        generations = await Generations.load(stack.journal, Recorder())
        assert seen == [generations.active.ca.certificate.public_key()]
        assert isinstance(seen[0], ec.EllipticCurvePublicKey)
        activations = [record async for record in stack.journal.scan(CaActivated)]
        assert len(activations) == 1


async def test_a_lost_key_of_one_generation_is_said_and_stops_nothing_else(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        uri = stack.generations.active.signer.uri
        stack.ring.software.erase(uri.removeprefix("software:"))
    async with status_stack(tmp_path) as stack:
        signer = stack.generations.active.signer
        assert (signer.uri, signer.health().state) == (uri, KeyState.DOWN)
        assert "there is no key" in signer.health().detail
        for call in (signer.ready(), signer.sign(b"x")):
            with pytest.raises(SignerUnavailable, match="there is no key"):
                await call
        await signer.unlock("1234")
        await signer.close()


async def test_who_watches_hears_of_new_generations_alone(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        heard: list[int] = []
        stack.generations.watch(lambda: heard.append(len(stack.generations.all)))
        await stack.generations.refresh()
        assert heard == []
        await stack.activate_demo()
        await stack.generations.refresh()
        assert heard == [1]

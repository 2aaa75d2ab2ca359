"""Bundles at central: the same decisions as over the network, and an answer that the gateway can check."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import IntegrityError, MalformedRequest, NotFound, RequestError
from gateway.journal.cosignature import open_receipt
from sync.bundle import DESIRED, DOWN, RECEIPT, UP, BundleReader, BundleWriter
from sync.desired import open_desired
from tests.support.edge import Edge
from tests.support.served_central import joined, served


def bundle(edge: Edge, start: int = 0, *, origin: str = "") -> bytes:
    writer = BundleWriter()
    writer.add_batch(edge.batch(start))
    facts = {"origin": origin or edge.origin, "start": start, "stop": edge.size, "size": edge.size, "made": 5}
    return writer.finish(UP, facts, edge.origin, edge.key)  # type: ignore[arg-type]


async def test_records_that_were_carried_count_as_if_they_were_sent(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        edge = Edge("one")
        vkey = (await joined(one, edge)).answer.vkey
        for _ in range(2):  # the stick is read twice
            _, manifest, answer = await one.bundles.take(bundle(edge))
            reader = BundleReader(answer)
            assert reader.verified(DOWN, vkey).origin == edge.origin
            assert manifest.stop == edge.size
            receipt = open_receipt((reader.entry(RECEIPT) or b"").decode(), edge.vkey, vkey)
            assert receipt.checkpoint.size == edge.size
            assert open_desired(reader.entry(DESIRED) or b"", vkey).origin == edge.origin
        edge.issue(1)
        await one.bundles.take(bundle(edge, edge.size - 2))
        (journal,) = await one.central.registry.gateways()
        assert journal.size == edge.size


async def test_before_any_record_there_is_no_receipt(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        edge = Edge("one")
        await joined(one, edge)
        assert BundleReader(await one.bundles.answer(edge.origin)).entry(RECEIPT) is None


async def test_what_is_no_bundle_of_a_gateway_that_joined_changes_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        edge, stranger = Edge("one"), Edge("two")
        await joined(one, edge)
        with pytest.raises(NotFound):
            await one.bundles.take(bundle(stranger))
        with pytest.raises(IntegrityError):
            await one.bundles.take(bundle(stranger, origin=edge.origin))
        with pytest.raises(MalformedRequest):
            await one.bundles.take(bundle(edge)[:-40])
        with pytest.raises(NotFound):
            await one.bundles.answer("nobody")
        (journal,) = await one.central.registry.gateways()
        assert journal.size == 0
        assert not journal.fenced


async def test_a_fenced_gateway_gets_no_answer(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        edge = Edge("one")
        await joined(one, edge)
        await one.central.registry.fence(edge.origin, "cloned")
        with pytest.raises(RequestError, match="cloned"):
            await one.bundles.answer(edge.origin)

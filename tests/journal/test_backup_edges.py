"""The backup's manifest has one spelling, in every version of the gateway."""

from __future__ import annotations

from gateway.journal.backup import Manifest


def test_the_manifest_is_written_as_ever() -> None:
    text = Manifest(5, "aa", "origin\n5\n", "bb").to_json()
    assert text == (
        '{\n "type": "edge-gateway-backup-v1",\n "size": 5,\n "root": "aa",\n "note": "origin\\n5\\n",\n "sha256": "bb"\n}\n'
    )
    assert Manifest.from_json(text) == Manifest(5, "aa", "origin\n5\n", "bb")

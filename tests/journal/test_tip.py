"""What stands in the columns beside a record: later versions look for it under the same name."""

from __future__ import annotations

from hashlib import sha256

from gateway.journal.tip import idem_column


def test_a_retry_is_found_by_day_and_sixteen_octets_of_its_key() -> None:
    assert idem_column(20_000, b"key") == (20_000).to_bytes(4, "big") + sha256(b"key").digest()[:16]

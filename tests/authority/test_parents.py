"""Another CA's revocation list: a newer one wins, an older one never."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.authority.parents import ParentCrls, PublishedCrl

KEY = ec.derive_private_key(7, ec.SECP256R1())
ROOT = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Plant root")])
START = datetime(2026, 1, 1, tzinfo=UTC)


def crl(number: int, day: int) -> bytes:
    made = START + timedelta(days=day)
    builder = x509.CertificateRevocationListBuilder().issuer_name(ROOT).last_update(made)
    builder = builder.next_update(made + timedelta(days=365)).add_extension(x509.CRLNumber(number), critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def served(lists: ParentCrls) -> PublishedCrl:
    published = lists.get("root.crl")
    assert published is not None
    return published


@pytest.mark.parametrize(("number", "day"), [(6, 20), (8, 9), (6, 9)])
async def test_an_older_list_never_replaces_a_newer_one(tmp_path: Path, number: int, day: int) -> None:
    path = tmp_path / "root.crl"
    path.write_bytes(crl(7, 10))
    lists = ParentCrls((path,))
    await lists.refresh()
    path.write_bytes(crl(number, day))
    path.touch()
    await lists.refresh()
    assert served(lists).number == 7
    assert "older" in lists.health(0)[0][4]
    path.write_bytes(crl(8, 30))
    await lists.refresh()
    assert served(lists).number == 8
    assert not lists.health(0)[0][5]

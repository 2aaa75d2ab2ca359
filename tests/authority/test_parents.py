"""Another CA's revocation list: only one that a CA above ours signed, a newer one wins, an older one never."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.authority import crl_files
from gateway.authority.parents import ParentCrls, PublishedCrl
from gateway.pki import der
from gateway.pki.algorithms import SignatureAlgorithm
from gateway.pki.walk import content, elements
from tests.support.authority import TestCa

ROOT, OTHER = TestCa.make("Plant root"), TestCa.make("Plant root")  # the same name, another key
STRANGER = TestCa.make("Another root")
START = datetime(2026, 1, 1, tzinfo=UTC)
Change = Callable[[x509.CertificateRevocationListBuilder], x509.CertificateRevocationListBuilder]


def crl(
    number: int | None,
    day: int,
    *,
    ca: TestCa = ROOT,
    key: ec.EllipticCurvePrivateKey | None = None,
    change: Change = lambda builder: builder,
    encoding: Encoding = Encoding.DER,
) -> bytes:
    made = START + timedelta(days=day)
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject).last_update(made)
    builder = builder.next_update(made + timedelta(days=365))
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    builder = builder.add_extension(authority, critical=False)
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    return change(builder).sign(key or ca.key, hashes.SHA256()).public_bytes(encoding)


def lists_of(path: Path, *parents: TestCa) -> ParentCrls:
    return ParentCrls((path,), lambda: [parent.der for parent in parents or (ROOT,)])


def served(lists: ParentCrls) -> PublishedCrl:
    published = lists.get("root.crl")
    assert published is not None
    return published


@pytest.mark.parametrize(("number", "day"), [(6, 20), (8, 9), (6, 9), (None, 20)])
async def test_an_older_list_never_replaces_a_newer_one(tmp_path: Path, number: int | None, day: int) -> None:
    path = tmp_path / "root.crl"
    path.write_bytes(crl(7, 10))
    lists = lists_of(path)
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


@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
async def test_a_list_of_a_parent_is_served_in_der(tmp_path: Path, encoding: Encoding) -> None:
    path = tmp_path / "root.crl"
    path.write_bytes(crl(7, 10, encoding=encoding))
    lists = lists_of(path, STRANGER, ROOT)
    await lists.refresh()
    assert x509.load_der_x509_crl(served(lists).der).is_signature_valid(ROOT.key.public_key())
    unchanged = served(lists)
    await lists.refresh()
    assert served(lists) is unchanged


PARTITIONED = x509.IssuingDistributionPoint(None, None, True, False, None, False, False)
WRONG: list[tuple[bytes, str]] = [
    (crl(9, 20, ca=STRANGER), "'CN=Another root', which is none of the CAs expected here"),
    (crl(9, 20, key=STRANGER.key), "signature is not that of the CA 'CN=Plant root'"),
    (crl(9, 20, ca=OTHER), "signature is not that of the CA 'CN=Plant root'"),
    (crl(9, 20)[:-1] + b"\0", "signature is not that"),
    (crl(9, 20, change=lambda builder: builder.add_extension(PARTITIONED, critical=True)), "critical extension 2.5.29.28"),
    (crl(9, 20, change=lambda builder: builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)), "2.5.29.27"),
    (b"not a list", "cannot be read"),
]


@pytest.mark.parametrize(("content", "reason"), WRONG, ids=range(len(WRONG)))
async def test_a_wrong_list_is_refused_with_its_reason_and_the_good_one_stays(
    tmp_path: Path, content: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "root.crl"
    lists = lists_of(path)
    for before in (None, crl(7, 10)):
        if before:
            path.write_bytes(before)
            await lists.refresh()
        good = lists.get("root.crl")
        path.write_bytes(content)
        await lists.refresh()
        assert lists.get("root.crl") is good
        _, _, _, _, failure, degraded = lists.health(0)[0]
        assert reason in failure
        assert degraded
    assert reason in caplog.text


async def test_a_list_without_an_end_is_refused(tmp_path: Path) -> None:
    """RFC 5280 section 5.1.2.5 requires nextUpdate, which PKIX lists of others lack; the library writes none without."""
    tbs = x509.load_der_x509_crl(crl(7, 10)).tbs_certlist_bytes
    inside, _ = content(tbs, der.SEQUENCE)
    fields = elements(tbs, inside, len(tbs))
    this_update, next_update = fields[3], fields[4]
    endless = der.sequence(tbs[inside : this_update[2]], tbs[next_update[2] :])
    signature = der.bit_string(ROOT.key.sign(endless, ec.ECDSA(hashes.SHA256())))
    path = tmp_path / "root.crl"
    path.write_bytes(der.sequence(endless, SignatureAlgorithm.ECDSA_SHA256.value, signature))
    lists = lists_of(path)
    await lists.refresh()
    assert "no nextUpdate" in lists.health(0)[0][4]


async def test_a_list_is_served_once_its_ca_is_known(tmp_path: Path) -> None:
    """The file may lie there before the ceremony's last step."""
    path = tmp_path / "root.crl"
    path.write_bytes(crl(7, 10))
    known: list[bytes] = []
    lists = ParentCrls((path,), lambda: known)
    await lists.refresh()
    assert lists.get("root.crl") is None
    known.append(ROOT.der)
    await lists.refresh()
    assert served(lists).number == 7


async def test_a_ca_that_may_not_sign_lists_or_an_old_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "root.crl"
    path.write_bytes(crl(7, 10))
    device = ROOT.idevid("CN=Plant root", ROOT.key.public_key())  # its name and key, with the usage digitalSignature alone
    lists = ParentCrls((path,), lambda: [device])
    await lists.refresh()
    assert "signature" in lists.health(0)[0][4]
    monkeypatch.setattr(crl_files, "_OLD_HASHES", (hashes.SHA256,))  # nothing here can sign with SHA-1 any more
    lists = lists_of(path)
    await lists.refresh()
    assert "signed with sha256" in lists.health(0)[0][4]


async def test_a_key_of_another_kind_and_a_ca_without_key_usage_end_in_words(tmp_path: Path) -> None:
    bare = x509.CertificateBuilder().subject_name(ROOT.certificate.subject).issuer_name(ROOT.certificate.subject)
    bare = bare.serial_number(1).not_valid_before(START).not_valid_after(START + timedelta(days=1))
    from cryptography.hazmat.primitives.asymmetric import x25519

    agreement = bare.public_key(x25519.X25519PrivateKey.generate().public_key()).sign(ROOT.key, hashes.SHA256())
    plain = bare.public_key(ROOT.key.public_key()).sign(ROOT.key, hashes.SHA256())
    path = tmp_path / "root.crl"
    path.write_bytes(crl(7, 10))
    lists = ParentCrls((path,), lambda: [agreement.public_bytes(Encoding.DER)])
    await lists.refresh()
    assert "signature" in lists.health(0)[0][4]
    lists = ParentCrls((path,), lambda: [agreement.public_bytes(Encoding.DER), plain.public_bytes(Encoding.DER)])
    await lists.refresh()
    assert served(lists).number == 7


async def test_a_file_that_cannot_be_a_list_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crl_files, "MAX_CRL_SIZE", 100)
    path = tmp_path / "root.crl"
    path.write_bytes(crl(7, 10))
    lists = lists_of(path)
    await lists.refresh()
    assert "more than 100 bytes" in lists.health(0)[0][4]


async def test_a_file_that_was_never_there_has_no_figures(tmp_path: Path) -> None:
    lists = lists_of(tmp_path / "root.crl")
    await lists.refresh()
    ((name, number, next_update_ms, entries, failure, degraded),) = lists.health(0)
    assert (name, number, next_update_ms, entries, degraded) == ("root.crl", 0, 0, 0, True)
    assert failure


async def test_a_list_must_be_brought_when_its_next_update_comes(tmp_path: Path) -> None:
    path = tmp_path / "root2.crl"
    path.write_bytes(crl(7, 10))
    lists = lists_of(path)
    await lists.refresh()
    ((name, number, next_update_ms, entries, failure, _),) = lists.health(0)
    assert (name, number, entries, failure) == ("root2.crl", 7, 0, "")
    assert next_update_ms == int((START + timedelta(days=375)).timestamp()) * 1000
    assert [lists.health(now_ms)[0][5] for now_ms in (next_update_ms - 1, next_update_ms)] == [False, True]


def test_a_digit_may_stand_anywhere_but_first(tmp_path: Path) -> None:
    """The gateway's own lists begin with the number of their generation."""
    assert lists_of(tmp_path / "r2.crl").names() == ("r2.crl",)

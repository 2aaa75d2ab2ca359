"""Chains: what is trusted, and the exact reason why not."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.errors import OperatorError, Unauthenticated
from gateway.pki import der
from gateway.pki.chains import MAX_CERTIFICATE_SIZE, verify_chip, verify_client, verify_issuer_chain
from gateway.pki.names import name_from_text
from tests.support.csrs import key_for

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NOW_MS = int(NOW.timestamp()) * 1000
DAY_MS = 86_400_000
KEY_BITS = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
    "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def usage(*bits: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{bit: bit in bits for bit in KEY_BITS})


CA = (x509.BasicConstraints(ca=True, path_length=None), usage("key_cert_sign", "crl_sign"))


def certificate(
    name: str,
    issuer: str,
    *,
    ca: bool = False,
    path_length: int | None = None,
    extensions: tuple[x509.ExtensionType, ...] | None = None,
    critical: tuple[x509.ExtensionType, ...] = (),
    start: datetime = NOW - timedelta(days=10),
    end: datetime = NOW + timedelta(days=10),
    signer: str | None = None,
    key_label: str | None = None,
) -> bytes:
    """A certificate; the key of each name is the one labelled with it, so that chains fit by name."""
    key, signing = key_for("p-256", key_label or name), key_for("p-256", signer or issuer)
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    builder = x509.CertificateBuilder().subject_name(name_from_text(f"CN={name}")).issuer_name(name_from_text(f"CN={issuer}"))
    builder = builder.public_key(key.public_key()).serial_number(int.from_bytes(os.urandom(8), "big") + 1)
    builder = builder.not_valid_before(start).not_valid_after(end)
    if extensions is None:
        extensions = (x509.SubjectKeyIdentifier.from_public_key(key.public_key()),)
        extensions += (
            (x509.BasicConstraints(ca=True, path_length=path_length), usage("key_cert_sign", "crl_sign"))
            if ca
            else (usage("digital_signature"),)
        )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    for extension in critical:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(signing, hashes.SHA256()).public_bytes(Encoding.DER)


ROOT = certificate("root", "root", ca=True)
SUB = certificate("sub", "root", ca=True, path_length=0)
LEAF = certificate("leaf", "sub")


def test_a_leaf_is_traced_to_its_anchor() -> None:
    chain = verify_client(LEAF, anchors=[ROOT], intermediates=[SUB], now_ms=NOW_MS)
    assert [one.public_bytes(Encoding.DER) for one in (chain.leaf, *chain.issuers, chain.anchor)] == [LEAF, SUB, ROOT]


def test_a_sub_ca_can_be_the_anchor() -> None:
    assert verify_client(LEAF, anchors=[SUB], now_ms=NOW_MS).issuers == ()


def test_an_idevid_without_san_that_never_expires_and_has_an_odd_eku_is_accepted() -> None:
    odd = x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.4.1.32473.9")])
    leaf = certificate(
        "idevid",
        "sub",
        extensions=(),
        critical=(odd, usage("digital_signature")),
        end=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
    )
    assert verify_client(leaf, anchors=[ROOT], intermediates=[SUB], now_ms=NOW_MS).leaf.not_valid_after_utc.year == 9999


CLIENT, SERVER = x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH, x509.oid.ExtendedKeyUsageOID.SERVER_AUTH


@pytest.mark.parametrize(
    ("usages", "good"),
    [
        ([CLIENT], True),
        ([SERVER, CLIENT], True),
        ([SERVER], False),
        ([SERVER, x509.oid.ExtendedKeyUsageOID.CODE_SIGNING], False),
        ([SERVER, x509.oid.ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], True),
    ],
)
def test_a_certificate_for_another_purpose_only_is_no_idevid(usages: list[x509.ObjectIdentifier], good: bool) -> None:
    """The handshake does not look at it: a TLS server's certificate of ours must get through to be renewed."""
    purpose = x509.ExtendedKeyUsage(usages)
    leaf = certificate("leaf", "sub", extensions=(usage("digital_signature"), purpose))
    below = certificate("sub", "root", extensions=(*CA, purpose))
    for chain in ((leaf, SUB), (LEAF, below)):
        if good:
            assert verify_client(chain[0], anchors=[ROOT], intermediates=[chain[1]], now_ms=NOW_MS).issuers
        else:
            with pytest.raises(Unauthenticated, match="is none of a TLS client"):
                verify_client(chain[0], anchors=[ROOT], intermediates=[chain[1]], now_ms=NOW_MS)
    # The operator named the anchor: its extensions do not count (RFC 5280 section 6.1.1 d).
    assert verify_client(LEAF, anchors=[below], now_ms=NOW_MS).anchor


def test_unreadable_intermediates_are_no_hindrance() -> None:
    assert verify_client(LEAF, anchors=[ROOT], intermediates=[b"junk", LEAF, SUB], now_ms=NOW_MS).issuers


def test_an_expired_leaf_is_accepted_within_the_grace_only() -> None:
    late = NOW_MS + 12 * DAY_MS
    anchors = [certificate("sub", "root", ca=True, end=NOW + timedelta(days=99))]
    with pytest.raises(Unauthenticated, match=r"'CN=leaf' expired at 2030-01-11"):
        verify_client(LEAF, anchors=anchors, now_ms=late)
    assert verify_client(LEAF, anchors=anchors, now_ms=late, expired_grace_ms=3 * DAY_MS)
    with pytest.raises(Unauthenticated, match="'CN=sub' expired"):
        verify_client(LEAF, anchors=[SUB], now_ms=late, expired_grace_ms=3 * DAY_MS)


def test_validity_ends_after_its_last_second() -> None:
    end_ms = NOW_MS + 10 * DAY_MS
    assert verify_client(LEAF, anchors=[SUB], now_ms=end_ms + 999)
    with pytest.raises(Unauthenticated, match="expired"):
        verify_client(LEAF, anchors=[SUB], now_ms=end_ms + 1000)


def many_intermediates() -> tuple[bytes, list[bytes]]:
    """Five CAs one below the other; one more than is accepted."""
    chain = [certificate(f"ca{n}", f"ca{n - 1}" if n else "root", ca=True) for n in range(5)]
    return certificate("deep", "ca4"), chain


def unknown_critical() -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def constraints() -> x509.NameConstraints:
    return x509.NameConstraints([x509.DNSName("example")], None)


def version_1() -> bytes:
    """A certificate of version 1: no version field, no extensions."""
    tbs = x509.load_der_x509_certificate(LEAF).tbs_certificate_bytes
    reader = der.Reader(tbs).enter(der.SEQUENCE)
    reader.raw(0xA0)
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    return der.sequence(der.sequence(*(reader.raw() for _ in range(6))), algorithm, der.bit_string(b"\x30\x00"))


def unreadable_extension() -> bytes:
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.19"), b"\x05\x00")
    return certificate("leaf", "sub", extensions=(broken,))


REFUSED: dict[str, tuple[Callable[[], tuple[bytes, list[bytes], list[bytes]]], str]] = {
    "no anchor": (lambda: (LEAF, [], [SUB]), "which is not trusted here"),
    "unknown issuer": (lambda: (certificate("leaf", "nobody"), [ROOT], [SUB]), "issued by 'CN=nobody'"),
    "missing intermediate": (lambda: (LEAF, [ROOT], []), "issued by 'CN=sub'"),
    "forged signature": (lambda: (certificate("leaf", "sub", signer="evil"), [ROOT], [SUB]), "not signed by"),
    "same name, other key": (lambda: (LEAF, [certificate("sub", "sub", ca=True, key_label="x", signer="x")], []), "not signed"),
    "not yet valid": (lambda: (certificate("leaf", "sub", start=NOW + timedelta(hours=1)), [SUB], []), "not valid before"),
    "expired": (lambda: (certificate("leaf", "sub", end=NOW - timedelta(days=1)), [SUB], []), "expired"),
    "issuer expired": (lambda: (LEAF, [certificate("sub", "root", ca=True, end=NOW - timedelta(days=1))], []), "expired"),
    "leaf is a CA": (lambda: (SUB, [ROOT], []), "not of a device"),
    "leaf may sign certificates": (
        lambda: (certificate("leaf", "sub", extensions=(usage("key_cert_sign"),)), [SUB], []),
        "not of a device",
    ),
    "leaf may not sign": (
        lambda: (certificate("leaf", "sub", extensions=(usage("key_agreement"),)), [SUB], []),
        "digitalSignature",
    ),
    "issuer without basicConstraints": (lambda: (LEAF, [certificate("sub", "root")], []), "not one of a CA"),
    "issuer with ca false": (
        lambda: (LEAF, [certificate("sub", "root", extensions=(x509.BasicConstraints(ca=False, path_length=None),))], []),
        "not one of a CA",
    ),
    "issuer may not sign certificates": (
        lambda: (LEAF, [certificate("sub", "root", extensions=(CA[0], usage("crl_sign")))], []),
        "keyCertSign",
    ),
    "path length": (
        lambda: (
            certificate("leaf", "b"),
            [ROOT],
            [certificate("a", "root", ca=True, path_length=0), certificate("b", "a", ca=True)],
        ),
        "allows 0 CA certificates below it, not 1",
    ),
    "too many intermediates": (lambda: (many_intermediates()[0], [ROOT], many_intermediates()[1]), "more than 4 intermediate"),
    "leaf unknown critical": (lambda: (certificate("leaf", "sub", critical=(unknown_critical(),)), [SUB], []), r"1\.2\.3\.4"),
    "issuer unknown critical": (
        lambda: (LEAF, [ROOT], [certificate("sub", "root", ca=True, critical=(unknown_critical(),))]),
        r"1\.2\.3\.4",
    ),
    "issuer name constraints": (
        lambda: (LEAF, [ROOT], [certificate("sub", "root", extensions=(*CA, constraints()))]),
        "name constraints",
    ),
    "algorithm patched": (
        lambda: (LEAF.replace(bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a8648ce3d040301")), [SUB], []),
        "not signed by",
    ),
    "signed with SHA-1": (lambda: (sha1_leaf(), [SUB], []), "sha1"),
    "version 1": (lambda: (version_1(), [SUB], []), "version 1"),
    "unreadable extension": (lambda: (unreadable_extension(), [SUB], []), "not a certificate"),
    "junk": (lambda: (b"junk", [SUB], []), "not a certificate"),
    "huge": (lambda: (bytes(MAX_CERTIFICATE_SIZE + 1), [SUB], []), "65537 bytes"),
    "junk anchor": (lambda: (LEAF, [b"junk"], []), "not a certificate"),
}


def sha1_leaf() -> bytes:
    """ecdsa-with-SHA1 in both places of a certificate; nobody gets to look at the signature."""
    sha256, sha1 = bytes.fromhex("300a06082a8648ce3d040302"), bytes.fromhex("300906072a8648ce3d0401")
    outer = der.Reader(LEAF).enter(der.SEQUENCE)
    tbs = outer.enter(der.SEQUENCE)
    fields = [tbs.raw() for _ in range(8)]
    fields[2] = sha1
    assert outer.raw() == sha256
    return der.sequence(der.sequence(*fields), sha1, outer.raw())


@pytest.mark.parametrize("name", REFUSED)
def test_a_client_is_refused_with_the_reason(name: str) -> None:
    build, reason = REFUSED[name]
    leaf, anchors, intermediates = build()
    with pytest.raises(Unauthenticated, match=reason):
        verify_client(leaf, anchors=anchors, intermediates=intermediates, now_ms=NOW_MS)


def test_a_self_issued_ca_does_not_count_for_the_path_length() -> None:
    old = certificate("ca", "root", ca=True, path_length=0)
    new = certificate("ca", "ca", ca=True, key_label="ca-new")
    leaf = certificate("leaf", "ca", signer="ca-new")
    assert len(verify_client(leaf, anchors=[ROOT], intermediates=[old, new], now_ms=NOW_MS).issuers) == 2


def test_a_mesh_of_cross_signed_cas_costs_a_bounded_number_of_signatures() -> None:
    names = ("a", "b", "c", "d", "e", "f")
    mesh = [certificate(one, other, ca=True) for one in names for other in names if one != other]
    with pytest.raises(Unauthenticated, match="within 16 signatures"):
        verify_client(certificate("leaf", "a"), anchors=[ROOT], intermediates=mesh, now_ms=NOW_MS)


def test_every_truncated_or_flipped_certificate_is_refused() -> None:
    for position in range(len(LEAF)):
        flipped = bytearray(LEAF)
        flipped[position] ^= 1 << position % 8
        for data in (LEAF[:position], bytes(flipped)):
            with pytest.raises(Unauthenticated):
                verify_client(data, anchors=[SUB], now_ms=NOW_MS)


def test_an_issuing_ca_is_traced_to_its_root_in_any_order() -> None:
    middle = certificate("middle", "root", ca=True, path_length=1)
    ca = certificate("issuing", "middle", ca=True, path_length=0)
    for order in ([middle, ROOT], [ROOT, middle], [ROOT, ca, middle]):
        chain = verify_issuer_chain(ca, order, now_ms=NOW_MS)
        assert [one.public_bytes(Encoding.DER) for one in (*chain.issuers, chain.anchor)] == [middle, ROOT]


def test_a_self_signed_ca_is_its_own_anchor() -> None:
    assert verify_issuer_chain(ROOT, [], now_ms=NOW_MS).issuers == ()


BAD_ISSUERS: dict[str, tuple[Callable[[], tuple[bytes, list[bytes]]], str]] = {
    "not a CA": (lambda: (LEAF, [SUB, ROOT]), "not one of a CA"),
    "no crlSign": (lambda: (certificate("sub", "root", extensions=(CA[0], usage("key_cert_sign"))), [ROOT]), "cRLSign"),
    "no keyUsage": (lambda: (certificate("sub", "root", extensions=(CA[0],)), [ROOT]), "cRLSign"),
    "no subjectKeyIdentifier": (lambda: (certificate("sub", "root", extensions=CA), [ROOT]), "subjectKeyIdentifier"),
    "root missing": (lambda: (SUB, []), "no self-signed root"),
    "forged root": (lambda: (SUB, [certificate("root", "root", ca=True, signer="evil")]), "no self-signed root"),
    "another root": (lambda: (SUB, [certificate("other", "other", ca=True)]), "not trusted"),
    "expired": (lambda: (certificate("sub", "root", ca=True, end=NOW - timedelta(days=1)), [ROOT]), "expired"),
    "root allows no CA": (
        lambda: (certificate("sub", "tight", ca=True), [certificate("tight", "tight", ca=True, path_length=0)]),
        "allows 0 CA certificates below it, not 1",
    ),
    "unknown critical": (lambda: (certificate("sub", "root", ca=True, critical=(unknown_critical(),)), [ROOT]), r"1\.2\.3\.4"),
    "junk": (lambda: (b"junk", []), "not a certificate"),
    "junk in the chain": (lambda: (SUB, [b"junk", ROOT]), "not a certificate"),
}


@pytest.mark.parametrize("name", BAD_ISSUERS)
def test_a_ca_certificate_is_refused_with_the_reason(name: str) -> None:
    build, reason = BAD_ISSUERS[name]
    ca, chain = build()
    with pytest.raises(OperatorError, match=reason):
        verify_issuer_chain(ca, chain, now_ms=NOW_MS)


def chip(**changes: object) -> bytes:
    """As a TPM's EK certificate: it encrypts, signs nothing, and is for a purpose of the TCG's."""
    arguments = {"extensions": (usage("key_encipherment"), x509.ExtendedKeyUsage([x509.ObjectIdentifier("2.23.133.8.1")]))}
    return certificate("chip", "sub", **(arguments | changes))  # type: ignore[arg-type]


def test_a_key_in_a_chip_that_signs_nothing_is_traced_to_its_maker() -> None:
    chain = verify_chip(chip(), anchors=[ROOT], intermediates=[SUB], now_ms=NOW_MS)
    assert chain.anchor.public_bytes(Encoding.DER) == ROOT
    with pytest.raises(Unauthenticated, match="digitalSignature"):  # as a client it would be refused
        verify_client(chip(), anchors=[ROOT], intermediates=[SUB], now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        (chip(end=NOW - timedelta(days=1)), "expired"),
        (chip(critical=(unknown_critical(),)), "not understood"),
        (chip(signer="another"), "was not signed by"),
        (certificate("chip", "nobody"), "not trusted"),
        (certificate("chip", "sub", ca=True), "one of a CA"),
        (b"no certificate", "not a certificate"),
    ],
    ids=["expired", "critical", "forged", "unknown", "ca", "garbage"],
)
def test_a_chip_is_refused_with_the_reason(leaf: bytes, words: str) -> None:
    with pytest.raises(Unauthenticated, match=words):
        verify_chip(leaf, anchors=[ROOT], intermediates=[SUB], now_ms=NOW_MS)

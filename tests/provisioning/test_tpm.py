"""What a TPM says is read exactly, and a proof with any octet changed is none. The vector is swtpm's and tpm2-tools'."""

from __future__ import annotations

import hashlib
import hmac
import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import DeviceFault, DeviceRefused, WrongDevice
from provisioning import pkcs10, tpm
from provisioning.tpm import Proof, Public


@cache
def vector() -> dict[str, bytes]:
    table = json.loads((Path(__file__).parents[1] / "vectors/tpm/swtpm.json").read_text())
    return {name: bytes.fromhex(value) for name, value in table.items() if isinstance(value, str)}


@cache
def makers() -> tuple[bytes, bytes]:
    """The root, and the CA between it and the TPM."""
    table = json.loads((Path(__file__).parents[1] / "vectors/tpm/swtpm.json").read_text())
    root, local = (bytes.fromhex(value) for value in table["makers"])
    return root, local


def public(name: str) -> Public:
    return tpm.read_public(vector()[name], name)


def proof() -> Proof:
    read = vector()
    return Proof(read["quote"], read["quote-signature"], read["certification"], read["certification-signature"])


def made_at_ms() -> int:
    return int(x509.load_der_x509_certificate(vector()["ek-certificate"]).not_valid_before_utc.timestamp()) * 1000


def check(changed: Proof) -> None:
    tpm.check_proof(changed, iak=public("iak"), key=public("key"), nonce=vector()["nonce"])


def test_the_name_of_a_key_is_the_tpms() -> None:
    assert public("iak").name == vector()["iak-name"]


def test_keys_are_what_they_should_be_and_not_each_other() -> None:
    tpm.check_endorsement_key(public("ek"))
    tpm.check_attestation_key(public("iak"))
    tpm.check_identity_key(public("key"))
    for wrong in (
        lambda: tpm.check_endorsement_key(public("iak")),
        lambda: tpm.check_attestation_key(public("key")),
        lambda: tpm.check_attestation_key(public("ek")),
        lambda: tpm.check_identity_key(public("iak")),
    ):
        with pytest.raises(WrongDevice):
            wrong()


@pytest.mark.parametrize("bit", [tpm.FIXED_TPM, tpm.FIXED_PARENT, tpm.SENSITIVE_DATA_ORIGIN])
def test_a_key_that_may_be_elsewhere_is_refused(bit: int) -> None:
    for check_key, name in (
        (tpm.check_endorsement_key, "ek"),
        (tpm.check_attestation_key, "iak"),
        (tpm.check_identity_key, "key"),
    ):
        key = public(name)
        with pytest.raises(WrongDevice, match="known outside"):
            check_key(replace(key, attributes=key.attributes & ~bit))


def test_a_proof_holds() -> None:
    check(proof())


@settings(deadline=None)
@given(st.sampled_from(list(Proof.__dataclass_fields__)), st.integers(0, 10_000), st.integers(1, 255))
def test_a_proof_with_one_octet_changed_is_none(part: str, place: int, change: int) -> None:
    octets = bytearray(getattr(proof(), part))
    octets[place % len(octets)] ^= change
    with pytest.raises(DeviceFault):
        check(replace(proof(), **{part: bytes(octets)}))


def test_the_parts_of_a_proof_do_not_stand_in_for_each_other() -> None:
    good = proof()
    with pytest.raises(WrongDevice, match="another kind"):
        check(replace(good, certification=good.quote, certification_signature=good.quote_signature))
    with pytest.raises(WrongDevice, match="another kind"):
        check(replace(good, quote=good.certification, quote_signature=good.certification_signature))


def test_a_proof_of_another_nonce_or_key_is_none() -> None:
    with pytest.raises(WrongDevice, match="recorded earlier"):
        tpm.check_proof(proof(), iak=public("iak"), key=public("key"), nonce=bytes(16))
    with pytest.raises(WrongDevice, match="another key"):
        tpm.check_proof(proof(), iak=public("iak"), key=public("ek"), nonce=vector()["nonce"])
    with pytest.raises(WrongDevice, match="not signed"):
        tpm.check_proof(proof(), iak=public("key"), key=public("key"), nonce=vector()["nonce"])


@pytest.mark.parametrize("name", ["ek", "iak", "key"])
def test_a_public_area_cut_anywhere_is_refused(name: str) -> None:
    whole = vector()[name]
    for length in range(len(whole)):
        with pytest.raises(DeviceRefused):
            tpm.read_public(whole[:length], name)
    with pytest.raises(DeviceRefused, match="more octets"):
        tpm.read_public(whole + b"\0", name)
    with pytest.raises(DeviceRefused, match="too long"):
        tpm.read_public(bytes(5000), name)


@settings(deadline=None)
@given(st.sampled_from(["ek", "iak", "key"]), st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_public_area_is_another_key_or_none(name: str, place: int, change: int) -> None:
    octets = bytearray(vector()[name])
    octets[place % len(octets)] ^= change
    with suppress(DeviceRefused):
        assert tpm.read_public(bytes(octets), name).name != public(name).name


@pytest.mark.parametrize("length", [0, 3, 10, 40, 60])
def test_an_attestation_cut_short_is_refused(length: int) -> None:
    with pytest.raises(DeviceFault):
        tpm.read_attestation(vector()["quote"][:length])


def test_a_credential_opens_with_the_ek_and_names_one_key() -> None:
    """The TPM's side, from part 1 of the library specification; a real TPM opens them in test_tpm of the drivers."""
    owner = rsa.generate_private_key(65537, 2048)
    ek = replace(public("ek"), public_key=owner.public_key())
    secret, seed, name = bytes(range(32)), bytes(range(100, 132)), public("iak").name
    blob = tpm.make_credential(ek, name, secret, seed)
    assert blob[:8] == bytes.fromhex("badcc0de00000001")
    size = int.from_bytes(blob[8:10], "big")
    identity, rest = blob[10 : 10 + size], blob[10 + size :]
    encrypted_seed = rest[2:]
    assert int.from_bytes(rest[:2], "big") == len(encrypted_seed) == 256
    label = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0")
    assert owner.decrypt(encrypted_seed, label) == seed

    def derived(usage: bytes, context: bytes, bits: int) -> bytes:
        message = b"\0\0\0\1" + usage + b"\0" + context + bits.to_bytes(4, "big")
        return hmac.new(seed, message, hashlib.sha256).digest()[: bits // 8]

    integrity, encrypted = identity[2:34], identity[34:]
    assert integrity == hmac.new(derived(b"INTEGRITY", b"", 256), encrypted + name, hashlib.sha256).digest()
    decryptor = Cipher(algorithms.AES(derived(b"STORAGE", name, 128)), CFB(bytes(16))).decryptor()
    assert decryptor.update(encrypted) == b"\x00\x20" + secret


def test_a_credential_for_an_ec_ek_is_refused_in_words() -> None:
    elliptic = replace(public("ek"), public_key=public("iak").public_key)
    with pytest.raises(DeviceRefused, match="no RSA key"):
        tpm.make_credential(elliptic, b"", bytes(32), bytes(32))
    with pytest.raises(DeviceRefused, match="no RSA key"):
        tpm.check_endorsement_key(elliptic)


def certificate_of(data: bytes, **changes: object) -> bytes:
    root, local = makers()
    arguments = {"anchors": [root], "intermediates": [local], "now_ms": made_at_ms() + 1000} | changes
    return tpm.check_endorsement_certificate(data, public("ek"), **arguments)  # type: ignore[arg-type]


def test_the_makers_certificate_is_found_in_a_longer_index() -> None:
    whole = vector()["ek-certificate"]
    assert certificate_of(whole + bytes(100)) == whole


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"anchors": []}, "not trusted"),
        ({"intermediates": []}, "not trusted"),
        ({"now_ms": 0}, "not valid before"),
    ],
    ids=["no root", "no intermediate", "too early"],
)
def test_a_certificate_that_leads_to_no_maker_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(WrongDevice, match=words):
        certificate_of(vector()["ek-certificate"], **changes)


def test_a_certificate_for_another_key_or_purpose_is_refused() -> None:
    root, local = makers()
    arguments = {"anchors": [root], "intermediates": [local], "now_ms": made_at_ms() + 1000}
    with pytest.raises(WrongDevice, match="another EK"):
        tpm.check_endorsement_certificate(vector()["ek-certificate"], public("iak"), **arguments)  # type: ignore[arg-type]
    with pytest.raises(WrongDevice, match="one of a CA"):
        certificate_of(local)


@pytest.mark.parametrize("data", [b"", b"\x30\x82", b"\x30\x82\x10\x00short", b"\xff" * 100])
def test_an_index_without_a_certificate_is_refused(data: bytes) -> None:
    with pytest.raises(DeviceRefused, match="no certificate"):
        tpm.first_element(data)


def test_a_request_is_what_its_key_signed() -> None:
    key = public("key")
    information = pkcs10.request_information("CN=device,2.5.4.5=SN-0001", key.spki)
    made = pkcs10.request(information, tpm.default_algorithm(key.public_key), b"signature")
    csr = x509.load_der_x509_csr(made)
    assert (csr.tbs_certrequest_bytes, csr.signature) == (information, b"signature")
    assert csr.subject.rfc4514_string() == "CN=device,2.5.4.5=SN-0001"


def patched(name: str, *changes: tuple[int, str]) -> bytes:
    """A public area with other octets (hexadecimal) at these places."""
    octets = bytearray(vector()[name])
    for place, value in changes:
        new = bytes.fromhex(value)
        octets[place : place + len(new)] = new
    return bytes(octets)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (patched("key", (2, "0008")), "key type 0x0008"),
        (patched("key", (4, "000c")), "name algorithm 0x000c"),
        (patched("ek", (46, "0100")), "AES-128 in CFB"),
        (patched("ek", (54, "00000002")), "no RSA key"),
        (patched("ek", (52, "0c00")), "another size"),
        (patched("key", (16, "0010")), "curve that is not used"),
        (patched("key", (22, "ff" * 32)), "no point of its curve"),
    ],
    ids=["type", "name", "cipher", "exponent", "size", "curve", "point"],
)
def test_a_public_area_of_another_kind_says_of_which(data: bytes, words: str) -> None:
    with pytest.raises(DeviceRefused, match=words):
        tpm.read_public(data, "key")


def test_the_digest_of_an_ek_is_that_of_its_area() -> None:
    assert public("ek").digest == hashlib.sha256(vector()["ek"][2:]).hexdigest()


def signed_attestation(area: bytes, key: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
    return area, key.sign(area, ec.ECDSA(hashes.SHA256()))


def test_a_signature_by_a_key_elsewhere_is_none_of_the_endorsement_hierarchy() -> None:
    """Somebody's own key signs the very words of a TPM: its name is not in them."""
    key = ec.generate_private_key(ec.SECP256R1())
    forged = replace(public("iak"), public_key=key.public_key(), area=b"forged")
    quote, certification = vector()["quote"], vector()["certification"]
    parts = (*signed_attestation(quote, key), *signed_attestation(certification, key))
    with pytest.raises(WrongDevice, match="another signer"):
        tpm.check_proof(Proof(*parts), iak=forged, key=public("key"), nonce=vector()["nonce"])


@pytest.mark.parametrize(
    ("place", "value"), [(4, 7), (12, 1), (16, 1)], ids=["an earlier clock", "another reset", "another restart"]
)
def test_a_certification_of_another_time_is_an_old_one(place: int, value: int) -> None:
    """The quote is of now; the certification's clock, resets or restarts are not."""
    key = ec.generate_private_key(ec.SECP256R1())
    iak = replace(public("iak"), public_key=key.public_key())
    certification = bytearray(vector()["certification"])
    clock = 6 + 2 + 34 + 2 + int.from_bytes(certification[42:44], "big")  # behind kind, signer and extra data
    certification[clock : clock + 8] = bytes(8) if place == 4 else certification[clock : clock + 8]
    if place > 4:
        certification[clock + 8 + place - 12 + 3] ^= value
    parts = (*signed_attestation(vector()["quote"], key), *signed_attestation(bytes(certification), key))
    with pytest.raises(WrongDevice, match="recorded earlier"):
        tpm.check_proof(Proof(*parts), iak=iak, key=public("key"), nonce=vector()["nonce"])


def own_certificate(purpose: str, key: object) -> tuple[bytes, bytes]:
    """A maker's root, and a certificate by it."""
    maker = ec.generate_private_key(ec.SECP256R1())
    name, begin = x509.Name.from_rfc4514_string("CN=maker"), datetime(2026, 1, 1, tzinfo=UTC)
    root = x509.CertificateBuilder(name, name, maker.public_key(), 1, begin, begin + timedelta(days=900))
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    leaf = x509.CertificateBuilder(
        name, x509.Name.from_rfc4514_string("CN=" + "chip" * 15), key, 2, begin, begin + timedelta(days=900)
    )
    leaf = leaf.add_extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier(purpose)]), critical=False)
    signed = [builder.sign(maker, hashes.SHA256()).public_bytes(Encoding.DER) for builder in (root, leaf)]
    return signed[0], signed[1]


def test_a_makers_certificate_for_something_else_is_no_ek_certificate() -> None:
    now_ms = int(datetime(2026, 2, 1, tzinfo=UTC).timestamp()) * 1000
    for purpose, good in (("2.23.133.8.1", True), ("1.3.6.1.5.5.7.3.2", False)):
        root, leaf = own_certificate(purpose, public("ek").public_key)
        check_it = lambda root=root, leaf=leaf: tpm.check_endorsement_certificate(  # noqa: E731
            leaf, public("ek"), anchors=[root], intermediates=[], now_ms=now_ms
        )
        if good:
            assert check_it() == leaf
        else:
            with pytest.raises(WrongDevice, match="tcg-kp-EKCertificate"):
                check_it()


def test_a_subject_that_is_none_is_the_devices_refusal() -> None:
    with pytest.raises(DeviceRefused, match="no such subject"):
        pkcs10.request_information("no name", public("key").spki)

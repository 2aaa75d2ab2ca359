"""What a TPM says is read exactly, and a proof with any octet changed is none. The vector is swtpm's and tpm2-tools'."""

from __future__ import annotations

import hashlib
import hmac
import json
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given
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

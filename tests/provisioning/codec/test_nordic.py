"""Answers of Nordic's modems: what is in them, and that an attestation is about this request, tag and device or is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import DeviceFault, WrongDevice
from gateway.pki.csr import read_csr
from gateway.pki.leniency import CSR_NULL_PARAMETERS
from provisioning.codec import cbor, nordic
from provisioning.codec.nordic import AtRefused
from tests.support.nrf_modem import Modem, base64url, cose_sign1, csr_message

KEY = ec.generate_private_key(ec.SECP256R1())
UUID = bytes.fromhex("5036395332344723 80b91503d88271bf")
UUID_TEXT = "50363953-3234-4723-80b9-1503d88271bf"
MODEM = Modem(uuid=UUID, radio=False)
ANSWER = MODEM.keygen(52, "CN=unit")[:1]
CSR, COSE = nordic.split_keygen(ANSWER)


def test_a_key_generation_gives_a_request_and_what_the_modem_says_of_it() -> None:
    request = read_csr(CSR, leniency=frozenset({CSR_NULL_PARAMETERS}))
    assert request.leniencies == (CSR_NULL_PARAMETERS,)
    attestation = nordic.csr_attestation(COSE)
    assert (attestation.device, attestation.security_tag, attestation.cose) == (UUID_TEXT, 52, COSE)
    nordic.check_attestation(attestation, CSR, 52, UUID_TEXT)
    nordic.check_attestation(attestation, CSR, 52, "")


def test_an_identity_token_says_which_device_it_is() -> None:
    assert nordic.identity_attestation(*nordic.split_token(MODEM.answer("AT%ATTESTTOKEN"))).device == UUID_TEXT


def test_an_attestation_of_another_request_tag_or_device_is_refused() -> None:
    attestation = nordic.csr_attestation(COSE)
    with pytest.raises(DeviceFault, match="another request"):
        nordic.check_attestation(attestation, CSR + b"\0", 52, UUID_TEXT)
    with pytest.raises(DeviceFault, match="security tag 52, not 53"):
        nordic.check_attestation(attestation, CSR, 53, UUID_TEXT)
    with pytest.raises(WrongDevice, match="is of device 50363953"):
        nordic.check_attestation(attestation, CSR, 52, UUID_TEXT.replace("5", "6"))


@pytest.mark.parametrize("tag", [0, 52, 2**31 - 1, 2**31, 2**32 - 4])
def test_a_tag_is_read_although_large_ones_are_coded_as_negative(tag: int) -> None:
    coded = tag if tag < 2**31 else tag - 2**32
    cose = cose_sign1(KEY, csr_message(UUID, coded, CSR, bytes(16)))
    assert nordic.csr_attestation(cose).security_tag == tag


def fields(*changed: tuple[int, cbor.Value]) -> bytes:
    """A message about a request, with other fields."""
    message: list[cbor.Value] = [9, UUID, cbor.encode(52), bytes(32), bytes(16)]
    for index, value in changed:
        message[index] = value
    return cose_sign1(KEY, cbor.encode(message))


BAD_COSE: dict[str, tuple[bytes, str]] = {
    "detached": (cose_sign1(KEY, None), "nothing about a request"),
    "untagged": (cbor.encode([b"", {}, b"", b""]), "no COSE_Sign1"),
    "short": (cbor.encode(cbor.Tagged(18, [b"", {}, b""])), "no COSE_Sign1"),
    "another algorithm": (cbor.encode(cbor.Tagged(18, [cbor.encode({1: -35}), {}, b"", bytes(64)])), "ECDSA and SHA-256"),
    "a short signature": (cbor.encode(cbor.Tagged(18, [cbor.encode({1: -7}), {}, b"", bytes(63)])), "ECDSA and SHA-256"),
    "another message": (fields((0, 8)), "another type"),
    "a short UUID": (fields((1, bytes(15))), "UUID of 16 octets"),
    "a text for a tag": (fields((2, cbor.encode("52"))), "no number"),
    "a tag that is not coded": (fields((2, 52)), "wrong kind"),
    "a short digest": (fields((3, bytes(31))), "wrong kind"),
    "nonsense inside": (cose_sign1(KEY, b"\xff"), "simple value"),
}


@pytest.mark.parametrize(("cose", "reason"), BAD_COSE.values(), ids=BAD_COSE)
def test_an_attestation_of_another_form_is_refused_with_a_sentence(cose: bytes, reason: str) -> None:
    with pytest.raises(DeviceFault, match=reason):
        nordic.csr_attestation(cose)


def test_an_identity_token_with_a_message_inside_is_refused() -> None:
    with pytest.raises(DeviceFault, match="carries another message"):
        nordic.identity_attestation(b"", COSE)


def test_a_changed_octet_is_refused_wherever_it_is_not_for_nordic_alone_to_check() -> None:
    """Key identifier, nonce and signature are: only who has the device's identity key can check them."""
    end = len(COSE)
    unchecked = {7, 8, 9, *range(end - 66 - 16, end - 66), *range(end - 64, end)}
    passed = set()
    for place in range(end):
        for change in range(1, 256):
            changed = bytearray(COSE)
            changed[place] ^= change
            with suppress(DeviceFault):
                nordic.check_attestation(nordic.csr_attestation(bytes(changed)), CSR, 52, UUID_TEXT)
                passed.add(place)
    assert passed == unchecked


@given(st.binary(max_size=200))
def test_any_octets_are_an_attestation_or_a_fault(octets: bytes) -> None:
    for read in (nordic.csr_attestation, lambda cose: nordic.identity_attestation(cose, cose)):
        with suppress(DeviceFault):
            read(octets)


@given(st.lists(st.text(alphabet=st.characters(max_codepoint=255), max_size=80), max_size=5))
def test_any_lines_are_an_answer_or_a_fault(lines: list[str]) -> None:
    for read in (nordic.split_keygen, nordic.split_token, nordic.list_of, nordic.content_of):
        with suppress(DeviceFault):
            read(lines)
    for line in lines:
        with suppress(AtRefused):
            nordic.final_result(line)


BAD_TOKENS: dict[str, tuple[str, str]] = {
    "no answer": ("OK", "has no %KEYGEN"),
    "one part": ('%KEYGEN: "AAAA"', "two parts"),
    "an empty part": ('%KEYGEN: "AAAA."', "two parts"),
    "no base64url": ('%KEYGEN: "A.A"', "no base64url"),
    "too long": ('%KEYGEN: "' + "A" * 9000 + '.AA"', "too long"),
}


@pytest.mark.parametrize(("line", "reason"), BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_an_answer_without_a_token_is_refused_with_a_sentence(line: str, reason: str) -> None:
    with pytest.raises(DeviceFault, match=reason):
        nordic.split_keygen([line])


@given(st.binary(min_size=1, max_size=60), st.binary(min_size=1, max_size=60))
def test_a_token_is_read_as_written(first: bytes, second: bytes) -> None:
    assert nordic.split_token([f'%ATTESTTOKEN: "{base64url(first)}.{base64url(second)}"']) == (first, second)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("ERROR", -1, "without a number"),
        ("+CME ERROR: 513", 513, "no such credential"),
        ("+CME ERROR: 9999", 9999, "error 9999"),
        ("+CME ERROR: memory", -1, "without a number"),
        ("+CMS ERROR: " + "9" * 40, -1, "without a number"),
    ],
)
def test_a_refusal_is_said_in_words(line: str, code: int, words: str) -> None:
    with pytest.raises(AtRefused, match=words) as caught:
        nordic.final_result(line)
    assert caught.value.code == code


def test_only_the_end_of_an_answer_is_its_end() -> None:
    assert nordic.final_result("OK")
    assert not nordic.final_result("OKAY")
    assert not nordic.final_result('%CMNG: 52,1,"00"')


def test_credentials_are_listed_and_read() -> None:
    modem = Modem(radio=False, credentials={(52, 0): "-----BEGIN\nCA", (52, 1): "cert"})
    listed = nordic.list_of(modem.answer("AT%CMNG=1,52"))
    assert [(one.security_tag, one.kind) for one in listed] == [(52, 0), (52, 1)]
    answer = "\n".join(modem.answer("AT%CMNG=2,52,0")).split("\n")  # a text of two lines comes in two
    assert nordic.content_of(answer) == "-----BEGIN\nCA"
    with pytest.raises(DeviceFault, match="a line that is none"):
        nordic.list_of(['%CMNG: 52,1,"short"'])
    with pytest.raises(DeviceFault, match="no credential"):
        nordic.content_of(["OK"])

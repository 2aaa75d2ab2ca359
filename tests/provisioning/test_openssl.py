"""openssl's command line: what it is told is what a real openssl does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import MalformedRequest
from gateway.pki.algorithms import PrivateKey, default_algorithm, signature_is_valid
from gateway.pki.names import name_from_text
from gateway.pki.profiles import ALL_KEY_TYPES
from provisioning import openssl

SLOW = {"rsa-4096", "rsa-8192"}


def run(command: str, stdin: str = "") -> str:
    return subprocess.run(["sh", "-c", command], input=stdin, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("key_type", sorted(set(openssl.GENPKEY) - SLOW))
def test_a_key_of_every_type_is_made_and_signs_by_its_default_algorithm(tmp_path: Path, key_type: str) -> None:
    key, message, signature = tmp_path / "key", tmp_path / "message", tmp_path / "signature"
    message.write_bytes(bytes(range(32)))
    run(f"openssl genpkey {openssl.GENPKEY[key_type]} -out {key}")
    private: PrivateKey = load_pem_private_key(key.read_bytes(), None)  # type: ignore[assignment]
    public = private.public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    run(openssl.sign_command(spki, str(key), str(message), str(signature)))
    assert signature_is_valid(public, default_algorithm(public), signature.read_bytes(), message.read_bytes())


def test_every_key_type_but_the_newest_is_known() -> None:
    assert set(openssl.GENPKEY) == {kind for kind in ALL_KEY_TYPES if not kind.startswith("ml-dsa")}


@pytest.mark.parametrize(
    "make", [x25519.X25519PrivateKey.generate, lambda: dsa.generate_private_key(2048)], ids=["x25519", "dsa"]
)
def test_a_key_that_signs_nothing_here_is_refused(make: object) -> None:
    spki = make().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[operator]
    with pytest.raises(ValueError, match="no key of RSA"):
        openssl.sign_command(spki, "k", "m", "s")


VALUES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20) | st.sampled_from(
    ["a/b", "a=b", "a+b", "a\\b", "a'b", 'a"b', "$HOME", "`id`", "a, b", "#a", " a "]
)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(["2.5.4.3", "2.5.4.10", "2.5.4.11"]), VALUES), min_size=1, max_size=3))
def test_openssl_writes_the_subject_that_it_is_told(pairs: list[tuple[str, str]]) -> None:
    name = x509.Name([x509.NameAttribute(x509.ObjectIdentifier(dotted), value) for dotted, value in pairs])
    made = subprocess.run(
        [
            *("openssl", "req", "-new", "-utf8", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", "/dev/null", "-subj", openssl.subject(name), "-config", "/dev/stdin"),
        ],
        input=openssl.REQUEST_CONFIGURATION.encode(),
        capture_output=True,
        check=True,
    ).stdout
    subject = x509.load_pem_x509_csr(openssl.armoured(made.decode(), "CERTIFICATE REQUEST")).subject
    assert [(each.oid.dotted_string, each.value) for each in subject] == pairs


def test_a_relative_name_of_several_values_stays_one() -> None:
    assert openssl.subject(name_from_text("CN=a+OU=b,O=c")) == "/2.5.4.10=c/2.5.4.3=a+2.5.4.11=b"
    assert openssl.subject(x509.Name([])) == "/"


def test_a_name_with_control_characters_is_refused() -> None:
    with pytest.raises(MalformedRequest):
        openssl.subject(name_from_text("CN=a\nb"))


def test_a_block_is_found_in_what_a_console_says() -> None:
    block = "-----BEGIN X-----\nabc\n-----END X-----"
    assert openssl.armoured(f"[ 1.2] noise\n{block}\n# ", "X") == block.encode() + b"\n"
    assert openssl.armoured(block[:-3], "X") == b""
    assert openssl.armoured("", "X") == b""

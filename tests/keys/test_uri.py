"""Key URIs: RFC 7512 as far as it names one signing key, and nothing secret in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.keys.uri import KeyUri

_TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=32)
_PATH = st.one_of(st.just(""), _TEXT.map(lambda text: "/" + text))
_URIS = st.one_of(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True).map(lambda name: KeyUri(software=name)),
    st.builds(
        KeyUri,
        token=_TEXT,
        manufacturer=_TEXT,
        serial=_TEXT,
        model=_TEXT,
        slot_id=st.none() | st.integers(0, 2**64),
        object=_TEXT,
        type=st.sampled_from(["", "private"]),
        id=st.binary(max_size=32),
        module_path=_PATH,
        module_name=_TEXT.map(lambda text: text.replace("/", "")),
        pin_source=_TEXT,
    ),
)


@given(_URIS)
def test_what_is_formatted_parses_to_the_same(uri: KeyUri) -> None:
    assert KeyUri.parse(uri.format()) == uri
    assert str(uri) == uri.format()


def test_the_rfcs_own_example_style_is_read() -> None:
    """Modelled on RFC 7512 section 3: attributes in any order, percent-encoded, query after them."""
    uri = KeyUri.parse(
        "pkcs11:id=%69%95%3E;object=my-key;token=Software%20PKCS%2311%20softtoken?module-path=/usr/lib/x.so&pin-source=file:/etc/pin"
    )
    assert (uri.id, uri.object, uri.token) == (b"\x69\x95\x3e", "my-key", "Software PKCS#11 softtoken")
    assert (uri.module_path, uri.pin_source) == ("/usr/lib/x.so", "file:/etc/pin")
    assert not uri.is_software


def test_keys_of_one_token_have_the_same_token_part() -> None:
    first, second = (KeyUri.parse(f"pkcs11:token=t;object={name};type=private;id=%0{name}") for name in "12")
    assert first.token_only() == second.token_only() == KeyUri(token="t")


def test_software_names_are_plain() -> None:
    assert KeyUri.parse("software:ca.1") == KeyUri(software="ca.1")
    assert KeyUri.parse("software:ca").is_software


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "starts with"),
        ("software", "starts with"),
        ("pkcs11", "starts with"),
        ("file:/key", "starts with"),
        ("software:", "not a key name"),
        ("software:../ca", "not a key name"),
        ("software:" + "a" * 65, "not a key name"),
        ("pkcs11:object=ca?pin-value=1234", "pin-value is refused"),
        ("pkcs11:object=ca?pin-value=", "pin-value is refused"),
        ("pkcs11:object=my key", "percent-encode ' '"),
        ("pkcs11:object", "not name=value"),
        ("pkcs11:object=a;", "not name=value"),
        ("pkcs11:colour=red", "'colour' is not known"),
        ("pkcs11:module-path=/x", "'module-path' is not known"),
        ("pkcs11:object=a;object=a", "stands twice"),
        ("pkcs11:object=a?module-path=/x&module-path=/y", "stands twice"),
        ("pkcs11:object=%4", "without two hexadecimal digits"),
        ("pkcs11:object=%zz", "without two hexadecimal digits"),
        ("pkcs11:object=%ff", "not UTF-8"),
        ("pkcs11:object=%00", "NUL"),
        ("pkcs11:slot-id=one", "decimal"),
        ("pkcs11:object=a;type=cert", "type is"),
        ("pkcs11:object=a?module-path=x.so", "absolute"),
        ("pkcs11:object=a?module-name=..%2Fx", "without a path"),
        ("pkcs11:object=" + "a" * 5000, "at most"),
    ],
)
def test_what_is_no_single_keys_uri_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        KeyUri.parse(text)
    assert "1234" not in str(caught.value)

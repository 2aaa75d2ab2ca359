"""The wrapping key: where it comes from, and that nothing opens what it did not close."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gateway.errors import ConfigError, IntegrityError, PinError
from gateway.keys.wrapping import WrappingKey, credentials_directory

KEY = WrappingKey(bytes(range(32)))


def test_wrapped_secrets_open_under_their_name_only() -> None:
    wrapped = KEY.wrap("ca", b"secret")
    assert KEY.unwrap("ca", wrapped) == b"secret"
    assert b"secret" not in wrapped
    assert KEY.wrap("ca", b"secret") != wrapped
    with pytest.raises(IntegrityError):
        KEY.unwrap("tls", wrapped)


@pytest.mark.parametrize("position", [0, 11, 12, 17, -1])
def test_a_changed_bit_is_found(position: int) -> None:
    wrapped = bytearray(KEY.wrap("ca", b"secret"))
    wrapped[position] ^= 1
    with pytest.raises(IntegrityError):
        KEY.unwrap("ca", bytes(wrapped))


@pytest.mark.parametrize("wrapped", [b"", b"short", bytes(12), bytes(27)])
def test_what_is_too_short_is_an_integrity_error(wrapped: bytes) -> None:
    with pytest.raises(IntegrityError):
        KEY.unwrap("ca", wrapped)


def test_another_wrapping_key_opens_nothing() -> None:
    with pytest.raises(IntegrityError):
        WrappingKey(bytes(32)).unwrap("ca", KEY.wrap("ca", b"secret"))


def test_authentication_codes_depend_on_key_and_message() -> None:
    codes = {KEY.authenticate(b"a"), KEY.authenticate(b"b"), WrappingKey(bytes(32)).authenticate(b"a")}
    assert len(codes) == 3
    assert KEY.authenticate(b"a") == WrappingKey(bytes(range(32))).authenticate(b"a")


def test_the_key_is_not_shown() -> None:
    assert bytes(range(32)).hex() not in repr(KEY)


def test_the_file_is_made_once_and_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "wrapping.key"
    wrapped = WrappingKey.load_or_create(path).wrap("ca", b"secret")
    assert WrappingKey.load_or_create(path).unwrap("ca", wrapped) == b"secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["wrapping.key"]


@pytest.mark.parametrize("content", [bytes(range(32)), bytes(range(32)).hex().encode() + b"\n"])
def test_the_credential_comes_first_raw_or_hexadecimal(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "wrapping-key").write_bytes(content)
    path = tmp_path / "keys" / "wrapping.key"
    loaded = WrappingKey.load_or_create(path, credentials=tmp_path)
    assert loaded.unwrap("ca", KEY.wrap("ca", b"secret")) == b"secret"
    assert not path.exists()


def test_without_that_credential_the_file_serves(tmp_path: Path) -> None:
    path = tmp_path / "wrapping.key"
    WrappingKey.load_or_create(path, credentials=tmp_path / "credentials")
    assert path.exists()


@pytest.mark.parametrize("content", [b"", b"too short", b"zz" * 32, bytes(31), b"\xff" * 40])
def test_what_is_no_key_is_a_configuration_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wrapping.key"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"wrapping\.key is not a wrapping key: 32 bytes or 64 hexadecimal digits"):
        WrappingKey.load_or_create(path)


def test_an_unreadable_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        WrappingKey.load_or_create(tmp_path)


def test_a_passphrase_protects_the_file(tmp_path: Path) -> None:
    path = tmp_path / "wrapping.key"
    wrapped = WrappingKey.load_or_create(path, passphrase="correct horse").wrap("ca", b"secret")
    assert WrappingKey.load_or_create(path, passphrase="correct horse").unwrap("ca", wrapped) == b"secret"
    for wrong in ("battery staple", None):
        with pytest.raises(PinError):
            WrappingKey.load_or_create(path, passphrase=wrong)


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"format":"other"}', b'{"format":"edge-gateway-wrapping-1","salt":5}'])
def test_a_damaged_passphrase_file_is_a_configuration_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wrapping.key"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        WrappingKey.load_or_create(path, passphrase="correct horse")


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigError):
        WrappingKey(bytes(16))


def test_systemd_says_where_credentials_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x")
    assert credentials_directory() == Path("/run/credentials/x")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert credentials_directory() is None


def test_a_passphrase_file_of_another_format_is_not_guessed_at(tmp_path: Path) -> None:
    path = tmp_path / "wrapping.key"
    WrappingKey.load_or_create(path, passphrase="correct horse")
    path.write_text(path.read_text().replace("edge-gateway-wrapping-1", "edge-gateway-wrapping-2"))
    with pytest.raises(ConfigError, match="unknown format"):
        WrappingKey.load_or_create(path, passphrase="correct horse")


#: Written by version 0.1 with the nonce (and salt) 00 01 02 ...: what a later version must still open.
WRAPPED = bytes.fromhex("000102030405060708090a0b3467b569a0913fcf333e576b57b44e62a87be3b358f8")
MARK = bytes.fromhex("fd795c7e783130846c94512dc8c3897335a54e9c8a2ff70bf530b8d92a960b7c")
LOCKED = (
    '{"format": "edge-gateway-wrapping-1", "salt": "000102030405060708090a0b0c0d0e0f", "wrapped": "000102030405060708090a0b'
    'd021d795adba76eb99d9441d2bbbb79e8b4fe44713e19cfa589cfe1f6a7b2ce976e732417868e12ca79c7f9ad49473bf"}\n'
)


def test_what_an_earlier_version_stored_opens(tmp_path: Path) -> None:
    assert KEY.unwrap("ca", WRAPPED) == b"secret"
    assert KEY.authenticate(b"message") == MARK
    (tmp_path / "wrapping.key").write_text(LOCKED)
    loaded = WrappingKey.load_or_create(tmp_path / "wrapping.key", passphrase="correct horse")
    assert loaded.unwrap("ca", WRAPPED) == b"secret"

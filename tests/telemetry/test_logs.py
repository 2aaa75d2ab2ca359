"""No secret and no forged line reaches the log, whatever is logged."""

from __future__ import annotations

import logging
import sys

import pytest

from gateway.telemetry.logs import SecretFreeFormatter, without_secrets


def record(message: str, *arguments: object, level: int = logging.INFO, exc_info: object = None) -> logging.LogRecord:
    return logging.LogRecord("gateway.x", level, __file__, 1, message, arguments, exc_info)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pkcs11:token=t?pin-value=471100&x=1", "pkcs11:token=t?pin-value=***&x=1"),
        ("PIN: 471100.", "PIN: ***"),
        ("password=geheim, user=x", "password=***, user=x"),
        ("Authorization: Basic dXNlcjpzZWNyZXQ=", "Authorization: Basic ***"),
        ("got Basic dXNlcjpzZWNyZXQ= from a", "got Basic *** from a"),
        (
            "key -----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY----- end",
            "key [PRIVATE KEY removed] end",
        ),
        ("cut off -----BEGIN EC PRIVATE KEY-----\nMIIE", "cut off [EC PRIVATE KEY removed]"),
        ("spinning=3 and pinned", "spinning=3 and pinned"),
    ],
)
def test_what_looks_like_a_secret_is_blanked(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_a_subject_name_cannot_forge_a_line() -> None:
    shown = SecretFreeFormatter(for_service_manager=False).format(
        record("subject %s", "CN=a\r\n2026 ERROR gateway: forged\x1b[2J")
    )
    assert [line for line in shown.split("\n")[1:] if not line.startswith("    ")] == []
    assert "\x1b" not in shown
    assert "\r" not in shown


def test_secrets_in_a_traceback_are_blanked() -> None:
    try:
        raise ValueError("pin=471100")
    except ValueError:
        shown = SecretFreeFormatter(for_service_manager=False).format(record("failed", exc_info=sys.exc_info()))
    assert "471100" not in shown
    assert "ValueError" in shown


def test_systemd_gets_a_severity_on_every_line() -> None:
    shown = SecretFreeFormatter(for_service_manager=True).format(record("a\nb", level=logging.ERROR))
    assert all(line.startswith("<3>") for line in shown.split("\n"))

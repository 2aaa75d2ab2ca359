"""Logging to standard error, one line a message, in a form that systemd's journal and a person both read.

No secret reaches a log by design: errors carry none in ``str()``. This module is the second barrier: text that looks like a PIN
attribute, an HTTP credential or a private key is blanked out, also in tracebacks, and control characters are escaped so that a
device's subject name cannot forge a line.
"""

from __future__ import annotations

import logging
import os
import re
import sys

#: (pattern, replacement). The first groups keep what tells a reader which secret was there.
_SECRETS = (
    (re.compile(r"(?i)\b(pin(?:-value)?|password|passphrase|secret)(\s*[=:]\s*)[^\s&;,'\")}]+"), r"\1\2***"),
    (re.compile(r"(?i)\b(authorization:?\s+|basic\s+|bearer\s+)[A-Za-z0-9+/=_\-.]{8,}"), r"\1***"),
    (re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?(?:-----END \1-----|\Z)", re.DOTALL), r"[\1 removed]"),
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u2028\u2029]")
#: syslog severities as systemd reads them at the start of a line (sd-daemon(3)).
_SEVERITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def without_secrets(text: str) -> str:
    """``text`` with everything that looks like a secret blanked out and control characters escaped."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


class SecretFreeFormatter(logging.Formatter):
    """One line a message; continuation lines (tracebacks) are indented, so no message can look like another one's start."""

    def __init__(self, *, for_service_manager: bool) -> None:
        super().__init__(
            "%(levelname)-7s %(name)s: %(message)s"
            if for_service_manager
            else "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
        )
        self._for_service_manager = for_service_manager

    def format(self, record: logging.LogRecord) -> str:
        text = without_secrets(super().format(record)).replace("\n", "\n    ")
        if self._for_service_manager:
            severity = _SEVERITY.get(record.levelno, 6)
            return "\n".join(f"<{severity}>{line}" for line in text.split("\n"))
        return text


def set_up_logging(level: str) -> None:
    """Send everything from ``level`` up to standard error. ``JOURNAL_STREAM`` tells that systemd reads along."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SecretFreeFormatter(for_service_manager="JOURNAL_STREAM" in os.environ))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for library in ("aiohttp.access", "aiosqlite"):  # the second one would write out every record at level debug
        logging.getLogger(library).setLevel(logging.WARNING)

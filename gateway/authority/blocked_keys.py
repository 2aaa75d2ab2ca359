"""The file of blocked keys: public keys that get no certificate and prove nothing any more. It is read again when it changes.

Keys get on it when a private key is known to others: a leaked firmware image, a batch with a bad generator. The file must be
right at the start; later a bad one leaves the keys in force that were, and :attr:`BlockedKeys.failure` says why.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from gateway.authority.inforce import PolicyInForce
from gateway.authority.policy_tables import blocked_keys_of
from gateway.errors import ConfigError

_log = logging.getLogger(__name__)


class BlockedKeys:
    """``path`` is None where no file is configured."""

    def __init__(self, path: Path | None, policy: PolicyInForce) -> None:
        self._path, self._policy = path, policy
        self._stamp = (0, 0)
        self.failure = ""

    async def load(self) -> None:
        """Read the file if it changed. Raises ConfigError, and changes nothing then."""
        if self._path is None:
            return
        try:
            found = await asyncio.to_thread(_read, self._path, self._stamp)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"policy.blocked_keys: {self._path} cannot be read: {error}") from error
        except ConfigError as error:
            raise ConfigError(f"policy.blocked_keys: {self._path}: {error}") from error
        if found is not None:
            self._stamp, keys = found
            self._policy.block(keys)
            _log.info("%d keys are blocked by %s", len(keys), self._path.name)

    async def refresh(self) -> None:
        """As :meth:`load`, but a file that cannot be read is kept in :attr:`failure` and logged once."""
        failure = ""
        try:
            await self.load()
        except ConfigError as error:
            failure = str(error)
            if failure != self.failure:
                _log.warning("%s; the keys blocked before stay so", failure)
        self.failure = failure


def _read(path: Path, stamp: tuple[int, int]) -> tuple[tuple[int, int], frozenset[bytes]] | None:
    facts = path.stat()
    now = (facts.st_mtime_ns, facts.st_size)
    return None if now == stamp else (now, blocked_keys_of(path.read_text(encoding="utf-8")))

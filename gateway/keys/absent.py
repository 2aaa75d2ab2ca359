"""A signer whose key cannot be opened: its file is gone or damaged, or the vendor's module was removed.

It says so in its health and refuses to sign; the certificate's public key stays known, so all else that belongs to a CA
generation goes on: status answers, lists made earlier, the other generations.
"""

from __future__ import annotations

from gateway.errors import SignerUnavailable
from gateway.keys.signer import KeyState, Priority, SignerHealth
from gateway.pki.algorithms import PublicKey, SignatureAlgorithm, default_algorithm

_RETRY_AFTER = 300  # a person has to bring the key back and restart the gateway


class AbsentSigner:
    """A Signer that says why it cannot sign."""

    def __init__(self, uri: str, public_key: PublicKey, reason: str) -> None:
        self.uri = uri
        self.public_key = public_key
        self._reason = reason

    @property
    def algorithm(self) -> SignatureAlgorithm:
        return default_algorithm(self.public_key)

    async def ready(self) -> None:
        """See :class:`~gateway.keys.signer.Signer`."""
        raise SignerUnavailable(self._reason, retry_after=_RETRY_AFTER)

    async def sign(self, message: bytes, *, priority: Priority = Priority.BULK) -> bytes:
        """See :class:`~gateway.keys.signer.Signer`."""
        raise SignerUnavailable(self._reason, retry_after=_RETRY_AFTER)

    def health(self) -> SignerHealth:
        return SignerHealth(uri=self.uri, state=KeyState.DOWN, detail=self._reason)

    async def unlock(self, pin: str) -> None:
        """No PIN helps."""

    async def close(self) -> None: ...

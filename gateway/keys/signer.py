"""What the rest of the gateway knows of a private key: it signs, and it says how it is.

The PIN, the token and the process they live in stay behind this seam. A signature is verified with the public key before
it is returned, so a faulty token can never put a wrong signature into a certificate.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Protocol

from gateway.pki.algorithms import PublicKey, SignatureAlgorithm


class KeySpec(Enum):
    """Key types that can be generated; the value is the name used in the configuration and in profiles."""

    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    P256 = "p-256"
    P384 = "p-384"
    P521 = "p-521"
    ED25519 = "ed25519"
    ML_DSA_44 = "ml-dsa-44"
    ML_DSA_65 = "ml-dsa-65"
    ML_DSA_87 = "ml-dsa-87"


class Priority(IntEnum):
    """Who goes first when several wait for one token; the lower number wins, equal numbers in order of arrival."""

    STATUS = 0  # revocation lists and delegated certificates: few, and others wait for them
    LINE = 1
    RENEWAL = 2
    BULK = 3


class KeyState(Enum):
    UP = "up"
    DOWN = "down"  # unplugged, crashed or hung; being reopened
    PIN_NEEDED = "pin-needed"
    PIN_BLOCKED = "pin-blocked"  # a PIN was refused: no further attempt until a person enters another
    WRONG_TOKEN = "wrong-token"  # noqa: S105 - another serial number or public key than expected


@dataclass(frozen=True, slots=True)
class SignerHealth:
    """A snapshot for the status page. Times in milliseconds over the last operations; ``operations`` since start."""

    uri: str
    state: KeyState
    detail: str = ""  # one sentence for the technician, empty when up
    token_serial: str = ""
    waiting: int = 0
    operations: int = 0
    p50_ms: float = 0.0
    p95_ms: float = 0.0


class Signer(Protocol):
    """One private key that can sign."""

    @property
    def uri(self) -> str:
        """RFC 7512 or ``software:`` URI without any PIN."""

    @property
    def public_key(self) -> PublicKey: ...

    @property
    def algorithm(self) -> SignatureAlgorithm: ...

    async def ready(self) -> None:
        """Return when a signature can be asked for now. Raises SignerUnavailable; a fresh fault may heal for a moment first."""

    async def sign(self, message: bytes, *, priority: Priority = Priority.BULK) -> bytes:
        """Sign ``message`` with exactly one token operation and verify the result.

        Raises SignerUnavailable (with ``retry_after``) when the token is away, hung, locked or waits for a PIN, Busy when
        too many callers wait. When it raises, no signature has left this process.
        """

    def health(self) -> SignerHealth: ...

    async def unlock(self, pin: str) -> None:
        """Hand over a PIN: exactly one login attempt. Raises PinError; software keys need none and ignore it."""

    async def close(self) -> None: ...

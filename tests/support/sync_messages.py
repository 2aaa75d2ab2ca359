"""One good message of each kind between a gateway and central, where fuzzing begins."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.journal.checkpoint import verifier_key
from gateway.journal.statements import sign_statement
from sync.wire import HELLO, Batch, Hello, Urgent, Welcome

_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SYNC_VKEY = verifier_key("plant/1", _KEY.public_key())


def sync_messages() -> list[tuple[bytes, bytes]]:
    """The octet that chooses the reader in the fuzz target, and the message."""
    hello = Hello("plant/1", "nonce", "ab12", "a note\n", 7, 1_700_000_000_000, "0.3").to_bytes()
    batch = Batch("plant/1", "session", 3, "a note\n", (b'{"kind":"revoked"}', b"", b"\xff\x00"), 7)
    return [
        (b"\x00", sign_statement(HELLO, hello, "plant/1", _KEY)),
        (b"\x40", batch.to_bytes()),
        (b"\x40", Batch("plant/1", "", 0, "a note\n", ()).to_bytes()),
        (b"\x80", hello),
        (b"\xa0", Urgent("plant/1", (b'{"kind":"revoked"}', b"{}")).to_bytes()),
        (b"\xc0", Welcome("session", 5, bytes(32), "a receipt\n", 3).to_bytes()),
    ]

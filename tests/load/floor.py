"""The floor: what the cryptography of one request costs on this core, measured in the same run as everything else.

One ECDSA P-256 verification and one signature for an enrolment; one full TLS 1.3 handshake, server side only, where the
connection is new. All figures are CPU microseconds of this process.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

MESSAGE = bytes(range(256)) * 2


@dataclass(frozen=True, slots=True)
class Floor:
    """CPU microseconds."""

    verify_us: float
    sign_us: float
    handshake_us: float

    @property
    def keep_us(self) -> float:
        return self.verify_us + self.sign_us

    @property
    def fresh_us(self) -> float:
        return self.keep_us + self.handshake_us


def cpu_us(call: Callable[[], object], rounds: int, repeats: int = 5) -> float:
    """The smallest mean CPU time of ``call`` over ``repeats`` blocks of ``rounds``, in microseconds."""
    blocks = []
    for _ in range(repeats):
        begin = time.process_time_ns()
        for _ in range(rounds):
            call()
        blocks.append((time.process_time_ns() - begin) / rounds / 1000)
    return min(blocks)


def measure(certificate: str, key: str, client: tuple[str, str] | None = None) -> Floor:
    """``certificate`` and ``key`` are PEM files of the server; ``client`` makes the handshake a mutual one."""
    private = ec.generate_private_key(ec.SECP256R1())
    public, algorithm = private.public_key(), ec.ECDSA(hashes.SHA256())
    signature = private.sign(MESSAGE, algorithm)
    return Floor(
        verify_us=cpu_us(lambda: public.verify(signature, MESSAGE, algorithm), 300),
        sign_us=cpu_us(lambda: private.sign(MESSAGE, algorithm), 300),
        handshake_us=min(_handshakes(certificate, key, client) for _ in range(5)),
    )


def _handshakes(certificate: str, key: str, client: tuple[str, str] | None, rounds: int = 60) -> float:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    server.num_tickets = 0
    device = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    device.check_hostname = False
    device.verify_mode = ssl.CERT_NONE
    if client is not None:
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(client[0])
        server.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        device.load_cert_chain(*client)
    spent = 0
    for _ in range(rounds):
        to_server, to_device = ssl.MemoryBIO(), ssl.MemoryBIO()
        near = server.wrap_bio(to_server, to_device, server_side=True)
        far = device.wrap_bio(to_device, to_server)
        done = False
        while not done:
            _step(far)
            begin = time.process_time_ns()
            done = _step(near)
            spent += time.process_time_ns() - begin
    return spent / rounds / 1000


def _step(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True

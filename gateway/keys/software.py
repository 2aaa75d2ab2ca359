"""Keys without hardware: one wrapped file per key, and a signer over a key in memory.

They serve as delegated keys (TLS, OCSP, checkpoints) and as the CA key where there is no HSM, labelled as such. A file holds
the key's name and type in the clear and its PKCS #8 form wrapped; name and type are authenticated with it.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from gateway.errors import AlreadyExists, ConfigError, IntegrityError, NotFound, SignerUnavailable
from gateway.keys import durable
from gateway.keys.figures import Figures
from gateway.keys.generation import generate_key, private_from_der, private_to_der, spec_of
from gateway.keys.signer import KeySpec, KeyState, Priority, SignerHealth
from gateway.keys.turnstile import Turnstile
from gateway.keys.wrapping import WrappingKey
from gateway.pki.algorithms import (
    PrivateKey,
    PublicKey,
    SignatureAlgorithm,
    default_algorithm,
    sign,
    signature_is_valid,
)

_FORMAT = "edge-gateway-key-1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Hashing this much takes about a quarter of a millisecond; more goes to a thread (a CRL may have 40 MB).
INLINE_BYTES = 131_072
#: Waiting callers before Busy: at RSA-4096's 650 signatures a second still a wait of under two seconds.
_QUEUE_LIMIT = 1024
_THREADS = 2


class SoftwareKeys:
    """The wrapped keys in one directory. All methods block (disk, and RSA generation): for start-up and threads."""

    def __init__(self, directory: Path, wrapping: WrappingKey) -> None:
        self._directory = directory
        self._wrapping = wrapping

    def path(self, name: str) -> Path:
        """The file of the key ``name``. Raises ConfigError for a name that is no plain file name."""
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is not a key name: up to 64 letters, digits, '.', '_' and '-' are")
        return self._directory / f"{name}.key"

    def exists(self, name: str) -> bool:
        return self.path(name).exists()

    def generate(self, name: str, spec: KeySpec) -> PrivateKey:
        """Make a key and store it durably before it is returned. Raises AlreadyExists: no key is ever overwritten."""
        if self.exists(name):  # before the work; write_new decides
            raise AlreadyExists(f"the key {name!r} already exists")
        key = generate_key(spec)
        self.store(name, key)
        return key

    def store(self, name: str, key: PrivateKey) -> None:
        """Wrap and store a key made elsewhere (the pool). Raises AlreadyExists."""
        durable.make_directory(self._directory)
        durable.write_new(self.path(name), seal_key(self._wrapping, name, key))

    def load(self, name: str) -> PrivateKey:
        """Raises NotFound, and IntegrityError for a file that was changed, renamed or wrapped by another key."""
        try:
            content = self.path(name).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"there is no key {name!r}") from None
        return open_key(self._wrapping, name, content)

    def load_or_generate(self, name: str, spec: KeySpec) -> PrivateKey:
        """The key ``name``, made on first use. Raises IntegrityError when it exists and has another type."""
        if not self.exists(name):
            try:
                return self.generate(name, spec)
            except AlreadyExists:
                pass  # another process was first: its key is the key
        key = self.load(name)
        if spec_of(key.public_key()) is not spec:
            raise IntegrityError(f"the key {name!r} is not of type {spec.value}")
        return key

    def signer(self, name: str) -> SoftwareSigner:
        """The key ``name`` as a Signer. Raises what :meth:`load` raises."""
        return SoftwareSigner(self.load(name), name)

    def erase(self, name: str) -> None:
        """Destroy a delegated key that was replaced; no error when it is gone."""
        durable.erase(self.path(name))


def seal_key(wrapping: WrappingKey, name: str, key: PrivateKey) -> bytes:
    """The file content for ``key``: JSON with its name and type, and its wrapped PKCS #8 in hexadecimal."""
    spec = spec_of(key.public_key())
    wrapped = wrapping.wrap(_bound(name, spec), private_to_der(key))
    return json.dumps({"format": _FORMAT, "name": name, "type": spec.value, "wrapped": wrapped.hex()}).encode() + b"\n"


def open_key(wrapping: WrappingKey, name: str, content: bytes) -> PrivateKey:
    """The inverse of :func:`seal_key`. Raises IntegrityError."""
    try:
        table = json.loads(content)
        if table["format"] != _FORMAT:
            raise IntegrityError(f"the key file of {name!r} has an unknown format")
        spec, wrapped = KeySpec(table["type"]), bytes.fromhex(table["wrapped"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"the key file of {name!r} is damaged") from error
    return private_from_der(wrapping.unwrap(_bound(name, spec), wrapped), spec)


def _bound(name: str, spec: KeySpec) -> str:
    return f"{name}\0{spec.value}"


class SoftwareSigner:
    """A Signer over a key in memory.

    EC and Ed25519 keys sign in 20 to 250 µs, less than a hop to a thread costs the loop, and do so inline; RSA and ML-DSA
    sign in one of two threads, the most urgent caller first.
    """

    def __init__(self, key: PrivateKey, name: str) -> None:
        self._key = key
        self._public_key: PublicKey = key.public_key()
        self._algorithm = default_algorithm(self._public_key)
        self._uri = f"software:{name}"
        self._inline = isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey)
        self._turnstile = Turnstile(width=_THREADS, limit=_QUEUE_LIMIT)
        self._threads: ThreadPoolExecutor | None = None
        self._figures = Figures()
        self._closed = False

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def public_key(self) -> PublicKey:
        return self._public_key

    @property
    def algorithm(self) -> SignatureAlgorithm:
        return self._algorithm

    async def ready(self) -> None:
        """See :class:`~gateway.keys.signer.Signer`."""
        if self._closed:
            raise SignerUnavailable("the signing key was closed", retry_after=10)

    async def sign(self, message: bytes, *, priority: Priority = Priority.BULK) -> bytes:
        """See :class:`~gateway.keys.signer.Signer`. Raises Busy when RSA or ML-DSA requests pile up."""
        await self.ready()
        if self._inline and len(message) <= INLINE_BYTES:
            return self._sign(message)
        async with self._turnstile.turn(priority):
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="software-signer")
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._sign, message)

    def _sign(self, message: bytes) -> bytes:
        start = time.perf_counter()
        signature = sign(self._key, self._algorithm, message)
        # A bit flipped in memory during an RSA-CRT signature gives the private key away: nothing unverified leaves.
        if not signature_is_valid(self._public_key, self._algorithm, signature, message):
            raise SignerUnavailable("the software key made a wrong signature", retry_after=10)
        self._figures.add((time.perf_counter() - start) * 1000)
        return signature

    def health(self) -> SignerHealth:
        return SignerHealth(
            uri=self._uri,
            state=KeyState.DOWN if self._closed else KeyState.UP,
            detail="the key was closed" if self._closed else "",
            waiting=self._turnstile.waiting,
            operations=self._figures.operations,
            p50_ms=self._figures.quantile(0.50),
            p95_ms=self._figures.quantile(0.95),
        )

    async def unlock(self, pin: str) -> None:
        """Software keys need no PIN."""

    async def close(self) -> None:
        """Wait for signatures under way; later calls of :meth:`sign` are refused."""
        self._closed = True
        if self._threads is not None:
            await asyncio.to_thread(self._threads.shutdown)

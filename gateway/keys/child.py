"""The signer child: one process, one thread, one token. ``python -m gateway.keys.child DESCRIPTOR``.

A vendor's PKCS #11 module may crash, hang or leak: here it can. The parent kills this process after a deadline and starts
another; nothing of it is kept but what the token itself remembers. The argument is the number of the inherited socket.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gateway.errors import ConfigError
from gateway.keys.confine import Channel, confine
from gateway.keys.frames import (
    Code,
    KeyQuery,
    Kind,
    PinQuery,
    StoreQuery,
    TokenQuery,
    failure,
    found_key,
    read_sign_request,
    signed,
    to_json,
)
from gateway.keys.pin import pin_digest, read_pin
from gateway.keys.pkcs11 import Pkcs11Token, TokenFault
from gateway.keys.signer import KeySpec


class _Server:
    """Turns requests into calls of the one open token."""

    def __init__(self) -> None:
        self._token: Pkcs11Token | None = None
        self._pin: str | None = None  # from Kind.PIN to the one attempt
        self._actions: dict[Kind, Callable[[bytes], bytes]] = {
            Kind.OPEN: self._open,
            Kind.PIN: self._take_pin,
            Kind.LOGIN: self._login,
            Kind.FIND: self._find,
            Kind.SIGN: self._sign,
            Kind.GENERATE: self._generate,
            Kind.PROBE: self._probe,
            Kind.LOAD: self._load,
            Kind.STORE: self._store,
            Kind.LOAD_CERTIFICATE: self._load_certificate,
            Kind.STORE_CERTIFICATE: self._store_certificate,
        }

    def answer(self, kind: Kind, payload: bytes) -> tuple[Kind, bytes]:
        try:
            return Kind.OK, self._actions[kind](payload)
        except TokenFault as fault:
            return Kind.FAILED, failure(fault.code, str(fault))

    def close(self) -> None:
        """Log out: a bare TPM keeps what nobody unloads."""
        if self._token is not None:
            self._token.close()

    def _opened(self) -> Pkcs11Token:
        if self._token is None:
            raise TokenFault(Code.TOKEN, "no token is open")
        return self._token

    def _open(self, payload: bytes) -> bytes:
        if self._token is not None:
            self._token.close()
        self._token = None
        self._token = Pkcs11Token.open(TokenQuery(**json.loads(payload)))
        return to_json(self._token.info())

    def _take_pin(self, payload: bytes) -> bytes:
        query = PinQuery(**json.loads(payload))
        try:
            self._pin = read_pin(Path(query.path)) if query.path else query.pin
        except ConfigError as error:
            raise TokenFault(Code.TOKEN, str(error)) from error
        return pin_digest(self._pin, bytes.fromhex(query.salt)) if self._pin else b""

    def _login(self, _: bytes) -> bytes:
        pin, self._pin = self._pin, None
        if not pin:
            raise TokenFault(Code.TOKEN, "there is no PIN to log in with")
        self._opened().login(pin)
        return b""

    def _find(self, payload: bytes) -> bytes:
        query = KeyQuery(**json.loads(payload))
        return found_key(*self._opened().find(query.label, bytes.fromhex(query.id)))

    def _sign(self, payload: bytes) -> bytes:
        index, algorithm, data = read_sign_request(payload)
        start = time.perf_counter()
        signature = self._opened().sign(index, algorithm, data)
        return signed((time.perf_counter() - start) * 1000, signature)

    def _generate(self, payload: bytes) -> bytes:
        query = KeyQuery(**json.loads(payload))
        return self._opened().generate(KeySpec(query.spec), query.label, bytes.fromhex(query.id))

    def _probe(self, payload: bytes) -> bytes:
        return to_json(self._opened().info())

    def _load(self, payload: bytes) -> bytes:
        return self._opened().load_object(payload.decode())

    def _store(self, payload: bytes) -> bytes:
        query = StoreQuery(**json.loads(payload))
        self._opened().store_object(query.label, bytes.fromhex(query.content))
        return b""

    def _load_certificate(self, payload: bytes) -> bytes:
        query = KeyQuery(**json.loads(payload))
        return self._opened().load_certificate(query.label, bytes.fromhex(query.id))

    def _store_certificate(self, payload: bytes) -> bytes:
        query = StoreQuery(**json.loads(payload))
        self._opened().store_certificate(query.label, bytes.fromhex(query.id), bytes.fromhex(query.content))
        return b""


def main(descriptor: int) -> None:
    confine()
    channel, server = Channel(descriptor), _Server()
    while (request := channel.receive()) is not None:
        channel.send(*server.answer(*request))
    server.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))

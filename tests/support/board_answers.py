"""One good answer of each kind that boards on the line give, for fuzzing: the first octet says how it is read."""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.pki.names import name_from_text
from provisioning import esp_secure_cert
from provisioning.codec import cbor
from provisioning.codec.smp import Group, Message, Op, to_lines
from tests.support.board_credentials import NOT_AFTER, NOT_BEFORE
from tests.support.nrf_modem import Modem, base64url, csr_message

_KEY = ec.derive_private_key(7, ec.SECP256R1())


def board_answers() -> list[bytes]:
    messages = (
        Message(Op.READ_ANSWER, Group.FS, 0, 7, {"off": 0, "len": 300, "data": bytes(200)}),
        Message(Op.WRITE_ANSWER, Group.FS, 0, 8, {"err": {"group": 8, "rc": 3}}),
    )
    csr = b"a certification request"
    payload = csr_message(bytes(range(16)), 52, csr, bytes(16))
    cose = cbor.encode(cbor.Tagged(18, [cbor.encode({1: -7}), {4: b"\x21"}, payload, hashlib.sha512(payload).digest()]))
    modem = Modem(uuid=bytes(16), radio=False, credentials={(52, 1): "-----BEGIN"})
    key = _KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    made = _certificate()
    return [
        *(b"\x00log line\n" + to_lines(message.encode()) for message in messages),
        b"\x40" + cose,
        b"\x80" + f'%KEYGEN: "{base64url(csr)}.{base64url(cose)}"'.encode(),
        b"\xa0" + "\n".join(modem.answer("AT%CMNG=1,52") + modem.answer("AT%CMNG=2,52,1")).encode(),
        b"\xc0" + esp_secure_cert.build(made, [made], key),
        b"\xc0" + esp_secure_cert.build(b"", (), key, encoding=esp_secure_cert.Encoding.DER),
    ]


def _certificate() -> bytes:
    name = name_from_text("CN=unit")
    builder = x509.CertificateBuilder(name, name, _KEY.public_key(), 1, NOT_BEFORE, NOT_AFTER)
    return builder.sign(_KEY, hashes.SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)

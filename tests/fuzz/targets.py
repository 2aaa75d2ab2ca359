"""What is fuzzed: each target takes any bytes and must either give a result or raise the error that its docstring names.

``python -m tests.fuzz.targets NAME RUNS`` is coverage-guided with atheris (own environment, see ``scripts/fuzz``); the normal
tests call the same targets with :func:`mutations`, a fixed number of times and without chance.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

from gateway.errors import DeviceFault, IntegrityError, RequestError
from gateway.journal.statements import open_statement
from gateway.pki import der
from gateway.pki.csr import CertificationRequest, read_csr
from gateway.pki.leniency import ALL_LENIENCIES
from gateway.pki.name_change import renamed
from gateway.pki.names import name_from_text, name_to_text
from gateway.pki.profiles import BUILTIN_PROFILES
from gateway.pki.subjects import certificate_names, certificate_subject
from gateway.pki.walk import content, elements
from gateway.protocols.est import codec as est
from gateway.protocols.ocsp import codec as ocsp
from provisioning import esp_secure_cert
from provisioning.codec import nordic
from provisioning.codec.smp import LineReader, Message
from sync import wire
from tests.support.board_answers import board_answers
from tests.support.hostile_csr import seed_requests
from tests.support.hostile_est import BODIES, CREDENTIALS, DER_BODIES, PATHS
from tests.support.hostile_ocsp import GET_PATHS, POST_BODIES
from tests.support.sync_messages import SYNC_VKEY, sync_messages

_CSR = base64.b64decode(
    "MIHHMG8CAQAwDTELMAkGA1UEAwwCYTEwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQe7V8Rm8e0kq3kqv0cB4iQkqZQmEw0k3JbFQ0a0m1X0b2J"
    "rL1xkXr5e8bJ5Tq7vS1m0J1e3p2b8m7y7mM5n9yXoAAwCgYIKoZIzj0EAwIDSAAwRQIhAA=="
)
_OCSP = bytes.fromhex("30183016301430123010300706052b0e03021a04010104010102")


def _says_why(error: RequestError) -> None:
    if not str(error):
        raise TypeError("a refusal without a reason")


def est_codec(data: bytes) -> None:
    """Paths, bodies, credentials and delivery attributes: RequestError and nothing else."""
    kind, rest = data[:1], data[1:]
    text = rest.decode("latin-1")
    try:
        if kind < b"\x40":
            est.decode_request(rest, "application/pkcs10", None)
        elif kind < b"\x80":
            est.parse_path(text)
        elif kind < b"\xc0":
            est.key_delivery(rest)
        else:
            est.decode_basic(text)
    except RequestError as error:
        _says_why(error)
    assert isinstance(est.wants_lines(rest, text), bool)
    assert base64.b64decode(est.encode_body(rest, lines=True)) == rest


def ocsp_codec(data: bytes) -> None:
    """GET paths and POST bodies: RequestError, or bytes that begin with a SEQUENCE."""
    try:
        if data[:1] < b"\x80":
            found = ocsp.decode_get(ocsp.PREFIX + "/" + data[1:].decode("latin-1"))
        else:
            found = ocsp.decode_post(data[1:])
    except RequestError as error:
        _says_why(error)
    else:
        assert found[:1] == b"\x30"


def csr(data: bytes) -> None:
    """read_csr, strict and with every leniency: RequestError, or a request that a profile can be asked about."""
    for leniency in (frozenset[str](), ALL_LENIENCIES):
        try:
            request = read_csr(data, leniency=leniency)
        except RequestError as error:
            _says_why(error)
            continue
        assert request.der == data
        assert leniency or not request.leniencies
        assert isinstance(name_to_text(request.subject), str)
        try:
            certificate_subject(BUILTIN_PROFILES["ldevid"], request)
            certificate_names(BUILTIN_PROFILES["ldevid"], request)
        except RequestError as error:
            _says_why(error)


def name_change(data: bytes) -> None:
    """The attributes of a request with ChangeSubjectName among them: RequestError, or a request of other names."""
    request = next(iter(_readable()))
    start, end = content(request.der, der.SEQUENCE)
    information = request.der[slice(*elements(request.der, start, end)[0][1:])]
    version_to_key = information[: elements(information, 0, len(information))[2][2]]
    changed = der.sequence(der.sequence(version_to_key, der.context(0, data)))
    try:
        found = renamed(replace(request, der=changed))
        if found is not None:
            certificate_subject(BUILTIN_PROFILES["ldevid"], found)
            certificate_names(BUILTIN_PROFILES["ldevid"], found)
    except RequestError as error:
        _says_why(error)


@cache
def _readable() -> tuple[CertificationRequest, ...]:
    found = []
    for seed in seed_requests():
        try:
            found.append(read_csr(seed))
        except RequestError:
            continue
    return tuple(found)


def sync_wire(data: bytes) -> None:
    """Messages to and from central: MalformedRequest or IntegrityError, or a value that is written and read the same."""
    kind, rest = data[:1], data[1:]
    if kind < b"\x40":
        try:
            open_statement(wire.HELLO, rest, SYNC_VKEY)
        except IntegrityError as error:
            if not str(error):
                raise TypeError("a refusal without a reason") from error
        return
    read = wire.Batch if kind < b"\x80" else wire.Hello if kind < b"\xa0" else wire.Urgent if kind < b"\xc0" else wire.Welcome
    try:
        message = read.from_bytes(rest)
    except RequestError as error:
        _says_why(error)
    else:
        assert read.from_bytes(message.to_bytes()) == message


def boards(data: bytes) -> None:
    """What boards on the line say: DeviceFault, or a value that is written and read the same."""
    kind, rest = data[:1], data[1:]
    lines = rest.decode("latin-1").split("\n")
    try:
        if kind < b"\x40":
            for message in LineReader().feed(rest):
                read = Message.decode(message)
                assert Message.decode(read.encode()) == read
        elif kind < b"\x80":
            nordic.csr_attestation(rest)
        elif kind < b"\xa0":
            nordic.csr_attestation(nordic.split_keygen(lines)[1])
        elif kind < b"\xc0":
            nordic.list_of(lines)
            nordic.content_of(lines)
        else:
            esp_secure_cert.read(rest)
    except DeviceFault as fault:
        if not str(fault):
            raise TypeError("a fault without a sentence") from fault


TARGETS: dict[str, Callable[[bytes], None]] = {
    "est_codec": est_codec, "ocsp_codec": ocsp_codec, "csr": csr, "name_change": name_change, "sync_wire": sync_wire,
    "boards": boards,
}  # fmt: skip


def seeds(name: str) -> list[bytes]:
    """The beginnings of the search: one good input of each kind and everything of the hostile tables."""
    if name == "sync_wire":
        return [kind + message for kind, message in sync_messages()]
    if name == "boards":
        return board_answers()
    if name == "name_change":
        subject = name_from_text("CN=new-1,O=Acme").public_bytes()
        names = b"\x82\x09new-1.lan\x87\x04\x0a\x00\x00\x01"
        values = [(subject,), (subject, der.sequence(names)), (subject, der.context(1, names)), (der.sequence(names),)]
        oid = der.oid("1.3.6.1.5.5.7.7.36")
        return [der.sequence(oid, der.set_of([der.sequence(*each)])) for each in values]
    if name == "csr":
        return [*seed_requests(), *DER_BODIES.values()]
    if name == "ocsp_codec":
        texts = [base64.b64encode(_OCSP).decode(), *(path.removeprefix("/ocsp/") for path in GET_PATHS)]
        gets = [b"\x00" + text.encode("latin-1", "replace") for text in texts]
        return gets + [b"\x80" + body for body in (_OCSP, *POST_BODIES.values())]
    bodies = [_CSR, base64.b64encode(_CSR), base64.encodebytes(_CSR), *BODIES.values(), *DER_BODIES.values()]
    paths = ["/.well-known/est/simpleenroll", "/.well-known/est/a/cacerts/", *PATHS]
    credentials = ["Basic ZGV2aWNlOnNlY3JldA==", *CREDENTIALS]
    return [
        *(b"\x00" + body for body in bodies),
        *(b"\x40" + path.encode("latin-1", "replace") for path in paths),
        *(b"\x80" + body for body in (_CSR, *DER_BODIES.values())),
        *(b"\xc0" + text.encode("latin-1", "replace") for text in credentials),
    ]


def mutations(name: str, count: int, seed: int = 1) -> Iterator[bytes]:
    """``count`` inputs made from the seeds, the same ones each time."""
    chance = Random(seed)
    corpus = [item[:4_096] for item in seeds(name)]
    for _ in range(count):
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(data) + 1)
            how = chance.randrange(5)
            if how == 0:
                data[at : at + 1] = bytes((chance.randrange(256),))
            elif how == 1:
                del data[at : at + chance.randint(1, 8)]
            elif how == 2:
                data[at:at] = chance.randbytes(chance.randint(1, 8))
            elif how == 3 and at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            else:
                other = chance.choice(corpus)
                start = chance.randrange(len(other) + 1)
                data[at:] = other[start : start + 512]
        yield bytes(data)


def main() -> None:
    import atheris  # installed by scripts/fuzz alone

    name, runs = sys.argv[1], sys.argv[2]
    atheris.instrument_all()
    with tempfile.TemporaryDirectory(prefix="corpus-") as corpus:
        for number, seed in enumerate(seeds(name)):
            Path(corpus, str(number)).write_bytes(seed[:4_096])
        atheris.Setup([sys.argv[0], corpus, f"-runs={runs}", "-max_len=4096", "-seed=1", *sys.argv[3:]], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()

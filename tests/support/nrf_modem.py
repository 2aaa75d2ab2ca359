"""Two Nordic boards on pseudo-terminals: an nRF91 modem behind AT commands, and a Zephyr application with the credential shell.

They count as devices because Nordic's unmodified ``nrfcredstore`` works against them (:func:`vendor`). Requests are as a modem
writes them, with NULL parameters in ecdsa-with-SHA256, and come with a COSE_Sign1 of the form that modems give.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import time
import tty
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.pki import der
from provisioning import pkcs10
from provisioning.codec import cbor
from tests.support.environments import environment

_ECDSA_WITH_NULL = der.sequence(der.oid("1.2.840.10045.4.3.2"), der.null())
_SELF_DESCRIBED, _COSE_SIGN1 = 55799, 18
IMEI = "355025930000000"


def base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def cose_sign1(key: ec.EllipticCurvePrivateKey, payload: bytes | None, message: bytes = b"") -> bytes:
    """RFC 9052 section 4.4, with the unprotected header that modems have: the signature is by the identity key."""
    protected = cbor.encode({1: -7})
    signed = cbor.encode(["Signature1", protected, b"", payload if payload is not None else message])
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return cbor.encode(cbor.Tagged(_COSE_SIGN1, [protected, {4: cbor.encode(-2)}, payload, signature]))


def csr_message(uuid: bytes, tag: int, csr: bytes, nonce: bytes) -> bytes:
    fields: list[cbor.Value] = [9, uuid, cbor.encode(tag), hashlib.sha256(csr).digest(), nonce]
    return cbor.encode(cbor.Tagged(_SELF_DESCRIBED, fields))


@dataclass(slots=True)
class Modem:
    """What stays over a reset, and whether the radio is on. ``heard`` notes the commands."""

    uuid: bytes = field(default_factory=lambda: os.urandom(16))
    identity: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    credentials: dict[tuple[int, int], str] = field(default_factory=dict)
    keys: dict[int, ec.EllipticCurvePrivateKey] = field(default_factory=dict)
    readable: bool = True  # whether a client certificate may be read
    radio: bool = True
    heard: list[str] = field(default_factory=list)
    generated: int = 0

    def answer(self, command: str) -> list[str]:
        self.heard.append(command)
        if re.fullmatch(r"AT(\+CMEE=1|\+CFUN=[04]|)", command):
            self.radio = self.radio and "CFUN" not in command
            return ["OK"]
        plain = {"AT+CGSN": IMEI, "AT+CGMR": "mfw_nrf91x1_2.0.2", "AT+CGMM": "nRF9151-LACA"}
        if command in plain:
            return [plain[command], "OK"]
        if command == "AT%ATTESTTOKEN":
            fields: list[cbor.Value] = [1, self.uuid, 6, os.urandom(16), os.urandom(28)]
            message = cbor.encode(cbor.Tagged(_SELF_DESCRIBED, fields))
            return [f'%ATTESTTOKEN: "{base64url(message)}.{base64url(cose_sign1(self.identity, None, message))}"', "OK"]
        if match := re.fullmatch(r'AT%KEYGEN=(\d+),2,0(?:,"([^"]*)")?', command):
            return self.keygen(int(match[1]), match[2] or f"CN={self.uuid.hex()}")
        if match := re.fullmatch(r'AT%CMNG=(\d)(?:,(\d+))?(?:,(\d+))?(?:,"([^"]*)")?', command):
            tag, kind = (int(number) if number else None for number in match.groups()[1:3])
            return self.credential(int(match[1]), tag, kind, match[4])
        return ["ERROR"]

    def keygen(self, tag: int, subject: str) -> list[str]:
        if self.radio:
            return ["+CME ERROR: 518"]
        if (tag, 2) in self.credentials:
            return ["+CME ERROR: 519"]
        key = ec.generate_private_key(ec.SECP256R1())
        self.generated += 1
        self.keys[tag] = key
        self.credentials[tag, 2] = f"key {os.urandom(8).hex()}"  # never given away; its digest is listed
        csr = self.request(key, subject)
        cose = cose_sign1(self.identity, csr_message(self.uuid, tag, csr, os.urandom(16)))
        return [f'%KEYGEN: "{base64url(csr)}.{base64url(cose)}"', "OK"]

    @staticmethod
    def request(key: ec.EllipticCurvePrivateKey, subject: str) -> bytes:
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        information = pkcs10.request_information(subject, spki)
        signature = key.sign(information, ec.ECDSA(hashes.SHA256()))
        return der.sequence(information, _ECDSA_WITH_NULL, der.bit_string(signature))

    def credential(self, opcode: int, tag: int | None, kind: int | None, content: str | None) -> list[str]:
        if opcode == 1:
            found = [place for place in sorted(self.credentials) if tag in (None, place[0]) and kind in (None, place[1])]
            return [f'%CMNG: {at[0]},{at[1]},"{self.digest(at)}"' for at in found] + ["OK"]
        if tag is None or kind is None:
            return ["+CME ERROR: 50"]
        place = (tag, kind)
        if opcode in (0, 3) and self.radio:
            return ["+CME ERROR: 518"]
        if opcode == 0 and content:
            if place in self.credentials:
                return ["+CME ERROR: 519"]
            self.credentials[place] = content
            return ["OK"]
        if place not in self.credentials:
            return ["+CME ERROR: 513"]
        if opcode == 2:
            if kind == 2 or (kind == 1 and not self.readable):
                return ["+CME ERROR: 514"]
            return [f'%CMNG: {tag},{kind},"{self.digest(place)}","{self.credentials[place]}"', "OK"]
        if opcode == 3:
            del self.credentials[place]
            self.keys.pop(tag, None)
            return ["OK"]
        return ["+CME ERROR: 50"]

    def digest(self, place: tuple[int, int]) -> str:
        return hashlib.sha256(self.credentials[place].encode()).hexdigest().upper()


@dataclass(slots=True)
class Application:
    """A Zephyr application with CONFIG_TLS_CREDENTIALS_SHELL and Nordic's ``nrf_cloud_cred``. Certificates lie in flash."""

    chip: str = "0x" + "0123456789abcdef"
    credentials: dict[tuple[str, str], bytes] = field(default_factory=dict)
    key: ec.EllipticCurvePrivateKey | None = None
    buffer: str = ""
    buffer_size: int = 8192
    reboots: int = 0
    ignores_reboot: bool = False
    since: float = field(default_factory=lambda: time.monotonic() - 3600)

    def answer(self, line: str) -> list[str]:
        words = line.split()
        match words:
            case ["kernel", "version"]:
                return ["Zephyr version 4.4.0"]
            case ["kernel", "uptime"]:
                return [f"Uptime: {int((time.monotonic() - self.since) * 1000)} ms"]
            case ["kernel", "reboot", "cold"] if not self.ignores_reboot:
                self.reboots += 1
                self.buffer = ""
                self.since = time.monotonic()
                return ["*** Booting Zephyr OS build 684c9e8f32e4 ***"]
            case ["hwinfo", "devid"]:
                return ["Length: 8", f"ID: {self.chip}"]
            case ["nrf_cloud_cred", "keygen", tag]:
                if self.key is not None:
                    return [f"Device key in sec tag {tag} already exists"]
                self.key = ec.generate_private_key(ec.SECP256R1())
                return [f"Generated device key in sec tag {tag}"]
            case ["nrf_cloud_cred", "csr", _, *rest]:
                if self.key is None:
                    return ["CSR generation failed"]
                subject = " ".join(rest).strip('"') or "CN=device"
                csr = base64.b64encode(Modem.request(self.key, subject)).decode()
                return [f"CSR: {csr}", "CSR generation complete"]
            case ["nrf_cloud_cred", "pubkey", _] if self.key is not None:
                point = self.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
                return [f"PUBKEY: {base64.b64encode(point).decode()}", "Public key export complete"]
            case ["cred", *rest]:
                return self.credential(rest)
        return [f"{words[0]}: command not found"] if words else []

    def credential(self, words: Sequence[str]) -> list[str]:
        match words:
            case ["buf", "clear"]:
                self.buffer = ""
                return ["Credential buffer cleared."]
            case ["buf", text]:
                if len(self.buffer) + len(text) > self.buffer_size:
                    return ["Not enough room in credential buffer for provided data."]
                self.buffer += text
                return [f"Stored {len(text)} bytes."]
            case ["add", tag, kind, "DEFAULT", "bint"]:
                if (tag, kind) in self.credentials:
                    return [f"TLS credential with sectag {tag} and type {kind} already exists."]
                self.credentials[tag, kind] = content = base64.b64decode(self.buffer) + b"\0"
                self.buffer = ""
                return [f"Added TLS credential of type {kind}, sectag {tag}, and length {len(content)} bytes."]
            case ["del", tag, kind]:
                if self.credentials.pop((tag, kind), None) is None:
                    return [f"There is no TLS credential with sectag {tag} and type {kind}."]
                return [f"Deleted TLS credential with sectag {tag} and type {kind}."]
            case ["list", tag, kind]:
                content = self.credentials.get((tag, kind), b"")
                digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
                found = [f"{tag},{kind},{digest},0"] if content else []
                return [*found, f"{len(found)} credentials found."]
            case ["get", tag, kind, "bint"]:
                if (tag, kind) not in self.credentials:
                    return [f"There is no TLS credential with sectag {tag} and type {kind}."]
                content = self.credentials[tag, kind][:-1]
                return [base64.b64encode(content[at : at + 24]).decode() for at in range(0, len(content), 24)]
        return ["wrong parameter count"]


class Terminal:
    """A pseudo-terminal with a board behind it: ``address`` for our drivers, ``device`` for programs."""

    def __init__(self, board: Modem | Application, *, at_shell: bool = False) -> None:
        self._board = board
        self._shell = at_shell or isinstance(board, Application)
        self._received = ""
        #: What is said instead of an answer, for a board that is broken.
        self.babble: Callable[[str], bytes | None] = lambda line: None

    async def __aenter__(self) -> Terminal:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.device = os.ttyname(self._slave)
        asyncio.get_running_loop().add_reader(self._master, self._read)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)
        os.close(self._slave)

    @property
    def address(self) -> str:
        return f"serial:{self.device}"

    def _read(self) -> None:
        with suppress(BlockingIOError, OSError):
            self._received += os.read(self._master, 65536).decode("latin-1")
        while (line := self._line()) is not None:
            self._say(line)

    def _line(self) -> str | None:
        """The next command: a line whose quotes are closed."""
        end = 0
        while match := re.compile(r"[\r\n]").search(self._received, end):
            end = match.end()
            line = self._received[: match.start()]
            if line.count('"') % 2 == 0:
                self._received = self._received[end:].removeprefix("\n") if match[0] == "\r" else self._received[end:]
                return line
        return None

    def _say(self, line: str) -> None:
        line = re.sub(r".*[\x03\x15]", "", line, flags=re.DOTALL)
        said = self.babble(line)
        if said is None:
            prompt = "uart:~$ " if self._shell else ""
            echo = f"{line}\r\n" if self._shell else ""
            lines = self._answer(line)
            said = (echo + "".join(f"{one}\r\n" for one in lines) + prompt).encode()
        view = memoryview(said)
        while view:
            try:
                view = view[os.write(self._master, view) :]
            except BlockingIOError:  # whoever should read is slower: what does not fit is lost, as on a line
                return

    def _answer(self, line: str) -> list[str]:
        if isinstance(self._board, Application):
            return self._board.answer(line)
        if not self._shell:
            return self._board.answer(line) if line else []
        if match := re.fullmatch(r"at '?(.*?)'?", line):
            return self._board.answer(match[1].replace("\\n", "\n"))
        return [f"{line.split(maxsplit=1)[0]}: command not found"] if line.strip() else []


_VENDOR = """
import runpy, sys
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

device = sys.argv[1]
port = ListPortInfo(device)
port.device, port.hwid = device, "USB VID:PID=1366:1059 SER=001051216197"
list_ports.comports = lambda: [port]  # pseudo-terminals are not listed
del sys.argv[0]
"""
_CLI = _VENDOR + "from nrfcredstore.cli import run\nsys.argv.insert(0, 'nrfcredstore')\nrun(sys.argv)\n"
_SHELL_API = (
    _VENDOR
    + """
from nrfcredstore.comms import Comms
from nrfcredstore.command_interface import NrfCloudCredShellInterface
board = NrfCloudCredShellInterface(Comms(port=device, rtscts=False, timeout=1))
csr = board.get_csr(16, "CN=unit")
pem = open(sys.argv[1]).read()
there = board.check_credential_exists(16, 1) if board.write_credential(16, 1, pem) else None
print(bool(csr), there == (True, board.calculate_expected_hash(pem)))
"""
)


async def vendor(*arguments: str, api: bool = False) -> str:
    """Run Nordic's ``nrfcredstore`` (or, with ``api``, its class for the shell) with its list of ports patched."""
    python = environment("boards") / "bin" / "python"
    process = await asyncio.create_subprocess_exec(
        str(python), "-c", _SHELL_API if api else _CLI, *arguments, stdout=asyncio.subprocess.PIPE, stderr=-2
    )
    async with asyncio.timeout(120):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()

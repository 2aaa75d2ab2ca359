"""Nordic boards: the modem of an nRF91 by AT commands, or a Zephyr application with the credential shell.

*By AT* (``protocol = "at"``, ``"at-shell"``): ``AT%KEYGEN`` makes key and request at once, with the subject in it, and gives
the request only then. So the key is made when the request is read, and the modem's whole answer is kept in the modem itself,
as a text under ``request-tag``, before anything is told: who finds it there gets the same request again, and a key without it
was never told to anybody and is made anew. The request comes with the modem's attestation, which must be about this request,
this tag and this device; its signature, which only Nordic can verify, is handed on as evidence.

*By shell* (``protocol = "cred-shell"``): ``nrf_cloud_cred keygen | csr`` and ``cred buf | add | list | get | del``.

A modem's requests carry NULL parameters: the profile needs the leniency ``csr-null-parameters``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gateway.errors import ConfigError, DeviceFault, DeviceRefused, DeviceSilent, PortLost
from gateway.pki.names import name_from_text
from gateway.schema import bounded, read_section
from provisioning.codec import nordic
from provisioning.codec.nordic import NOT_FOUND, AtRefused
from provisioning.device import Address, Csr, Delivery, Device, Driver, KeyOrigin, Lock, Setting
from provisioning.nordic import Modem, ZephyrShell
from provisioning.transports.registry import open_stream

KEYS = frozenset({KeyOrigin.DEVICE})
EVIDENCE = "cose-sign1"
_KEY_TYPE = "p-256"
_MAX_TAG = 2147483647  # above are the modem's own
_CA, _CERTIFICATE, _KEY = 0, 1, 2  # types of %CMNG
_SHELL_TYPES = {_CA: "CA", _CERTIFICATE: "SERV"}
_SETTLE_S, _POLL_S = 0.5, 0.05
_CHUNK = 48  # characters of base64 in a line of the shell, whose buffer is small
_PLAIN = re.compile(r"[A-Za-z0-9 ._:/@-]{1,64}")
_PRINTABLE = re.compile(r"[\x20-\x7e]{1,128}")
_PROTOCOLS = ("at", "at-shell", "cred-shell")


@dataclass(frozen=True, slots=True)
class NordicSettings:
    """A recipe's table for this driver; docs/line/boards.md explains each."""

    sec_tag: int = bounded(-1, 0, _MAX_TAG)
    protocol: str = "at"
    request_tag: int = bounded(-1, 0, _MAX_TAG)  # by default the one behind sec_tag
    chip: str = "uuid"
    chip_command: tuple[str, ...] = ()  # cred-shell: what names the board
    chain: bool = True  # the issuers go into the tag's CA certificate
    reset_command: tuple[str, ...] = ("kernel", "reboot", "cold")  # cred-shell
    timeout_s: float = bounded(30.0, 0.1, 600)  # of one answer
    boot_s: float = bounded(60.0, 1, 3600)  # cred-shell: the longest that a reset takes

    @classmethod
    def read(cls, settings: Mapping[str, Setting]) -> NordicSettings:
        """Raises ConfigError."""
        read = read_section(cls, settings, Path("/"))
        if read.sec_tag < 0:
            raise ConfigError("the nrf91 driver needs sec_tag, the security tag for key and certificate")
        if read.request_tag < 0:
            read = replace(read, request_tag=(read.sec_tag + 1) % (_MAX_TAG + 1))
        if read.request_tag == read.sec_tag:
            raise ConfigError("request_tag is another one than sec_tag")
        if read.protocol not in _PROTOCOLS:
            raise ConfigError(f"protocol = {read.protocol!r} must be {', '.join(_PROTOCOLS)}")
        if read.chip not in {"uuid", "imei"}:
            raise ConfigError(f'chip = {read.chip!r} must be "uuid" or "imei"')
        return read


@asynccontextmanager
async def open_device(address: Address, settings: Mapping[str, Setting]) -> AsyncIterator[Driver]:
    """See :class:`provisioning.device.DriverModule`."""
    read = NordicSettings.read(settings)
    if read.protocol != "cred-shell":
        async with open_stream(address) as stream:
            yield AtDriver(Modem(stream, read.timeout_s, shell=read.protocol == "at-shell"), read)
        return
    driver = CredentialShell(address, read)
    try:
        await driver.open()
        yield driver
    finally:
        await driver.close()


class AtDriver:
    """One modem on one port."""

    def __init__(self, modem: Modem, settings: NordicSettings) -> None:
        self._modem = modem
        self._settings = settings
        self._attached = False
        self._chip = ""
        self._certificate = b""  # what was written since the port was opened

    async def _ask(self, command: str) -> list[str]:
        if not self._attached:
            await self._modem.attach()
            await self._modem.ask("AT+CMEE=1")  # errors with numbers
            self._attached = True
        return await self._modem.ask(command)

    async def identify(self) -> Device:
        imei = await self._one("AT+CGSN", r"(\d{15})\b.*")
        chip = f"imei:{imei}"
        if self._settings.chip == "uuid":
            message, cose = nordic.split_token(await self._ask("AT%ATTESTTOKEN"))
            chip = nordic.identity_attestation(message, cose).device
        self._chip = chip
        facts = {"imei": imei, "firmware": await self._one("AT+CGMR", r"([\x21-\x7e]{1,64})")}
        return Device(chip, model=await self._one("AT+CGMM", r"([\x20-\x7e]{1,64})"), facts=facts)

    async def _one(self, command: str, pattern: str) -> str:
        """The line of an answer that has this form. Raises DeviceFault."""
        for line in await self._ask(command):
            if not line.startswith(("AT", "at ")) and (match := re.fullmatch(pattern, line)):
                return match[1].strip()
        raise DeviceFault(f"the modem's answer to {command} has no such line")

    async def generate_key(self, key_type: str) -> None:
        """Nothing yet: the modem makes its key together with the request."""
        if key_type != _KEY_TYPE:
            raise DeviceRefused(f"this modem makes {_KEY_TYPE} keys, no {key_type}")

    async def load_key(self, private_key: bytes) -> None:
        del private_key
        raise DeviceRefused("this driver has the modem make its key itself; it is given none")

    async def read_csr(self, subject: str) -> Csr:
        answer = await self._kept_answer() or await self._keygen(subject)
        csr, cose = nordic.split_keygen([answer])
        device = self._chip if self._settings.chip == "uuid" else ""
        nordic.check_attestation(nordic.csr_attestation(cose), csr, self._settings.sec_tag, device)
        return Csr(csr, cose, EVIDENCE)

    async def _kept_answer(self) -> str:
        """The answer of the key generation that made the present key; empty where there is none."""
        tag = self._settings.request_tag
        if not await self._digest(self._settings.sec_tag, _KEY) or not await self._digest(tag, _CA):
            return ""
        return f'%KEYGEN: "{nordic.content_of(await self._ask(f"AT%CMNG=2,{tag},{_CA}"))}"'

    async def _keygen(self, subject: str) -> str:
        settings = self._settings
        await self._off_line()
        for tag, kind in ((settings.sec_tag, _KEY), (settings.request_tag, _CA)):
            await self._delete(tag, kind)  # a key whose request was never told, a request whose key is gone
        attributes = _attributes(subject)
        answer = await self._ask(f"AT%KEYGEN={settings.sec_tag},2,0" + (f',"{attributes}"' if attributes else ""))
        csr, cose = nordic.split_keygen(answer)
        token = f"{_base64url(csr)}.{_base64url(cose)}"
        await self._ask(f'AT%CMNG=0,{settings.request_tag},{_CA},"{token}"')
        if await self._digest(settings.request_tag, _CA) != hashlib.sha256(token.encode()).digest():
            raise DeviceFault("the modem did not keep its own request")
        return f'%KEYGEN: "{token}"'

    async def write(self, delivery: Delivery) -> None:
        await self._off_line()
        if self._settings.chain and delivery.chain:
            await self._put(_CA, _pem(delivery.chain))
        await self._put(_CERTIFICATE, _pem([delivery.certificate]))
        self._certificate = delivery.certificate

    async def _put(self, kind: int, text: str) -> None:
        """The modem hashes what it stores. A credential that is right is left."""
        tag, digest = self._settings.sec_tag, hashlib.sha256(text.encode()).digest()
        present = await self._digest(tag, kind)
        if present == digest:
            return
        if present:
            await self._delete(tag, kind)
        await self._ask(f'AT%CMNG=0,{tag},{kind},"{text}"')
        if await self._digest(tag, kind) != digest:
            raise DeviceFault("the modem stored something else than it was sent")

    async def _digest(self, tag: int, kind: int) -> bytes:
        """SHA-256 of a credential as the modem says it; empty where there is none."""
        try:
            answer = await self._ask(f"AT%CMNG=1,{tag},{kind}")
        except AtRefused as refused:
            if refused.code == NOT_FOUND:
                return b""
            raise
        found = [one.digest for one in nordic.list_of(answer) if (one.security_tag, one.kind) == (tag, kind)]
        return found[0] if found else b""

    async def _delete(self, tag: int, kind: int) -> None:
        try:
            await self._ask(f"AT%CMNG=3,{tag},{kind}")
        except AtRefused as refused:
            if refused.code != NOT_FOUND:
                raise

    async def _off_line(self) -> None:
        """Credentials change only while the modem's radio is off."""
        await self._ask("AT+CFUN=4")

    async def reset(self) -> None:
        """Power the modem down, which stores everything, and up again without its radio."""
        await self._ask("AT+CFUN=0")
        self._attached = False
        await self._off_line()

    async def read_back(self) -> bytes:
        """Where the modem keeps its certificate to itself, its digest is compared with what was written."""
        tag = self._settings.sec_tag
        digest = await self._digest(tag, _CERTIFICATE)
        if not digest:
            return b""
        try:
            return _der(nordic.content_of(await self._ask(f"AT%CMNG=2,{tag},{_CERTIFICATE}")))
        except AtRefused:
            written = self._certificate
            return written if written and hashlib.sha256(_pem([written]).encode()).digest() == digest else b""

    async def prove(self, challenge: bytes) -> bytes:
        """The modem signs no challenge: its request, with the attestation, is the proof."""
        return b""

    async def lock_state(self) -> Lock:
        return Lock.ABSENT

    async def lock(self) -> None:
        raise DeviceRefused("the modem has nothing to lock")


class CredentialShell:
    """One Zephyr application on one port, which is opened anew after a reset: one on USB goes away meanwhile."""

    def __init__(self, address: Address, settings: NordicSettings) -> None:
        self._address = address
        self._settings = settings
        self._port = AsyncExitStack()
        self._shell: ZephyrShell | None = None

    async def open(self) -> ZephyrShell:
        """Open the port, unless it is. Raises PortLost, ConfigError."""
        if self._shell is None:
            stream = await self._port.enter_async_context(open_stream(self._address))
            self._shell = ZephyrShell(stream, self._settings.timeout_s)
        return self._shell

    async def close(self) -> None:
        self._shell = None
        await self._port.aclose()

    async def _run(self, *words: str) -> str:
        return await (await self.open()).run(words)

    async def identify(self) -> Device:
        version = await self._run("kernel", "version")
        chip = f"port:{self._address.path or f'{self._address.host}:{self._address.port}'}"
        if self._settings.chip_command:
            answer = await self._run(*self._settings.chip_command)
            match = re.search(r"ID: *(0x[0-9a-fA-F]{2,64})", answer)  # as "hwinfo devid" has it
            chip = match[1].lower() if match else " ".join(answer.split())
        if not _PRINTABLE.fullmatch(chip):
            raise DeviceRefused("the board does not say which one it is: look at chip_command")
        return Device(chip, facts={"firmware": " ".join(version.split())[:128]})

    async def generate_key(self, key_type: str) -> None:
        if key_type != _KEY_TYPE:
            raise DeviceRefused(f"this board makes {_KEY_TYPE} keys, no {key_type}")
        answer = await self._run("nrf_cloud_cred", "keygen", str(self._settings.sec_tag))
        if "Generated device key" not in answer and "already exists" not in answer:
            raise DeviceRefused(f"the board made no key: {answer.strip()[:200]}")

    async def load_key(self, private_key: bytes) -> None:
        del private_key
        raise DeviceRefused("this board makes its key itself; it is given none")

    async def read_csr(self, subject: str) -> Csr:
        words = ["nrf_cloud_cred", "csr", str(self._settings.sec_tag)]
        if attributes := _attributes(subject):
            words.append(f'"{attributes}"')
        answer = await self._run(*words)
        match = re.search(r"^CSR: *([A-Za-z0-9+/]{40,8192}={0,2})$", answer, re.MULTILINE)
        if match is None:
            raise DeviceFault(f"the board gave no request: {answer.strip()[:200]}")
        return Csr(_base64(match[1]))

    async def write(self, delivery: Delivery) -> None:
        if self._settings.chain and delivery.chain:
            await self._put(_CA, _pem(delivery.chain))
        await self._put(_CERTIFICATE, _pem([delivery.certificate]))

    async def _put(self, kind: int, text: str) -> None:
        """The board hashes what it stores, with the NUL behind it that mbedTLS wants. What is right is left."""
        tag, name = str(self._settings.sec_tag), _SHELL_TYPES[kind]
        digest = _shell_digest(text)
        present = await self._digest(kind)
        if present == digest:
            return
        if present:
            await self._run("cred", "del", tag, name)
        await self._run("cred", "buf", "clear")
        coded = base64.b64encode(text.encode()).decode()
        for start in range(0, len(coded), _CHUNK):
            piece = coded[start : start + _CHUNK]
            if f"Stored {len(piece)} bytes" not in await self._run("cred", "buf", piece):
                raise DeviceRefused(
                    "the board's buffer for credentials is too small (CONFIG_TLS_CREDENTIALS_SHELL_CRED_BUF_SIZE)"
                )
        answer = await self._run("cred", "add", tag, name, "DEFAULT", "bint")
        if await self._digest(kind) != digest:
            raise DeviceFault(f"the board did not store its credential: {answer.strip()[:200]}")

    async def _digest(self, kind: int) -> str:
        """SHA-256 of a credential in base64, as the board says it; empty where there is none."""
        tag, name = self._settings.sec_tag, _SHELL_TYPES[kind]
        answer = await self._run("cred", "list", str(tag), name)
        if "credentials found" not in answer:
            raise DeviceFault(f"the board does not list its credentials: {answer.strip()[:200]}")
        match = re.search(rf"^{tag},{name},([A-Za-z0-9+/=]{{1,64}}),0$", answer, re.MULTILINE)
        return match[1] if match else ""

    async def reset(self) -> None:
        shell = await self.open()
        clock = asyncio.get_running_loop().time
        before, asked = await self._uptime_ms(), clock()
        await shell.send(self._settings.reset_command)
        await asyncio.sleep(_SETTLE_S)  # the shell may answer once more before it goes down
        await self.close()
        try:
            async with asyncio.timeout(self._settings.boot_s):
                while True:  # a board that went on is up for ``before`` longer than the time since
                    if await self._up_again_ms() < before / 2 + (clock() - asked) * 1000:
                        break
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise DeviceSilent(
                f"the board did not come back within {self._settings.boot_s:g} seconds after its reset"
            ) from error

    async def _up_again_ms(self) -> int:
        """How long the board is up, as soon as its shell answers; the port may be away meanwhile."""
        while True:
            try:
                return await self._uptime_ms(timeout_s=1)
            except (PortLost, DeviceSilent):
                await self.close()
                await asyncio.sleep(_POLL_S)

    async def _uptime_ms(self, timeout_s: float = 0) -> int:
        """Raises DeviceRefused for a shell without the command (CONFIG_KERNEL_SHELL)."""
        answer = await (await self.open()).run(["kernel", "uptime"], timeout_s)
        match = re.search(r"Uptime: *(\d{1,15}) *ms", answer)
        if match is None:
            raise DeviceRefused("the board does not say how long it is up: its firmware needs CONFIG_KERNEL_SHELL")
        return int(match[1])

    async def read_back(self) -> bytes:
        answer = await self._run("cred", "get", str(self._settings.sec_tag), _SHELL_TYPES[_CERTIFICATE], "bint")
        coded = "".join(line for line in answer.split("\n") if re.fullmatch(r"[A-Za-z0-9+/]{1,256}={0,2}", line))
        return _der(_base64(coded).decode("ascii", "replace")) if coded else b""

    async def prove(self, challenge: bytes) -> bytes:
        """The board signs no challenge: its request is the proof."""
        return b""

    async def lock_state(self) -> Lock:
        return Lock.ABSENT

    async def lock(self) -> None:
        raise DeviceRefused("the board has nothing to lock")


def _attributes(subject: str) -> str:
    """The subject's common name as the device takes it; empty where it has none that needs no quoting."""
    names = name_from_text(subject).get_attributes_for_oid(NameOID.COMMON_NAME)
    text = names[0].value if names else ""
    return f"CN={text}" if isinstance(text, str) and _PLAIN.fullmatch(text) else ""


def _pem(certificates: Sequence[bytes]) -> str:
    coded = b"".join(x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in certificates)
    return coded.decode().rstrip()


def _der(pem: str) -> bytes:
    """Empty for what is no certificate."""
    try:
        return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
    except ValueError:
        return b""


def _shell_digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode() + b"\0").digest()).decode()


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise DeviceFault("the board's answer is no base64") from error


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()

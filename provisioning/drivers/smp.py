"""Boards with MCUmgr in their firmware (Zephyr and others), over a serial line, TCP or UDP: SMP's file and OS groups.

Upstream SMP has no command that makes a key or a request. So the key comes from the pool and is a file, like the certificate
and its chain; where the firmware has shell commands for it, the recipe names them and the key stays on the device. SMP's upload
is not atomic: a file goes under another name first where the firmware can rename, the device hashes it, and hashes it again
after the reset. The device's identity is what the recipe says it is: a shell command, a file or a field of ``os info`` that is
different on every board; without any of them it is the port, and an exchanged board is not noticed.

Address: ``serial:/dev/serial/by-path/…?baud=115200``, ``tcp://host:port`` or ``udp://host:port``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.errors import ConfigError, DeviceFault, DeviceRefused, DeviceSilent, PortLost, WrongDevice
from gateway.pki.algorithms import PrivateKey
from provisioning.codec.smp import SmpRefused, size_in_lines
from provisioning.device import Address, Csr, Delivery, Device, KeyOrigin, Lock, Setting
from provisioning.drivers.loaded import belongs, private_key_of, proof_of, request_of
from provisioning.drivers.table import Table
from provisioning.smp import Carrier, DatagramCarrier, LineCarrier, SmpClient
from provisioning.transports.registry import open_stream
from provisioning.transports.udp import open_datagrams

KEYS = frozenset({KeyOrigin.POOL, KeyOrigin.DEVICE})
#: A server on a UART has two receive buffers of a line each (CONFIG_UART_MCUMGR_RX_BUF_COUNT) and drops what comes on top.
_TWO_LINES = size_in_lines(2)
_POLL_S = 0.05
_MAX_FILE_NAME = 64  # CONFIG_MCUMGR_GRP_FS_PATH_LEN
_PRINTABLE = re.compile(r"[\x20-\x7e]{1,128}")
_FILES = ("key-file", "certificate-file", "chain-file", "serial-file", "ticket-file")
_COMMANDS = ("chip-command", "keygen-command", "csr-command", "rename-command")
_NAMES = (*_FILES, *_COMMANDS, "chip-file", "chip-info", "encoding", "bundle", "request-size", "timeout", "boot", "settle")


@dataclass(frozen=True, slots=True)
class SmpSettings:
    """A recipe's table for this driver."""

    files: Mapping[str, str]  # where what is written; without a name it is not
    commands: Mapping[str, tuple[str, ...]]
    chip_file: str
    chip_info: str
    pem: bool
    bundle: bool  # the certificate's file has the chain behind it, as TLS stacks want it
    request_size: int
    timeout_s: float
    boot_s: float  # the longest that a reset takes
    settle_s: float  # from the answer to the reset: servers wait 250 ms so that the answer gets out

    @classmethod
    def read(cls, settings: Mapping[str, Setting], stream: bool) -> SmpSettings:
        """Raises ConfigError."""
        table = Table("smp", settings, _NAMES)
        files = {name: text for name in _FILES if (text := table.text(name))}
        for name, text in {**files, "chip-file": table.text("chip-file", "/")}.items():
            if not text.startswith("/") or len(text) > _MAX_FILE_NAME:
                raise table.wrong(name, f"an absolute path of at most {_MAX_FILE_NAME} characters, as in /lfs1/device.crt")
        if "certificate-file" not in files:
            raise table.wrong("certificate-file", "where the certificate goes, as in /lfs1/device.crt")
        info = table.text("chip-info")
        if len(info) > 1:
            raise table.wrong("chip-info", "one letter of MCUmgr's os info")
        bundle = table.flag("bundle")
        if bundle and table.text("encoding", "pem") != "pem":
            raise table.wrong("bundle", "for certificates in PEM")
        return cls(
            files,
            {name: words for name in _COMMANDS if (words := table.texts(name))},
            table.text("chip-file"),
            info,
            table.choice("encoding", "pem", "pem", "der") == "pem",
            bundle,
            table.whole("request-size", _TWO_LINES if stream else 0, 0, 65535),
            table.number("timeout", 5, 0.1, 600),
            table.number("boot", 60, 1, 3600),
            table.number("settle", 0.5, 0, 60),
        )


@asynccontextmanager
async def open_device(address: Address, settings: Mapping[str, Setting]) -> AsyncIterator[SmpDriver]:
    """See :class:`provisioning.device.DriverModule`."""
    driver = SmpDriver(address, SmpSettings.read(settings, stream=address.scheme != "udp"))
    try:
        await driver.open()
        yield driver
    finally:
        await driver.close()


class SmpDriver:
    """One board on one port. The port is closed and opened again over a reset: one on USB goes away meanwhile."""

    def __init__(self, address: Address, settings: SmpSettings) -> None:
        self._address = address
        self._settings = settings
        self._port = AsyncExitStack()
        self._open: SmpClient | None = None
        self._key: PrivateKey | None = None
        self._stored: dict[str, bytes] = {}  # SHA-256 of the files that were written since the port was opened

    async def open(self) -> SmpClient:
        """Open the port, unless it is. Raises PortLost, ConfigError."""
        if self._open is None:
            carrier: Carrier
            if self._address.scheme == "udp":
                carrier = DatagramCarrier(await self._port.enter_async_context(open_datagrams(self._address)))
            else:
                carrier = LineCarrier(await self._port.enter_async_context(open_stream(self._address)))
            size, timeout_s = self._settings.request_size, self._settings.timeout_s
            self._open = SmpClient(carrier, timeout_s=timeout_s, request_size=size)
        return self._open

    async def close(self) -> None:
        self._open = None
        await self._port.aclose()

    async def identify(self) -> Device:
        client = await self.open()
        await client.hello()
        facts = {"firmware": await client.info("v"), "build": await client.info("b")}
        chip = await self._chip(client)
        if not _PRINTABLE.fullmatch(chip):
            raise DeviceRefused("the board does not say which one it is: look at chip-command, chip-file or chip-info")
        return Device(chip, model=await client.info("i"), facts={name: fact for name, fact in facts.items() if fact})

    async def _chip(self, client: SmpClient) -> str:
        settings = self._settings
        if command := settings.commands.get("chip-command"):
            return " ".join((await client.shell(command)).split())
        if settings.chip_file:
            return (await client.download(settings.chip_file)).decode("ascii", "replace").strip("\0\r\n ")
        if settings.chip_info:
            return await client.info(settings.chip_info)
        return f"port:{self._address.path or f'{self._address.host}:{self._address.port}'}"

    async def generate_key(self, key_type: str) -> None:
        command = self._settings.commands.get("keygen-command")
        if command is None:
            raise DeviceRefused("this board's recipe names no keygen-command: its keys come from the pool")
        await (await self.open()).shell([word.replace("{type}", key_type) for word in command])

    async def load_key(self, private_key: bytes) -> None:
        key = private_key_of(private_key)
        coding = Encoding.PEM if self._settings.pem else Encoding.DER
        await self._put(self._name("key-file"), key.private_bytes(coding, PrivateFormat.PKCS8, NoEncryption()))
        self._key = key

    async def read_csr(self, subject: str) -> Csr:
        command = self._settings.commands.get("csr-command")
        if command is not None:
            return Csr(_request_in(await (await self.open()).shell([word.replace("{subject}", subject) for word in command])))
        return request_of(await self._loaded(), subject)

    async def write(self, delivery: Delivery) -> None:
        files = self._settings.files
        if "key-file" in files and not belongs(delivery.certificate, await self._loaded()):
            raise WrongDevice("the certificate is for another key than the one in this device")
        contents = {
            "ticket-file": delivery.ticket,
            "serial-file": delivery.serial.encode(),
            "chain-file": self._coded(delivery.chain),
            # Last, because it says that all is there.
            "certificate-file": self._coded([delivery.certificate, *(delivery.chain if self._settings.bundle else ())]),
        }
        for kind, content in contents.items():
            if kind in files and content:
                await self._put(files[kind], content)

    async def reset(self) -> None:
        """Raises DeviceFault where a file that was there before is not there, or not whole, after it."""
        await (await self.open()).reset()
        await self.close()
        await asyncio.sleep(self._settings.settle_s)
        try:
            async with asyncio.timeout(self._settings.boot_s):
                await self._come_back()
        except TimeoutError as error:
            raise DeviceSilent(
                f"the device did not come back within {self._settings.boot_s:g} seconds after its reset"
            ) from error
        self._key = None
        client = await self.open()
        for name, digest in self._stored.items():
            if await client.digest(name) != digest:
                raise DeviceFault(f"the device lost {name} in its reset")

    async def _come_back(self) -> None:
        """Until the server answers; the port may be away meanwhile."""
        while True:
            try:
                await (await self.open()).hello(timeout_s=1)
                return
            except (PortLost, DeviceSilent):
                await self.close()
                await asyncio.sleep(_POLL_S)

    async def read_back(self) -> bytes:
        content = await (await self.open()).download(self._settings.files["certificate-file"])
        try:
            if content.startswith(b"-----"):
                return x509.load_pem_x509_certificate(content).public_bytes(Encoding.DER)
            return x509.load_der_x509_certificate(content).public_bytes(Encoding.DER)
        except ValueError:
            return b""  # none, or a part of one

    async def prove(self, challenge: bytes) -> bytes:
        """Signed here with the key as it is read from the board's file: it shows that the board holds it. Empty where the key
        was made on the board or the firmware does not give the file away."""
        try:
            return proof_of(await self._loaded(), challenge)
        except SmpRefused:
            return b""

    async def lock_state(self) -> Lock:
        return Lock.ABSENT

    async def lock(self) -> None:
        raise DeviceRefused("SMP has nothing to lock")

    async def _loaded(self) -> PrivateKey:
        """The key that was loaded since the last reset, or as the board's file has it."""
        if self._key is None:
            content = await (await self.open()).download(self._name("key-file"))
            if not content:
                raise DeviceRefused("the device holds no key: load it again")
            self._key = private_key_of(content)
        return self._key

    async def _put(self, name: str, content: bytes) -> None:
        """Have the device store ``content``; it must hash it. A file that is right is left."""
        client = await self.open()
        digest = hashlib.sha256(content).digest()
        if await client.digest(name) != digest:
            rename = self._settings.commands.get("rename-command")
            target = f"{name}.new" if rename else name
            await client.upload(target, content)
            if await client.digest(target) != digest:
                raise DeviceFault(f"the device stored something else as {target} than it was sent")
            if rename:
                await client.shell([word.replace("{from}", target).replace("{to}", name) for word in rename])
                if await client.digest(name) != digest:
                    raise DeviceFault(f"the device did not rename {target}")
        self._stored[name] = digest

    def _name(self, kind: str) -> str:
        name = self._settings.files.get(kind)
        if name is None:
            raise ConfigError(f"the smp driver's recipe needs {kind} for keys from the pool")
        return name

    def _coded(self, certificates: Sequence[bytes]) -> bytes:
        if not self._settings.pem:
            return b"".join(certificates)
        return b"".join(x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in certificates)


def _request_in(output: str) -> bytes:
    """A request in PEM or base64 of DER, perhaps behind ``CSR:``. Raises DeviceFault."""
    pem = re.search(r"-----BEGIN (?:NEW )?CERTIFICATE REQUEST-----([A-Za-z0-9+/=\s]*)-----END", output)
    line = re.search(r"^(?:CSR: *)?(M[A-Za-z0-9+/]{40,16000}={0,2})\r?$", output, re.MULTILINE)
    found = pem or line
    if found is None:
        raise DeviceFault("the device's answer has no certification request in it")
    try:
        return base64.b64decode("".join(found[1].split()), validate=True)
    except binascii.Error as error:
        raise DeviceFault("the device's certification request is no base64") from error

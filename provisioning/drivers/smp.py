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
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.errors import ConfigError, DeviceFault, DeviceRefused, DeviceSilent, PortLost, WrongDevice
from gateway.pki.algorithms import PrivateKey
from gateway.schema import bounded, read_section
from provisioning.codec.smp import SmpRefused, size_in_lines
from provisioning.device import Address, Csr, Delivery, Device, KeyOrigin, Lock, Setting
from provisioning.drivers.loaded import belongs, private_key_of, proof_of, request_of
from provisioning.smp import Carrier, DatagramCarrier, LineCarrier, SmpClient
from provisioning.transports.registry import open_stream
from provisioning.transports.udp import open_datagrams

KEYS = frozenset({KeyOrigin.POOL, KeyOrigin.DEVICE})
#: A server on a UART has two receive buffers of a line each (CONFIG_UART_MCUMGR_RX_BUF_COUNT) and drops what comes on top.
_TWO_LINES = size_in_lines(2)
_POLL_S = 0.05
#: An echo that takes longer is lost.
_LOST_S = 1.0
#: Shorter than any board takes to start.
_ECHO_S = 0.005
#: How often and after how many seconds each a file is looked for after a reset.
_LOOKS, _LOOK_S = 10, 0.3
_MAX_FILE_NAME = 64  # CONFIG_MCUMGR_GRP_FS_PATH_LEN
_PRINTABLE = re.compile(r"[\x20-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class SmpSettings:
    """A recipe's table for this driver; docs/line/boards.md explains each. Commands are words for the firmware's shell."""

    certificate: str = ""  # files: what has no name is not written
    key: str = ""
    chain: str = ""
    serial: str = ""
    ticket: str = ""
    encoding: str = "pem"
    bundle: bool = False  # the certificate's file has the chain behind it, as TLS stacks want it
    chip_command: tuple[str, ...] = ()
    chip_file: str = ""
    chip_info: str = ""
    keygen_command: tuple[str, ...] = ()
    csr_command: tuple[str, ...] = ()
    rename_command: tuple[str, ...] = ()
    request_size: int = bounded(0, 0, 65535)  # 0: two lines of a stream, over UDP what the board says
    timeout_s: float = bounded(5.0, 0.1, 600)  # of one try
    boot_s: float = bounded(60.0, 1, 3600)  # the longest that a reset takes
    down_s: float = bounded(5.0, 0.5, 60)  # the longest until it begins: servers answer first, and wait 250 ms

    @classmethod
    def read(cls, settings: Mapping[str, Setting]) -> SmpSettings:
        """Raises ConfigError."""
        read = read_section(cls, settings, Path("/"))
        if not read.certificate:
            raise ConfigError('the smp driver needs certificate, where it goes, as in certificate = "/lfs1/device.crt"')
        for name in ("certificate", "key", "chain", "serial", "ticket", "chip_file"):
            path = getattr(read, name)
            if path and (not path.startswith("/") or len(path) > _MAX_FILE_NAME):
                raise ConfigError(f"{name} = {path!r}: an absolute path of at most {_MAX_FILE_NAME} characters")
        if read.encoding not in {"pem", "der"}:
            raise ConfigError(f'encoding = {read.encoding!r} must be "pem" or "der"')
        if read.bundle and read.encoding != "pem":
            raise ConfigError("bundle is for certificates in PEM")
        if len(read.chip_info) > 1:
            raise ConfigError("chip_info is one letter of MCUmgr's os info")
        return read


@asynccontextmanager
async def open_device(address: Address, settings: Mapping[str, Setting]) -> AsyncIterator[SmpDriver]:
    """See :class:`provisioning.device.DriverModule`."""
    driver = SmpDriver(address, SmpSettings.read(settings))
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
            size = self._settings.request_size or (0 if self._address.scheme == "udp" else _TWO_LINES)
            self._open = SmpClient(carrier, timeout_s=self._settings.timeout_s, request_size=size)
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
            raise DeviceRefused("the board does not say which one it is: look at chip_command, chip_file or chip_info")
        return Device(chip, model=await client.info("i"), facts={name: fact for name, fact in facts.items() if fact})

    async def _chip(self, client: SmpClient) -> str:
        settings = self._settings
        if settings.chip_command:
            return " ".join((await client.shell(settings.chip_command)).split())
        if settings.chip_file:
            return (await client.download(settings.chip_file)).decode("ascii", "replace").strip("\0\r\n ")
        if settings.chip_info:
            return await client.info(settings.chip_info)
        return f"port:{self._address.path or f'{self._address.host}:{self._address.port}'}"

    async def generate_key(self, key_type: str) -> None:
        command = self._settings.keygen_command
        if not command:
            raise DeviceRefused("this board's recipe names no keygen_command: its keys come from the pool")
        await (await self.open()).shell([word.replace("{type}", key_type) for word in command])

    async def load_key(self, private_key: bytes) -> None:
        key = private_key_of(private_key)
        coding = Encoding.PEM if self._settings.encoding == "pem" else Encoding.DER
        await self._put(self._key_file(), key.private_bytes(coding, PrivateFormat.PKCS8, NoEncryption()))
        self._key = key

    async def read_csr(self, subject: str) -> Csr:
        command = self._settings.csr_command
        if command:
            return Csr(_request_in(await (await self.open()).shell([word.replace("{subject}", subject) for word in command])))
        return request_of(await self._loaded(), subject)

    async def write(self, delivery: Delivery) -> None:
        settings = self._settings
        if settings.key and not belongs(delivery.certificate, await self._loaded()):
            raise WrongDevice("the certificate is for another key than the one in this device")
        chain = delivery.chain if settings.bundle else ()
        for name, content in (
            (settings.ticket, delivery.ticket),
            (settings.serial, delivery.serial.encode()),
            (settings.chain, self._coded(delivery.chain)),
            (settings.certificate, self._coded([delivery.certificate, *chain])),  # last: it says that all is there
        ):
            if name and content:
                await self._put(name, content)

    async def reset(self) -> None:
        """Raises DeviceFault where it does not go down, or where a file that was there is not there, or not whole, after it."""
        client = await self.open()
        await client.reset()
        await self._go_down(client)
        await self.close()
        try:
            async with asyncio.timeout(self._settings.boot_s):
                await self._come_back()
        except TimeoutError as error:
            raise DeviceSilent(
                f"the device did not come back within {self._settings.boot_s:g} seconds after its reset"
            ) from error
        self._key = None
        for name, digest in self._stored.items():
            await self._must_hold(name, digest)

    async def _go_down(self, client: SmpClient) -> None:
        """Echo with hardly a pause until one is lost: what answers afterwards has been reset."""
        try:
            async with asyncio.timeout(self._settings.down_s):
                while True:
                    await client.hello(timeout_s=min(self._settings.timeout_s, _LOST_S), tries=1)
                    await asyncio.sleep(_ECHO_S)
        except TimeoutError as error:
            raise DeviceRefused("the device did not reset: it goes on answering") from error
        except (DeviceSilent, PortLost):
            return

    async def _must_hold(self, name: str, digest: bytes) -> None:
        """A server may answer before its file system is there. Raises DeviceFault."""
        client = await self.open()
        for left in reversed(range(_LOOKS)):
            if await client.digest(name) == digest:
                return
            if left:
                await asyncio.sleep(_LOOK_S)
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
        content = await (await self.open()).download(self._settings.certificate)
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
            content = await (await self.open()).download(self._key_file())
            if not content:
                raise DeviceRefused("the device holds no key: load it again")
            self._key = private_key_of(content)
        return self._key

    async def _put(self, name: str, content: bytes) -> None:
        """Have the device store ``content``; it must hash it. A file that is right is left."""
        client = await self.open()
        digest = hashlib.sha256(content).digest()
        if await client.digest(name) != digest:
            rename = self._settings.rename_command
            target = f"{name}.new" if rename else name
            await client.upload(target, content)
            if await client.digest(target) != digest:
                raise DeviceFault(f"the device stored something else as {target} than it was sent")
            if rename:
                await client.shell([word.replace("{from}", target).replace("{to}", name) for word in rename])
                if await client.digest(name) != digest:
                    raise DeviceFault(f"the device did not rename {target}")
        self._stored[name] = digest

    def _key_file(self) -> str:
        if not self._settings.key:
            raise ConfigError("the smp driver's recipe needs key, a file, for keys from the pool")
        return self._settings.key

    def _coded(self, certificates: Sequence[bytes]) -> bytes:
        if self._settings.encoding == "der":
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

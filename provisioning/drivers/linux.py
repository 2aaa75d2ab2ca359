"""A device with Linux, or anything with a POSIX shell and openssl, on a console: serial, TCP, SSH.

The key is made on the device by its openssl and never leaves it; the certificate and its chain become PEM files. A device that
has busybox instead of coreutils will do. What the device does is plain shell, one line each, as ``docs/line/console.md`` shows;
where it is and how it is reset and locked are settings.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_public_key,
)

from gateway.errors import ConfigError, DeviceRefused, DeviceSilent, MalformedRequest
from gateway.pki.names import name_from_text
from gateway.schema import bounded, read_section
from provisioning import openssl
from provisioning.console import Console, Login
from provisioning.console_files import ATTEMPTS, PATH, ConsoleFiles, Tools
from provisioning.console_port import ConsolePort, Patience
from provisioning.device import Address, Csr, Delivery, Device, KeyOrigin, Lock, Setting
from provisioning.transports.stream import secret_file

KEYS = frozenset({KeyOrigin.DEVICE, KeyOrigin.POOL})

#: Where makers put a number that is the device's own, best first, and what some of them write there instead.
_CHIP_FILES = (
    "/sys/firmware/devicetree/base/serial-number",
    "/sys/class/dmi/id/product_uuid",
    "/sys/class/dmi/id/board_serial",
    "/etc/machine-id",
)
_NO_CHIP = re.compile(
    r"(?i)(0[0-]*|none|default string|not (specified|applicable)|to be filled.*|unknown|system serial number)?"
)
_MODEL_FILES = ("/sys/firmware/devicetree/base/model", "/sys/class/dmi/id/product_name")
_CHIP = re.compile(r"[!-~]([ -~]{0,126}[!-~])?")


@dataclass(frozen=True, slots=True)
class LinuxSettings:
    """A recipe's table for this driver; docs/line/console.md explains each."""

    user: str = ""
    password: str = ""  # credential:NAME or file:/PATH
    directory: str = "/etc/idevid"
    key: str = "key.pem"  # in the directory, as are the next
    certificate: str = "certificate.pem"
    chain: str = "chain.pem"
    serial: str = ""  # empty: the product's serial number is not written
    ticket: str = ""
    mode: str = "644"
    scratch: str = "/tmp"  # noqa: S108  # on the device
    chip_command: str = ""
    serial_command: str = ""
    boot_id_command: str = "cat /proc/sys/kernel/random/boot_id"
    reset_command: str = "reboot"  # empty: sync and drop what is cached
    sync_command: str = "sync"
    lock_command: str = ""
    lock_state_command: str = ""  # status 0: locked, 1: open
    listen_first: bool = False  # the device may be booting when its port is opened
    quiet_kernel: bool = True
    terminal_buffer: int = bounded(2048, 256, 65536)
    command_s: float = bounded(10.0, 0.1, 600)
    key_s: float = bounded(300.0, 1, 7200)
    attach_s: float = bounded(30.0, 0.1, 600)
    boot_s: float = bounded(120.0, 0.1, 3600)
    boot_quiet_s: float = bounded(3.0, 0.1, 60)

    @classmethod
    def read(cls, settings: Mapping[str, Setting]) -> LinuxSettings:
        """Raises ConfigError."""
        read = read_section(cls, settings, Path("/"))
        names = (read.key, read.certificate, read.chain, read.serial, read.ticket)
        for path in (read.directory, read.scratch, *(read.at(name) for name in names if name)):
            if not PATH.fullmatch(path):
                raise ConfigError(f"{path!r} is no path for a device: letters, digits and ._/- only, from the root")
        if not re.fullmatch("[0-7]{3,4}", read.mode):
            raise ConfigError(f'mode = {read.mode!r} is no file mode, as in mode = "644"')
        if bool(read.lock_command) is not bool(read.lock_state_command):
            raise ConfigError("lock_command and lock_state_command go together: nothing is locked that cannot be asked about")
        if read.password and not read.user:
            raise ConfigError("a password without a user")
        return read

    def at(self, name: str) -> str:
        return name if name.startswith("/") else f"{self.directory}/{name}"

    def login(self) -> Login | None:
        """Raises ConfigError where the password cannot be read."""
        if not self.user:
            return None
        if not self.password:
            return Login(self.user)
        path = secret_file(self.password, "password")
        try:
            return Login(self.user, path.read_text(encoding="utf-8").rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: the device's password cannot be read") from error

    def setup(self) -> str:
        """What a new shell is told: no echo, no kernel in between, files for their owner; it says which tools there are."""
        quiet = "dmesg -n 1 2>/dev/null;" if self.quiet_kernel else ""
        return (
            f"stty -echo 2>/dev/null;{quiet}umask 077;unset HISTFILE;export LC_ALL=C;"
            "for t in base64 sha256sum openssl;do command -v $t >/dev/null&&echo $t;done;:"
        )


@asynccontextmanager
async def open_device(address: Address, settings: Mapping[str, Setting]) -> AsyncIterator[LinuxDriver]:
    """See :class:`provisioning.device.DriverModule`."""
    read = LinuxSettings.read(settings)
    patience = Patience(read.command_s, read.attach_s, read.boot_s, read.boot_quiet_s)
    port = ConsolePort(address, read.login(), patience, read.setup(), "stty echo")
    await port.open(listen_first=read.listen_first)
    try:
        yield LinuxDriver(port, read)
    finally:
        await port.close()


class LinuxDriver:
    def __init__(self, port: ConsolePort, settings: LinuxSettings) -> None:
        self._port = port
        self._settings = settings
        self._key = settings.at(settings.key)
        self._spki = b""  # of the key, once it was seen

    @property
    def _console(self) -> Console:
        return self._port.console

    @property
    def _tools(self) -> Tools:
        present = frozenset(self._port.told.split())
        if "openssl" not in present:
            raise DeviceRefused("the device has no openssl")
        return Tools.of(present, self._settings.sync_command)

    @property
    def _files(self) -> ConsoleFiles:
        return ConsoleFiles(self._console, self._tools, self._settings.terminal_buffer)

    async def identify(self) -> Device:
        files = " ".join((*_CHIP_FILES, *_MODEL_FILES))
        said = await self._console.check(
            f"for f in {files};do [ -r $f ]&&echo \"$f=$(tr -d '\\0' <$f)\";done;echo kernel=$(uname -srm);"
            f"echo openssl=$(openssl version);echo chip=$({self._settings.chip_command or ':'});"
            f"echo serial=$({self._settings.serial_command or ':'})",
            "ask who it is",
        )
        facts = dict(line.partition("=")[::2] for line in said.splitlines() if "=" in line)
        found = (facts.get(path, "").strip() for path in _CHIP_FILES)
        chip = (
            facts.get("chip", "")
            if self._settings.chip_command
            else next((value for value in found if not _NO_CHIP.fullmatch(value)), "")
        )
        if not _CHIP.fullmatch(chip):
            raise DeviceRefused("the device has no number of its own: set chip_command to what its maker burned into it")
        model = next((facts[path].strip() for path in _MODEL_FILES if facts.get(path)), "")
        return Device(
            chip, facts.get("serial", ""), model, {name: facts[name] for name in ("kernel", "openssl") if facts.get(name)}
        )

    async def generate_key(self, key_type: str) -> None:
        if key_type not in openssl.GENPKEY:
            raise DeviceRefused(f"a Linux device makes no {key_type} keys here")
        key, sync = self._key, self._tools.sync
        await self._console.check(
            f"[ -s {key} ]||{{ mkdir -p {_folder(key)}&&openssl genpkey {openssl.GENPKEY[key_type]} -out {key}.new&&"
            f"{sync} {key}.new&&{sync}&&mv -f {key}.new {key}&&{sync};}}",
            "make the key",
            timeout_s=self._settings.key_s,
        )

    async def load_key(self, private_key: bytes) -> None:
        try:
            loaded = load_der_private_key(private_key, None)
        except (ValueError, TypeError) as error:
            raise DeviceRefused("the key to load is no PKCS #8 key") from error
        wanted = loaded.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if await self._public_key(missing_ok=True) == wanted:
            await self._console.check(self._tools.sync, "keep the key")
            return
        pem = loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        await self._files.put({self._key: pem}, "600")
        self._spki = b""

    async def read_csr(self, subject: str) -> Csr:
        try:
            wanted = quote(openssl.subject(name_from_text(subject)))
        except MalformedRequest as error:
            raise DeviceRefused(f"the device is given no such subject: {error}") from error
        for _ in range(ATTEMPTS):
            text = await self._console.check(
                f"openssl req -new -utf8 -key {self._key} -subj {wanted} -config /proc/self/fd/0",
                "make a request",
                openssl.REQUEST_CONFIGURATION,
            )
            try:
                csr = x509.load_pem_x509_csr(openssl.armoured(text, "CERTIFICATE REQUEST"))
                if csr.is_signature_valid:
                    self._spki = csr.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
                    return Csr(csr.public_bytes(Encoding.DER))
            except ValueError:
                continue
        raise DeviceSilent(f"the device's request came damaged {ATTEMPTS} times")

    async def write(self, delivery: Delivery) -> None:
        settings = self._settings
        files = (
            {settings.at(settings.chain): b"".join(map(openssl.certificate_pem, delivery.chain))}
            if settings.chain and delivery.chain
            else {}
        )
        if settings.serial:
            files[settings.at(settings.serial)] = delivery.serial.encode() + b"\n"
        if settings.ticket and delivery.ticket:
            files[settings.at(settings.ticket)] = delivery.ticket
        files[settings.at(settings.certificate)] = openssl.certificate_pem(delivery.certificate)  # last: where it is, all is
        await self._files.put(files, settings.mode)

    async def reset(self) -> None:
        if self._settings.reset_command:
            await self._port.restart(f"( {self._settings.reset_command} )", self._settings.boot_id_command)
        else:
            await self._console.check(f"{self._tools.sync}&&echo 3 >/proc/sys/vm/drop_caches", "empty the cache")

    async def read_back(self) -> bytes:
        data = await self._files.get(self._settings.at(self._settings.certificate))
        try:
            return x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER) if data else b""
        except ValueError:
            return data  # something else than what was written

    async def prove(self, challenge: bytes) -> bytes:
        spki = self._spki or await self._public_key()
        try:
            sign = openssl.sign_command(spki, self._key, "i$$.c", "i$$.s")
        except ValueError as error:
            raise DeviceRefused(f"the device's key cannot sign: it is {error}") from error
        tools = self._tools
        command = (
            f"(cd {self._settings.scratch}&&{tools.decode} >i$$.c&&{sign}&&{tools.encode} <i$$.s;"
            "s=$?;rm -f i$$.c i$$.s;exit $s)"
        )
        text = base64.encodebytes(challenge).decode()
        for _ in range(ATTEMPTS):
            said = await self._console.check(command, "sign the challenge", text)
            try:
                return base64.b64decode("".join(said.split()), validate=True)
            except (binascii.Error, ValueError):
                continue
        raise DeviceSilent(f"the device's signature came damaged {ATTEMPTS} times")

    async def lock_state(self) -> Lock:
        if not self._settings.lock_state_command:
            return Lock.ABSENT
        answer = await self._console.run(f"( {self._settings.lock_state_command} )", "ask for the lock")
        if answer.status not in {0, 1}:
            raise DeviceRefused(f"the device does not know whether it is locked: status {answer.status}")
        return Lock.OPEN if answer.status else Lock.LOCKED

    async def lock(self) -> None:
        if not self._settings.lock_command:
            raise DeviceRefused("this device has nothing to lock")
        await self._console.check(f"( {self._settings.lock_command} )", "lock")

    async def _public_key(self, *, missing_ok: bool = False) -> bytes:
        """The public half (SubjectPublicKeyInfo, DER) of the key in the device; empty where there is none and may be none."""
        present = f"[ ! -s {self._key} ]||" if missing_ok else ""
        for _ in range(ATTEMPTS):
            text = await self._console.check(f"{present}openssl pkey -in {self._key} -pubout", "read the public key")
            if missing_ok and not text:
                return b""
            try:
                key = load_pem_public_key(openssl.armoured(text, "PUBLIC KEY"))
            except ValueError:
                continue
            self._spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return self._spki
        raise DeviceSilent(f"the device's public key came damaged {ATTEMPTS} times")


def _folder(path: str) -> str:
    return path.rpartition("/")[0] or "/"

"""What a recipe may set for the driver of TPM 2.0 devices, and the files that it names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.errors import ConfigError
from gateway.keys.wrapping import credentials_directory
from provisioning.console import Login
from provisioning.device import Setting


@dataclass(frozen=True, slots=True)
class TpmSettings:
    """A recipe's table for this driver. Handles are those of the TCG's registry of reserved handles."""

    makers: str = ""  # file with the TPM makers' CA certificates (PEM), roots and what stands between
    ek_certificate: str = "required"  # or "ignored": then nothing says that the chip is a real one
    key_handle: int = 0x81020000
    iak_handle: int = 0x81020001
    ek_handle: int = 0x81010001
    ek_certificate_index: int = 0x01C00002
    certificate: str = "nv:0x01C90000"  # or file:/PATH (PEM)
    chain_file: str = ""
    serial_file: str = ""
    ticket_file: str = ""
    lock: bool = False  # write-lock the NV index
    scratch: str = "/tmp"  # noqa: S108  # on the device; mktemp makes a directory in it
    user: str = ""
    password: str = ""  # credential:NAME or file:/PATH
    attach_s: float = 30.0
    command_s: float = 60.0  # real chips take seconds for an RSA key
    key_s: float = 300.0
    reset_command: str = ""  # empty: sync, and drop what is cached
    boot_id_command: str = "cat /proc/sys/kernel/random/boot_id"
    boot_s: float = 120.0
    boot_quiet_s: float = 3.0

    @classmethod
    def read(cls, settings: Mapping[str, Setting]) -> TpmSettings:
        """Raises ConfigError."""
        defaults = cls()
        values: dict[str, object] = {}
        for name, given in settings.items():
            default = getattr(defaults, name, None) if name in cls.__dataclass_fields__ else None
            if default is None:
                known = ", ".join(cls.__dataclass_fields__)
                raise ConfigError(f"the tpm2 driver knows no setting {name!r}; it knows {known}")
            value = float(given) if isinstance(default, float) and type(given) is int else given
            if type(value) is not type(default):
                raise ConfigError(f"the tpm2 driver's {name} is a {_KINDS[type(default)]}")
            values[name] = value
        read = cls(**values)  # type: ignore[arg-type]
        read._check()
        return read

    def _check(self) -> None:
        if self.ek_certificate not in {"required", "ignored"}:
            raise ConfigError('the tpm2 driver\'s ek_certificate is "required" or "ignored"')
        if (self.ek_certificate == "required") != bool(self.makers):
            raise ConfigError(
                "the tpm2 driver needs makers = the file with the TPM makers' CA certificates, or ek_certificate = "
                '"ignored": then anybody\'s software may pass for a TPM'
            )
        for path in (self.chain_file, self.serial_file, self.ticket_file, self.certificate_file, self.scratch):
            if path and not _PLAIN_PATH.fullmatch(path):
                raise ConfigError(f"{path!r} is no path for the tpm2 driver: absolute, of letters, digits and . _ - /")
        if not self.certificate_file and not _NV_INDEX.fullmatch(self.certificate):
            raise ConfigError("the tpm2 driver's certificate is nv:0x01C90000 or file:/PATH")
        if self.lock and self.certificate_file:
            raise ConfigError("the tpm2 driver locks a certificate in an NV index only")
        if self.password and not self.user:
            raise ConfigError("the tpm2 driver's password needs a user")

    @property
    def certificate_file(self) -> str:
        return self.certificate.removeprefix("file:") if self.certificate.startswith("file:") else ""

    @property
    def nv_index(self) -> int:
        return 0 if self.certificate_file else int(self.certificate.removeprefix("nv:"), 16)


_KINDS: dict[type, str] = {str: "text", bool: "true or false", int: "number", float: "number of seconds"}
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9._/-]{1,200}")
_NV_INDEX = re.compile(r"nv:0x01[0-9A-Fa-f]{6}")


def login_of(settings: TpmSettings) -> Login | None:
    """Who logs in to the console; None where nobody has to. Raises ConfigError."""
    if not settings.user:
        return None
    kind, _, name = settings.password.partition(":")
    if not settings.password:
        return Login(settings.user)
    credentials = credentials_directory()
    path = Path(name) if kind == "file" else credentials / name if kind == "credential" and credentials is not None else None
    if path is None:
        raise ConfigError("the tpm2 driver's password is credential:NAME or file:/PATH, and systemd gives the credentials")
    try:
        return Login(settings.user, path.read_text().rstrip("\r\n"))
    except OSError as error:
        raise ConfigError(f"the tpm2 driver cannot read the password in {path.name}: {error.strerror}") from error


def makers_of(path: str) -> tuple[list[bytes], list[bytes]]:
    """Roots and intermediate certificates (DER) in a PEM file. Raises ConfigError."""
    if not path:
        return [], []
    try:
        certificates = x509.load_pem_x509_certificates(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"the tpm2 driver cannot read the makers' certificates in {path}: {error}") from error
    roots = [item.public_bytes(Encoding.DER) for item in certificates if item.subject == item.issuer]
    if not roots:
        raise ConfigError(f"{path} holds no root certificate of a TPM maker")
    return roots, [item.public_bytes(Encoding.DER) for item in certificates if item.subject != item.issuer]

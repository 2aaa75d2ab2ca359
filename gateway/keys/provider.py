"""Opens and makes keys by URI, whatever they live in.

Keys of one token share one signer child; several tokens work side by side. Opening never waits for hardware when the public
key is known, so a gateway starts with its token unplugged and signs as soon as it is there.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path

from gateway.errors import ConfigError, NotFound
from gateway.keys.keeper import RemoteToken, TokenTimes
from gateway.keys.pin import PinLedger, pin_source
from gateway.keys.remote import Pkcs11Signer
from gateway.keys.signer import KeySpec, Signer
from gateway.keys.software import SoftwareKeys
from gateway.keys.uri import KeyUri
from gateway.keys.wrapping import WrappingKey
from gateway.pki.algorithms import PublicKey

#: Loads every module that Debian's packages register, so a URI without a module works (p11-kit(8)).
DEFAULT_MODULE = "p11-kit-proxy.so"
_LIBRARY_DIRECTORIES = ("/usr/lib", "/usr/local/lib", "/usr/lib64")
_ID_SIZE = 16


class KeyRing:
    """The keys of one gateway. ``directory`` holds the software keys and the PIN ledger."""

    def __init__(
        self,
        directory: Path,
        wrapping: WrappingKey,
        *,
        credentials: Path | None = None,
        times: TokenTimes | None = None,
    ) -> None:
        self.software = SoftwareKeys(directory, wrapping)
        self._ledger = PinLedger(directory / "pins.json", wrapping)
        self._credentials = credentials
        self._times = times or TokenTimes()
        self._tokens: dict[KeyUri, RemoteToken] = {}
        self._signers: list[Signer] = []

    async def open(self, uri: str, expected: PublicKey | None = None) -> Signer:
        """The key ``uri`` names.

        With ``expected`` (the CA certificate's key) a token that is away, locked or wrong gives a Signer whose health says
        so and which signs by itself later. Without, it waits a while for the token and raises SignerUnavailable, PinError
        or NotFound. Raises ConfigError for a URI that names no single key, NotFound or IntegrityError for a software key.
        """
        parsed = KeyUri.parse(uri)
        if parsed.is_software:
            signer: Signer = await asyncio.to_thread(self.software.signer, parsed.software)
            if expected is not None and signer.public_key != expected:
                raise NotFound(f"{uri} is another key than the certificate's")
        else:
            _check_names_key(parsed)
            signer = await Pkcs11Signer.open(self._token(parsed), parsed, expected)
        self._signers.append(signer)
        return signer

    async def generate(self, uri: str, spec: KeySpec) -> Signer:
        """Make a new key where ``uri`` says. Raises AlreadyExists when a key of that label or id is there.

        On a token the private half can never leave it. The Signer's URI names exactly the new key (label, id and the
        token's serial number): that is the one to configure. Raises SignerUnavailable, PinError, and BadKey for a type the
        token cannot make.
        """
        parsed = KeyUri.parse(uri)
        if parsed.is_software:
            await asyncio.to_thread(self.software.generate, parsed.software, spec)
            return await self.open(uri)
        _check_names_key(parsed)
        if not parsed.object:
            raise ConfigError("a new key needs a label: object=NAME in the URI")
        if not parsed.id:
            parsed = replace(parsed, id=secrets.token_bytes(_ID_SIZE))
        signer = await Pkcs11Signer.generate(self._token(parsed), parsed, spec)
        self._signers.append(signer)
        return signer

    def token(self, uri: str) -> RemoteToken:
        """The token a PKCS #11 ``uri`` lives on, e.g. for an anchor on it. Raises ConfigError."""
        parsed = KeyUri.parse(uri)
        if parsed.is_software:
            raise ConfigError(f"{uri} lives on no token")
        return self._token(parsed)

    def signers(self) -> tuple[Signer, ...]:
        """Every key opened so far, for the health page."""
        return tuple(self._signers)

    async def close(self) -> None:
        for signer in self._signers:
            await signer.close()
        for token in self._tokens.values():
            await token.close()
        self._signers.clear()
        self._tokens.clear()

    def _token(self, uri: KeyUri) -> RemoteToken:
        key, module = uri.token_only(), module_path(uri)
        if key in self._tokens:
            return self._tokens[key]
        for token in self._tokens.values():  # one child per token, also when one URI names its serial and one its label
            if token.module == module and _same_token(token.uri, key, token.info.serial if token.info is not None else ""):
                token.narrow(uri.serial)
                return token
        source = pin_source(uri.pin_source, credentials=self._credentials)
        self._tokens[key] = RemoteToken(key, module, source, self._ledger, self._times)
        return self._tokens[key]


def _same_token(known: KeyUri, wanted: KeyUri, serial: str) -> bool:
    """Whether ``wanted`` is the token of ``known``, whose ``serial`` is empty while no token was seen.

    A key's URI gets the token's serial number when the key is made; the one in the configuration may have none.
    """
    if serial and wanted.serial:
        return serial == wanted.serial
    return replace(known, serial="") == replace(wanted, serial="") and (not known.serial or not wanted.serial)


def _check_names_key(uri: KeyUri) -> None:
    if not uri.object and not uri.id:
        raise ConfigError("the URI names no key: object=LABEL or id=... is missing")


def module_path(uri: KeyUri, *, directories: tuple[str, ...] = _LIBRARY_DIRECTORIES) -> str:
    """The PKCS #11 module to load: ``module-path``, or ``module-name`` among the installed ones, or p11-kit's proxy.

    Raises ConfigError when there is no such file.
    """
    if uri.module_path:
        if not Path(uri.module_path).is_file():
            raise ConfigError(f"there is no PKCS #11 module {uri.module_path}")
        return uri.module_path
    name = uri.module_name
    # RFC 7512 section 2.3: a module name stands without the file's prefix and suffix.
    files = (f"{name}.so", f"lib{name}.so") if name else (DEFAULT_MODULE,)
    for directory in directories:
        for pattern in ("pkcs11", "*/pkcs11", "", "*"):
            for file in files:
                found = sorted(Path(directory).glob(f"{pattern}/{file}" if pattern else file))
                if found:
                    return str(found[0])
    raise ConfigError(f"no PKCS #11 module {name or DEFAULT_MODULE!r} is installed: give module-path in the URI")

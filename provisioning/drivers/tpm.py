"""A device with a TPM 2.0, reached over its console; on it a shell, tpm2-tools 5 and base64.

The IDevID's key is made in the TPM and kept at a persistent handle; the device's attestation key (IAK) certifies it, and only
the TPM whose maker signed its endorsement key (EK) can show that the IAK is its own (:mod:`provisioning.tpm`). So a request
that this driver hands on comes from a key in exactly the chip that :meth:`TpmDriver.identify` named.

The TPM may be without a resource manager: what a command loads is flushed before the next. Keys are primary keys of the
endorsement hierarchy, so the same TPM makes the same key again when power fails before it became persistent.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.clock import system_time_ms
from gateway.errors import DeviceFault, DeviceRefused, DeviceSilent, WrongDevice
from gateway.pki.algorithms import SignatureAlgorithm, default_algorithm, signature_is_valid
from provisioning import pkcs10, tpm
from provisioning.console_port import ConsolePort, Patience
from provisioning.device import Address, Csr, Delivery, Device, KeyOrigin, Lock, Setting
from provisioning.drivers.tpm_settings import TpmSettings, login_of, makers_of

KEYS = frozenset({KeyOrigin.DEVICE})
_KEY_TYPES = {"p-256": "ecc256", "p-384": "ecc384", "rsa-2048": "rsa2048", "rsa-3072": "rsa3072"}
_SIGNING = {
    SignatureAlgorithm.ECDSA_SHA256: "-g sha256 -s ecdsa",
    SignatureAlgorithm.ECDSA_SHA384: "-g sha384 -s ecdsa",
    SignatureAlgorithm.RSA_SHA256: "-g sha256 -s rsassa",
}
_BORN_HERE = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
#: Whatever it says: with a resource manager there is nothing to flush.
_FLUSH = "{ tpm2_flushcontext -t;tpm2_flushcontext -l;tpm2_flushcontext -s;:;}"
_HANDLE = re.compile(r"0x([0-9A-Fa-f]+)")
EVIDENCE_FORMAT = "tpm2-certify"


@asynccontextmanager
async def open_device(address: Address, settings: Mapping[str, Setting]) -> AsyncIterator[TpmDriver]:
    """See :class:`provisioning.device.DriverModule`."""
    read = TpmSettings.read(settings)
    login = await asyncio.to_thread(login_of, read)
    makers = await asyncio.to_thread(makers_of, read.makers)
    patience = Patience(read.command_s, read.attach_s, read.boot_s, read.boot_quiet_s)
    port = ConsolePort(address, login, patience, "stty -echo 2>/dev/null;umask 077;export LC_ALL=C")
    await port.open()
    driver = TpmDriver(port, Workplace(port, read.scratch), read, makers)
    try:
        yield driver
    finally:
        with suppress(DeviceFault):
            await driver.place.leave()
        await port.close()


class Workplace:
    """A directory on the device for the tools' files, and commands that run in it."""

    def __init__(self, port: ConsolePort, scratch: str) -> None:
        self._port = port
        self._scratch = scratch
        self._ready = False

    async def leave(self) -> None:
        """Remove the directory."""
        if self._ready:
            self._ready = False
            await self._port.console.run('cd / && rm -rf "$tpm_work"', "leaving", timeout_s=5.0)

    async def run(
        self, commands: str, what: str, *, give: str = "", take: bytes = b"", timeout_s: float | None = None
    ) -> bytes:
        """Run ``commands``; the content of the file ``give`` afterwards. ``take`` becomes the file ``in`` before.

        Raises DeviceRefused with what the tools said when they fail.
        """
        if not self._ready:
            make = f'tpm_work=$(mktemp -d {self._scratch}/tpm.XXXXXX) && cd "$tpm_work"'
            await self._port.console.check(f"{make} && {_FLUSH} >said 2>&1", "making a directory")
            self._ready = True
        line = "{ " + commands + ";} >said 2>&1 || { cat said;(exit 1);}"
        if give:
            line = "{ " + commands + ";} >said 2>&1 && base64 " + give + " || { cat said;(exit 1);}"
        if take:
            await self._port.console.check("base64 -d >in", what, _lines(take), timeout_s=timeout_s)
        answer = await self._port.console.check(line, what, timeout_s=timeout_s)
        if not give:
            return b""
        try:
            return base64.b64decode("".join(answer.split()), validate=True)
        except binascii.Error as error:
            raise DeviceSilent(f"{what}: the answer was damaged on the line") from error

    async def text(self, command: str, what: str) -> str:
        return (await self.run(f"{command} >answer", what, give="answer")).decode("ascii", "replace")


def _lines(data: bytes) -> str:
    text = base64.b64encode(data).decode()
    return "\n".join(text[at : at + 76] for at in range(0, len(text), 76))


class TpmDriver:
    """One device with a TPM, while its console is open."""

    def __init__(
        self, port: ConsolePort, place: Workplace, settings: TpmSettings, makers: tuple[list[bytes], list[bytes]]
    ) -> None:
        self.place = place
        self._port = port
        self._settings = settings
        self._makers = makers
        self._ek: tpm.Public | None = None

    async def identify(self) -> Device:
        """The chip is the digest of the EK's public area; that the TPM owns this EK is proved in :meth:`read_csr`."""
        ek = await self._endorsement_key()
        about = await self.place.text("tpm2_getcap properties-fixed", "asking the TPM what it is")
        facts = {name: value for name, pattern in _FACTS.items() if (value := _first(pattern, about))}
        return Device(chip=ek.digest, model="TPM 2.0", facts=facts)

    async def generate_key(self, key_type: str) -> None:
        if key_type not in _KEY_TYPES:
            raise DeviceRefused(f"the tpm2 driver makes {', '.join(_KEY_TYPES)} keys, not {key_type}")
        await self._make(self._settings.key_handle, f"{_KEY_TYPES[key_type]}:null:null", f"{_BORN_HERE}|sign", "IDevID key")

    async def load_key(self, private_key: bytes) -> None:
        del private_key
        raise DeviceRefused("a TPM makes its key itself; it is given none")

    async def read_csr(self, subject: str) -> Csr:
        """Refuses, with WrongDevice, a key of which the TPM does not prove that it was made in it."""
        ek = self._ek or await self._endorsement_key()
        tpm.check_endorsement_key(ek)
        certificate = await self._endorsement_certificate(ek)
        key = await self._public(self._settings.key_handle, "IDevID key")
        tpm.check_identity_key(key)
        await self._make(
            self._settings.iak_handle, "ecc256:ecdsa-sha256:null", f"{_BORN_HERE}|restricted|sign", "attestation key (IAK)"
        )
        iak = await self._public(self._settings.iak_handle, "attestation key (IAK)")
        tpm.check_attestation_key(iak)
        nonce = secrets.token_bytes(32)
        proof = await self._proof(nonce)
        tpm.check_proof(proof, iak=iak, key=key, nonce=nonce)
        await self._activate(ek, iak)
        information = pkcs10.request_information(subject, key.spki)
        request = pkcs10.request(information, default_algorithm(key.public_key), await self._sign(key, information))
        return Csr(
            request, _evidence(ek=ek, certificate=certificate, iak=iak, key=key, proof=proof, nonce=nonce), EVIDENCE_FORMAT
        )

    async def write(self, delivery: Delivery) -> None:
        settings = self._settings
        files = [(settings.chain_file, b"".join(map(_pem, delivery.chain)))]
        files += [(settings.serial_file, delivery.serial.encode() + b"\n"), (settings.ticket_file, delivery.ticket)]
        files += [(settings.certificate_file, _pem(delivery.certificate))]
        for path, content in files:
            if path and content:
                # The new content is on the storage before it gets its name, and the name before the line hears of it.
                commands = f"cp in {path}.new && sync && mv {path}.new {path} && sync"
                await self.place.run(commands, f"writing {path}", take=content)
        if settings.nv_index and await self.read_back() != delivery.certificate:
            await self._write_index(delivery.certificate)

    async def _write_index(self, certificate: bytes) -> None:
        index = f"0x{self._settings.nv_index:x}"
        if await self._index_attributes() is not None:
            await self.place.run(f"tpm2_nvundefine -C o {index}", "clearing the certificate's NV index")
        define = f"tpm2_nvdefine {index} -C o -s {len(certificate)} -a 'ownerread|authread|ownerwrite|no_da|writedefine'"
        # A TPM answers an NV command when what it wrote is in its NV memory: there is no sync to wait for.
        await self.place.run(
            f"{define} && tpm2_nvwrite -C o -i in {index}", "writing the certificate into the TPM", take=certificate
        )

    async def reset(self) -> None:
        """Restarts the device where the settings say how; else drops what TPM and system keep in memory."""
        await self.place.leave()
        if self._settings.reset_command:
            await self._port.console.check("sync", "syncing")
            await self._port.restart(self._settings.reset_command, self._settings.boot_id_command)
            return
        drop = "{ echo 3 >/proc/sys/vm/drop_caches;} 2>/dev/null || :"
        await self.place.run(f"sync && {drop};{_FLUSH}", "resetting")

    async def read_back(self) -> bytes:
        path = self._settings.certificate_file
        if path:
            content = await self.place.run(
                f"cat {path} >answer 2>/dev/null || : >answer", "reading the certificate", give="answer"
            )
            try:
                return x509.load_pem_x509_certificate(content).public_bytes(Encoding.DER) if content else b""
            except ValueError:
                return b""
        attributes = await self._index_attributes()
        if attributes is None or "written" not in attributes:
            return b""
        index = f"0x{self._settings.nv_index:x}"
        return await self.place.run(
            f"tpm2_nvread -C o -o answer {index}", "reading the certificate from the TPM", give="answer"
        )

    async def prove(self, challenge: bytes) -> bytes:
        return await self._sign(await self._public(self._settings.key_handle, "IDevID key"), challenge)

    async def lock_state(self) -> Lock:
        if not self._settings.lock:
            return Lock.ABSENT
        return Lock.LOCKED if "writelocked" in (await self._index_attributes() or ()) else Lock.OPEN

    async def lock(self) -> None:
        await self.place.run(f"tpm2_nvwritelock -C o 0x{self._settings.nv_index:x}", "locking the certificate's NV index")

    async def _endorsement_key(self) -> tpm.Public:
        handle = self._settings.ek_handle
        if handle not in await self._handles("handles-persistent"):
            await self.place.run(
                f"{_FLUSH};tpm2_createek -Q -G rsa -c 0x{handle:x} && {_FLUSH}", "making the EK", timeout_s=self._settings.key_s
            )
        self._ek = await self._public(handle, "EK")
        return self._ek

    async def _endorsement_certificate(self, ek: tpm.Public) -> bytes:
        """Empty where the settings say that it is ignored."""
        settings = self._settings
        if settings.ek_certificate == "ignored":
            return b""
        if settings.ek_certificate_index not in await self._handles("handles-nv-index"):
            raise WrongDevice("the TPM holds no EK certificate: nothing says that it is a real one")
        data = await self.place.run(
            f"tpm2_nvread -C o -o answer 0x{settings.ek_certificate_index:x}", "reading the EK certificate", give="answer"
        )
        anchors, intermediates = self._makers
        return tpm.check_endorsement_certificate(
            data, ek, anchors=anchors, intermediates=intermediates, now_ms=system_time_ms()
        )

    async def _make(self, handle: int, algorithm: str, attributes: str, what: str) -> None:
        """A primary key at a persistent handle; what is there already is kept."""
        if handle in await self._handles("handles-persistent"):
            return
        make = f"tpm2_createprimary -Q -C e -g sha256 -G {algorithm} -a '{attributes}' -c key.ctx"
        keep = f"tpm2_evictcontrol -Q -C o -c key.ctx 0x{handle:x}"
        await self.place.run(f"{_FLUSH};{make} && {keep} && {_FLUSH}", f"making the {what}", timeout_s=self._settings.key_s)

    async def _public(self, handle: int, what: str) -> tpm.Public:
        if handle not in await self._handles("handles-persistent"):
            raise DeviceRefused(f"the TPM has no {what} at the handle 0x{handle:x}")
        data = await self.place.run(
            f"tpm2_readpublic -Q -c 0x{handle:x} -f tss -o answer", f"reading the {what}", give="answer"
        )
        return tpm.read_public(data, what)

    async def _proof(self, nonce: bytes) -> tpm.Proof:
        key, iak = f"0x{self._settings.key_handle:x}", f"0x{self._settings.iak_handle:x}"
        quote = f"tpm2_quote -Q -c {iak} -l sha256:0 -q {nonce.hex()} -g sha256 -f plain -m quote -s quote.sig"
        certify = f"tpm2_certify -Q -c {key} -C {iak} -g sha256 -f plain -o certified -s certified.sig"
        parts = [await self.place.run(f"{_FLUSH};{quote} && {certify} && {_FLUSH}", "certifying the key", give="quote")]
        parts += [await self.place.run("true", "certifying the key", give=name) for name in _PROOF_FILES]
        return tpm.Proof(*parts)

    async def _activate(self, ek: tpm.Public, iak: tpm.Public) -> None:
        """The TPM with this EK alone learns the secret, and only if it holds this IAK."""
        secret = secrets.token_bytes(32)
        blob = tpm.make_credential(ek, iak.name, secret, secrets.token_bytes(32))
        ek_handle, iak_handle = f"0x{self._settings.ek_handle:x}", f"0x{self._settings.iak_handle:x}"
        session = "tpm2_startauthsession --policy-session -S session.ctx && tpm2_policysecret -Q -S session.ctx -c e"
        activate = f"tpm2_activatecredential -Q -c {iak_handle} -C {ek_handle} -i in -o answer -P session:session.ctx"
        try:
            answer = await self.place.run(
                f"{_FLUSH};{session} && {activate};done=$?;{_FLUSH};(exit $done)",
                "activating the credential",
                give="answer",
                take=blob,
            )
        except DeviceRefused as refusal:
            raise WrongDevice(
                f"the TPM cannot open what was encrypted to its EK and IAK: they are not its own ({refusal})"
            ) from refusal
        if not hmac.compare_digest(answer, secret):
            raise WrongDevice("the TPM opened what was encrypted to its EK and IAK wrongly: they are not its own")

    async def _sign(self, key: tpm.Public, message: bytes) -> bytes:
        algorithm = default_algorithm(key.public_key)
        command = f"tpm2_sign -Q -c 0x{self._settings.key_handle:x} {_SIGNING[algorithm]} -f plain -o answer in"
        signature = await self.place.run(f"{_FLUSH};{command}", "signing", give="answer", take=message)
        if not signature_is_valid(key.public_key, algorithm, signature, message):
            raise WrongDevice("the TPM's signature does not belong to the IDevID key that it shows")
        return signature

    async def _handles(self, kind: str) -> frozenset[int]:
        answer = await self.place.text(f"tpm2_getcap {kind}", "asking the TPM what it holds")
        return frozenset(int(handle, 16) for handle in _HANDLE.findall(answer))

    async def _index_attributes(self) -> frozenset[str] | None:
        """Of the certificate's NV index; None when there is no such index."""
        index = self._settings.nv_index
        if index not in await self._handles("handles-nv-index"):
            return None
        answer = await self.place.text(f"tpm2_nvreadpublic 0x{index:x}", "asking the TPM for the certificate's NV index")
        friendly = re.search(r"attributes:\s+friendly: ([a-z_|]+)", answer)
        if friendly is None:
            raise DeviceRefused("tpm2_nvreadpublic says nothing of attributes")
        return frozenset(friendly[1].split("|"))


_PROOF_FILES = ("quote.sig", "certified", "certified.sig")
_FACTS = {
    "tpm-maker": re.compile(r'TPM2_PT_MANUFACTURER:\s+raw: \S+\s+value: "([^"\n]{1,16})"'),
    "tpm-firmware": re.compile(r"TPM2_PT_FIRMWARE_VERSION_1:\s+raw: (0x[0-9A-Fa-f]{1,8})"),
}


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1].strip("\0 ") if found else ""


def _pem(certificate: bytes) -> bytes:
    return x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)


def _evidence(*, ek: tpm.Public, certificate: bytes, iak: tpm.Public, key: tpm.Public, proof: tpm.Proof, nonce: bytes) -> bytes:
    """What an auditor needs to follow the proof again, but for the activation, which the gateway alone has seen."""
    parts = {
        "ek": ek.area,
        "ek-certificate-sha256": hashlib.sha256(certificate).digest() if certificate else b"",
        "iak": iak.area,
        "key": key.area,
        "nonce": nonce,
        "quote": proof.quote,
        "quote-signature": proof.quote_signature,
        "certification": proof.certification,
        "certification-signature": proof.certification_signature,
    }
    table = {name: base64.b64encode(value).decode() for name, value in parts.items()}
    return json.dumps(table, sort_keys=True, separators=(",", ":")).encode()

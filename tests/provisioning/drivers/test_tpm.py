"""A TPM's IDevID: made in it, certified by its own attestation key, and refused wherever any link of that is missing.

swtpm is the chip, the tools on the device are the vendor's. An attacker owns the device's system and puts scripts before them.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.errors import ConfigError, DeviceRefused, WrongDevice
from gateway.pki.algorithms import default_algorithm, signature_is_valid
from provisioning import tpm
from provisioning.device import Csr, Delivery, DriverModule, KeyOrigin, Lock
from provisioning.drivers import driver
from provisioning.drivers import tpm as tpm_driver
from provisioning.drivers.tpm import TpmDriver
from provisioning.drivers.tpm_settings import TpmSettings
from tests.support.console_device import BUSYBOX, console_device, install_busybox
from tests.support.station_ca import StationCa
from tests.support.tpm_device import Maker, TpmDevice, running_tpm, tpm_device

EK, KEY, IAK, INDEX = "0x81010001", "0x81020000", "0x81020001", "0x1c90000"
GIVE = """while [ $# -gt 0 ]; do case $1 in -o) out=$2;; -s) sig=$2;; -m) msg=$2;; -c) object=$2;; esac; shift; done"""


@dataclass(frozen=True)
class Factory:
    first: Path
    second: Path
    foreign: Path
    makers: Path
    foreign_makers: Path


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    folder = tmp_path_factory.mktemp("makers")
    ours, foreign = Maker(folder / "ours"), Maker(folder / "foreign")
    return Factory(ours.make("first"), ours.make("second"), foreign.make("third"), ours.certificates, foreign.certificates)


@pytest.fixture
def device(factory: Factory, tmp_path: Path) -> Iterator[TpmDevice]:
    with tpm_device(factory.first, tmp_path / "device") as made:
        yield made


@pytest.fixture
def settings(factory: Factory) -> dict[str, str | bool]:
    return {"makers": str(factory.makers)}


@asynccontextmanager
async def opened(device: TpmDevice, settings: dict[str, str | bool]) -> AsyncIterator[TpmDriver]:
    async with tpm_driver.open_device(device.address, settings) as port:
        yield port


async def request(device: TpmDevice, settings: dict[str, str | bool], key_type: str = "p-256") -> Csr:
    async with opened(device, settings) as port:
        await port.identify()
        await port.generate_key(key_type)
        return await port.read_csr("CN=device,2.5.4.5=SN-0001")


def spki_of(csr: Csr) -> bytes:
    return x509.load_der_x509_csr(csr.der).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("key_type", ["p-256", "p-384", "rsa-2048"])
async def test_a_tpm_makes_its_key_and_gets_its_certificate(
    device: TpmDevice, settings: dict[str, str | bool], key_type: str
) -> None:
    ca = StationCa()
    async with opened(device, settings) as port:
        await port.generate_key(key_type)
        delivery = ca.delivery((await port.read_csr("CN=device,2.5.4.5=SN-0001")).der)
        assert await port.read_back() == b""
        await port.write(delivery)
        await port.reset()
        assert await port.read_back() == delivery.certificate
        key = x509.load_der_x509_certificate(delivery.certificate).public_key()
        assert signature_is_valid(key, default_algorithm(key), await port.prove(b"challenge"), b"challenge")
        assert await port.lock_state() is Lock.ABSENT
    device.tool("tpm2_nvread", "-C", "o", "-o", "stored", INDEX)
    assert (device.folder / "stored").read_bytes() == delivery.certificate
    assert device.tool("tpm2_getcap", "handles-transient") == ""


async def test_its_chip_is_its_endorsement_key(device: TpmDevice, settings: dict[str, str | bool], factory: Factory) -> None:
    async with opened(device, settings) as port:
        first = await port.identify()
        assert await port.identify() == first
    assert first.facts["tpm-maker"] == "IBM"
    device.tool("tpm2_readpublic", "-c", EK, "-f", "tss", "-o", "ek.pub")
    assert first.chip == tpm.read_public((device.folder / "ek.pub").read_bytes(), "EK").digest
    with tpm_device(factory.second, device.folder / "other") as other:
        async with opened(other, settings) as port:
            assert (await port.identify()).chip != first.chip


async def test_a_tpm_whose_ek_is_not_kept_makes_the_same_one(device: TpmDevice, settings: dict[str, str | bool]) -> None:
    async with opened(device, settings) as port:
        chip = (await port.identify()).chip
    device.tool("tpm2_evictcontrol", "-C", "o", "-c", EK)
    async with opened(device, settings) as port:
        assert (await port.identify()).chip == chip
    await request(device, settings)


async def test_whatever_is_repeated_changes_nothing(device: TpmDevice, settings: dict[str, str | bool]) -> None:
    first = await request(device, settings)
    again = await request(device, settings, "rsa-2048")
    assert spki_of(again) == spki_of(first)
    assert again.evidence != first.evidence, "each time a fresh nonce"
    delivery = StationCa().delivery(first.der)
    async with opened(device, settings) as port:
        await port.write(delivery)
        device.lie("tpm2_nvwrite", "exit 1")
        await port.write(delivery)


async def test_a_key_lost_before_it_was_kept_is_made_again(device: TpmDevice, settings: dict[str, str | bool]) -> None:
    first = await request(device, settings)
    device.tool("tpm2_evictcontrol", "-C", "o", "-c", KEY)
    assert spki_of(await request(device, settings)) == spki_of(first)


async def test_the_evidence_can_be_followed_by_others(device: TpmDevice, settings: dict[str, str | bool]) -> None:
    csr = await request(device, settings)
    table = {name: base64.b64decode(value) for name, value in json.loads(csr.evidence).items()}
    areas = {name: tpm.read_public(len(table[name]).to_bytes(2, "big") + table[name], name) for name in ("ek", "iak", "key")}
    proof = tpm.Proof(table["quote"], table["quote-signature"], table["certification"], table["certification-signature"])
    tpm.check_proof(proof, iak=areas["iak"], key=areas["key"], nonce=table["nonce"])
    assert areas["key"].spki == spki_of(csr)
    assert csr.evidence_format == "tpm2-certify"
    assert len(table["ek-certificate-sha256"]) == 32


async def test_what_others_left_loaded_is_flushed(device: TpmDevice, settings: dict[str, str | bool]) -> None:
    await request(device, settings)
    for number in range(3):
        device.tool("tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc256", "-c", f"left-{number}.ctx")
    with pytest.raises(ChildProcessError, match="0x902"):  # the control: there is no room for a fourth
        device.tool("tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc256", "-c", "more.ctx")
    await request(device, settings)


async def test_half_a_certificate_is_written_again(device: TpmDevice, settings: dict[str, str | bool]) -> None:
    delivery = StationCa().delivery((await request(device, settings)).der)
    size = str(len(delivery.certificate))
    device.tool("tpm2_nvdefine", INDEX, "-C", "o", "-s", size, "-a", "ownerread|ownerwrite")
    async with opened(device, settings) as port:
        assert await port.read_back() == b"", "defined, and nothing written yet"
        (device.folder / "half").write_bytes(delivery.certificate[:100])
        device.tool("tpm2_nvwrite", "-C", "o", "-i", "half", INDEX)
        assert await port.read_back() not in (b"", delivery.certificate)
        await port.write(delivery)
        assert await port.read_back() == delivery.certificate


async def test_a_locked_index_says_so_and_takes_no_writing(device: TpmDevice, settings: dict[str, str | bool]) -> None:
    settings["lock"] = True
    delivery = StationCa().delivery((await request(device, settings)).der)
    async with opened(device, settings) as port:
        assert await port.lock_state() is Lock.OPEN
        await port.write(delivery)
        await port.lock()
        assert await port.lock_state() is Lock.LOCKED
        await port.write(delivery)
    with pytest.raises(ChildProcessError, match="locked"):
        device.tool("tpm2_nvwrite", "-C", "o", "-i", "shell", INDEX)


async def test_certificate_and_papers_in_files(device: TpmDevice, settings: dict[str, str | bool]) -> None:
    place = device.folder
    settings |= {"certificate": f"file:{place}/id.pem", "chain_file": f"{place}/chain.pem", "serial_file": f"{place}/serial"}
    settings |= {"ticket_file": f"{place}/ticket", "scratch": str(place)}
    made = StationCa().delivery((await request(device, settings)).der)
    delivery = Delivery(made.certificate, made.chain, made.serial, b"a ticket")
    async with opened(device, settings) as port:
        assert await port.read_back() == b""
        await port.write(delivery)
        await port.reset()
        assert await port.read_back() == delivery.certificate
        (place / "id.pem").write_bytes((place / "id.pem").read_bytes()[:99])
        assert await port.read_back() == b""
    assert (place / "serial").read_text() == "SN-0001\n"
    assert (place / "ticket").read_bytes() == b"a ticket"
    assert [c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates((place / "chain.pem").read_bytes())] == list(
        delivery.chain
    )
    assert not list(place.glob("tpm.??????")), "nothing of ours stays on the device"


# What an attacker on the device may try.


async def refused(device: TpmDevice, settings: dict[str, str | bool], words: str) -> None:
    with pytest.raises(WrongDevice, match=words):
        await request(device, settings)


async def test_the_ek_of_another_tpm_is_refused(
    device: TpmDevice, settings: dict[str, str | bool], factory: Factory, tmp_path: Path
) -> None:
    """A genuine TPM, borrowed, speaks for the keys of another."""
    (tmp_path / "genuine").mkdir()
    with running_tpm(factory.second, tmp_path / "genuine") as genuine:
        for tool in ("tpm2_readpublic", "tpm2_nvread"):
            borrow = f'case "$*" in *{EK}*|*0x1c00002*) export TPM2TOOLS_TCTI="{genuine}";; esac'
            device.lie(tool, f'{borrow}\nexec $real "$@"')
        await refused(device, settings, "not its own")


async def test_an_attestation_key_that_signs_anything_is_refused(device: TpmDevice, settings: dict[str, str | bool]) -> None:
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"
    device.tool("tpm2_createprimary", "-Q", "-C", "e", "-G", "ecc256:ecdsa-sha256:null", "-a", attributes, "-c", "loose.ctx")
    device.tool("tpm2_evictcontrol", "-C", "o", "-c", "loose.ctx", IAK)
    device.tool("tpm2_flushcontext", "-t")
    await refused(device, settings, "not restricted")


async def test_an_attestation_key_that_is_shown_as_restricted_and_is_not_is_refused(
    device: TpmDevice, settings: dict[str, str | bool]
) -> None:
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"
    device.tool("tpm2_createprimary", "-Q", "-C", "e", "-G", "ecc256:ecdsa-sha256:null", "-a", attributes, "-c", "loose.ctx")
    device.tool("tpm2_evictcontrol", "-C", "o", "-c", "loose.ctx", IAK)
    device.tool("tpm2_flushcontext", "-t")
    device.tool("tpm2_readpublic", "-c", IAK, "-f", "tss", "-o", "iak.pub")
    shown = bytearray((device.folder / "iak.pub").read_bytes())
    shown[6:10] = (int.from_bytes(shown[6:10], "big") | tpm.RESTRICTED).to_bytes(4, "big")
    (device.folder / "iak.pub").write_bytes(shown)
    device.lie("tpm2_readpublic", f'case "$*" in *{IAK}*) {GIVE}; exec cp $folder/iak.pub $out;; esac\nexec $real "$@"')
    await refused(device, settings, "another signer")


@pytest.mark.parametrize(
    ("tool", "words"), [("tpm2_quote", "recorded earlier"), ("tpm2_certify", "before it was asked")], ids=["quote", "certify"]
)
async def test_an_attestation_recorded_earlier_is_refused(
    device: TpmDevice, settings: dict[str, str | bool], tool: str, words: str
) -> None:
    device.lie(tool, f'$real "$@" || exit 1\n{GIVE}\ncp ${{msg:-$out}} $folder/recorded; cp $sig $folder/recorded.sig')
    await request(device, settings)
    device.lie(tool, f"{GIVE}\ncp $folder/recorded ${{msg:-$out}}; cp $folder/recorded.sig $sig")
    await refused(device, settings, words)


async def test_a_key_in_software_is_refused(device: TpmDevice, settings: dict[str, str | bool]) -> None:
    """The public area is that of a key in a TPM, but for the point: its private half is in a file."""
    await request(device, settings)
    device.tool("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "soft.pem")
    device.tool("openssl", "ec", "-in", "soft.pem", "-pubout", "-outform", "DER", "-out", "soft.spki")
    device.tool("tpm2_readpublic", "-c", KEY, "-f", "tss", "-o", "key.pub")
    point = (device.folder / "soft.spki").read_bytes()[-64:]
    shown = bytearray((device.folder / "key.pub").read_bytes())
    shown[-66:] = point[:32] + b"\x00\x20" + point[32:]
    (device.folder / "key.pub").write_bytes(shown)
    device.lie("tpm2_readpublic", f'case "$*" in *{KEY}*) {GIVE}; exec cp $folder/key.pub $out;; esac\nexec $real "$@"')
    device.lie("tpm2_sign", f"for in; do :; done\n{GIVE}\nexec openssl dgst -sha256 -sign $folder/soft.pem -out $out $in")
    await refused(device, settings, "certified another key")


async def test_a_key_brought_into_the_tpm_is_refused(device: TpmDevice, settings: dict[str, str | bool]) -> None:
    device.tool("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "soft.pem")
    device.tool("tpm2_createprimary", "-Q", "-C", "o", "-c", "parent.ctx")
    device.tool("tpm2_flushcontext", "-t")
    device.tool("tpm2_import", "-Q", "-C", "parent.ctx", "-G", "ecc", "-i", "soft.pem", "-u", "soft.pub", "-r", "soft.priv")
    device.tool("tpm2_flushcontext", "-t")
    device.tool("tpm2_load", "-Q", "-C", "parent.ctx", "-u", "soft.pub", "-r", "soft.priv", "-c", "soft.ctx")
    device.tool("tpm2_evictcontrol", "-C", "o", "-c", "soft.ctx", KEY)
    device.tool("tpm2_flushcontext", "-t")
    await refused(device, settings, "known outside this TPM")


@pytest.mark.parametrize("answer", ["head -c 32 /dev/zero >$out", ": >$out", "head -c 31 /dev/urandom >$out"])
async def test_a_wrong_secret_is_the_wrong_device(device: TpmDevice, settings: dict[str, str | bool], answer: str) -> None:
    device.lie("tpm2_activatecredential", f"{GIVE}\n{answer}")
    await refused(device, settings, "wrongly")


async def test_a_tpm_of_an_unknown_maker_is_refused(
    device: TpmDevice, settings: dict[str, str | bool], factory: Factory
) -> None:
    settings["makers"] = str(factory.foreign_makers)
    await refused(device, settings, "no known maker")


async def test_a_tpm_without_an_ek_certificate_is_refused(device: TpmDevice, settings: dict[str, str | bool]) -> None:
    device.tool("tpm2_nvundefine", "-C", "p", "0x1c00002")
    await refused(device, settings, "holds no EK certificate")
    await request(device, {"ek_certificate": "ignored"})


async def test_the_ek_certificate_of_another_tpm_is_refused(
    device: TpmDevice, settings: dict[str, str | bool], factory: Factory, tmp_path: Path
) -> None:
    (tmp_path / "genuine").mkdir()
    with running_tpm(factory.second, tmp_path / "genuine") as genuine:
        device.lie("tpm2_nvread", f'TPM2TOOLS_TCTI="{genuine}" exec $real "$@"')
        await refused(device, settings, "belongs to another EK")


async def test_a_device_exchanged_in_mid_unit_is_the_wrong_one(
    settings: dict[str, str | bool], factory: Factory, tmp_path: Path
) -> None:
    """The same port, another TPM behind it, between one command and the next."""
    async with AsyncExitStack() as stack:
        first = stack.enter_context(tpm_device(factory.first, tmp_path / "first"))
        second = stack.enter_context(tpm_device(factory.second, tmp_path / "second"))
        port = await stack.enter_async_context(opened(first, settings))
        await port.identify()
        await port.place.run(f"export TPM2TOOLS_TCTI='{second.tcti}'", "exchanging")
        await port.generate_key("p-256")
        with pytest.raises(WrongDevice):
            await port.read_csr("CN=a")


# What is not an attack.


async def test_a_failing_tool_is_told_in_its_own_words(device: TpmDevice, settings: dict[str, str | bool]) -> None:
    device.lie("tpm2_createprimary", "echo 'ERROR: the TPM is in lockout' >&2; exit 1")
    with pytest.raises(DeviceRefused, match="making the IDevID key: the device says ERROR: the TPM is in lockout"):
        await request(device, settings)


async def test_without_a_key_there_is_no_request(device: TpmDevice, settings: dict[str, str | bool]) -> None:
    async with opened(device, settings) as port:
        with pytest.raises(DeviceRefused, match="no IDevID key"):
            await port.read_csr("CN=a")
        with pytest.raises(DeviceRefused, match="makes its key itself"):
            await port.load_key(b"")
        with pytest.raises(DeviceRefused, match="not ed25519"):
            await port.generate_key("ed25519")


async def test_over_a_serial_console_with_busybox(
    factory: Factory, settings: dict[str, str | bool | float], tmp_path: Path
) -> None:
    """The way devices are reached in a factory: a terminal with echo, busybox's shell, the tools in its PATH."""
    folder = tmp_path / "device"
    tools = install_busybox(folder)
    (tmp_path / "chip").mkdir()
    with running_tpm(factory.first, tmp_path / "chip") as tcti:
        for tool in sorted(Path("/usr/bin").glob("tpm2_*")):
            (tools / tool.name).write_text(f'#!{BUSYBOX} sh\nTPM2TOOLS_TCTI="{tcti}" TSS2_LOG=all+NONE exec {tool} "$@"\n')
            (tools / tool.name).chmod(0o755)
        async with console_device(folder, tools=tools) as console:
            settings |= {"scratch": str(folder), "certificate": f"file:{folder}/identity/certificate.pem"}
            settings |= {"reset_command": "kill -9 $$", "boot_id_command": f"cat {folder}/boot_id", "boot_quiet_s": 0.2}
            async with tpm_driver.open_device(console.address, settings) as port:
                await port.generate_key("p-256")
                delivery = StationCa().delivery((await port.read_csr("CN=device")).der)
                await port.write(delivery)
                before = (folder / "boot_id").read_text()
                await port.reset()
                assert (folder / "boot_id").read_text() != before
                assert await port.read_back() == delivery.certificate


def test_the_module_is_a_driver_module() -> None:
    module: DriverModule = driver("tpm2")
    assert module is tpm_driver
    assert KeyOrigin.POOL not in module.KEYS


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "needs makers"),
        ({"makers": "/x", "ek_certificate": "ignored"}, "needs makers"),
        ({"makers": "/x", "ek_certificate": "maybe"}, '"required" or "ignored"'),
        ({"makers": "/x", "colour": 1}, "knows no setting 'colour'"),
        ({"makers": "/x", "read": 1}, "knows no setting 'read'"),
        ({"makers": 1}, "makers is a text"),
        ({"makers": "/x", "lock": 1}, "lock is a true or false"),
        ({"makers": "/x", "key_handle": True}, "key_handle is a number"),
        ({"makers": "/x", "certificate": "nv:01C90000"}, "nv:0x01C90000"),
        ({"makers": "/x", "certificate": "file:id.pem"}, "no path"),
        ({"makers": "/x", "certificate": "file:/etc/$(reboot)"}, "no path"),
        ({"makers": "/x", "scratch": "/tmp; reboot"}, "no path"),
        ({"makers": "/x", "lock": True, "certificate": "file:/id.pem"}, "NV index only"),
        ({"makers": "/x", "password": "file:/x"}, "needs a user"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_set_wrongly_is_refused_with_the_reason(settings: dict[str, str | int | bool], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TpmSettings.read(settings)


def test_the_tools_are_the_vendors() -> None:
    version = subprocess.run(["tpm2_certify", "--version"], capture_output=True, text=True, check=True).stdout
    assert 'tool="tpm2_certify"' in version

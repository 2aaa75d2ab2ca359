"""Boards on the real line: orders, journal and pool on one side, the drivers with their counterparts on the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cryptography.x509 import load_der_x509_certificate

from provisioning import esp_secure_cert
from provisioning.device import Address, KeyOrigin, Setting
from provisioning.drivers import driver
from provisioning.line import Line, LineTimes, Port
from provisioning.units import Place
from tests.support.esp_rom import Chip, PowerCut, chip_on_tcp
from tests.support.esp_tools import tool
from tests.support.line import Hall, hall, order_of
from tests.support.zephyr import Board

TIMES = LineTimes(poll=0.01, retry=0.1)
POOL = order_of(key_origin=KeyOrigin.POOL, lock=False)


async def work(place: Hall, name: str, address: str, settings: Mapping[str, Setting]) -> bytes:
    """Have the line do one device behind this driver; its certificate."""
    module, where = driver(name), Address.parse(address)
    port = Port("p", Place("port:p", "p", name), module.KEYS, lambda: module.open_device(where, settings))
    authority = place.world.authority
    assert authority is not None
    place.line = Line(authority, place.units, place.finisher, [port], TIMES)
    await place.work(Hall.all_done)
    assert not place.balance()
    unit = await place.units.get("O-1/SN-00001/1")
    return (await place.units.delivery(unit)).certificate


async def test_a_zephyr_board_goes_through_the_line(tmp_path: Path) -> None:
    async with hall(tmp_path, {}, orders=[POOL]) as place, Board(tmp_path / "board") as board:
        settings = {"key": "/lfs1/device.key", "certificate": "/lfs1/device.crt", "serial": "/lfs1/serial"}
        certificate = await work(place, "smp", board.address, settings)
    assert "SN-00001" in load_der_x509_certificate(certificate).subject.rfc4514_string()


async def test_a_chip_that_loses_its_key_in_a_power_cut_gets_the_same_one_again(tmp_path: Path) -> None:
    """The partition is one image: a cut while the certificate is written takes the key with it, when the unit is issued."""
    chip = Chip(bytes.fromhex("30aea4010203"), self_healing=True)

    def cut(written: int) -> None:
        if written == 9:  # the loader takes eight blocks for the key alone, and one of the image with the certificate
            chip.before_block = lambda written: None
            raise PowerCut

    chip.before_block = cut
    async with hall(tmp_path, {}, orders=[POOL]) as place, chip_on_tcp(chip) as port:
        settings: dict[str, Setting] = {"offset": 0xD000, "esptool": str(tool("esptool")), "chip": "esp32c3", "stub": False}
        certificate = await work(place, "esp32", f"tcp://127.0.0.1:{port}", settings)
        assert place.world.journal.head.tallies["order:O-1"] == 1
    contents = esp_secure_cert.read(bytes(chip.flash[0xD000:0xF000]))
    assert contents.certificate == certificate
    assert esp_secure_cert.load_key(contents.key).public_key() == load_der_x509_certificate(certificate).public_key()

"""Handing records on as files: certificates for EJBCA's importer, and a tlog-tiles directory for auditors."""

from __future__ import annotations

import asyncio
import csv
import io
import shutil
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from cryptography import x509
from cryptography.x509.oid import NameOID

from gateway.endpoints_file import write_whole
from gateway.journal.merkle import root_of
from gateway.journal.records import CaActivated, Issued, Released, Revoked
from gateway.keys.durable import sync_directory
from gateway.pki.crl import Reason
from gateway.pki.names import name_to_text
from sync.central.adapters.feed import Delivery, NotDelivered
from sync.central.adapters.http import pem

#: Hashes of a full tile (C2SP tlog-tiles).
WIDTH: Final = 256
_MOST_ENTRY = 0xFFFF  # an entry's length has two octets there
_HASH = 32


def directory_of(base: Path, origin: str) -> Path:
    """An origin has slashes; its directory's name has none."""
    return base / quote(origin, safe="")


def sync_directories(paths: Iterable[Path]) -> None:
    for path in sorted(set(paths)):
        sync_directory(path)


class EjbcaFiles:
    """One directory for each delivery, ``ORIGIN/FIRST-LAST``, which appears whole: ``certificates.csv`` and the PEM files it
    names, in the order of ``ejbca.sh ca importcert USERNAME PASSWORD CANAME STATUS FILE``; ``ca/`` with the CAs to import
    before; ``revocations.csv`` for ``ejbca.sh ra revokecert``, in order, where reason 8 (removeFromCRL) lifts a hold.

    CANAME is the CA's commonName. A repeated delivery has certificates that EJBCA knows already, which it refuses one by one.
    """

    align = 1

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self._directory = name, directory

    async def deliver(self, delivery: Delivery) -> None:
        try:
            await asyncio.to_thread(self._write, delivery)
        except OSError as error:
            raise NotDelivered(f"{self._directory} cannot be written: {error.strerror}") from error

    async def close(self) -> None:
        return

    def _write(self, delivery: Delivery) -> None:
        base = directory_of(self._directory, delivery.journal.origin)
        target = base / f"{delivery.start:012}-{delivery.stop - 1:012}"
        if target.exists():  # delivered before a crash
            return
        files, issued, revoked = _files(delivery)
        if not files and not revoked:
            return
        beside = base / f".{target.name}.new"
        shutil.rmtree(beside, ignore_errors=True)
        (beside / "ca").mkdir(parents=True)
        for name, content in files.items():
            write_whole(beside / name, content.encode())
        write_whole(beside / "certificates.csv", _csv(("username", "caname", "status", "file"), issued))
        write_whole(beside / "revocations.csv", _csv(("issuer", "serial", "reason", "time"), revoked))
        sync_directories((beside, beside / "ca"))
        beside.rename(target)
        sync_directories((base, self._directory))


def _files(delivery: Delivery) -> tuple[dict[str, str], list[tuple[str, ...]], list[tuple[str, ...]]]:
    """PEM files by name, rows of certificates.csv, rows of revocations.csv."""
    files: dict[str, str] = {}
    issued: list[tuple[str, ...]] = []
    revoked: list[tuple[str, ...]] = []
    for item in delivery.items:
        payload = item.record.payload if item.record is not None else None
        match payload:
            case CaActivated():
                files[f"ca/{payload.generation}.pem"] = pem(payload.certificate)
            case Issued() if item.certificate:
                certificate = x509.load_der_x509_certificate(item.certificate)
                name = f"{certificate.serial_number:x}.pem"
                files[name] = pem(item.certificate)
                issued.append((_username(certificate), _common_name(certificate.issuer), "ACTIVE", name))
            case Revoked(serial, generation, reason, revoked_at):
                revoked.append((_issuer(delivery, generation), serial, str(Reason(reason).code), _time(revoked_at)))
            case Released(serial, generation) if item.record is not None:
                code = str(Reason.REMOVE_FROM_CRL.code)
                revoked.append((_issuer(delivery, generation), serial, code, _time(item.record.time)))
            case _:
                continue
    return files, issued, revoked


def _issuer(delivery: Delivery, generation: int) -> str:
    """The subject of a CA generation. Raises NotDelivered before its record has a meaning here."""
    if generation not in delivery.cas:
        raise NotDelivered(f"the CA of generation {generation} of {delivery.journal.origin} is not known yet")
    return name_to_text(x509.load_der_x509_certificate(delivery.cas[generation]).subject)


def _csv(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows((head, *rows))
    return text.getvalue().encode()


def _username(certificate: x509.Certificate) -> str:
    """What tells a device from others: its serialNumber, or that of the certificate."""
    found = certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
    return str(found[0].value) if found else f"{certificate.serial_number:x}"


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name_to_text(name)


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Tiles:
    """``ORIGIN/checkpoint``, ``ORIGIN/tile/LEVEL/N`` and ``ORIGIN/tile/entries/N`` (C2SP tlog-tiles), to be served as they are.

    The checkpoint is central's receipt: signed by the gateway, cosigned here. It is replaced last, when everything below it
    is durable, so whoever reads it finds all that it promises.
    """

    align = WIDTH

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self._directory = name, directory

    async def deliver(self, delivery: Delivery) -> None:
        for item in delivery.items:
            if len(item.body) > _MOST_ENTRY:
                raise NotDelivered(f"record {item.seq} of {item.origin} has more octets than an entry bundle can say")
        try:
            await asyncio.to_thread(self._write, delivery)
        except OSError as error:
            raise NotDelivered(f"{self._directory} cannot be written: {error.strerror}") from error

    async def close(self) -> None:
        return

    def _write(self, delivery: Delivery) -> None:
        base = directory_of(self._directory, delivery.journal.origin)
        touched: set[Path] = set()
        for at in range(0, len(delivery.items), WIDTH):
            items = delivery.items[at : at + WIDTH]
            if len(items) < WIDTH and not delivery.receipt:
                break  # no checkpoint ends here; it comes again
            index = items[0].seq // WIDTH
            _put(base, tile_path(0, index, len(items)), b"".join(item.leaf for item in items), touched)
            bundle = b"".join(len(item.body).to_bytes(2, "big") + item.body for item in items)
            _put(base, entries_path(index, len(items)), bundle, touched)
        if delivery.receipt:
            _put_upper(base, delivery.stop, touched)
        sync_directories(touched)
        if delivery.receipt:
            write_whole(base / "checkpoint", delivery.receipt.encode())
            sync_directories((base, self._directory))
            _clear(base, delivery.start, delivery.stop)


def tile_path(level: int | str, index: int, width: int = WIDTH) -> str:
    """``tile/LEVEL/N``, N in groups of three digits, each but the last after an x; a partial tile has ``.p/WIDTH`` behind."""
    digits = f"{index:0{-(-len(str(index)) // 3) * 3}}"
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    name = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    return f"tile/{level}/{name}" + (f".p/{width}" if width < WIDTH else "")


def entries_path(index: int, width: int = WIDTH) -> str:
    return tile_path("entries", index, width)


def _put(base: Path, name: str, content: bytes, touched: set[Path]) -> None:
    path = base / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    touched.update(each for each in path.parents if each == base or base in each.parents)


def _put_upper(base: Path, size: int, touched: set[Path]) -> None:
    """The tiles above level 0 of a tree with ``size`` leaves; a full one that is there stays."""
    level, count = 1, size // WIDTH
    while count:
        for index in range(-(-count // WIDTH)):
            width = min(WIDTH, count - index * WIDTH)
            name = tile_path(level, index, width)
            if width == WIDTH and (base / name).exists():
                continue
            below = range(index * WIDTH, index * WIDTH + width)
            _put(base, name, b"".join(_root(base / tile_path(level - 1, each)) for each in below), touched)
        level, count = level + 1, count // WIDTH


def _root(tile: Path) -> bytes:
    content = tile.read_bytes()
    return root_of(content[at : at + _HASH] for at in range(0, len(content), _HASH))


def _clear(base: Path, start: int, stop: int) -> None:
    """Partial tiles of what is full now are of no use to anybody."""
    for index in range(start // WIDTH, stop // WIDTH):
        for path in (tile_path(0, index), entries_path(index)):
            shutil.rmtree(base / f"{path}.p", ignore_errors=True)

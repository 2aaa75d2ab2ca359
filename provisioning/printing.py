"""Printing labels: ZPL to a printer's port 9100, and what the printer says of itself.

A printer that speaks ZPL answers ``~HS`` with three lines; one that does not is printed to all the same. Whatever goes wrong
is a sentence for the technician at the station. That a label came out nobody can know here: the scan of it decides
(:func:`provisioning.labels.scanned_back`), and a second print is marked as one.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from gateway.errors import DeviceRefused, DeviceSilent, MalformedRequest, PortLost

PORT: Final = 9100
_STATUS_REQUEST: Final = b"~HS\r\n"
_MOST_STATUS_OCTETS: Final = 1024
_LOOK: Final = "Look whether the label came out; scan it, or print again."
#: How often a printer is asked whether it is done.
_PAUSE_S: Final = 0.1
#: Three lines between STX and ETX; the first two are of interest.
_LINES: Final = re.compile(rb"\x02([^\x02\x03]*)\x03\s*\x02([^\x02\x03]*)\x03\s*\x02([^\x02\x03]*)\x03")


@dataclass(frozen=True, slots=True)
class PrinterStatus:
    """What ``~HS`` tells (ZPL II Programming Guide, "Host Status Return")."""

    paper_out: bool = False
    paused: bool = False
    head_open: bool = False
    ribbon_out: bool = False
    buffer_full: bool = False
    too_hot: bool = False
    too_cold: bool = False
    label_waiting: bool = False  # to be taken off
    formats: int = 0  # received and not begun
    labels: int = 0  # of the batch that is being printed, still to come

    @property
    def busy(self) -> bool:
        return self.formats > 0 or self.labels > 0

    @property
    def sentence(self) -> str:
        """What the technician must do before it prints; empty if nothing."""
        for stopped, what in (
            (self.head_open, "The printer's head is open: close it until it clicks."),
            (self.paper_out, "The printer is out of labels: put in a new roll."),
            (self.ribbon_out, "The printer is out of ribbon: put in a new one."),
            (self.too_hot, "The printer is too hot: let it cool down for some minutes."),
            (self.too_cold, "The printer is too cold: let it warm up."),
            (self.paused, "The printer is paused: press its pause key."),
            (self.label_waiting, "A label is waiting in the printer: take it off."),
            (self.buffer_full, "The printer has more to print than it can hold: wait until it is done."),
        ):
            if stopped:
                return what
        return ""


def read_status(answer: bytes) -> PrinterStatus:
    """Raises MalformedRequest."""
    match = _LINES.search(answer)
    if match is None:
        raise MalformedRequest("this is no answer to ~HS")
    first, second = (line.decode("ascii", errors="replace").split(",") for line in match.groups()[:2])
    try:
        return PrinterStatus(
            paper_out=first[1] == "1",
            paused=first[2] == "1",
            formats=int(first[4]),
            buffer_full=first[5] == "1",
            too_cold=first[10] == "1",
            too_hot=first[11] == "1",
            head_open=second[2] == "1",
            ribbon_out=second[3] == "1",
            label_waiting=second[7] == "1",
            labels=int(second[8]),
        )
    except (IndexError, ValueError) as error:
        raise MalformedRequest("this is no answer to ~HS") from error


@dataclass(frozen=True, slots=True)
class Printer:
    """Where a printer is, and for how long it may take for one label (seconds) and to say how it is."""

    host: str
    port: int = PORT
    deadline_s: float = 15.0
    status_s: float = 2.0

    async def status(self) -> PrinterStatus | None:
        """None where it does not answer that question. Raises PortLost."""
        async with self._connected() as (reader, writer):
            return await self._ask(reader, writer)

    async def print(self, zpl: bytes) -> None:
        """Print, and wait until it is done where the printer tells.

        Raises PortLost where nothing was sent, DeviceRefused where the printer says what is wrong, DeviceSilent where the label
        was sent and the printer did not take it whole, or stopped answering: then it may have come out or not.
        """
        async with self._connected() as (reader, writer):
            status = await self._ask(reader, writer)
            if status is not None and (said := status.sentence):
                raise DeviceRefused(said)
            try:
                async with asyncio.timeout(self.deadline_s):
                    writer.write(zpl)
                    await writer.drain()
                    if status is not None:
                        await self._until_done(reader, writer)
                    writer.write_eof()
            except TimeoutError as error:
                raise DeviceSilent(f"The printer does not get done. {_LOOK}") from error
            except OSError as error:
                raise DeviceSilent(f"The connection to the printer broke. {_LOOK}") from error
            # When the printer closes, too, it has all of it. Some never do.
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(self.status_s):
                    while await reader.read(_MOST_STATUS_OCTETS):
                        pass

    async def _until_done(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            status = await self._ask(reader, writer)
            if status is None:
                raise DeviceSilent(f"The printer has stopped answering. {_LOOK}")
            if said := status.sentence:
                raise DeviceRefused(f"{said} Then scan the label, or print again.")
            if not status.busy:
                return
            await asyncio.sleep(_PAUSE_S)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> PrinterStatus | None:
        answer = b""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(self.status_s):
                writer.write(_STATUS_REQUEST)
                await writer.drain()
                while _LINES.search(answer) is None and len(answer) < _MOST_STATUS_OCTETS:
                    read = await reader.read(_MOST_STATUS_OCTETS)
                    if not read:
                        break
                    answer += read
        try:
            return read_status(answer)
        except MalformedRequest:
            return None

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        name = f"{self.host}:{self.port}"
        try:
            async with asyncio.timeout(self.deadline_s):
                reader, writer = await asyncio.open_connection(self.host, self.port)
        except (OSError, TimeoutError) as error:
            raise PortLost(
                f"The printer {name} cannot be reached: is it switched on, and its network cable plugged in?"
            ) from error
        writer.transport.set_write_buffer_limits(high=0)  # so that drain() waits for the last octet
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

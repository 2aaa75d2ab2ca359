"""Printing over TCP, against printers that answer, complain, fall silent, break off or never read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import pytest

from gateway.errors import DeviceRefused, DeviceSilent, MalformedRequest, PortLost
from provisioning.printing import Printer, PrinterStatus, read_status

LABEL = b"^XA^FDlabel^FS^XZ\n"


def told(**changes: int) -> bytes:
    """An answer to ~HS; the names are those of PrinterStatus."""
    flag = {"formats": 0, "labels": 0, **changes}.get
    first = f"030,{flag('paper_out', 0)},{flag('paused', 0)},1245,{flag('formats'):03},{flag('buffer_full', 0)},0,0,000,0"
    first += f",{flag('too_cold', 0)},{flag('too_hot', 0)}"
    second = f"000,0,{flag('head_open', 0)},{flag('ribbon_out', 0)},1,2,6,{flag('label_waiting', 0)},{flag('labels'):08},1,000"
    return f"\x02{first}\x03\r\n\x02{second}\x03\r\n\x021234,0\x03\r\n".encode()


class StandIn:
    """A printer: ``answers`` are given to one ~HS after the other, the last one for ever; None says nothing."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.printed = b""
        self.connections = 0
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        pending = b""
        while data := await reader.read(4096):
            pending += data
            while b"~HS\r\n" in pending:
                before, _, pending = pending.partition(b"~HS\r\n")
                self.printed += before
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                writer.write(answer or b"")
        self.printed += pending
        writer.close()
        self.closed.set()


Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(handler: Handler, status_s: float = 10) -> AsyncIterator[Printer]:
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(connected(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield Printer("127.0.0.1", server.sockets[0].getsockname()[1], deadline_s=30, status_s=status_s)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


async def test_a_label_is_sent_once_and_whole() -> None:
    stand_in = StandIn(told())
    async with served(stand_in.serve) as printer:
        await printer.print(LABEL)
        await stand_in.closed.wait()
    assert (stand_in.printed, stand_in.connections) == (LABEL, 1)


async def test_printing_waits_until_the_printer_is_done() -> None:
    stand_in = StandIn(told(), told(formats=1), told(labels=1), told())
    async with served(stand_in.serve) as printer:
        await printer.print(LABEL)
    assert len(stand_in.answers) == 1


async def test_a_printer_that_says_nothing_of_itself_is_printed_to() -> None:
    stand_in = StandIn(None)
    async with served(stand_in.serve, 0.2) as printer:
        await printer.print(LABEL)
        await stand_in.closed.wait()
        assert await printer.status() is None
    assert stand_in.printed == LABEL


async def test_a_label_of_a_megabyte_arrives_whole_although_the_printer_never_closes() -> None:
    label = b"^XA" + b"^FDx^FS" * 150_000 + b"^XZ"
    whole = asyncio.Event()

    async def never_closes(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        got = 0
        while data := await reader.read(4096):
            got += len(data.replace(b"~HS\r\n", b""))
        if got == len(label):
            whole.set()

    async with served(never_closes, 0.2) as printer:
        await printer.print(label)
        await asyncio.wait_for(whole.wait(), 10)


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("paper_out", "roll"),
        ("paused", "pause key"),
        ("head_open", "close it"),
        ("ribbon_out", "ribbon"),
        ("buffer_full", "wait"),
        ("too_hot", "cool down"),
        ("too_cold", "warm up"),
        ("label_waiting", "take it off"),
    ],
)
async def test_a_printer_that_cannot_print_gets_nothing_and_says_what_to_do(fault: str, word: str) -> None:
    stand_in = StandIn(told(**{fault: 1}))
    async with served(stand_in.serve) as printer:
        with pytest.raises(DeviceRefused, match=word):
            await printer.print(LABEL)
        assert await printer.status() == PrinterStatus(**{fault: True})  # type: ignore[arg-type]
    assert stand_in.printed == b""


async def test_a_printer_that_stops_in_the_middle_says_why_and_that_the_label_is_to_be_looked_for() -> None:
    stand_in = StandIn(told(), told(formats=1), told(paper_out=1, formats=1))
    async with served(stand_in.serve) as printer:
        with pytest.raises(DeviceRefused, match=r"roll\..*print again"):
            await printer.print(LABEL)


async def test_a_printer_that_falls_silent_may_have_printed() -> None:
    stand_in = StandIn(told(), None)
    async with served(stand_in.serve, 1) as printer:
        with pytest.raises(DeviceSilent, match="Look whether the label came out"):
            await printer.print(LABEL)


async def test_a_printer_that_is_never_done_is_given_up() -> None:
    stand_in = StandIn(told(), told(formats=1))
    async with served(stand_in.serve) as printer:
        with pytest.raises(DeviceSilent, match="does not get done"):
            await Printer(printer.host, printer.port, deadline_s=0.3, status_s=10).print(LABEL)


async def test_a_printer_that_never_reads_is_given_up() -> None:
    stop = asyncio.Event()

    async def stalls(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await stop.wait()

    async with served(stalls) as printer:
        patient = Printer(printer.host, printer.port, deadline_s=0.5, status_s=0.1)
        with pytest.raises(DeviceSilent):
            await patient.print(b"x" * (64 << 20))
        stop.set()


async def test_a_connection_that_breaks_may_have_printed() -> None:
    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"~HS\r\n")
        writer.write(told())
        await reader.readexactly(len(LABEL))
        writer.transport.abort()

    async with served(breaks) as printer:
        with pytest.raises(DeviceSilent, match="Look whether the label came out"):
            await printer.print(LABEL)


async def test_a_printer_that_is_switched_off_is_said_to_be() -> None:
    async with served(StandIn(told()).serve) as printer:
        gone = printer
    with pytest.raises(PortLost, match="switched on"):
        await gone.print(LABEL)


@pytest.mark.parametrize(
    "answer", [b"", b"\x02\x03\x02\x03\x02\x03", b"\x02a,b\x03\r\n\x02c\x03\r\n\x02d\x03", told().replace(b"00000000", b"many")]
)
def test_what_is_no_status_is_refused(answer: bytes) -> None:
    with pytest.raises(MalformedRequest):
        read_status(answer)


async def test_an_endless_answer_is_cut_off() -> None:
    async def babbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            writer.write(b"\x02" + b"1," * 5000)

    async with served(babbles) as printer:
        assert await printer.status() is None

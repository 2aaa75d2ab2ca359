"""Lines from a device, of bounded length and number."""

from __future__ import annotations

import re

from gateway.errors import DeviceSilent
from provisioning.transports import Stream

_END = re.compile(r"\r\n|\n|\r(?=.)")  # a carriage return at the end may be half of a line end
_ESCAPE = re.compile(r"\x1b\[[0-9;?]{0,16}[A-Za-z]")


class Lines:
    """A line longer than ``longest`` characters is cut, what is cut is nobody's; more than ``most`` octets for one step are
    a device that does not stop talking. Octets are Latin-1: no device can make them unreadable."""

    def __init__(self, stream: Stream, longest: int, most: int) -> None:
        self._stream = stream
        self._longest = longest
        self._most = most
        self._said = 0
        self._buffer = ""
        self._ready: list[str] = []

    def begin(self) -> None:
        """A new step: what was said so far does not count against it."""
        self._said = 0

    async def send(self, text: str) -> None:
        await self._stream.send(text.encode("utf-8"))

    async def next(self) -> str:
        """The next whole line, without its end. Raises DeviceSilent, PortLost."""
        while not self._ready:
            await self._receive()
        return self._ready.pop(0)

    async def next_or_partial(self) -> tuple[str, bool]:
        """The next whole line and True; or, when new octets make none whole, what there is of one and False."""
        if not self._ready:
            await self._receive()
        return (self._ready.pop(0), True) if self._ready else (_ESCAPE.sub("", self._buffer), False)

    def forget_partial(self) -> None:
        """What there is of a line was understood: the rest is another line."""
        self._buffer = ""

    async def _receive(self) -> None:
        data = await self._stream.receive()
        self._said += len(data)
        if self._said > self._most:
            raise DeviceSilent(f"{self._stream.name} does not stop talking")
        *whole, self._buffer = _END.split(self._buffer + data.decode("latin-1"))
        # Without what steers terminals, and without white space at the end.
        self._ready += [_ESCAPE.sub("", line[: self._longest]).rstrip() for line in whole]
        self._buffer = self._buffer[: self._longest]

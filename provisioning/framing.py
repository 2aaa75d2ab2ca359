"""Commands to a console and their answers, as octets: what goes out, what came in. Pure.

A console is a poor protocol: what we type comes back as echo or does not, prompts look like anything, the kernel speaks in
between, and what a killed session asked for is answered later. So nothing here waits for a prompt. Each command is put between
two lines that make the shell itself say a token, a random one of this session with the command's number::

    echo @B:5f3a''91c2-7:;COMMAND;echo @E:5f3a''91c2-7:$?:

Where the line is echoed, the token has two apostrophes in the middle, so an echo is never taken for an answer. The answer is
what stands between ``@B:5f3a91c2-7:`` and ``@E:5f3a91c2-7:STATUS:``; everything outside is nobody's. Any shell of POSIX does
this, busybox's as well as bash, and so does U-Boot's hush.

The events that come out depend on the octets alone, never on how they were cut into reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

#: The most octets of an answer, unless a command asks for more.
MAX_ANSWER: Final = 65536
#: No mark and no question is longer: one that begins earlier than this before the end has been seen whole.
_TAIL: Final = 96
#: Erases a half line that somebody left, in line disciplines and in line editors: Ctrl-U.
KILL_LINE: Final = b"\x15"
#: Ends a program that runs, a here-document and an open quote: Ctrl-C.
INTERRUPT: Final = b"\x03"
#: Ends the here-documents that we begin: a line that a shell which reads it as a command does nothing on.
END_OF_TEXT: Final = ":"


class Question(Enum):
    """What getty and login ask."""

    USER = "user"
    PASSWORD = "password"  # noqa: S105  # a name


@dataclass(frozen=True, slots=True)
class Begun:
    number: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The command's standard output and errors, with newlines for the terminal's carriage returns."""

    number: int
    status: int
    output: bytes


@dataclass(frozen=True, slots=True)
class Damaged:
    """The end of an answer without its beginning: octets were lost on the line."""

    number: int


@dataclass(frozen=True, slots=True)
class Overflowed:
    """More output than allowed; it is thrown away, also what follows."""

    number: int


Event: TypeAlias = Question | Begun | Answered | Damaged | Overflowed

_LINE_END = re.compile(rb"\r+\n")
#: A mark: of a beginning or an end, whose, of which command, with which status.
_MARK = (
    rb"@(?:B:(?P<begins>[0-9a-f]{8,32})-(?P<begin>\d{1,9})|E:(?P<ends>[0-9a-f]{8,32})-(?P<end>\d{1,9}):(?P<status>\d{1,9})):"
)
_QUESTIONS = rb"(?<!Last )(?<![A-Za-z])(?P<user>[Ll]ogin:)|(?<![A-Za-z])(?P<password>[Pp]assword:)"
_INSIDE = re.compile(_MARK)
_OUTSIDE = re.compile(_MARK + b"|" + _QUESTIONS)


class Frames:
    """One session's commands and answers. ``nonce`` is 4 to 16 random octets; a session never takes another's answer."""

    def __init__(self, nonce: bytes) -> None:
        if not 4 <= len(nonce) <= 16:
            raise ValueError("a nonce has 4 to 16 octets")
        self._nonce = nonce.hex()
        self._mark = self._nonce.encode()
        self._number = 0
        self._begun: int | None = None  # the answer that is coming in
        self._overflowed = False
        self._limit = MAX_ANSWER
        self._buffer = bytearray()
        self._searched = 0  # where in the buffer the next mark can begin

    @property
    def last(self) -> int:
        """The number of the last command."""
        return self._number

    def command(self, text: str, here: str | None = None, limit: int = MAX_ANSWER) -> bytes:
        """The octets to send for the next command, one line of shell.

        ``here`` are lines for its standard input, as a here-document: none may be a lone colon. Where the command is a list,
        its last part reads them.
        """
        if "\n" in text or "\r" in text:
            raise ValueError("a command is one line")
        self._number += 1
        self._limit = limit
        half = len(self._nonce) // 2
        token = f"{self._nonce[:half]}''{self._nonce[half:]}-{self._number}"
        redirect, body = "", ""
        if here is not None:
            lines = here.splitlines()
            if END_OF_TEXT in lines:
                raise ValueError("a text that ends itself")
            redirect = f"<<'{END_OF_TEXT}'"
            body = "".join(f"{line}\n" for line in (*lines, END_OF_TEXT))
        return f"echo @B:{token}:;{text}{redirect};echo @E:{token}:$?:\n{body}".encode()

    def receive(self, data: bytes) -> list[Event]:
        """What ``data`` completes."""
        self._buffer += data
        events: list[Event] = []
        while True:
            event = self._next_outside() if self._begun is None else self._next_inside(self._begun)
            if event is None:
                return events
            events.append(event)

    def _find(self, pattern: re.Pattern[bytes]) -> tuple[int, int, dict[str, bytes]] | None:
        """Where the next mark of ours or question begins and ends, and its parts; other sessions' marks are passed over."""
        for match in pattern.finditer(self._buffer, self._searched):
            found = match.groupdict()
            if (found["begins"] or found["ends"] or self._mark) == self._mark:
                return match.start(), match.end(), found
        return None

    def _next_outside(self) -> Event | None:
        match = self._find(_OUTSIDE)
        if match is None:
            del self._buffer[: -2 * _TAIL]  # twice: what is searched again needs to see what stood before it
            self._searched = max(0, len(self._buffer) - _TAIL)
            return None
        _, end, found = match
        del self._buffer[:end]
        self._searched = 0
        if found["begin"]:
            self._begun, self._overflowed = int(found["begin"]), False
            return Begun(self._begun)
        if found["end"]:
            return Damaged(int(found["end"]))
        return Question.USER if found["user"] else Question.PASSWORD

    def _next_inside(self, number: int) -> Event | None:
        match = self._find(_INSIDE)
        output = len(self._buffer) - _TAIL if match is None else match[0]
        if output > self._limit and not self._overflowed:
            self._overflowed = True
            return Overflowed(number)
        if match is None:
            if self._overflowed:
                del self._buffer[:-_TAIL]
            self._searched = max(0, len(self._buffer) - _TAIL)
            return None
        begin, end, found = match
        answer, overflowed = bytes(self._buffer[:begin]), self._overflowed
        del self._buffer[:end]
        self._searched, self._overflowed = 0, False
        if found["begin"]:  # the end of the answer before was lost
            self._begun = int(found["begin"])
            return Begun(self._begun)
        self._begun = None
        if int(found["end"]) != number:
            return Damaged(int(found["end"]))
        return self._next_outside() if overflowed else Answered(number, int(found["status"]), _text(answer))


def _text(answer: bytes) -> bytes:
    """Without the newline of the line that began the answer, and with newlines for the terminal's line ends."""
    return _LINE_END.sub(b"\n", answer).removeprefix(b"\n")

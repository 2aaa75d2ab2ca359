"""A shell on a device's console: find it, log in, run commands. The octets are :mod:`provisioning.framing`'s.

What a console may be when we come to it: a shell with or without echo and prompt, a login, the middle of a here-document or of
a line that a killed session left, a program that still runs, a boot in progress, nothing at all. :meth:`Console.attach` needs
none of them to look like anything: it goes on knocking until a shell answers with our token.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Final

from gateway.errors import DeviceRefused, DeviceSilent
from provisioning.framing import (
    END_OF_TEXT,
    INTERRUPT,
    KILL_LINE,
    MAX_ANSWER,
    Answered,
    Damaged,
    Event,
    Frames,
    Overflowed,
    Question,
)
from provisioning.transports.stream import Stream

#: Octets that may come without being asked for while one answer is waited for; a whole boot log is a tenth of it.
MAX_STRAY: Final = 1 << 20
#: Seconds without an octet after which a console is taken to wait for us.
QUIET_S: Final = 0.25
#: Seconds that login may take for a user's name or password, and a probe for its answer.
_LOGIN_S, _PROBE_S = 3.0, 1.0
_PROBE_MOST_S, _INSIST_S = 8.0, 0.3
#: Seconds after which we speak although the device goes on talking, and while it boots.
CHATTER_S: Final = 2.0
BOOT_CHATTER_S: Final = 30.0
#: How often a name is said: a login that nobody answered may start anew once.
_USERS = 3
#: What may be a prompt, with what terminals are told behind it (busybox asks for the cursor's place).
_PROMPT = re.compile(rb"[#$>] ?(\x1b\[[0-9;?]*[A-Za-z])*\Z")


@dataclass(frozen=True, slots=True)
class Login:
    user: str
    password: str = field(default="", repr=False)


class Console:
    """``nonce`` is random (:class:`~provisioning.framing.Frames`). Every method raises PortLost when the stream ends."""

    def __init__(self, stream: Stream, nonce: bytes, timeout_s: float = 10.0) -> None:
        self.stream = stream
        self.timeout_s = timeout_s
        self.logged_in = False
        self._frames = Frames(nonce)
        self._stray = 0
        self._latest = b""

    @property
    def looks_ready(self) -> bool:
        """The last octets may be a prompt: a reason not to wait until it is quiet, and never more than that."""
        return _PROMPT.search(self._latest[-64:]) is not None

    @property
    def name(self) -> str:
        return self.stream.name

    async def attach(
        self, login: Login | None = None, *, timeout_s: float, boot_quiet_s: float = 0, insist: bool = False
    ) -> None:
        """Until a shell answers.

        With ``boot_quiet_s`` the device boots: a key pressed in between could stop its boot loader. So nothing is typed before
        it is asked for, or the device has been quiet that long behind what may be a prompt, and five times as long elsewhere.
        ``insist`` is for boot loaders: it goes on knocking in short intervals, so that one key is pressed while they look.

        Raises DeviceSilent, and DeviceRefused where it asks for a login that we have not or does not accept.
        """
        self._stray = 0
        try:
            async with asyncio.timeout(timeout_s):
                await _Attachment(self, login, insist).run(boot_quiet_s)
        except TimeoutError as error:
            raise DeviceSilent(f"no shell answers on {self.name} within {timeout_s:g} seconds") from error

    async def run(
        self, command: str, what: str, here: str | None = None, *, timeout_s: float | None = None, limit: int = MAX_ANSWER
    ) -> Answered:
        """One line of shell, and its answer whatever its status. ``what`` it does is for people; ``here`` is its input.

        Raises DeviceSilent when no answer comes in time, or no end of it, or what came was damaged on the line.
        """
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        self._stray = 0
        try:
            async with asyncio.timeout(timeout_s):
                await self.stream.send(self._frames.command(command, here, limit))
                return await self._answer(self._frames.last, what)
        except TimeoutError as error:
            raise DeviceSilent(f"{what}: no answer on {self.name} within {timeout_s:g} seconds") from error

    async def check(self, command: str, what: str, here: str | None = None, *, timeout_s: float | None = None) -> str:
        """As :meth:`run`; the answer as text. Raises DeviceRefused for any status but 0."""
        answer = await self.run(command, what, here, timeout_s=timeout_s)
        text = answer.output.decode("utf-8", "replace")
        if answer.status != 0:
            raise DeviceRefused(f"{what}: the device says {printable(text) or 'nothing'} (status {answer.status})")
        return text

    async def interrupt(self) -> None:
        """End whatever runs, where there is a terminal to do it."""
        if self.stream.terminal:
            await self.stream.send(INTERRUPT + KILL_LINE + b"\n")

    async def _answer(self, number: int, what: str) -> Answered:
        while True:
            for event in await self.events():
                match event:
                    case Answered(number=answered) if answered == number:
                        return event
                    case Damaged(number=answered) if answered == number:
                        raise DeviceSilent(f"{what}: the answer was damaged on the line")
                    case Overflowed(number=answered) if answered == number:
                        await self.interrupt()
                        raise DeviceSilent(f"{what}: {self.name} does not stop talking")
                    case _:
                        pass  # of another command: a killed session's, or one that we did not wait for

    async def events(self) -> list[Event]:
        """What the next octets say. Raises DeviceSilent for a device that talks for ever."""
        data = await self.stream.receive()
        self._latest = data
        self._stray += len(data)
        if self._stray > MAX_STRAY:
            raise DeviceSilent(f"{self.name} does not stop talking")
        return self._frames.receive(data)

    async def probe(self, before: bytes) -> None:
        """Ask for a sign of life; ``before`` goes out first."""
        await self.stream.send(before + self._frames.command("true"))


class _Attachment:
    """Finding the shell: what was asked of us, what we said."""

    def __init__(self, console: Console, login: Login | None, insist: bool) -> None:
        self._console = console
        self._longest = _INSIST_S if insist else _PROBE_MOST_S
        self._login = login
        self._users = 0  # how often we said our name
        self._said_password = False
        self._probes = 0
        self._probe_pending = False  # a login that asks something now may take the probe for the answer
        self._patience = QUIET_S  # seconds without an octet after which it is our turn
        self._speak_at = 0.0  # and when it is our turn whatever goes on

    async def run(self, boot_quiet_s: float) -> None:
        loop = asyncio.get_running_loop()
        if not self._console.stream.terminal:
            await self._probe()
        elif boot_quiet_s:
            self._wait(5 * boot_quiet_s, BOOT_CHATTER_S)
        else:
            await self._console.stream.send(KILL_LINE + b"\n")
            self._wait(QUIET_S, CHATTER_S)
        while True:
            try:
                async with asyncio.timeout(min(self._patience, max(0.0, self._speak_at - loop.time()))):
                    events = await self._console.events()
            except TimeoutError:
                await self._probe()
                continue
            for event in events:
                if isinstance(event, Answered):
                    return
                if isinstance(event, Question):
                    await self._reply(event)
            if not events and not self._probes and not self._users:
                await self._perhaps_ready(boot_quiet_s)

    async def _perhaps_ready(self, boot_quiet_s: float) -> None:
        ready = self._console.looks_ready
        if boot_quiet_s:
            self._patience = boot_quiet_s if ready else 5 * boot_quiet_s
        elif ready:
            await self._probe()

    def _wait(self, patience: float, at_most: float) -> None:
        self._patience = patience
        self._speak_at = asyncio.get_running_loop().time() + at_most

    async def _reply(self, question: Question) -> None:
        console, login = self._console, self._login
        self._wait(_LOGIN_S, 2 * _LOGIN_S)
        if login is None:
            raise DeviceRefused(f"{console.name} asks for a {question.value}, and the recipe names none")
        if self._said_password or self._users == _USERS:
            raise DeviceRefused(f"{console.name} does not accept the recipe's user and password")
        if self._probe_pending or (question is Question.PASSWORD and not self._users):
            self._probe_pending = False
            await console.interrupt()  # it is the middle of what the probe, or somebody else, has begun
        elif question is Question.USER:
            self._users += 1
            await console.stream.send(login.user.encode() + b"\n")
        elif not login.password:
            raise DeviceRefused(f"{console.name} asks for a password, and the recipe names none")
        else:
            self._said_password = console.logged_in = True
            await console.stream.send(login.password.encode() + b"\n")
            self._wait(_PROBE_S, CHATTER_S)

    async def _probe(self) -> None:
        """The first closes a here-document that we began once; later ones end whatever there is."""
        close = f"{END_OF_TEXT}\n".encode()
        before = b""
        if self._console.stream.terminal:
            before = close if not self._probes else INTERRUPT + KILL_LINE + b"\n" + close
        self._probes += 1
        self._probe_pending = True
        await self._console.probe(before)
        patience = min(self._longest, _PROBE_S * 2 ** (self._probes - 1))  # what nobody reads now, somebody reads later
        self._wait(patience, 2 * patience)


def printable(text: str) -> str:
    """The end of what a device says, safe to show."""
    line = " ".join(text.split())[-200:]
    return "".join(character if character.isprintable() else "?" for character in line)

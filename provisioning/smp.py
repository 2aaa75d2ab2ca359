"""One MCUmgr server at the other end of a serial line or of UDP: requests and answers, files, shell commands, reset.

A request is repeated when no answer comes, because a line loses octets and a server out of buffers drops what it gets;
everything asked for here can be asked for twice. An answer counts when operation, group, command and sequence number are those
of the request, so what an earlier session asked for is hardly ever taken for an answer, and :meth:`SmpClient.hello` is sure.
Time is bounded for each request, memory by the codec, and a device that never stops talking by :data:`MAX_NOISE`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from gateway.errors import DeviceFault, DeviceSilent
from provisioning.codec.cbor import Value
from provisioning.codec.smp import Group, LineReader, Message, Op, SmpRefused, to_lines
from provisioning.transports.stream import Stream
from provisioning.transports.udp import Datagrams

#: Octets that a device may say without answering. A boot log is some kilobytes.
MAX_NOISE = 1 << 20
#: The largest file that is read or written: keys and certificates.
MAX_FILE = 65536
#: CONFIG_MCUMGR_TRANSPORT_NETBUF_SIZE of a server that does not tell.
DEFAULT_BUFFER = 384
_RESTARTS = 3
_ECHO, _RESET, _PARAMETERS, _INFO = 0, 5, 6, 7
_FILE, _HASH, _CLOSE = 0, 2, 4
_EXECUTE = 0


class Carrier(Protocol):
    """Carries whole messages both ways."""

    async def send(self, message: bytes) -> None:
        """Raises PortLost."""

    async def receive(self) -> bytes:
        """The next message; waits for ever. Raises PortLost, and DeviceSilent where there is no end to noise."""


class LineCarrier:
    """Messages in lines over a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._reader = LineReader()
        self._received: deque[bytes] = deque()
        self._noise = 0

    async def send(self, message: bytes) -> None:
        self._noise = 0
        await self._stream.send(to_lines(message))

    async def receive(self) -> bytes:
        while not self._received:
            octets = await self._stream.receive()
            self._noise += len(octets)
            if self._noise > MAX_NOISE:
                raise DeviceSilent("there is no end to what the device says, and no answer in it")
            self._received.extend(self._reader.feed(octets))
        return self._received.popleft()

    @property
    def damaged(self) -> int:
        return self._reader.damaged


class DatagramCarrier:
    """One message in each datagram."""

    def __init__(self, datagrams: Datagrams) -> None:
        self._datagrams = datagrams

    async def send(self, message: bytes) -> None:
        self._datagrams.send(message)

    async def receive(self) -> bytes:
        while True:
            try:
                return await self._datagrams.receive(3600)
            except DeviceSilent:
                continue


class SmpClient:
    """``timeout_s`` is for one try of a request; ``request_size`` the largest message in octets, 0 for what the server says."""

    def __init__(self, carrier: Carrier, *, timeout_s: float, tries: int = 3, request_size: int = 0) -> None:
        self._carrier = carrier
        self._timeout_s, self._tries = timeout_s, tries
        self._request_size = request_size
        self._sequence = os.urandom(1)[0]

    async def hello(self, timeout_s: float | None = None, tries: int = 0) -> None:
        """The server echoes a token that it cannot know. Raises DeviceSilent, DeviceFault."""
        token = os.urandom(8).hex()
        answer = await self.request(Op.WRITE, Group.OS, _ECHO, {"d": token}, timeout_s=timeout_s, tries=tries)
        if answer.get("r") != token:
            raise DeviceFault("the device echoes something else than it was told")

    async def request(
        self,
        op: Op,
        group: int,
        command: int,
        body: Mapping[int | str, Value],
        *,
        tries: int = 0,
        timeout_s: float | None = None,
    ) -> Mapping[int | str, Value]:
        """The body of the answer. Raises SmpRefused, DeviceSilent, PortLost, DeviceFault."""
        self._sequence = (self._sequence + 1) % 256
        request = Message(op, group, command, self._sequence, body)
        for _ in range(tries or self._tries):
            await self._carrier.send(request.encode())
            try:
                async with asyncio.timeout(timeout_s or self._timeout_s):
                    answer = await self._answer(request)
            except TimeoutError:
                continue
            answer.check()
            return answer.body
        damage = getattr(self._carrier, "damaged", 0)
        heard = f"; {damage} damaged packets came from it" if damage else ""
        raise DeviceSilent(f"the device does not answer SMP requests{heard}")

    async def _answer(self, request: Message) -> Message:
        noise = 0
        while True:
            octets = await self._carrier.receive()
            message = Message.decode(octets)
            if message.answers(request):
                return message
            noise += len(octets) + 8
            if noise > MAX_NOISE:
                raise DeviceSilent("there is no end to what the device says, and no answer in it")

    async def info(self, form: str) -> str:
        """Part of ``os info`` (``i`` hardware, ``v`` version, ...); empty where the server does not tell."""
        try:
            answer = await self.request(Op.READ, Group.OS, _INFO, {"format": form})
        except SmpRefused:
            return ""
        output = answer.get("output")
        return output.strip() if isinstance(output, str) else ""

    async def limit(self) -> int:
        """The largest request, in octets."""
        try:
            size = (await self.request(Op.READ, Group.OS, _PARAMETERS, {})).get("buf_size")
        except SmpRefused:
            size = None
        told = size if isinstance(size, int) and 64 <= size <= 65535 else DEFAULT_BUFFER
        return min(told, self._request_size) if self._request_size else told

    async def upload(self, name: str, content: bytes) -> None:
        """Write a file. It is not atomic: a power cut leaves any part of it, and what was there before is gone.

        Raises DeviceFault and its kinds.
        """
        limit = await self.limit()
        for left in reversed(range(_RESTARTS)):
            try:
                await self._upload(name, content, limit)
                break
            except SmpRefused:
                if not left:
                    raise
            with suppress(SmpRefused):
                await self._upload(name, b"\0", limit)  # a small file system has no room for the old content beside the new
        try:
            await self.request(Op.WRITE, Group.FS, _CLOSE, {})
        except SmpRefused:
            return  # older servers close the file with its last octet

    async def _upload(self, name: str, content: bytes, limit: int) -> None:
        offset = 0
        while offset < len(content):
            body: dict[int | str, Value] = {"name": name, "off": offset, "data": b""}
            if not offset:
                body["len"] = len(content)
            room = limit - len(Message(Op.WRITE, Group.FS, _FILE, 0, body).encode()) - 2  # a longer head of "data"
            if room < 1:
                raise DeviceFault(f"requests of {limit} octets have no room for the name {name}")
            body["data"] = content[offset : offset + room]
            answer = await self.request(Op.WRITE, Group.FS, _FILE, body)
            reached = answer.get("off")
            if not isinstance(reached, int) or not offset < reached <= offset + room:
                raise DeviceFault(f"the device did not take octet {offset} of {name}")
            offset = reached

    async def download(self, name: str) -> bytes:
        """A file's content; empty where there is none. Raises DeviceFault and its kinds."""
        content = bytearray()
        length = None
        while length is None or len(content) < length:
            try:
                answer = await self.request(Op.READ, Group.FS, _FILE, {"name": name, "off": len(content)})
            except SmpRefused as refused:
                if refused.no_such_file and not content:
                    return b""
                raise
            data, offset = answer.get("data"), answer.get("off")
            if length is None:
                told = answer.get("len")
                length = told if isinstance(told, int) and 0 <= told <= MAX_FILE else -1
            if offset != len(content) or not isinstance(data, bytes) or len(content) + len(data) > length:
                raise DeviceFault(f"the device gave {name} away in pieces that do not fit")
            if not data and len(content) < length:
                raise DeviceFault(f"the device gave no more of {name} than {len(content)} of {length} octets")
            content += data
        return bytes(content)

    async def digest(self, name: str) -> bytes:
        """SHA-256 of a file, by the device itself where it can; empty where there is no such file. Raises DeviceFault."""
        try:
            answer = await self.request(Op.READ, Group.FS, _HASH, {"name": name, "type": "sha256"})
        except SmpRefused as refused:
            if refused.no_such_file:
                return b""
            content = await self.download(name)  # no such command, no such kind of hash
            return hashlib.sha256(content).digest() if content else b""
        output = answer.get("output")
        if not isinstance(output, bytes) or len(output) != hashlib.sha256().digest_size:
            raise DeviceFault(f"the device's digest of {name} is none")
        return output

    async def shell(self, arguments: Sequence[str]) -> str:
        """Run a command of the firmware's shell; its output. Raises DeviceFault where it fails."""
        answer = await self.request(Op.WRITE, Group.SHELL, _EXECUTE, {"argv": list(arguments)}, tries=1)
        output, status = answer.get("o"), answer.get("ret", answer.get("rc", 0))
        if not isinstance(output, str) or not isinstance(status, int):
            raise DeviceFault("the device's shell answered with something that is no output")
        if status != 0:
            raise DeviceFault(f"the command {arguments[0]!r} failed on the device with {status}: {output.strip()[:200]!r}")
        return output

    async def reset(self) -> None:
        """Ask for a reset. The answer may be lost in it. Raises SmpRefused where the firmware cannot."""
        try:
            await self.request(Op.WRITE, Group.OS, _RESET, {}, tries=1)
        except DeviceSilent:
            return

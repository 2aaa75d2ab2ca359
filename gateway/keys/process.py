"""The daemon's end of a key child: start it, ask it, and kill it when it does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections import deque
from dataclasses import dataclass

from gateway.errors import SignerUnavailable
from gateway.keys.frames import HEADER, MAX_PAYLOAD, Code, Kind, frame, read_failure

_RETRY_AFTER = 5
_FAREWELL_S = 2.0
#: What systemd tells the daemon is no vendor library's business (systemd.exec(5), sd_notify(3), sd_listen_fds(3)).
_OURS_ALONE = frozenset(
    ("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
)


class ChildGone(SignerUnavailable):
    """The child crashed, hung past its deadline or was ended; what it was doing then has an unknown outcome."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after=_RETRY_AFTER)


class ChildFailure(SignerUnavailable):
    """The child answered that the request failed."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message, retry_after=_RETRY_AFTER)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Pending:
    answer: asyncio.Future[bytes]
    deadline_s: float


class ChildProcess:
    """One child and the requests it has not answered yet, oldest first."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._pending: deque[_Pending] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._descriptor: int | None = None
        with contextlib.suppress(ProcessLookupError):
            self._descriptor = os.pidfd_open(process.pid)
        self._reason = ""
        self.answers = 0  # counts up with each answer: an idle child can be told from a busy one
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(), name=f"key-child-{process.pid}")

    @classmethod
    async def spawn(cls, module: str) -> ChildProcess:
        """Run ``python -m module DESCRIPTOR``. Raises ChildGone when no process can be started."""
        starting = asyncio.create_task(cls._spawn(module))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with contextlib.suppress(ChildGone):  # half a process cannot be ended: it may begin, and is ended then
                await (await starting).end("nobody waits for the key process any more")
            raise

    @classmethod
    async def _spawn(cls, module: str) -> ChildProcess:
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise _not_started(error) from error
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        try:
            # -P: the working directory is no place to load code from.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", module, str(theirs.fileno())),
                stdin=DEVNULL,
                stdout=DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={name: value for name, value in os.environ.items() if name not in _OURS_ALONE},
            )
        except BaseException as error:  # also when the caller gives up: the socket must not stay
            writer.close()
            if isinstance(error, OSError):
                raise _not_started(error) from error
            raise
        finally:
            theirs.close()
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def busy(self) -> bool:
        return bool(self._pending)

    async def call(self, kind: Kind, payload: bytes = b"", *, deadline_s: float) -> bytes:
        """Ask and wait. ``deadline_s`` runs while the child works on this request, not while it works on earlier ones.

        Raises ChildFailure, or ChildGone when the child ended before the answer: past the deadline it is killed.
        """
        if self.gone.done():
            raise ChildGone(self.gone.result())
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(answer, deadline_s))
        if len(self._pending) == 1:
            self._watch()
        self._writer.write(frame(kind, payload))
        return await answer

    def kill(self, reason: str) -> None:
        """End the child now; everything it was asked fails with ``reason``."""
        if not self._reason:
            self._reason = reason
        self._signal()

    async def end(self, reason: str) -> None:
        """:meth:`kill`, and return when nothing is left of the child: also when cancelled meanwhile, it takes a moment only."""
        self.kill(reason)
        await self._ended()

    async def _ended(self) -> None:
        try:
            await asyncio.shield(self._reading)
        except asyncio.CancelledError:
            await asyncio.wait([self._reading])
            raise

    async def close(self) -> None:
        """Let the child log out and end, and kill it when it does not within a moment."""
        self._reason = self._reason or "the key process was closed"
        if self._pending or self.gone.done():
            self._signal()
        else:
            self._writer.write_eof()
            asyncio.get_running_loop().call_later(_FAREWELL_S, self._signal)
        await self._ended()

    def _signal(self) -> None:
        """SIGKILL by descriptor: a process number may belong to another process by now."""
        if self._descriptor is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and was waited for
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def _watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._pending:
            seconds = self._pending[0].deadline_s
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self.kill, f"the token did not answer within {seconds:g} s")

    async def _read(self) -> None:
        try:
            while True:
                length, kind = HEADER.unpack(await self._reader.readexactly(HEADER.size))
                if length > MAX_PAYLOAD or not self._pending:
                    self.kill("the key process broke its protocol")
                    break
                payload = await self._reader.readexactly(length)
                self._settle(self._pending[0].answer, kind, payload)
                self._pending.popleft()  # only now: whoever waits for an answer that cannot be read is told by _finish
                self.answers += 1
                self._watch()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the child ended; the reason follows
        except (ValueError, KeyError, TypeError):  # a module that wrote over the child's memory
            self.kill("the key process broke its protocol")
        await self._finish()

    @staticmethod
    def _settle(answer: asyncio.Future[bytes], kind: int, payload: bytes) -> None:
        if answer.done():
            return  # its caller was cancelled
        if kind == Kind.OK:
            answer.set_result(payload)
        else:
            answer.set_exception(ChildFailure(*read_failure(payload)))

    async def _finish(self) -> None:
        self.kill("the key process crashed")
        self._writer.close()
        if self._timer is not None:
            self._timer.cancel()
        await self._process.wait()
        await asyncio.sleep(0)  # asyncio gives a process's transport back a turn after it told of the end
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self.gone.set_result(self._reason)
        while self._pending:
            answer = self._pending.popleft().answer
            if not answer.done():
                answer.set_exception(ChildGone(self._reason))


def _not_started(error: OSError) -> ChildGone:
    return ChildGone(f"no key process can be started: {os.strerror(error.errno or 0)}")

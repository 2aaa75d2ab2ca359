"""A device's console that can be left and found again, as a device's reset needs it: the port may stay or vanish meanwhile."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from gateway.errors import DeviceFault, DeviceRefused, DeviceSilent, PortLost
from provisioning.console import Console, Login
from provisioning.device import Address
from provisioning.transports import Known, open_stream

#: Octets of a session's nonce.
_NONCE = 5
#: Seconds that a device may take to say that it will not restart, that we wait for a port to come back before we look again,
#: and that leaving may take.
_REFUSAL_S, _AGAIN_S, _LEAVE_S = 1.0, 0.2, 1.0


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: for one command, for finding a shell, for a restart, and of quiet during one (0: type at once).

    ``insist`` as for :meth:`provisioning.console.Console.attach`.
    """

    command_s: float = 10.0
    attach_s: float = 30.0
    boot_s: float = 120.0
    boot_quiet_s: float = 3.0
    insist: bool = False


class ConsolePort:
    """``setup`` is what every new shell is told first; its answer stays in :attr:`told`. ``leave`` is what it is told last."""

    def __init__(self, address: Address, login: Login | None, patience: Patience, setup: str = "true", leave: str = "") -> None:
        self._address = address
        self._login = login
        self._patience = patience
        self._setup, self._leave = setup, leave
        self._known = Known()
        self._open = AsyncExitStack()
        self._console: Console | None = None
        self.told = ""

    @property
    def console(self) -> Console:
        """Raises PortLost where there is none now."""
        if self._console is None:
            raise PortLost("the device's console is closed")
        return self._console

    async def open(self, *, listen_first: bool = False) -> None:
        """Open the port and find the shell; ``listen_first`` where the device may be booting. Raises DeviceFault."""
        try:
            await self._attach(self._patience.boot_quiet_s if listen_first else 0)
        except BaseException:
            await self._drop()
            raise

    async def close(self) -> None:
        """Leave the console, logged out where we logged in."""
        try:
            if self._console is not None:
                with suppress(DeviceFault, TimeoutError):
                    async with asyncio.timeout(_LEAVE_S):
                        await self._say_goodbye(self._console)
        finally:
            await self._drop()

    async def _say_goodbye(self, console: Console) -> None:
        if console.logged_in:
            await console.stream.send(b"exit\n")
        elif self._leave and console.stream.terminal:
            await console.run(self._leave, "leave")

    async def restart(self, command: str, boot_id: str) -> None:
        """Restart the device and find its shell again. ``boot_id`` is a command whose answer differs after every start.

        Raises DeviceRefused where it does not restart, DeviceSilent where it does not come back.
        """
        before = await self.console.check(boot_id, "ask for the boot's number")
        answer = None
        with suppress(DeviceSilent, PortLost):  # it may be gone before it can answer
            answer = await self.console.run(command, "restart", timeout_s=_REFUSAL_S)
        if answer is not None and answer.status != 0:
            raise DeviceRefused(f"the device does not restart: status {answer.status}")
        seen = ""
        try:
            async with asyncio.timeout(self._patience.boot_s):
                while True:
                    seen = await self._boot_id(boot_id) or seen
                    if seen not in {"", before}:
                        return
                    await asyncio.sleep(_AGAIN_S)
        except TimeoutError as error:
            if seen:
                raise DeviceRefused(f"the device did not restart within {self._patience.boot_s:g} seconds") from error
            raise DeviceSilent(f"the device did not come back within {self._patience.boot_s:g} seconds") from error

    async def _boot_id(self, command: str) -> str:
        """The boot's number as the device says now; empty while it does not answer."""
        try:
            await self._attach(self._patience.boot_quiet_s)
            return await self.console.check(command, "ask for the boot's number")
        except PortLost:
            await self._drop()
        except DeviceSilent:
            pass
        return ""

    async def _attach(self, boot_quiet_s: float) -> None:
        stream = (
            self._console.stream
            if self._console
            else await self._open.enter_async_context(open_stream(self._address, self._known))
        )
        self._console = Console(stream, secrets.token_bytes(_NONCE), self._patience.command_s)
        patience = self._patience
        await self._console.attach(self._login, timeout_s=patience.attach_s, boot_quiet_s=boot_quiet_s, insist=patience.insist)
        self.told = await self._console.check(self._setup, "set the shell up")

    async def _drop(self) -> None:
        self._console = None
        await self._open.aclose()
        self._open = AsyncExitStack()

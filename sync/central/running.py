"""Running a daemon's background work until somebody stops it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable

from gateway.errors import GatewayError, JournalFailed, Unavailable
from gateway.notify import ServiceNotifier

_log = logging.getLogger(__name__)


def stop_signal() -> asyncio.Event:
    """Set by SIGTERM and SIGINT from now on."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def until_stopped(work: Iterable[tuple[str, Coroutine[object, object, None]]], stop: asyncio.Event) -> None:
    """Run named work until ``stop``. What one piece raises ends the others and is raised; one of our errors goes first."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each, name=name) for name, each in work]
            await stop.wait()
            _log.info("stopping")
            for task in tasks:
                task.cancel()
    except ExceptionGroup as error:
        raise _first(error) from error


async def repeated(look: Callable[[], Awaitable[object]], every_s: float, what: str) -> None:
    """``look`` every so many seconds, for ever; while the database or a key is away it is for the next time to do.

    Raises StoreFailed, which is final.
    """
    while True:
        try:
            await look()
        except JournalFailed:
            raise
        except Unavailable as error:
            _log.warning("%s later: %s", what, error)
        await asyncio.sleep(every_s)


async def watch(failure: asyncio.Future[None]) -> None:
    """Raise what ``failure`` is done with."""
    await asyncio.shield(failure)


async def feed_watchdog(notifier: ServiceNotifier) -> None:
    while notifier.watchdog_interval is not None:
        notifier.watchdog()
        await asyncio.sleep(notifier.watchdog_interval)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    ours, others = group.split(GatewayError)
    chosen: Exception = (ours or others or group).exceptions[0]
    return _first(chosen) if isinstance(chosen, ExceptionGroup) else chosen

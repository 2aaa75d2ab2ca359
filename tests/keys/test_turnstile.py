"""Who signs next, and who is sent away."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import Busy
from gateway.keys.figures import Figures
from gateway.keys.signer import Priority
from gateway.keys.turnstile import Turnstile


class Line:
    """Callers that note when their turn came and stay until the door opens."""

    def __init__(self, turnstile: Turnstile) -> None:
        self.turnstile = turnstile
        self.door = asyncio.Event()
        self.order: list[str] = []

    async def enter(self, name: str, priority: Priority = Priority.BULK) -> None:
        async with self.turnstile.turn(priority):
            self.order.append(name)
            await self.door.wait()

    def come(self, name: str, priority: Priority = Priority.BULK) -> asyncio.Task[None]:
        return asyncio.create_task(self.enter(name, priority))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_urgent_callers_go_first_and_equals_in_order_of_arrival() -> None:
    line = Line(Turnstile(width=1, limit=10))
    tasks = [line.come("inside")]
    await settle()
    for name, priority in [("b1", Priority.BULK), ("l1", Priority.LINE), ("s", Priority.STATUS), ("l2", Priority.LINE)]:
        tasks.append(line.come(name, priority))
    await settle()
    assert line.turnstile.waiting == 4
    line.door.set()
    await asyncio.gather(*tasks)
    assert line.order == ["inside", "s", "l1", "l2", "b1"]


async def test_no_more_than_the_width_are_inside() -> None:
    line = Line(Turnstile(width=2, limit=10))
    tasks = [line.come(str(number)) for number in range(5)]
    await settle()
    assert (line.order, line.turnstile.waiting) == (["0", "1"], 3)
    line.door.set()
    await asyncio.gather(*tasks)
    assert line.turnstile.waiting == 0


async def test_a_full_queue_says_busy_at_once() -> None:
    line = Line(Turnstile(width=1, limit=1))
    tasks = [line.come("inside"), line.come("waiting")]
    await settle()
    with pytest.raises(Busy) as caught:
        await line.enter("too many")
    assert caught.value.retry_after == 5
    line.door.set()
    await asyncio.gather(*tasks)


async def test_a_caller_who_leaves_the_queue_takes_no_turn() -> None:
    line = Line(Turnstile(width=1, limit=1))
    inside, leaving = line.come("inside"), line.come("leaving")
    await settle()
    leaving.cancel()
    await settle()
    staying = line.come("staying")
    line.door.set()
    await asyncio.gather(inside, staying)
    assert line.order == ["inside", "staying"]


async def test_a_turn_given_in_the_moment_of_cancellation_is_passed_on() -> None:
    turnstile = Turnstile(width=1, limit=5)
    line = Line(turnstile)
    inside, first, second = line.come("inside"), line.come("first"), line.come("second")
    await settle()
    line.door.set()
    await asyncio.sleep(0)  # "inside" leaves and gives its turn to "first", which has not run yet
    first.cancel()
    await asyncio.gather(inside, second)
    assert line.order == ["inside", "second"]
    async with turnstile.turn(Priority.BULK):
        assert turnstile.waiting == 0


async def test_an_error_inside_gives_the_turn_back() -> None:
    turnstile = Turnstile(width=1, limit=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with turnstile.turn(Priority.BULK):
                raise ZeroDivisionError


def test_quantiles_are_of_the_last_operations() -> None:
    figures = Figures()
    assert figures.quantile(0.5) == 0.0
    for _ in range(300):
        figures.add(1000.0)
    for duration in range(256):
        figures.add(float(duration))
    assert (figures.operations, figures.quantile(0.5), figures.quantile(0.95), figures.quantile(1.0)) == (556, 128, 243, 255)


async def test_the_queue_is_counted_also_when_callers_leave_it() -> None:
    turnstile = Turnstile(width=1, limit=3)
    line = Line(turnstile)
    inside, leaving, staying = line.come("inside"), line.come("leaving"), line.come("staying")
    await settle()
    assert turnstile.waiting == 2
    leaving.cancel()
    await settle()
    assert turnstile.waiting == 1
    line.door.set()
    await asyncio.gather(inside, staying)
    assert turnstile.waiting == 0


async def test_a_turn_given_back_is_one_turn() -> None:
    turnstile = Turnstile(width=1, limit=3)
    for _ in range(3):
        async with turnstile.turn(Priority.BULK):
            pass
    line = Line(turnstile)
    tasks = [line.come("first"), line.come("second")]
    await settle()
    assert line.order == ["first"]
    line.door.set()
    await asyncio.gather(*tasks)

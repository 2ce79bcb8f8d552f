"""Work that takes too long is noticed, and no other."""

from __future__ import annotations

import asyncio
import time

from service.deadlines import Deadlines

SECONDS = 0.2


class Watched:
    """What was told, and when."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.times: list[float] = []
        self.deadlines = Deadlines[str](SECONDS, self._note)

    def _note(self, key: str) -> None:
        self.told.append(key)
        self.times.append(time.monotonic())

    async def until(self, told: list[str]) -> None:
        """Returns when all that is told of is this, in this order."""
        async with asyncio.timeout(20):
            while len(self.told) < len(told):  # noqa: ASYNC110 nothing tells
                await asyncio.sleep(0.01)
        assert self.told == told


async def test_late_work_is_told_of_once_each_and_not_too_early() -> None:
    watched, began = Watched(), time.monotonic()
    for key in ("early", "late", "later"):
        watched.deadlines.begins(key)
    watched.deadlines.ends("early")
    await watched.until(["late", "later"])
    watched.deadlines.ends("late")
    await asyncio.sleep(2 * SECONDS)
    assert watched.told == ["late", "later"]
    assert watched.times[0] - began >= SECONDS


async def test_work_that_begins_after_all_other_has_ended_is_looked_at_too() -> None:
    watched = Watched()
    for key in ("first", "second"):
        watched.deadlines.begins(key)
        await watched.until([*watched.told, key])
    watched.deadlines.begins("in time")
    watched.deadlines.ends("in time")
    watched.deadlines.begins("third")
    await watched.until(["first", "second", "third"])


async def test_work_that_begins_again_has_all_its_time_again() -> None:
    watched = Watched()
    watched.deadlines.begins("one")
    await asyncio.sleep(SECONDS / 2)
    watched.deadlines.ends("one")
    watched.deadlines.begins("one")
    again = time.monotonic()
    await watched.until(["one"])
    assert watched.times[0] - again >= SECONDS


async def test_work_that_is_told_of_may_begin_and_end_other_work() -> None:
    told = []

    def late(key: str) -> None:
        told.append(key)
        if key == "first":
            deadlines.ends("second")
            deadlines.begins("third")

    deadlines = Deadlines[str](SECONDS, late)
    deadlines.begins("first")
    deadlines.begins("second")
    async with asyncio.timeout(20):
        while told[-1:] != ["third"]:  # noqa: ASYNC110 nothing tells
            await asyncio.sleep(0.01)
    assert told == ["first", "third"]

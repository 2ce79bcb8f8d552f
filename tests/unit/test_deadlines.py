"""Work that takes too long is noticed, and no other."""

from __future__ import annotations

import asyncio

from service.deadlines import Deadlines


async def test_each_late_work_is_told_of_once_and_in_time() -> None:
    told: list[str] = []
    deadlines = Deadlines[str](0.2, told.append)
    deadlines.begins("early")
    deadlines.begins("late")
    await asyncio.sleep(0.1)
    deadlines.begins("later")
    deadlines.ends("early")
    assert told == []
    await asyncio.sleep(0.15)
    assert told == ["late"]
    await asyncio.sleep(0.3)
    assert told == ["late", "later"]
    deadlines.ends("late")


async def test_work_that_begins_after_all_other_has_ended_is_looked_at_too() -> None:
    told: list[str] = []
    deadlines = Deadlines[str](0.05, told.append)
    deadlines.begins("first")
    deadlines.ends("first")
    await asyncio.sleep(0.1)
    deadlines.begins("second")
    await asyncio.sleep(0.15)
    assert told == ["second"]


async def test_work_that_begins_again_has_all_its_time_again() -> None:
    told: list[str] = []
    deadlines = Deadlines[str](0.3, told.append)
    for _ in range(4):
        deadlines.begins("one")
        await asyncio.sleep(0.1)
        deadlines.ends("one")
    assert told == []

"""Answers in order: how much is at work at one time, and what is left when the caller goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from service.rpc.boundary import large_message
from service.rpc.ordered import STREAM_BYTES, in_order
from tests.unit.domain.fakes import turns, until


class Work:
    """Answers a number with itself when it is let."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.go_on = asyncio.Event()

    async def answer(self, number: int) -> int:
        self.begun.append(number)
        try:
            await self.go_on.wait()
            return number
        finally:
            self.ended.append(number)


async def numbers(count: int, size: int = 0) -> AsyncIterator[int]:
    for number in range(count):
        large_message.set(size)
        yield number


async def test_answers_come_in_order_and_no_more_than_the_limit_are_at_work() -> None:
    work = Work()
    answers = in_order(numbers(10), work.answer, 3)
    first = asyncio.ensure_future(anext(answers))
    await until(lambda: len(work.begun) == 3)
    await turns()
    assert work.begun == [0, 1, 2]
    work.go_on.set()
    assert [await first, *[answer async for answer in answers]] == list(range(10))


@pytest.mark.parametrize(
    ("size", "at_once"), [(STREAM_BYTES // 2, 2), (STREAM_BYTES // 2 + 1, 1), (2 * STREAM_BYTES, 1)]
)
async def test_large_messages_are_bounded_by_their_bytes_and_one_is_always_at_work(size: int, at_once: int) -> None:
    work = Work()
    answers = in_order(numbers(4, size), work.answer, 16)
    first = asyncio.ensure_future(anext(answers))
    await until(lambda: len(work.begun) == at_once)
    await turns()
    assert len(work.begun) == at_once
    work.go_on.set()
    assert [await first, *[answer async for answer in answers]] == [0, 1, 2, 3]


async def test_a_stream_that_is_closed_half_way_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    work = Work()
    async with aclosing(in_order(numbers(10), work.answer, 3)) as answers:
        first = asyncio.ensure_future(anext(answers))
        await until(lambda: len(work.begun) == 3)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    await turns()
    assert sorted(work.ended) == work.begun
    assert asyncio.all_tasks() == before


async def test_what_ends_the_requests_early_is_raised_after_the_answers_before_it() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ValueError("the third is missing")

    work = Work()
    work.go_on.set()
    answers = in_order(broken(), work.answer, 3)
    assert await anext(answers) == 1
    with pytest.raises(ValueError, match="third"):
        await anext(answers)

"""Streams of requests whose answers come back in order, with a bounded number at work at one time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from service.domain.errors import ServiceError
from service.rpc.boundary import large_message
from service.rpc.status import internal

Request = TypeVar("Request")
Answer = TypeVar("Answer")

STREAM_BYTES = 64 * 2**20
"""The most bytes of large messages of one stream that are at work at one time."""


async def in_order(
    requests: AsyncIterable[Request], answer: Callable[[Request], Coroutine[Any, Any, Answer]], limit: int
) -> AsyncGenerator[Answer, None]:
    """Yields the answers to requests in their order; works on at most `limit` of them at one time.

    An answer counts as at work until it is taken, so a caller that does not read is not read from either. What
    `requests` or `answer` raises ends the stream, after the answers before it. Any: what coroutines could be sent.
    """
    loop = asyncio.get_running_loop()
    window = _Window(limit)
    answers: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue()

    async def feed() -> None:
        try:
            async for request in requests:
                await window.enter(large_message.get())
                answers.put_nowait(loop.create_task(answer(request)))
                del request  # the next one may be long in coming
        finally:
            answers.put_nowait(None)

    feeder = loop.create_task(feed())
    try:
        while (task := await answers.get()) is not None:
            yield await task
            window.leave()
            del task  # the next one may be long in coming
        await feeder  # raises what ended the requests early
    finally:
        feeder.cancel()
        left = [task for task in iter(lambda: None if answers.empty() else answers.get_nowait(), None)]
        for task in left:
            task.cancel()
        await asyncio.gather(feeder, *left, return_exceptions=True)


class _Window:
    """Bounds what is at work of one stream, in number and, for large messages, in bytes.

    Args:
        limit: The most requests.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sizes: deque[int] = deque()
        self._bytes = 0
        self._left = asyncio.Event()

    async def enter(self, size: int) -> None:
        """Waits until a request of so many bytes may be at work; one that is alone always may."""
        while len(self._sizes) >= self._limit or (self._sizes and self._bytes + size > STREAM_BYTES):
            self._left.clear()
            await self._left.wait()
        self._sizes.append(size)
        self._bytes += size

    def leave(self) -> None:
        """Notes that the answer to the earliest request was taken."""
        self._bytes -= self._sizes.popleft()
        self._left.set()


async def answer_or_error(work: Awaitable[Answer], method: str) -> Answer | ServiceError:
    """Returns what `work` returns, or the error that the caller of `method` is told instead."""
    try:
        return await work
    except ServiceError as error:
        return error
    except Exception as error:
        return internal(method, error)

"""What streams of parts of a file have in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar, cast

from service.domain.errors import Reason, ServiceError

T = TypeVar("T")

SILENCE_SECONDS = 60.0
"""How long the caller of an upload may be silent who holds one of a few places meanwhile."""


async def without_silence(messages: AsyncIterator[T]) -> AsyncIterator[T]:
    """Yields the messages of an upload. Raises ServiceError DEADLINE_EXCEEDED if the next one does not come in time."""
    end = object()
    while True:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                message = await anext(messages, end)
        except TimeoutError:
            raise ServiceError(
                Reason.DEADLINE_EXCEEDED,
                f"the service has waited {SILENCE_SECONDS:.0f} s for the next part of the file and ends the upload; send it "
                "sooner",
            ) from None
        if message is end:
            return
        yield cast("T", message)
        del message  # the next one may be long in coming


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Runs a function in a thread. If the caller goes away, it has ended all the same before what comes after begins."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise

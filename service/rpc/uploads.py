"""What streams of parts of a file have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

GONE_SECONDS = 0.02
"""After the end of an upload's messages it takes at most so long until a caller who has gone is known to have."""


async def caller_is_there() -> None:
    """Ends with the call if the caller has gone.

    In grpc.aio the messages of a caller who has gone end like those of one who has sent all; only after that the call's
    task is cancelled.
    """
    await asyncio.sleep(GONE_SECONDS)


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Runs a function in a thread. If the caller goes away, it has ended all the same before what comes after begins."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise

"""Large messages are worked on in threads of their own."""

from __future__ import annotations

import asyncio
import threading

from service.rpc.large import THREADS, in_thread


async def test_callers_messages_hold_up_nothing_else_that_needs_a_thread() -> None:
    done = threading.Event()
    large = [asyncio.ensure_future(in_thread(done.wait, 10)) for _ in range(40 * THREADS)]
    try:
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(str, 1) == "1"
    finally:
        done.set()
    assert all(await asyncio.gather(*large))

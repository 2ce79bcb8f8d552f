"""Work on large messages: in threads, so that other calls go on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from service.domain.loaded import LoadedVersion

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 2
"""So many large messages are taken apart, or written, at one time. They share the interpreter's lock with the event loop, so
more would be no faster, and hold up all other calls."""

_threads = ThreadPoolExecutor(THREADS, "messages")  # not those of asyncio, which read and write files for everybody


async def in_thread(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Returns what a function returns that works on a large message."""
    return await asyncio.get_running_loop().run_in_executor(_threads, partial(function, *arguments, **named))


async def read(loaded: LoadedVersion, large: bool, make: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Returns what a request for a version holds; reads it in a thread if it is large.

    The version stays meanwhile. The request has to be given to it before anything else is awaited.
    """
    if not large:
        return make(*arguments, **named)
    with loaded.kept():
        return await in_thread(make, *arguments, **named)

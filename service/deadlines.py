"""Notices what takes too long, at next to no cost for what does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import takewhile
from typing import Generic, TypeVar

K = TypeVar("K")


class Deadlines(Generic[K]):
    """Tells of work that takes too long, by its key. Construct it inside of the event loop.

    One timer looks at all work: asyncio.timeout makes one for each piece, which takes 8 us and two system calls.

    Args:
        seconds: How long a piece of work may take, the same for all.
        late: Is called with the key of one that takes longer, once; it must not raise.
    """

    def __init__(self, seconds: float, late: Callable[[K], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._late = late
        self._until: dict[K, float] = {}  # the earliest first
        self._looking = False

    def begins(self, key: K) -> None:
        """Notes that work begins. At one time there is one piece of work of a key."""
        self._until[key] = self._loop.time() + self._seconds
        if not self._looking:
            self._looking = True
            self._loop.call_later(self._seconds, self._look)

    def ends(self, key: K) -> None:
        """Notes that work has ended, be it late or not."""
        self._until.pop(key, None)

    def _look(self) -> None:
        """Tells of the work whose time is over, and looks again when that of the next may be."""
        now = self._loop.time()
        # Those in time may be a hundred thousand: they are not to be looked at, or copied, each time.
        for key, _ in list(takewhile(lambda work: work[1] <= now, self._until.items())):
            if self._until.pop(key, None) is not None:
                self._late(key)
        self._looking = bool(self._until)
        if self._looking:
            self._loop.call_at(next(iter(self._until.values())), self._look)

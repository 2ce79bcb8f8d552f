"""Whose turn it is: operations on the same thing go on one after the other."""

from __future__ import annotations

import asyncio
from collections import deque


class Turn:
    """Lets one operation at a time go on, and knows its name.

    It is taken at once, and given back straight to who has waited longest: there is no moment in which it looks free and
    is promised to somebody.

    Attributes:
        operation: What has the turn, or "" if it is free.
    """

    def __init__(self) -> None:
        self.operation = ""
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    @property
    def taken(self) -> bool:
        """Whether an operation has the turn."""
        return bool(self.operation)

    def take(self, operation: str) -> None:
        """Takes the turn, which must be free."""
        assert not self.taken
        self.operation = operation

    async def wait(self, operation: str) -> None:
        """Takes the turn as soon as those who came before have had theirs."""
        if not self.taken:
            self.take(operation)
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, mine))
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():  # it has just become ours
                self.give_back()
            raise

    def give_back(self) -> None:
        """Hands the turn on."""
        self.operation = ""
        while self._waiting and not self.taken:
            operation, turn = self._waiting.popleft()
            if not turn.done():  # else who waited has gone
                self.operation = operation
                turn.set_result(None)

"""Keeps the event loop awake for the short time until a lone answer comes.

To fall asleep and to be woken costs the thread more than half of what Triton needs for a small model. So while a caller
makes one call right after the other, it turns instead, as an adaptive lock spins before it sleeps (benchmarks/README.md).
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, thread_time

PAUSE_SECONDS = 0.001
"""A caller who calls so soon after the last answer makes one call after the other, and will do so again."""

LONGEST_SECONDS = 0.001
"""An answer that takes longer is slept for, and so is the next one."""

LOOK_SECONDS = 0.02
"""The time between two looks at whether others want the processor."""

SHARE = 0.7
"""They do if the thread, which always turns, gets less of the time than this."""

REST_SECONDS = 1.0
"""For so long it leaves the processor to them then."""


class Alertness:
    """A context in which a lone answer is waited for; it decides whether the event loop may sleep meanwhile.

    Args:
        call_soon: The event loop's.
        now: The time, in seconds.
        used: The processor's time of the thread, in seconds.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        now: Callable[[], float] = monotonic,
        used: Callable[[], float] = thread_time,
    ) -> None:
        self._call_soon, self._now, self._used = call_soon, now, used
        self._began = self._ended = 0.0
        self._was_quick = False
        self._awake_until = self._rests_until = 0.0
        self._turns = False
        self._looked = self._used_then = 0.0

    def __enter__(self) -> None:
        self._began = now = self._now()
        if self._was_quick and now - self._ended < PAUSE_SECONDS and now >= self._rests_until:
            self._awake_until = now + LONGEST_SECONDS
            if not self._turns:
                self._turns = True
                self._looked, self._used_then = now, self._used()
                self._call_soon(self._turn)

    def __exit__(self, *_: object) -> None:
        self._ended = now = self._now()
        self._was_quick = now - self._began < LONGEST_SECONDS
        if self._turns:
            self._awake_until = now + PAUSE_SECONDS
            if now - self._looked >= LOOK_SECONDS:
                self._look(now)

    def _look(self, now: float) -> None:
        """Rests if others want the processor."""
        used = self._used()
        if used - self._used_then < SHARE * (now - self._looked):
            self._awake_until, self._rests_until = now, now + REST_SECONDS
        self._looked, self._used_then = now, used

    def _turn(self) -> None:
        if self._now() < self._awake_until:
            self._call_soon(self._turn)
        else:
            self._turns = False

"""When the next call starts: at a constant rate, or at one that changes in steps.

The arithmetic is that of ghz's load/pacer.go. A line is steps of one second, as there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Protocol

from benchmarks.ghz.config import Config

SECOND = 1_000_000_000


class Pacer(Protocol):
    """Says how long to wait for the next call."""

    def pace(self, elapsed: int, calls: int) -> int | None:
        """Returns the nanoseconds to wait, or None when the load is over.

        Args:
            elapsed: Nanoseconds since the load began.
            calls: Calls started so far.
        """


class ConstantPacer:
    """The same rate all the time; at rate 0 as fast as the callers can."""

    def __init__(self, rate: int, limit: int) -> None:
        """Takes the rate in calls a second and the most calls in all (0: no limit)."""
        self._rate = rate
        self._limit = limit

    def pace(self, elapsed: int, calls: int) -> int | None:
        """See `Pacer`."""
        if 0 < self._limit <= calls:
            return None
        if self._rate == 0 or calls < self._rate * (elapsed // SECOND):
            return 0
        return max(0, (calls + 1) * (SECOND // self._rate) - elapsed)


class StepPacer:
    """A rate that rises or falls by a step each `step_duration`, until it is at its end or its time is over.

    A rate that has fallen to zero ends the load; ghz divides by it and calls as fast as it can.
    """

    def __init__(self, start: int, step: int, end: int, limit: int, step_duration: int, max_duration: int) -> None:
        """Takes rates in calls a second, durations in nanoseconds; `end` and `max_duration` may be 0."""
        self._start, self._step, self._end = start, step, end
        self._limit = limit
        self._step_duration = step_duration
        self._constant_at = max_duration
        if max_duration and not end:
            self._end = max(0, start + step * (max_duration // step_duration))
        elif end and not max_duration:
            self._constant_at = self._time_of_end()
        self._calls_before = int(self._expected(self._constant_at)) if self._constant_at else 0

    def _time_of_end(self) -> int:
        """The first step whose rate lies beyond the end; 0 if the steps lead away from it."""
        if (self._end - self._start) * self._step < 0:
            return 0
        steps = (abs(self._end - self._start)) // abs(self._step) + 1
        return steps * self._step_duration

    def rate(self, elapsed: int) -> int:
        """Returns the calls a second at a time."""
        if self._constant_at and elapsed >= self._constant_at:
            return self._end
        return max(0, self._start + self._step * (elapsed // self._step_duration))

    def _expected(self, elapsed: int) -> float:
        """The calls that should have been started by a time."""
        steps, rest = divmod(elapsed, self._step_duration)
        full = sum(self.rate(number * self._step_duration) for number in range(steps)) * self._step_duration
        return (full + self.rate(elapsed) * rest) / SECOND

    def pace(self, elapsed: int, calls: int) -> int | None:
        """See `Pacer`."""
        if 0 < self._limit <= calls:
            return None
        expected = self._expected(elapsed)
        if calls < int(expected):
            return 0
        rate = self.rate(elapsed)
        if rate == 0:
            return None
        if self._constant_at and elapsed >= self._constant_at:
            return ConstantPacer(rate, 0).pace(elapsed - self._constant_at, max(0, calls - self._calls_before))
        return max(0, int(SECOND / rate * (calls + 1 - expected)))


def pacer_of(config: Config) -> Pacer:
    """Returns the pacer that a configuration asks for."""
    if config.load_schedule == "const":
        return ConstantPacer(config.rps, config.calls)
    return StepPacer(
        start=config.load_start,
        step=config.load_step,
        end=config.load_end,
        limit=config.calls,
        step_duration=step_duration(config.load_schedule, config.load_step_duration),
        max_duration=config.load_max_duration,
    )


def step_duration(schedule: str, given: int) -> int:
    """Returns the nanoseconds of a step: a line's are one second, whatever is given."""
    return SECOND if schedule == "line" else given


def worker_changes(config: Config) -> Iterator[tuple[int, int]]:
    """Yields how the number of workers changes, as pairs of nanoseconds since the start and a difference.

    The rules are those of ghz's load/worker_ticker.go: the number is looked at after each step, so it may go one step beyond
    the end; with a `concurrency-max-duration` the rest of the way is taken at once when that time is over. A rising schedule
    with neither an end nor a time never ends.
    """
    if config.concurrency_schedule == "const":
        yield 0, config.concurrency
        return
    end, step = config.concurrency_end, config.concurrency_step
    limit, count = config.concurrency_max_duration, config.concurrency_start
    yield 0, count
    duration = step_duration(config.concurrency_schedule, config.concurrency_step_duration)
    for now in itertools.count(duration, duration):
        if limit and now >= limit:
            if end and (end - count) * step > 0:
                yield now, end - count
            return
        if not limit and ((step > 0 and 0 < end <= count) or (step < 0 and count <= end)):
            return
        yield now, step
        count += step

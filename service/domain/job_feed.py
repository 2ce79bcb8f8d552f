"""The news of one job, for any number of watchers, who may come late."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TypeVar

from service.domain.entities import Job, JobNews, TrainingStep

T = TypeVar("T")

HISTORY = 1000
"""Steps and log lines kept for watchers who come late."""


class JobFeed:
    """Keeps a job's latest state, steps and log lines, and wakes its watchers."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._steps: deque[TrainingStep] = deque(maxlen=HISTORY)
        self._lines: deque[str] = deque(maxlen=HISTORY)
        self._step_count = 0
        self._line_count = 0
        self._changed = asyncio.Event()

    def update(self, job: Job) -> None:
        """Tells the watchers of a new state."""
        self.job = job
        self._wake()

    def add_step(self, job: Job, step: TrainingStep) -> None:
        """Tells the watchers of a finished step."""
        self._steps.append(step)
        self._step_count += 1
        self.update(job)

    def add_line(self, line: str) -> None:
        """Tells the watchers of a log line."""
        self._lines.append(line)
        self._line_count += 1
        self._wake()

    async def follow(self) -> AsyncIterator[JobNews]:
        """Yields all that is known, then what comes, and ends with the final state. A slow watcher misses no step among
        the latest `HISTORY`, but may miss states in between.
        """
        steps_seen = lines_seen = 0
        while True:
            changed = self._changed
            news = JobNews(
                self.job,
                _latest(self._steps, self._step_count - steps_seen),
                _latest(self._lines, self._line_count - lines_seen),
            )
            steps_seen, lines_seen = self._step_count, self._line_count
            yield news
            if news.job.state.final:
                return
            await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _latest(items: deque[T], count: int) -> list[T]:
    return list(items)[-count:] if count else []

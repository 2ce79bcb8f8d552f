"""Handles on training jobs, and the rules for following a job through broken connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

from fitserve import errors, resources
from fitserve.resources import JobUpdate, TrainingJob
from fitserve.v1 import training_service_pb2

if TYPE_CHECKING:
    from fitserve.aio import AsyncClient
    from fitserve.client import Client

REJOIN_SECONDS = 60.0
"""For how long a job that is followed may give no sign of life because the service is away."""


class _Handle:
    """What both handles know of their job."""

    def __init__(self, latest: TrainingJob) -> None:
        self._latest = latest

    @property
    def id(self) -> str:
        """The identifier, with which `client.job(id)` finds the job again."""
        return self._latest.id

    @property
    def model(self) -> str:
        """The name of the model that is trained."""
        return self._latest.model

    @property
    def version(self) -> int:
        """The version that the job makes."""
        return self._latest.version

    @property
    def state(self) -> str:
        """The state when the service last told: QUEUED, RUNNING, SUCCEEDED, FAILED or CANCELLED."""
        return self._latest.state

    @property
    def latest(self) -> TrainingJob:
        """The job as it was when the service last told. Reading it makes no call."""
        return self._latest

    def __repr__(self) -> str:
        """Returns the identifier and what is known of the job."""
        return f"<{type(self).__name__} {self.id}: {self._latest}>"


class Job(_Handle):
    """A handle on a training job."""

    def __init__(self, client: Client, latest: TrainingJob) -> None:
        """Made by `Client.fit`, `Client.job` and `Client.jobs`."""
        super().__init__(latest)
        self._client = client

    def refresh(self) -> TrainingJob:
        """Asks the service how the job is.

        Raises:
            NotFound: The service no longer knows the job.
        """
        self._latest = self._client._get_job(self.id)
        return self._latest

    def cancel(self) -> TrainingJob:
        """Ends the job, whose cores are free within two seconds. A job that has ended stays as it is.

        A job whose version is ready and just being loaded has succeeded; its `load_error` says that it does
        not wait for the load.
        """
        self._latest = self._client._cancel_job(self.id)
        return self._latest

    def watch(self, timeout: float | None = None) -> Iterator[JobUpdate]:
        """Yields news of the job until it has ended: its state, new steps and log lines.

        The first update holds the steps so far. If the connection breaks or the service restarts, the job is
        joined again and no step comes twice.

        Args:
            timeout: How many seconds to watch at most.

        Raises:
            TimeoutError: The job has not ended in time; it goes on.
            Unavailable: The service gave no sign of life for a minute.
        """
        following = Following(self._latest, timeout)
        while not following.job.has_ended:
            try:
                for reply in self._client._watch_job(self.id, following.remaining()):
                    update = following.read(reply)
                    self._latest = update.job
                    yield update
                following.broken(None)
            except errors.FitServeError as error:
                following.broken(error)
            if not following.job.has_ended:
                time.sleep(following.pause())

    def wait(
        self, timeout: float | None = None, progress: Callable[[TrainingJob], object] | None = None
    ) -> TrainingJob:
        """Waits until the job has ended and returns it.

        A job that made its version but could not load it has succeeded; its `load_error` says why.

        Args:
            timeout: How many seconds to wait at most.
            progress: Called with each news of the job; `print` prints one line each.

        Raises:
            TrainingFailed: The job failed or was cancelled.
            TimeoutError: The job has not ended in time; it goes on.
            Unavailable: The service gave no sign of life for a minute.

        Example:
            client.fit("iris", X, y, algorithm="random_forest").wait(progress=print).metrics["accuracy"]
        """
        for update in self.watch(timeout):
            if progress:
                progress(update.job)
        return ended(self._latest)


class AsyncJob(_Handle):
    """A handle on a training job, for asyncio. Its methods are those of `Job`."""

    def __init__(self, client: AsyncClient, latest: TrainingJob) -> None:
        """Made by `AsyncClient.fit`, `AsyncClient.job` and `AsyncClient.jobs`."""
        super().__init__(latest)
        self._client = client

    async def refresh(self) -> TrainingJob:
        """Asks the service how the job is; see `Job.refresh`."""
        self._latest = await self._client._get_job(self.id)
        return self._latest

    async def cancel(self) -> TrainingJob:
        """Ends the job; see `Job.cancel`."""
        self._latest = await self._client._cancel_job(self.id)
        return self._latest

    async def watch(self, timeout: float | None = None) -> AsyncIterator[JobUpdate]:
        """Yields news of the job until it has ended; see `Job.watch`."""
        following = Following(self._latest, timeout)
        while not following.job.has_ended:
            try:
                async for reply in self._client._watch_job(self.id, following.remaining()):
                    update = following.read(reply)
                    self._latest = update.job
                    yield update
                following.broken(None)
            except errors.FitServeError as error:
                following.broken(error)
            if not following.job.has_ended:
                await asyncio.sleep(following.pause())

    async def wait(
        self, timeout: float | None = None, progress: Callable[[TrainingJob], object] | None = None
    ) -> TrainingJob:
        """Waits until the job has ended and returns it; see `Job.wait`."""
        async for update in self.watch(timeout):
            if progress:
                progress(update.job)
        return ended(self._latest)


class Following:
    """Follows one job over any number of watch streams: what was seen, and when to give up."""

    def __init__(self, job: TrainingJob, timeout: float | None) -> None:
        """Starts with what is known of the job; `timeout` is in seconds from now."""
        self.job = job
        self._timeout = timeout
        self._ends_at = None if timeout is None else time.monotonic() + timeout
        self._last_step = 0
        self._away_since: float | None = None
        self._failures = 0
        self._retry_after: float | None = None

    def remaining(self) -> float | None:
        """Returns how many seconds are left.

        Raises:
            TimeoutError: None are.
        """
        if self._ends_at is None:
            return None
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError(
                f"job {self.job.id} is {self.job.state} after {self._timeout:g} s; it goes on: wait again, or cancel it"
            )
        return left

    def read(self, reply: training_service_pb2.WatchTrainingJobResponse) -> JobUpdate:
        """Returns a reply without the steps that an earlier stream has told already."""
        update = resources.read(JobUpdate, reply)
        new = tuple(step for step in update.steps if step.number > self._last_step)
        self._last_step = max((step.number for step in new), default=self._last_step)
        self.job = update.job
        self._failures, self._away_since = 0, None
        return JobUpdate(update.job, new, update.log_lines)

    def broken(self, error: errors.FitServeError | None) -> None:
        """Takes note that a stream ended, with an error or without the final state.

        Raises:
            FitServeError: The error is one that joining again does not mend.
            Unavailable: The service has been away for too long.
        """
        if isinstance(error, errors.DeadlineExceeded) and self._ends_at is not None:
            # The stream's own deadline; remaining() tells.
            return
        now = time.monotonic()
        # Counted from the first failure: a stream may well be silent for hours before it breaks.
        self._away_since = now if self._away_since is None else self._away_since
        gone = now - self._away_since >= REJOIN_SECONDS
        if error is not None and (gone or not isinstance(error, errors.Unavailable)):
            raise error
        self._failures += 1
        self._retry_after = error.retry_after if error else None

    def pause(self) -> float:
        """Returns after how many seconds to join again: what the service said, or ever longer up to 2 s."""
        pause = self._retry_after or min(0.05 * 2**self._failures, 2.0)
        remaining = self.remaining()
        return pause if remaining is None else min(pause, remaining)


def ended(job: TrainingJob) -> TrainingJob:
    """Returns a job that has succeeded.

    Raises:
        TrainingFailed: It failed or was cancelled.
    """
    if job.state != "SUCCEEDED":
        raise errors.TrainingFailed(job)
    return job

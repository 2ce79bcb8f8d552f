"""The core budget: which training may run now, and which waits."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from service.domain.errors import Reason, ServiceError, invalid


@dataclass(slots=True)
class _Waiter:
    cores: int
    granted: asyncio.Future[None]


class Scheduler:
    """Hands out training cores, first come first served.

    Args:
        total_cores: The budget (TRAINING_CORES); with 0 nothing is trained.
        queue_limit: The number of jobs that may wait.
    """

    def __init__(self, total_cores: int, queue_limit: int) -> None:
        self.total_cores = total_cores
        self.queue_limit = queue_limit
        self._free = total_cores
        self._queue: deque[_Waiter] = deque()

    @property
    def free_cores(self) -> int:
        """The cores that no job has."""
        return self._free

    @property
    def queued(self) -> int:
        """The number of jobs that wait."""
        return len(self._queue)

    def request(self, cores: int, queue: bool) -> asyncio.Future[None]:
        """Reserves cores and returns a future that is done when they are granted: at once, or later if `queue` allows it.

        A job that waits is never overtaken, so a large one is not starved by small ones. `release` gives the cores back;
        cancelling a future that is not done leaves the queue.

        Raises:
            ServiceError: UNIMPLEMENTED if the service trains nothing, INVALID_FIELD if there are not so many cores at all,
                NO_FREE_CORES, TRAINING_QUEUE_FULL.
        """
        if self.total_cores == 0:
            raise ServiceError(
                Reason.UNIMPLEMENTED,
                "this service trains nothing (TRAINING_CORES is 0); send the Fit to one that does",
                {"setting": "TRAINING_CORES"},
            )
        if cores > self.total_cores:
            raise invalid("cores", f"{cores} cores are asked for and TRAINING_CORES is {self.total_cores}")
        waiter = _Waiter(cores, asyncio.get_running_loop().create_future())
        if cores <= self._free and not self._queue:
            self._free -= cores
            waiter.granted.set_result(None)
            return waiter.granted
        if not queue:
            raise self._no_free_cores()
        if len(self._queue) >= self.queue_limit:
            raise ServiceError(
                Reason.TRAINING_QUEUE_FULL,
                f"{len(self._queue)} jobs wait for training cores and no more may; try again later",
                {"limit": str(self.queue_limit)},
            )
        self._queue.append(waiter)
        waiter.granted.add_done_callback(lambda granted: self._forget(waiter) if granted.cancelled() else None)
        return waiter.granted

    def release(self, cores: int) -> None:
        """Takes cores back and grants them to those who wait."""
        self._free += cores
        self._grant()

    def _forget(self, waiter: _Waiter) -> None:
        if waiter in self._queue:
            self._queue.remove(waiter)
            self._grant()

    def _grant(self) -> None:
        while self._queue and self._queue[0].cores <= self._free:
            waiter = self._queue.popleft()
            if not waiter.granted.done():
                self._free -= waiter.cores
                waiter.granted.set_result(None)

    def _no_free_cores(self) -> ServiceError:
        return ServiceError(
            Reason.NO_FREE_CORES,
            f"{self._free} of {self.total_cores} training cores are free and {len(self._queue)} jobs wait; "
            "try again later, or set queue to wait",
            {"total": str(self.total_cores), "free": str(self._free)},
        )

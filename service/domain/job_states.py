"""The states of jobs on their way to the journal: kept, and tried again, while the database does not take them."""

from __future__ import annotations

import asyncio
import logging

from service.domain.entities import Job
from service.domain.ports import Journal

log = logging.getLogger("fitserve.jobs")

WRITE_SECONDS = 2.0
"""How long a job waits for the database. What is not durable by then is written in the background."""

FIRST_DELAY = 0.5
"""Seconds before the second try; each further delay is twice the one before."""

LONGEST_DELAY = 30.0
"""The longest delay between two tries, in seconds."""


class JobStates:
    """Writes states of jobs. Of each job only the latest state matters."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._unwritten: dict[str, Job] = {}
        self._retrying: asyncio.Task[None] | None = None

    def unwritten(self, job_id: str) -> Job | None:
        """Returns the state of a job that the journal does not have yet, or None."""
        return self._unwritten.get(job_id)

    async def write(self, job: Job) -> None:
        """Returns when the state is durable or, for whatever reason, not to be had durable now; then it is tried again."""
        self._unwritten[job.id] = job
        if not await self._try(job):
            self._retry_later()

    def write_later(self, job: Job) -> None:
        """Has the state written in the background; one of a job that the journal does not know changes nothing there."""
        self._unwritten[job.id] = job
        self._retry_later()

    async def close(self) -> None:
        """Tries once more. The next start of the service decides about a job whose end is still not written."""
        if self._retrying is not None:
            self._retrying.cancel()
            await asyncio.wait([self._retrying])
        await asyncio.gather(*(self._try(job) for job in self._unwritten.values()))

    def _retry_later(self) -> None:
        if self._retrying is None or self._retrying.done():
            self._retrying = asyncio.get_running_loop().create_task(self._retry())

    async def _retry(self) -> None:
        delay = FIRST_DELAY
        while self._unwritten:
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)
            for job in [*self._unwritten.values()]:
                if self._unwritten.get(job.id) is job and await self._try(job):
                    log.warning("job %s, %s, is in the database now", job.id, job.state)

    async def _try(self, job: Job) -> bool:
        """Returns whether the state was written."""
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._journal.update_job(job)
        except Exception as error:  # whatever it is, the job's end is kept
            why = str(error) or type(error).__name__
            log.error("job %s, %s, is not in the database: %s; it is tried again", job.id, job.state, why)
            return False
        if self._unwritten.get(job.id) is job:
            del self._unwritten[job.id]
        return True

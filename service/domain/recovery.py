"""Start-up and repair: the database, the disk and Triton are compared and brought to agree."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from service.domain.entities import Job, JobState, StoredVersion
from service.domain.errors import ServiceError
from service.domain.job_ends import interrupted
from service.domain.ports import Artifacts, Clock, Inference, Journal
from service.domain.registry import Registry

log = logging.getLogger("fitserve.recovery")

FIRST_DELAY = 0.2
"""Seconds before the second try to start Triton again; each further delay is twice the one before."""

LONGEST_DELAY = 10.0
"""The longest delay between two tries, in seconds."""


class Recovery:
    """Repairs what a crash of the service or of Triton leaves behind.

    Args:
        tell_readiness: Is told whether predictions can be answered, at each change after the start.
    """

    def __init__(
        self,
        artifacts: Artifacts,
        journal: Journal,
        registry: Registry,
        inference: Inference,
        clock: Clock,
        tell_readiness: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._artifacts = artifacts
        self._journal = journal
        self._registry = registry
        self._inference = inference
        self._clock = clock
        self._tell_readiness = tell_readiness
        self.triton_ready = False
        self.triton_restarts = 0

    async def start(self) -> None:
        """Finds the versions, ends interrupted jobs, starts Triton and loads what should be loaded.

        Raises:
            ServiceError: TRITON_UNAVAILABLE if Triton does not start or computes wrongly.
        """
        for name in await asyncio.to_thread(self._artifacts.clean):
            log.warning("the model directory holds %r, which FitServe does not know; it is left alone", name)
        for stored in await asyncio.to_thread(self._artifacts.stored_versions):
            if stored.error is not None:
                log.error("version %s of model %s: %s", stored.version, stored.model, stored.error.message)
            self._registry.add(stored)
        for job in await self._journal.unfinished_jobs():
            await self._journal.update_job(self._end_of(job))
        await self._registry.recall()
        await self._inference.start()
        await self._registry.triton_is_up()
        self.triton_ready = True

    def _end_of(self, job: Job) -> Job:
        """Returns the final state of a job that the service's end interrupted: its version may have been published."""
        now = self._clock.now()
        stored = self._version_of(job)
        if stored is not None and stored.manifest is not None and stored.manifest.job == job.id:
            metrics = dict(stored.manifest.metrics)
            return replace(job, state=JobState.SUCCEEDED, progress=1.0, metrics=metrics, end_time=now)
        return replace(interrupted(job), end_time=now)

    def _version_of(self, job: Job) -> StoredVersion | None:
        try:
            return self._registry.stored(job.model, job.version)
        except ServiceError:
            return None

    async def keep_serving(self) -> None:
        """Watches Triton for ever; when it dies, starts it again and loads what should be loaded."""
        while True:
            why = await self._inference.wait_until_down()
            log.error("Triton is down (%s); it is started again", why)
            self.triton_ready = False
            await self._tell_readiness(False)
            await self._registry.triton_is_down()
            await self._start_again()

    async def _start_again(self) -> None:
        delay = FIRST_DELAY
        while True:
            try:
                await self._inference.start()
                await self._registry.triton_is_up()
            except Exception as error:  # not even a bug may leave the service without Triton for good
                log.error("Triton does not start: %s; next try in %.1f s", error, delay, exc_info=_is_bug(error))
                # The next try begins with another Triton: what was loaded into this one is gone.
                await self._registry.triton_is_down()
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY)
            else:
                self.triton_restarts += 1
                self.triton_ready = True
                await self._tell_readiness(True)
                log.warning("Triton answers again")
                return


def _is_bug(error: Exception) -> bool:
    return not isinstance(error, ServiceError)

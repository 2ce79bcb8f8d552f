"""The uploaded datasets: a Fit holds one from its acceptance on, and one that is held is not deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from service.domain.entities import Dataset
from service.domain.errors import Reason, ServiceError
from service.domain.ports import Datasets


class SharedDatasets:
    """Lets Fits and deletions meet: whichever comes first is not disturbed by the other.

    Args:
        datasets: The data on disk.
        user_of: Returns the id of a job that has not ended and uses a dataset, or "".
    """

    def __init__(self, datasets: Datasets, user_of: Callable[[str], str]) -> None:
        self._datasets = datasets
        self._user_of = user_of
        self._held: dict[str, str] = {}  # by job
        self._deletions: dict[str, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def held(self, digest: str, job_id: str) -> AsyncIterator[Dataset]:
        """Yields a dataset that nobody deletes until the block ends. By then the job must be known to `user_of`.

        Raises:
            ServiceError: DATASET_NOT_FOUND.
        """
        self._held[job_id] = digest
        try:
            yield await self._find(digest)
        finally:
            del self._held[job_id]

    async def delete(self, digest: str) -> None:
        """Deletes a dataset, to the end even if the caller goes away half way.

        Raises:
            ServiceError: DATASET_NOT_FOUND; DATASET_IN_USE naming the job.
        """
        await self._find(digest)
        if job := self._user(digest):
            raise ServiceError(
                Reason.DATASET_IN_USE,
                f"job {job} uses the dataset; delete it when the job has ended, or cancel the job",
                {"dataset": digest, "job": job},
            )
        task = self._deletions.get(digest)
        if task is None:
            work = asyncio.to_thread(self._datasets.delete, digest)
            task = self._deletions[digest] = asyncio.get_running_loop().create_task(work)
            task.add_done_callback(lambda _: self._deletions.pop(digest))
        await asyncio.shield(task)

    async def _find(self, digest: str) -> Dataset:
        found = await asyncio.to_thread(self._datasets.get, digest)
        if found is None or digest in self._deletions:
            raise ServiceError(
                Reason.DATASET_NOT_FOUND,
                f"there is no dataset {digest!r}; upload it with UploadDataset, or list what there is with ListDatasets",
                {"dataset": digest},
            )
        return found

    def _user(self, digest: str) -> str:
        holder = next((job for job, held in self._held.items() if held == digest), "")
        return holder or self._user_of(digest)

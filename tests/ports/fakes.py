"""Stand-ins for the domain's ports that live in memory; they behave as the tests in this folder say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from service.domain.entities import Alias, Job, JobState, WantedModel
from service.domain.errors import Reason, ServiceError


class InMemoryJournal:
    """A `Journal` that forgets everything with the process."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._wanted: dict[str, WantedModel] = {}
        self._aliases: dict[tuple[str, str], Alias] = {}

    async def add_job(self, job: Job) -> None:
        if job.id in self._jobs:
            raise KeyError(job.id)
        if await self.job_of_request(job.request_id):
            metadata = {"model": job.model, "operation": "fit"}
            raise ServiceError(Reason.OPERATION_IN_PROGRESS, "the request_id has just made a job", metadata)
        self._jobs[job.id] = job

    async def update_job(self, job: Job) -> None:
        if job.id in self._jobs:
            self._jobs[job.id] = job

    async def job(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    async def job_of_request(self, request_id: str) -> Job | None:
        found = self._where(lambda job: bool(request_id) and job.request_id == request_id)
        return found[0] if found else None

    async def jobs(
        self, model: str | None, states: Sequence[JobState], limit: int, before: tuple[datetime, str] | None
    ) -> Sequence[Job]:
        return self._where(
            lambda job: (
                (model is None or job.model == model)
                and (not states or job.state in states)
                and (before is None or (job.create_time, job.id) < before)
            )
        )[:limit]

    async def unfinished_jobs(self) -> Sequence[Job]:
        return self._where(lambda job: not job.state.final)

    async def want_loaded(self, wanted: WantedModel) -> None:
        self._wanted[wanted.model] = wanted

    async def want_unloaded(self, model: str) -> None:
        self._wanted.pop(model, None)

    async def wanted_models(self) -> Sequence[WantedModel]:
        return [self._wanted[model] for model in sorted(self._wanted)]

    async def set_alias(self, alias: Alias) -> None:
        self._aliases[alias.model, alias.name] = alias

    async def delete_alias(self, model: str, name: str) -> None:
        self._aliases.pop((model, name), None)

    async def aliases(self) -> Sequence[Alias]:
        return [self._aliases[key] for key in sorted(self._aliases)]

    async def close(self) -> None:
        pass

    def _where(self, condition: Callable[[Job], bool]) -> list[Job]:
        found = [job for job in self._jobs.values() if condition(job)]
        return sorted(found, key=lambda job: (job.create_time, job.id), reverse=True)

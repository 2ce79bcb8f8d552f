"""The jobs: accepted once, run in their own process, durable from the first answer to the final state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from service.domain.entities import (
    FitCommand,
    Job,
    JobNews,
    JobState,
    Manifest,
    StoredVersion,
    TrainingStep,
    ValueKind,
    VersionState,
)
from service.domain.errors import Reason, ServiceError, invalid
from service.domain.job_ends import (
    ended_badly,
    failure_of,
    interruption,
    not_loaded,
    stopped_before_load,
)
from service.domain.job_feed import JobFeed
from service.domain.job_states import JobStates
from service.domain.ports import (
    Artifacts,
    Clock,
    Datasets,
    Journal,
    Trainer,
    TrainingEnded,
    TrainingEvent,
    TrainingLog,
    TrainingOrder,
    TrainingProgress,
    TrainingRun,
    TrainingStarted,
)
from service.domain.registry import Registry
from service.domain.scheduler import Scheduler

log = logging.getLogger("fitserve.jobs")

STOP_SECONDS = 10.0
"""How long a drain waits for jobs that it has stopped; only a disk that hangs takes longer."""


@dataclass(slots=True)
class ActiveJob:
    """A job that has not ended.

    Attributes:
        latest: The manifest of the model's latest version, or None.
        granted: Done when the job has its cores.
        stop: Why the job is to end before its time, or None.
        stopped: Set when `stop` is.
        run: Its process, or None while there is none.
    """

    job: Job
    command: FitCommand
    latest: Manifest | None
    granted: asyncio.Future[None]
    feed: JobFeed
    stop: ServiceError | None = None
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    run: TrainingRun | None = None
    task: asyncio.Task[None] | None = None

    def change(self, job: Job) -> None:
        """Takes over the job's new state and tells the watchers."""
        self.job = job
        self.feed.update(job)


class Jobs:
    """Runs the state machine of every job.

    Args:
        registry: Where names are reserved and versions announced.
        scheduler: The core budget.
        trainer: Starts the processes.
        artifacts: The directories of jobs, and publication.
        datasets: The data on disk.
        journal: Where jobs are kept.
        clock: The time of day.
    """

    def __init__(
        self,
        registry: Registry,
        scheduler: Scheduler,
        trainer: Trainer,
        artifacts: Artifacts,
        datasets: Datasets,
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._scheduler = scheduler
        self._trainer = trainer
        self._artifacts = artifacts
        self._datasets = datasets
        self._journal = journal
        self._clock = clock
        self._states = JobStates(journal)
        self._active: dict[str, ActiveJob] = {}
        self._left_loads: set[asyncio.Task[None]] = set()
        self._draining = False

    # -- what there is -------------------------------------------------------------------------------------------

    @property
    def running(self) -> list[tuple[Job, int]]:
        """The jobs that have a process, each with its process id."""
        return [(active.job, active.run.pid) for active in self._active.values() if active.run and active.run.pid]

    async def get(self, job_id: str) -> Job:
        """Returns a job. Raises ServiceError JOB_NOT_FOUND."""
        job = self._in_memory(job_id) or await self._journal.job(job_id)
        if job is None:
            raise ServiceError(Reason.JOB_NOT_FOUND, f"there is no job {job_id!r}", {"job": job_id})
        return job

    def _in_memory(self, job_id: str) -> Job | None:
        """Returns what is newer than what the journal has of a job, or None."""
        active = self._active.get(job_id)
        return active.job if active else self._states.unwritten(job_id)

    async def page(
        self, model: str | None, states: Sequence[JobState], limit: int, before: tuple[datetime, str] | None
    ) -> list[Job]:
        """Returns at most `limit` jobs, the latest first, after the job `before`."""
        stored = await self._journal.jobs(model, states, limit, before)
        return [self._in_memory(job.id) or job for job in stored]

    def user_of_dataset(self, digest: str) -> str:
        """Returns the id of a job that has not ended and uses a shared dataset, or ""."""
        return next((a.job.id for a in self._active.values() if a.command.order.data == digest), "")

    async def watch(self, job_id: str) -> AsyncIterator[JobNews]:
        """Yields the job's news, starting with all that is known, ending with its final state.

        Raises:
            ServiceError: JOB_NOT_FOUND.
        """
        active = self._active.get(job_id)
        if active is None:
            yield JobNews(await self.get(job_id), (), ())
            return
        async for news in active.feed.follow():
            yield news

    # -- accept --------------------------------------------------------------------------------------------------

    async def answer_of_request(self, request_id: str, request_hash: str) -> Job | None:
        """Returns the job that the same request has made before, or None.

        Raises:
            ServiceError: REQUEST_ID_REUSED if it was another request.
        """
        job = await self._journal.job_of_request(request_id)
        if job is None:
            return None
        if job.request_hash != request_hash:
            raise request_id_reused(request_id, job.id)
        return await self.get(job.id)

    async def submit(self, job_id: str, command: FitCommand) -> Job:
        """Accepts a Fit: reserves the name and cores, makes the job durable, starts it, and returns it.

        Raises:
            ServiceError: MODEL_EXISTS, OPERATION_IN_PROGRESS, NO_FREE_CORES, TRAINING_QUEUE_FULL, DRAINING; INVALID_FIELD
                if the data does not fit to the versions before.
        """
        order = command.order
        latest = await self._registry.begin_fit(order.model, job_id, order.new_version)
        try:
            if self._draining:
                raise ServiceError(Reason.DRAINING, "the service is stopping; try again when it is back")
            check_same_inputs(command, latest)
            granted = self._scheduler.request(order.cores, order.queue)
        except ServiceError:
            self._registry.end_fit(order.model, job_id)
            raise
        job = self._new_job(job_id, command, granted.done())
        active = ActiveJob(job, command, latest, granted, JobFeed(job))
        try:
            await self._journal.add_job(job)
        except BaseException as error:
            self._give_back(active)
            self._registry.end_fit(order.model, job_id)
            if isinstance(error, ServiceError) and error.reason == Reason.DATABASE_UNAVAILABLE:
                # It may have the job all the same, if it went away before it could say so.
                self._states.write_later(replace(ended_badly(job, error), end_time=self._clock.now()))
            raise
        if self._draining:  # since the check above
            self._stop(active, interruption(job))
        self._active[job_id] = active
        active.task = asyncio.get_running_loop().create_task(self._run(active))
        return job

    def _new_job(self, job_id: str, command: FitCommand, granted: bool) -> Job:
        order = command.order
        return Job(
            id=job_id,
            model=order.model,
            version=self._registry.next_version(order.model),
            algorithm=order.algorithm.name,
            task=command.task,
            state=JobState.RUNNING if granted else JobState.QUEUED,
            dataset=command.dataset.digest,
            cores=order.cores,
            create_time=self._clock.now(),
            request_id=order.request_id,
            request_hash=order.request_hash,
            time_limit=order.time_limit,
        )

    # -- end before time -----------------------------------------------------------------------------------------

    async def cancel(self, job_id: str) -> Job:
        """Ends a job and returns it in its final state; one that has ended stays as it is.

        A job whose version is published has succeeded; if it is just being loaded, the job no longer waits for that.

        Raises:
            ServiceError: JOB_NOT_FOUND.
        """
        active = self._active.get(job_id)
        if active is not None and active.task is not None:
            self._stop(active, ServiceError(Reason.CANCELLED, "the job was cancelled by a caller", {"job": job_id}))
            await asyncio.shield(active.task)
            return active.job
        return await self.get(job_id)

    async def drain(self, grace: float) -> None:
        """Accepts no more jobs, gives the running ones `grace` seconds, and ends what is left as interrupted.

        A job whose version is published has succeeded, whether or not it is loaded in time.
        """
        self._draining = True
        interrupted = [active for active in self._active.values() if active.job.state == JobState.QUEUED]
        for active in interrupted:
            self._stop(active, interruption(active.job))
        tasks = [active.task for active in self._active.values() if active.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
            for active in list(self._active.values()):
                self._stop(active, interruption(active.job))
            await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for job_id in self._active:
            log.error("job %s does not end; the next start of the service decides about it", job_id)
        await self._states.close()

    def _stop(self, active: ActiveJob, why: ServiceError) -> None:
        """Makes a job end: one that waits leaves the queue, one that runs loses its process."""
        if active.stop is not None:
            return
        active.stop = why
        active.stopped.set()
        active.granted.cancel()
        if active.run is not None:
            asyncio.get_running_loop().create_task(active.run.kill())

    # -- run -----------------------------------------------------------------------------------------------------

    async def _run(self, active: ActiveJob) -> None:
        """Takes a job from acceptance to its final state."""
        try:
            final = await self._train_and_publish(active)
        except ServiceError as error:
            final = ended_badly(active.job, error)
        except Exception:
            log.exception("job %s failed inside the service", active.job.id)
            message = "the service failed while it ran the job; its log has the details under the job's id"
            final = ended_badly(active.job, ServiceError(Reason.INTERNAL, message, {"job": active.job.id}))
        final = replace(final, end_time=self._clock.now())
        try:
            await asyncio.to_thread(self._artifacts.discard, final.id)
        except Exception:  # the next start deletes it
            log.exception("what job %s has left behind cannot be deleted", final.id)
        await self._states.write(final)
        # All at once, so that whoever sees the end can use the name.
        self._registry.end_fit(final.model, final.id)
        del self._active[final.id]
        active.change(final)

    async def _train_and_publish(self, active: ActiveJob) -> Job:
        async with self._cores(active):
            await self._train(active)
            job = active.job
            manifest = await asyncio.to_thread(self._artifacts.publish, job.id, job.model, job.version)
            self._registry.add(StoredVersion(job.model, job.version, manifest))
        job = replace(active.job, state=JobState.SUCCEEDED, progress=1.0, metrics=dict(manifest.metrics))
        return await self._load(active, job) if active.command.order.load else job

    @asynccontextmanager
    async def _cores(self, active: ActiveJob) -> AsyncIterator[None]:
        """Waits for the job's cores and gives them back afterwards."""
        try:
            await active.granted
        except asyncio.CancelledError:
            if active.stop is None:
                raise
            raise active.stop from None
        try:
            yield
        finally:
            self._give_back(active)

    def _give_back(self, active: ActiveJob) -> None:
        if not active.granted.cancel():  # it was granted
            self._scheduler.release(active.command.order.cores)

    async def _train(self, active: ActiveJob) -> None:
        """Runs the training process. Raises ServiceError if it does not end well."""
        active.change(replace(active.job, state=JobState.RUNNING, start_time=self._clock.now()))
        await self._states.write(active.job)
        if active.stop is not None:
            raise active.stop
        run = active.run = await self._trainer.run(self._training_order(active))
        timer = self._start_time_limit(active)
        try:
            if active.stop is not None:  # it came while the process was being started
                await run.kill()
            async for event in run.events():
                self._take(active, event)
        finally:
            await run.kill()
            active.run = None
            if timer is not None:
                timer.cancel()

    def _start_time_limit(self, active: ActiveJob) -> asyncio.TimerHandle | None:
        limit = active.command.order.time_limit
        if limit is None:
            return None
        why = ServiceError(
            Reason.TIME_LIMIT_EXCEEDED,
            f"the training took longer than its time_limit of {limit:g} s; allow more, or train less",
            {"job": active.job.id},
        )
        return asyncio.get_running_loop().call_later(limit, self._stop, active, why)

    def _take(self, active: ActiveJob, event: TrainingEvent) -> None:
        """Takes over what a training process reports."""
        match event:
            case TrainingStarted(train_rows, validation_rows):
                active.change(replace(active.job, train_rows=train_rows, validation_rows=validation_rows))
            case TrainingProgress(step, progress):
                self._take_step(active, step, progress)
            case TrainingLog(line):
                log.info("job %s: %s", active.job.id, line)
                active.feed.add_line(line)
            case TrainingEnded() as ended:
                active.change(
                    replace(active.job, peak_memory_bytes=ended.peak_memory_bytes, cpu_seconds=ended.cpu_seconds)
                )
                if ended.exit_code != 0 or ended.reason:
                    raise active.stop or failure_of(active.job, ended)

    @staticmethod
    def _take_step(active: ActiveJob, step: TrainingStep, progress: float) -> None:
        active.job = replace(active.job, step=step, progress=progress)
        active.feed.add_step(active.job, step)

    def _training_order(self, active: ActiveJob) -> TrainingOrder:
        job, order = active.job, active.command.order
        directory = self._artifacts.job_directory(job.id)
        return TrainingOrder(
            job=job.id,
            model=job.model,
            version=job.version,
            request=order.request,
            task=job.task,
            target=order.target,
            dataset=self._datasets.path(order.data)
            if isinstance(order.data, str)
            else self._datasets.inline_path(job.id),
            dataset_digest=job.dataset,
            cores=job.cores,
            memory_limit_bytes=order.memory_limit_bytes,
            spec=directory / "spec.pb",
            output=self._artifacts.staging_directory(job.id),
            signature=active.latest.signature if active.latest else None,
        )

    async def _load(self, active: ActiveJob, job: Job) -> Job:
        """Loads the job's version, until the job is stopped; a failure is noted in the job, whose version is good."""
        work = self._registry.load_when_free(job.model, job.version, f"job {job.id}")
        loading = asyncio.get_running_loop().create_task(work)
        stopped = asyncio.get_running_loop().create_task(active.stopped.wait())
        await asyncio.wait([loading, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not loading.done():
            error = self._leave(loading, job, active.stop)
        else:
            error = _load_error(loading, job)
        return not_loaded(job, error) if error else job

    def _leave(self, loading: asyncio.Task[None], job: Job, why: ServiceError | None) -> ServiceError | None:
        """Stops waiting for a load: one that waits for its turn is withdrawn, one that has begun goes on by itself.

        Half way it cannot be taken back: Triton would go on, and hold what the registry knows nothing of.
        """
        assert why is not None
        entry = self._registry.model(job.model)
        loaded, begun = job.version in entry.loaded, entry.moving.get(job.version) == VersionState.LOADING
        if not (loaded or begun):
            loading.cancel()
        self._left_loads.add(loading)
        loading.add_done_callback(partial(self._left_load_ended, job))
        return None if loaded else stopped_before_load(job, why, begun)

    def _left_load_ended(self, job: Job, loading: asyncio.Task[None]) -> None:
        self._left_loads.discard(loading)
        if not loading.cancelled():
            log.info("the load that job %s did not wait for ended: %s", job.id, loading.exception() or "it is loaded")


def _load_error(loading: asyncio.Task[None], job: Job) -> ServiceError | None:
    """Returns why a load failed, or None."""
    error = loading.exception()
    if error is None or isinstance(error, ServiceError):
        return error
    log.error("version %d of job %s was not loaded", job.version, job.id, exc_info=error)
    message = f"the service failed while it loaded version {job.version}; its log has the details under the job's id"
    return ServiceError(Reason.INTERNAL, message, {"job": job.id})


_TEXTS = frozenset({ValueKind.CATEGORY, ValueKind.TEXT})
"""The kinds of columns that come as texts; all others are numbers to a model."""


def check_same_inputs(command: FitCommand, latest: Manifest | None) -> None:
    """Checks that a new version takes what the versions before take.

    Raises:
        ServiceError: INVALID_FIELD naming `inline.inputs` or `dataset`, or the task.
    """
    if latest is None:
        return
    before = latest.signature
    where = "inline.inputs" if command.inline else "dataset"
    mend = "train it under another name, or remove the model first"
    if before.takes_tensors:
        raise invalid(where, f"the model's versions take the tensors {list(before.inputs_by_name)}, not rows; {mend}")
    if command.shape != before.shape:
        raise invalid(
            where, f"rows have the shape {list(command.shape)}, the model's versions take {list(before.shape)}; {mend}"
        )
    names, wanted = {c.name: c.kind for c in command.columns}, {c.name: c.kind for c in before.columns}
    if names.keys() != wanted.keys():
        raise invalid(where, f"the columns are {list(names)}, the model's versions take {list(wanted)}; {mend}")
    for name, kind in wanted.items():
        if kind is not names[name] and _TEXTS & {kind, names[name]}:
            raise invalid(
                f"{where} (column {name!r})", f"its kind is {names[name]}, the model's versions take {kind}; {mend}"
            )
    if command.task != before.task:
        raise invalid("task", f"the task is {command.task}, that of the model's versions is {before.task}; {mend}")


def request_id_reused(request_id: str, job_id: str) -> ServiceError:
    """Returns the error for a request_id with which another request came before, for a job."""
    return ServiceError(
        Reason.REQUEST_ID_REUSED,
        f"request_id: {request_id!r} was used for another request (job {job_id}); use a new one",
        {"field": "request_id", "request_id": request_id, "job": job_id},
    )

"""The jobs: every way from acceptance to a final state, with cores and names given back each time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from service.domain import job_states
from service.domain.entities import FitOrder, Job, JobNews, JobState, LoadOrder, TrainingStep
from service.domain.errors import Reason, ServiceError
from service.domain.intake import Intake
from service.domain.jobs import Jobs
from service.domain.ports import TrainingLog, TrainingProgress, TrainingStarted
from service.domain.registry import Registry
from service.domain.scheduler import Scheduler
from service.domain.shared_datasets import SharedDatasets
from tests.ports.fakes import InMemoryJournal
from tests.unit.domain.fakes import (
    FakeArtifacts,
    FakeDatasets,
    FakeInference,
    FakeRun,
    FakeTrainer,
    Gate,
    SetClock,
    dataset,
    order,
    rows_of,
    turns,
    until,
)


class SlowJournal(InMemoryJournal):
    """A journal whose writes can be held up and can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()
        self.error: Exception | None = None
        self.add_error: Exception | None = None
        self.update_gate = Gate()
        self.update_error: Exception | None = None

    async def add_job(self, job: Job) -> None:
        await self.gate.passed()
        if self.error is not None:
            raise self.error
        await super().add_job(job)
        if self.add_error is not None:
            raise self.add_error

    async def update_job(self, job: Job) -> None:
        await self.update_gate.passed()
        if self.update_error is not None:
            raise self.update_error
        await super().update_job(job)


class World:
    """Jobs among fakes, with two cores."""

    def __init__(self) -> None:
        self.artifacts = FakeArtifacts()
        self.datasets = FakeDatasets()
        self.journal = SlowJournal()
        self.inference = FakeInference()
        self.trainer = FakeTrainer()
        self.clock = SetClock()
        self.registry = Registry(self.artifacts, self.journal, self.inference, self.clock, 10, 1000)
        self.scheduler = Scheduler(2, 10)
        self.jobs = Jobs(
            self.registry,
            self.scheduler,
            self.trainer,
            self.artifacts,
            self.datasets,
            self.journal,
            self.clock,
        )
        self.shared = SharedDatasets(self.datasets, self.jobs.user_of_dataset)
        self.intake = Intake(self.jobs, self.datasets, self.shared, self.artifacts, self.clock)

    async def fit(self, wanted: FitOrder | None = None) -> Job:
        return await self.intake.accept(wanted or order())

    async def running(self, wanted: FitOrder | None = None) -> tuple[Job, FakeRun]:
        """Returns a job and its process."""
        count = len(self.trainer.runs)
        job = await self.fit(wanted)
        await until(lambda: len(self.trainer.runs) > count)
        return job, self.trainer.runs[-1]

    async def end_of(self, job: Job) -> Job:
        """Waits for the end of a job."""
        async with asyncio.timeout(2):
            news = [one async for one in self.jobs.watch(job.id)]
        return news[-1].job

    def nothing_is_held(self) -> bool:
        return self.scheduler.free_cores == 2 and self.scheduler.queued == 0 and self.jobs.running == []


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.registry.triton_is_up()
    yield world
    await world.jobs.drain(0)
    assert world.nothing_is_held(), "cores or processes are left"
    for entry in [*world.registry._models.values()]:
        assert entry.fitting == "", "a name is left"
        assert entry.versions, "a model without versions is left"
    for job in world.journal._jobs.values():
        assert job.state.final
        assert job.end_time is not None
        assert job.id in world.artifacts.discarded


async def test_a_job_that_goes_well_makes_a_version(world: World) -> None:
    job, run = await world.running()
    assert (job.state, job.version) == (JobState.RUNNING, 1)
    assert [pid for _, pid in world.jobs.running] == [run.pid]
    run.say(
        TrainingStarted(8, 2),
        TrainingProgress(TrainingStep(1, 2, "round", {"loss": 0.5}), 0.5),
        TrainingLog("half way"),
    )
    run.end()
    news: list[JobNews] = [one async for one in world.jobs.watch(job.id)]
    end = news[-1].job
    assert (end.state, end.progress, end.metrics) == (JobState.SUCCEEDED, 1.0, {"accuracy": 0.9})
    assert (end.train_rows, end.validation_rows) == (8, 2)
    assert (end.peak_memory_bytes, end.cpu_seconds) == (1000, 0.5)
    assert [line for one in news for line in one.log_lines] == ["half way"]
    assert [step.number for one in news for step in one.steps] == [1]
    assert world.registry.stored("iris", None).version == 1
    assert await world.journal.job(job.id) == end == await world.jobs.get(job.id)
    assert world.inference.calls == []


async def test_the_name_is_free_as_soon_as_the_end_is_seen(world: World) -> None:
    world.trainer.at_once = True
    await world.end_of(await world.fit())
    second = await world.fit(order(new_version=True))
    assert second.version == 2
    await world.end_of(second)


async def test_load_loads_the_version_and_its_failure_leaves_the_job_succeeded(world: World) -> None:
    world.trainer.at_once = True
    assert (await world.end_of(await world.fit(order(load=True)))).load_error is None
    assert world.inference.held == {"iris": [1]}
    world.inference.load_errors["wine"] = ServiceError(Reason.LOAD_FAILED, "no")
    end = await world.end_of(await world.fit(order("wine", load=True)))
    assert end.state == JobState.SUCCEEDED
    assert end.load_error is not None
    assert end.load_error.reason == Reason.LOAD_FAILED


@pytest.mark.parametrize(
    ("exit_code", "details", "reason", "metadata"),
    [
        (1, {}, Reason.TRAINING_FAILED, {}),
        (-9, {}, Reason.TRAINER_DIED, {"signal": "9"}),
        (3, {"reason": "TRAINER_OOM", "message": "too large"}, Reason.TRAINER_OOM, {}),
        (-9, {"reason": "TRAINER_OOM", "message": "too large"}, Reason.TRAINER_OOM, {}),
        (0, {"reason": "TRAINING_FAILED", "message": "it made no sense"}, Reason.TRAINING_FAILED, {}),
        (
            2,
            {"reason": "INVALID_FIELD", "message": "no", "field": "tree.depth"},
            Reason.INVALID_FIELD,
            {"field": "tree.depth"},
        ),
        (4, {"reason": "EXPORT_NOT_EQUAL", "message": "0.9 off"}, Reason.EXPORT_NOT_EQUAL, {}),
    ],
)
async def test_a_job_that_goes_badly_says_why(
    world: World, exit_code: int, details: dict[str, str], reason: Reason, metadata: dict[str, str]
) -> None:
    job, run = await world.running()
    run.end(exit_code, **details)
    end = await world.end_of(job)
    assert end.state == JobState.FAILED
    assert end.error is not None
    assert end.error.reason == reason
    assert end.error.metadata == {"job": job.id} | metadata
    assert world.registry.exists("iris") is False


async def test_a_training_process_that_cannot_start_fails_the_job(world: World) -> None:
    world.trainer.error = ServiceError(Reason.DISK_FULL, "full")
    end = await world.end_of(await world.fit())
    assert end.error is not None
    assert end.error.reason == Reason.DISK_FULL


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ServiceError(Reason.ARTIFACT_DAMAGED, "model.onnx"), Reason.ARTIFACT_DAMAGED),
        (OSError("/secret/path"), Reason.INTERNAL),
    ],
)
async def test_a_version_that_cannot_be_published_is_not_visible(
    world: World, error: Exception, reason: Reason
) -> None:
    world.trainer.at_once = True
    world.artifacts.publish_error = error
    end = await world.end_of(await world.fit())
    assert end.error is not None
    assert end.error.reason == reason
    assert "secret" not in end.error.message
    assert world.registry.exists("iris") is False


async def test_a_training_over_its_time_limit_is_ended(world: World) -> None:
    job, run = await world.running(order(time_limit=0.01))
    end = await world.end_of(job)
    assert run.killed
    assert end.state == JobState.FAILED
    assert end.error is not None
    assert end.error.reason == Reason.TIME_LIMIT_EXCEEDED


# -- cancel ----------------------------------------------------------------------------------------------------------


async def test_cancel_ends_a_running_job_and_its_process(world: World) -> None:
    job, run = await world.running()
    end = await world.jobs.cancel(job.id)
    assert end.state == JobState.CANCELLED
    assert run.killed
    assert world.nothing_is_held()


async def test_cancel_takes_a_waiting_job_out_of_the_queue(world: World) -> None:
    await world.running(order(cores=2))
    waiting = await world.fit(order("wine", queue=True))
    assert waiting.state == JobState.QUEUED
    assert (await world.jobs.cancel(waiting.id)).state == JobState.CANCELLED
    assert world.scheduler.queued == 0
    assert world.scheduler.free_cores == 0
    assert len(world.trainer.runs) == 1


async def test_cancel_while_the_process_is_being_started_ends_it(world: World) -> None:
    world.trainer.gate.shut()
    job = await world.fit()
    await until(lambda: world.trainer.gate.waiting == 1)
    cancelling = asyncio.create_task(world.jobs.cancel(job.id))
    await turns()
    world.trainer.gate.open()
    assert (await cancelling).state == JobState.CANCELLED
    assert world.trainer.runs[0].killed


async def test_cancel_right_after_the_acceptance_leaves_no_process(world: World) -> None:
    job = await world.fit()
    assert (await world.jobs.cancel(job.id)).state == JobState.CANCELLED
    assert all(run.killed for run in world.trainer.runs)


async def test_cancel_after_the_end_changes_nothing(world: World) -> None:
    world.trainer.at_once = True
    end = await world.end_of(await world.fit())
    assert await world.jobs.cancel(end.id) == end


async def test_cancelling_callers_who_go_do_not_stop_the_cancel(world: World) -> None:
    job, _ = await world.running()
    cancelling = asyncio.create_task(world.jobs.cancel(job.id))
    await asyncio.sleep(0)
    cancelling.cancel()
    assert (await world.end_of(job)).state == JobState.CANCELLED


async def test_cancel_does_not_wait_for_a_load_and_leaves_the_version(world: World) -> None:
    world.trainer.at_once = True
    world.inference.load_gate.shut()
    job = await world.fit(order(load=True))
    await until(lambda: world.inference.load_gate.waiting == 1)
    async with asyncio.timeout(1):
        end = await world.jobs.cancel(job.id)
    assert end.state == JobState.SUCCEEDED
    assert end.load_error is not None
    assert end.load_error.reason == Reason.CANCELLED
    assert "being loaded" in end.load_error.message
    assert world.nothing_is_held()
    world.inference.load_gate.open()  # what Triton has begun comes to its end, and the registry knows of it
    await until(lambda: 1 in world.registry.model("iris").loaded)
    assert (await world.end_of(await world.fit(order(new_version=True)))).state == JobState.SUCCEEDED


async def test_cancel_withdraws_a_load_that_waits_for_another_one(world: World) -> None:
    world.registry.add(world.artifacts.put("iris"))
    world.inference.load_gate.shut()
    loading = asyncio.create_task(world.registry.load("iris", 1, LoadOrder("ada")))
    await until(lambda: world.inference.load_gate.waiting == 1)
    world.trainer.at_once = True
    job = await world.fit(order(new_version=True, load=True))
    await until(lambda: 2 in world.registry.model("iris").versions)
    await turns()
    end = await world.jobs.cancel(job.id)
    assert end.load_error is not None
    assert "before version 2 was loaded" in end.load_error.message
    world.inference.load_gate.open()
    await loading
    await turns()
    assert world.inference.held == {"iris": [1]}


async def test_cancel_after_the_load_does_not_wait_for_the_calls_on_the_old_version(world: World) -> None:
    world.registry.add(world.artifacts.put("iris"))
    await world.registry.load("iris", 1, LoadOrder("ada"))
    world.inference.infer_gate.shut()
    old = world.registry.serving("iris", 1)
    calling = asyncio.create_task(old.batcher.predict(rows_of(1), 1))
    await until(lambda: world.inference.infer_gate.waiting == 1)
    world.trainer.at_once = True
    job = await world.fit(order(new_version=True, load=True))
    await until(lambda: world.registry.serving("iris", None).manifest.version == 2)
    async with asyncio.timeout(1):
        end = await world.jobs.cancel(job.id)
    assert (end.state, end.load_error) == (JobState.SUCCEEDED, None)
    world.inference.infer_gate.open()
    await calling


async def test_a_load_that_fails_by_a_bug_leaves_the_job_succeeded(world: World) -> None:
    world.trainer.at_once = True
    world.inference.load_errors["iris"] = RuntimeError("/secret/path")
    end = await world.end_of(await world.fit(order(load=True)))
    assert end.state == JobState.SUCCEEDED
    assert end.load_error is not None
    assert end.load_error.reason == Reason.INTERNAL
    assert "secret" not in end.load_error.message


async def test_an_unknown_job_is_not_found(world: World) -> None:
    for call in (world.jobs.get("x"), world.jobs.cancel("x"), anext(world.jobs.watch("x"))):
        with pytest.raises(ServiceError) as refused:
            await call
        assert refused.value.reason == Reason.JOB_NOT_FOUND


# -- accept ----------------------------------------------------------------------------------------------------------


async def test_the_same_request_gets_the_same_job(world: World) -> None:
    first, run = await world.running(order(request_id="r", request_hash="h"))
    assert await world.fit(order(request_id="r", request_hash="h")) == await world.jobs.get(first.id)
    with pytest.raises(ServiceError) as refused:
        await world.fit(order(request_id="r", request_hash="other"))
    assert refused.value.reason == Reason.REQUEST_ID_REUSED
    run.end()
    end = await world.end_of(first)
    assert await world.fit(order(request_id="r", request_hash="h")) == end
    assert len(world.trainer.runs) == 1


async def test_a_request_that_comes_again_while_the_first_is_being_accepted_gets_the_same_job(world: World) -> None:
    world.datasets.write_gate.clear()
    calls = [asyncio.create_task(world.fit(order(request_id="r", request_hash="h"))) for _ in range(3)]
    await until(lambda: world.datasets.writers == 1)
    await turns()
    with pytest.raises(ServiceError) as refused:
        await world.fit(order(request_id="r", request_hash="other"))
    assert refused.value.reason == Reason.REQUEST_ID_REUSED
    world.datasets.write_gate.set()
    jobs = await asyncio.gather(*calls)
    assert {job.id for job in jobs} == {refused.value.metadata["job"]}
    assert world.datasets.writers == 1
    await world.jobs.cancel(jobs[0].id)
    assert world.intake._accepting == {}


async def test_a_repeated_request_is_refused_for_the_same_reason_as_the_first(world: World) -> None:
    world.datasets.write_error = ServiceError(Reason.DISK_FULL, "full")
    calls = [asyncio.create_task(world.fit(order(request_id="r"))) for _ in range(2)]
    for call in calls:
        with pytest.raises(ServiceError) as refused:
            await call
        assert refused.value.reason == Reason.DISK_FULL
    assert world.datasets.writers == 1
    world.datasets.write_error = None
    job, run = await world.running(order(request_id="r"))  # once the first has failed, the call is made anew
    run.end()
    await world.end_of(job)


async def test_two_fits_of_one_name_at_once_are_refused(world: World) -> None:
    job, _ = await world.running()
    with pytest.raises(ServiceError) as refused:
        await world.fit(order(new_version=True))
    assert refused.value.reason == Reason.OPERATION_IN_PROGRESS
    assert refused.value.metadata["operation"] == f"fit of job {job.id}"


async def test_a_taken_name_is_refused_unless_a_new_version_is_wanted(world: World) -> None:
    world.registry.add(world.artifacts.put("iris"))
    with pytest.raises(ServiceError) as refused:
        await world.fit()
    assert refused.value.reason == Reason.MODEL_EXISTS


async def test_refused_fits_hold_nothing_and_leave_no_data(world: World) -> None:
    world.registry.add(world.artifacts.put("wine"))
    world.datasets.inline = dataset(shape=(3,))
    for wrong in (order("wine", new_version=True), order(cores=3)):
        with pytest.raises(ServiceError) as refused:
            await world.fit(wrong)
        assert refused.value.reason == Reason.INVALID_FIELD
    await world.running(order(cores=2))
    with pytest.raises(ServiceError) as refused:
        await world.fit(order("other"))
    assert refused.value.reason == Reason.NO_FREE_CORES
    assert len(world.artifacts.discarded) == 3
    assert len(world.journal._jobs) == 1


async def test_a_fit_that_the_database_does_not_take_holds_nothing(world: World) -> None:
    world.journal.error = ServiceError(Reason.DISK_FULL, "full")
    with pytest.raises(ServiceError):
        await world.fit()
    assert world.nothing_is_held()
    assert world.trainer.runs == []


@pytest.mark.usefixtures("quick_retries")
async def test_a_job_that_the_database_took_without_saying_so_does_not_wait_for_ever(world: World) -> None:
    away = ServiceError(Reason.DATABASE_UNAVAILABLE, "the connection broke at the commit")
    world.journal.add_error = away
    with pytest.raises(ServiceError):
        await world.fit(order(request_id="r"))
    (job,) = world.journal._jobs.values()
    assert job.state == JobState.RUNNING
    await until(lambda: world.journal._jobs[job.id].state == JobState.FAILED)
    again = await world.fit(order(request_id="r"))
    assert again.error is not None
    assert again.error.reason == Reason.DATABASE_UNAVAILABLE
    assert world.trainer.runs == []


async def test_an_unknown_dataset_is_refused(world: World) -> None:
    with pytest.raises(ServiceError) as refused:
        await world.fit(order(data="sha256:1"))
    assert refused.value.reason == Reason.DATASET_NOT_FOUND


async def test_an_uploaded_dataset_is_in_use_until_its_jobs_end(world: World) -> None:
    world.datasets.shared["sha256:1"] = dataset(digest="sha256:1")
    job, run = await world.running(order(data="sha256:1"))
    assert world.jobs.user_of_dataset("sha256:1") == job.id
    run.end()
    await world.end_of(job)
    assert world.jobs.user_of_dataset("sha256:1") == ""


async def test_a_dataset_is_not_deleted_while_a_fit_with_it_is_being_accepted(world: World) -> None:
    world.datasets.shared["sha256:1"] = dataset(digest="sha256:1")
    world.journal.gate.shut()
    calling = asyncio.create_task(world.fit(order(data="sha256:1")))
    await until(lambda: world.journal.gate.waiting == 1)
    with pytest.raises(ServiceError) as refused:
        await world.shared.delete("sha256:1")
    assert refused.value.reason == Reason.DATASET_IN_USE
    world.journal.gate.open()
    job = await calling
    assert refused.value.metadata == {"dataset": "sha256:1", "job": job.id}
    with pytest.raises(ServiceError):
        await world.shared.delete("sha256:1")
    await world.jobs.cancel(job.id)
    await world.shared.delete("sha256:1")
    assert world.datasets.shared == {}


async def test_a_dataset_that_is_being_deleted_is_not_found_by_a_fit(world: World) -> None:
    world.datasets.shared["sha256:1"] = dataset(digest="sha256:1")
    world.datasets.delete_gate.clear()
    deleting = asyncio.create_task(world.shared.delete("sha256:1"))
    await until(lambda: world.datasets.deletes == 1)
    with pytest.raises(ServiceError) as refused:
        await world.fit(order(data="sha256:1"))
    assert refused.value.reason == Reason.DATASET_NOT_FOUND
    deleting.cancel()  # the caller goes away; the deletion goes on, and the dataset stays out of reach
    await asyncio.wait([deleting])
    with pytest.raises(ServiceError) as refused:
        await world.fit(order(data="sha256:1"))
    assert refused.value.reason == Reason.DATASET_NOT_FOUND
    world.datasets.delete_gate.set()
    await until(lambda: world.datasets.shared == {})
    with pytest.raises(ServiceError) as refused:
        await world.shared.delete("sha256:1")
    assert refused.value.reason == Reason.DATASET_NOT_FOUND


async def test_a_fit_that_is_refused_does_not_hold_its_dataset(world: World) -> None:
    world.datasets.shared["sha256:1"] = dataset(digest="sha256:1")
    with pytest.raises(ServiceError):
        await world.fit(order(data="sha256:1", cores=3))
    await world.shared.delete("sha256:1")


async def test_a_fit_whose_caller_goes_away_while_it_is_accepted_runs_with_its_data(world: World) -> None:
    world.journal.gate.shut()
    world.trainer.at_once = True
    calling = asyncio.create_task(world.fit(order(request_id="r")))
    await until(lambda: world.journal.gate.waiting == 1)
    calling.cancel()
    await asyncio.wait([calling])
    assert world.artifacts.discarded == []
    world.journal.gate.open()
    await until(lambda: bool(world.journal._jobs))
    again = await world.fit(order(request_id="r"))
    assert (await world.end_of(again)).state == JobState.SUCCEEDED
    assert len(world.trainer.runs) == 1


async def test_waiting_jobs_run_in_order_as_cores_become_free(world: World) -> None:
    first, run = await world.running(order("a", cores=2))
    second = await world.fit(order("b", cores=2, queue=True))
    third = await world.fit(order("c", queue=True))
    run.end()
    await until(lambda: len(world.trainer.runs) == 2)
    assert world.trainer.runs[1].order.job == second.id
    assert (await world.jobs.get(third.id)).state == JobState.QUEUED
    world.trainer.runs[1].end(1)
    await until(lambda: len(world.trainer.runs) == 3)
    world.trainer.runs[2].end()
    ends = [await world.end_of(job) for job in (first, second, third)]
    assert [end.state for end in ends] == [JobState.SUCCEEDED, JobState.FAILED, JobState.SUCCEEDED]


# -- drain -----------------------------------------------------------------------------------------------------------


async def test_draining_lets_running_jobs_finish_and_ends_waiting_ones(world: World) -> None:
    running, run = await world.running(order(cores=2))
    waiting = await world.fit(order("wine", queue=True))
    draining = asyncio.create_task(world.jobs.drain(60))
    assert (await world.end_of(waiting)).error is not None
    run.end()
    await draining
    assert (await world.jobs.get(running.id)).state == JobState.SUCCEEDED
    error = (await world.jobs.get(waiting.id)).error
    assert error is not None
    assert error.reason == Reason.JOB_INTERRUPTED


async def test_draining_ends_what_takes_longer_than_the_grace_period(world: World) -> None:
    job, run = await world.running()
    await world.jobs.drain(0.01)
    end = await world.jobs.get(job.id)
    assert run.killed
    assert end.state == JobState.FAILED
    assert end.error is not None
    assert end.error.reason == Reason.JOB_INTERRUPTED


async def test_no_fit_is_accepted_after_draining_began(world: World) -> None:
    await world.jobs.drain(0)
    with pytest.raises(ServiceError) as refused:
        await world.fit()
    assert refused.value.reason == Reason.DRAINING


async def test_a_fit_that_is_being_accepted_when_draining_begins_starts_no_process(world: World) -> None:
    world.journal.gate.shut()
    calling = asyncio.create_task(world.fit())
    await until(lambda: world.journal.gate.waiting == 1)
    await world.jobs.drain(0)
    world.journal.gate.open()
    end = await world.end_of(await calling)
    assert world.trainer.runs == []
    assert end.error is not None
    assert end.error.reason == Reason.JOB_INTERRUPTED


async def test_the_page_shows_active_jobs_as_they_are_now(world: World) -> None:
    job, run = await world.running()
    run.say(TrainingStarted(8, 2))
    await until(lambda: world.jobs._active[job.id].job.train_rows == 8)
    assert [one.train_rows for one in await world.jobs.page(None, (), 10, None)] == [8]


async def test_draining_does_not_wait_for_a_load_longer_than_the_grace_period(world: World) -> None:
    world.trainer.at_once = True
    world.inference.load_gate.shut()
    job = await world.fit(order(load=True))
    await until(lambda: world.inference.load_gate.waiting == 1)
    async with asyncio.timeout(1):
        await world.jobs.drain(0.01)
    end = await world.jobs.get(job.id)
    assert end.state == JobState.SUCCEEDED
    assert end.load_error is not None
    assert end.load_error.reason == Reason.JOB_INTERRUPTED
    world.inference.load_gate.open()


# -- the database is away --------------------------------------------------------------------------------------------


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_states, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(job_states, "WRITE_SECONDS", 0.05)


@pytest.mark.usefixtures("quick_retries")
async def test_a_final_state_that_the_database_does_not_take_is_told_and_written_later(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    job, run = await world.running()
    world.journal.update_error = ServiceError(Reason.DISK_FULL, "the disk is full")
    run.end()
    end = await world.end_of(job)
    assert end.state == JobState.SUCCEEDED
    assert await world.jobs.get(job.id) == end == await world.jobs.cancel(job.id)
    assert await world.jobs.page(None, (), 10, None) == [end]
    assert [news.job async for news in world.jobs.watch(job.id)] == [end]
    stored = await world.journal.job(job.id)
    assert stored is not None
    assert stored.state == JobState.RUNNING
    assert f"job {job.id}" in caplog.text
    assert "the disk is full" in caplog.text
    world.journal.update_error = None
    await until(lambda: world.journal._jobs[job.id] == end)
    await until(lambda: world.jobs._states.unwritten(job.id) is None)


@pytest.mark.usefixtures("quick_retries")
async def test_a_database_that_does_not_answer_holds_up_no_job(world: World) -> None:
    job, run = await world.running()
    world.journal.update_gate.shut()
    run.end()
    end = await world.end_of(job)
    assert end.state == JobState.SUCCEEDED
    assert (await world.fit(order(new_version=True))).version == 2  # the name is free
    world.journal.update_gate.open()
    await until(lambda: world.journal._jobs[job.id] == end)


@pytest.mark.usefixtures("quick_retries")
async def test_a_job_runs_although_its_start_cannot_be_noted(world: World) -> None:
    world.journal.update_error = ServiceError(Reason.DISK_FULL, "full")
    world.trainer.at_once = True
    end = await world.end_of(await world.fit())
    assert end.state == JobState.SUCCEEDED
    world.journal.update_error = None
    await until(lambda: world.journal._jobs[end.id] == end)


@pytest.mark.usefixtures("quick_retries")
async def test_draining_writes_what_the_database_did_not_take_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_states, "FIRST_DELAY", 600)
    job, run = await world.running()
    world.journal.update_error = OSError("away")
    run.end()
    end = await world.end_of(job)
    world.journal.update_error = None
    await world.jobs.drain(0.01)
    assert await world.journal.job(job.id) == end


@pytest.mark.usefixtures("quick_retries")
async def test_draining_ends_although_the_database_is_away(world: World) -> None:
    job, _ = await world.running()
    world.journal.update_gate.shut()
    async with asyncio.timeout(2):
        await world.jobs.drain(0.01)
    assert (await world.jobs.get(job.id)).state == JobState.FAILED
    world.journal.update_gate.open()
    await world.jobs.drain(0.01)


async def test_what_a_job_leaves_behind_that_cannot_be_deleted_does_not_hide_its_end(world: World) -> None:
    world.artifacts.discard_error = OSError("busy")
    world.trainer.at_once = True
    end = await world.end_of(await world.fit())
    assert end.state == JobState.SUCCEEDED
    assert await world.journal.job(end.id) == end

"""Start-up and repair: interrupted jobs, wanted models, and a Triton that dies and does not want to come back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from service.domain.entities import Job, JobState, LoadOrder, Task, VersionState, WantedModel
from service.domain.errors import Reason, ServiceError
from service.domain.recovery import Recovery
from service.domain.registry import Registry
from tests.ports.fakes import InMemoryJournal
from tests.unit.domain.fakes import START, FakeArtifacts, FakeInference, SetClock, until

AWAY = ServiceError(Reason.TRITON_UNAVAILABLE, "Triton does not start")


def job(job_id: str, model: str, version: int = 1, state: JobState = JobState.RUNNING) -> Job:
    return Job(job_id, model, version, "tree", Task.CLASSIFICATION, state, "sha256:0", 1, START)


class World:
    """A recovery among fakes."""

    def __init__(self) -> None:
        self.artifacts = FakeArtifacts()
        self.journal = InMemoryJournal()
        self.inference = FakeInference()
        self.readiness: list[bool] = []
        clock = SetClock()
        self.registry = Registry(self.artifacts, self.journal, self.inference, clock, 10, 1000)
        self.recovery = Recovery(self.artifacts, self.journal, self.registry, self.inference, clock, self._tell)

    async def _tell(self, ready: bool) -> None:
        self.readiness.append(ready)

    @contextmanager
    def watched(self) -> Iterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.recovery.keep_serving())
        try:
            yield task
        finally:
            task.cancel()


@pytest.fixture
def world() -> World:
    return World()


async def test_a_job_whose_version_was_published_has_succeeded(world: World) -> None:
    await world.journal.add_job(job("j1", "iris"))
    world.artifacts.put("iris", job="j1")
    await world.recovery.start()
    end = await world.journal.job("j1")
    assert end is not None
    assert (end.state, end.progress, end.metrics) == (JobState.SUCCEEDED, 1.0, {"accuracy": 0.9})
    assert end.end_time == START


async def test_other_unfinished_jobs_were_interrupted(world: World) -> None:
    await world.journal.add_job(job("j1", "iris", 2))
    await world.journal.add_job(job("j2", "wine", state=JobState.QUEUED))
    await world.journal.add_job(job("j3", "else"))
    await world.journal.add_job(job("j4", "done", state=JobState.SUCCEEDED))
    world.artifacts.put("iris", 1)
    world.artifacts.put("else", 1, job="another")
    await world.recovery.start()
    for job_id in ("j1", "j2", "j3"):
        end = await world.journal.job(job_id)
        assert end is not None
        assert end.error is not None
        assert (end.state, end.error.reason, end.end_time) == (JobState.FAILED, Reason.JOB_INTERRUPTED, START)
    assert await world.journal.job("j4") == job("j4", "done", state=JobState.SUCCEEDED)


async def test_wanted_models_are_loaded_before_the_start_is_over(world: World) -> None:
    world.artifacts.put("iris", 1)
    world.artifacts.put("iris", 2)
    await world.journal.want_loaded(WantedModel("iris", 1, {1: "ann"}))
    await world.recovery.start()
    assert world.recovery.triton_ready
    assert world.registry.serving("iris", None).manifest.version == 1
    assert world.registry.serving("iris", None).loaded_by == "ann"


async def test_a_wanted_model_that_does_not_load_does_not_hold_up_the_start(world: World) -> None:
    for name in ("good", "bad"):
        world.artifacts.put(name)
        await world.journal.want_loaded(WantedModel(name, 1, {1: "ann"}))
    await world.journal.want_loaded(WantedModel("gone", 1, {1: "ann"}))
    world.inference.load_errors["bad"] = ServiceError(Reason.LOAD_FAILED, "no")
    await world.recovery.start()
    assert world.registry.model("good").state(1) == VersionState.LOADED
    assert world.registry.model("bad").state(1) == VersionState.FAILED
    assert [load.model for load in await world.journal.wanted_models()] == ["bad", "good"]


async def test_a_damaged_version_is_listed_as_failed(world: World) -> None:
    world.artifacts.put("iris", error=ServiceError(Reason.ARTIFACT_DAMAGED, "model.onnx is short"))
    await world.recovery.start()
    assert world.registry.model("iris").state(1) == VersionState.FAILED


async def test_a_triton_that_does_not_start_fails_the_start(world: World) -> None:
    world.inference.start_errors = [AWAY]
    with pytest.raises(ServiceError, match="does not start"):
        await world.recovery.start()
    assert not world.recovery.triton_ready


async def test_triton_is_started_again_with_its_models_and_readiness_is_told(world: World) -> None:
    world.artifacts.put("iris")
    await world.recovery.start()
    await world.registry.load("iris", None, LoadOrder("ann"))
    with world.watched():
        await asyncio.sleep(0)
        for deaths in (1, 2):
            world.inference.die()
            await until(lambda wanted=deaths: world.recovery.triton_restarts == wanted)  # type: ignore[misc]
            assert world.registry.serving("iris", None).manifest.version == 1
    assert world.readiness == [False, True, False, True]


async def test_the_restart_is_tried_until_it_works_with_growing_delays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        if seconds:
            delays.append(seconds)
        await sleep(0)

    await world.recovery.start()
    monkeypatch.setattr(asyncio, "sleep", note)
    world.inference.start_errors = [AWAY] * 8
    with world.watched():
        await sleep(0)
        world.inference.die()
        await until(lambda: world.recovery.triton_restarts == 1)
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert world.readiness == [False, True]


async def test_a_triton_that_dies_right_after_its_start_is_started_again(world: World) -> None:
    """As when it dies between its answer to the self-test and its list of models."""
    await world.recovery.start()
    start = world.inference.start

    async def start_and_die_once() -> None:
        await start()
        if world.inference.starts == 2:
            world.inference.die()

    world.inference.start = start_and_die_once  # type: ignore[method-assign]
    with world.watched() as watching:
        await asyncio.sleep(0)
        world.inference.die()
        await until(lambda: world.recovery.triton_restarts == 1)
        assert not watching.done()
    with suppress(asyncio.CancelledError):
        await watching
    assert world.inference.starts == 3

"""Following a job to its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import fitserve
import grpc
import pytest
from fitserve import errors, resources
from fitserve._jobs import Following
from fitserve.v1 import training_job_pb2, training_service_pb2

from tests.unit.client.fake_service import FakeService, abort, rich_status

QUEUED = training_job_pb2.JOB_STATE_QUEUED
RUNNING = training_job_pb2.JOB_STATE_RUNNING
SUCCEEDED = training_job_pb2.JOB_STATE_SUCCEEDED
AWAY = rich_status(grpc.StatusCode.UNAVAILABLE, "DRAINING", "The service is stopping.")

News = training_service_pb2.WatchTrainingJobResponse


def training_job(state: training_job_pb2.JobState.ValueType) -> training_job_pb2.TrainingJob:
    """Makes a job in a state."""
    return training_job_pb2.TrainingJob(id="j1", model="iris", version=1, state=state)


def news(state: training_job_pb2.JobState.ValueType, *steps: int) -> News:
    """Makes a reply with steps of the given numbers."""
    made = [training_job_pb2.TrainingStep(number=number, total=4, unit="epoch") for number in steps]
    return News(job=training_job(state), steps=made)


@pytest.fixture
def job(service: FakeService, client: fitserve.Client) -> fitserve.Job:
    """A handle on a queued job."""
    service.handlers["GetTrainingJob"] = lambda request, context: training_service_pb2.GetTrainingJobResponse(
        job=training_job(QUEUED)
    )
    return client.job("j1")


def watch(service: FakeService, *streams: list[News | None]) -> None:
    """Answers each watch with the next list; None in it breaks the stream."""
    waiting = iter(streams)

    def answer(request: training_service_pb2.WatchTrainingJobRequest, context: grpc.ServicerContext) -> Iterator[News]:
        assert request.job == "j1"
        for reply in next(waiting):
            if reply is None:
                abort(context, AWAY)
            yield reply

    service.handlers["WatchTrainingJob"] = answer


def test_wait_tells_the_progress_and_returns_the_job(service: FakeService, job: fitserve.Job) -> None:
    watch(service, [news(QUEUED), news(RUNNING, 1), news(SUCCEEDED)])
    told: list[str] = []
    ended = job.wait(progress=lambda now: told.append(now.state))
    assert told == ["QUEUED", "RUNNING", "SUCCEEDED"]
    assert (ended.state, job.state, job.latest) == ("SUCCEEDED", "SUCCEEDED", ended)


def test_a_job_that_has_ended_is_not_watched(service: FakeService, job: fitserve.Job) -> None:
    watch(service, [news(SUCCEEDED)])
    assert job.wait() is job.wait()
    assert service.calls.count("WatchTrainingJob") == 1


def test_a_watch_goes_on_over_broken_connections_and_tells_no_step_twice(
    service: FakeService, job: fitserve.Job
) -> None:
    watch(
        service,
        [news(RUNNING, 1, 2), None],
        [news(RUNNING, 1, 2, 3)],
        [news(RUNNING, 1, 2, 3), news(SUCCEEDED, 4)],
    )
    assert [step.number for update in job.watch() for step in update.steps] == [1, 2, 3, 4]
    assert job.state == "SUCCEEDED"


def test_a_job_is_followed_through_a_restart_of_the_service(service: FakeService, job: fitserve.Job) -> None:
    def run_until_the_end(request: object, context: grpc.ServicerContext) -> Iterator[News]:
        yield news(RUNNING, 1)
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(10)

    service.handlers["WatchTrainingJob"] = run_until_the_end
    updates = job.watch()
    assert next(updates).job.state == "RUNNING"
    service.stop()
    restarted = FakeService(int(service.target.rpartition(":")[2]))
    try:
        watch(restarted, [news(RUNNING, 1, 2), news(SUCCEEDED)])
        assert [step.number for update in updates for step in update.steps] == [2]
    finally:
        restarted.stop()


def test_a_silent_job_is_joined_again_however_long_it_was_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("fitserve._jobs.time.monotonic", lambda: now)
    following = Following(resources.read(resources.TrainingJob, training_job(RUNNING)), None)
    now = 7200.0
    following.broken(errors.from_status(AWAY))
    now += 59
    following.broken(errors.from_status(AWAY))
    now += 1
    with pytest.raises(errors.Unavailable):
        following.broken(errors.from_status(AWAY))


def test_a_service_that_stays_away_is_given_up(
    service: FakeService, job: fitserve.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fitserve._jobs.REJOIN_SECONDS", 0.0)
    watch(service, [news(RUNNING), None])
    with pytest.raises(errors.Unavailable, match="stopping"):
        job.wait()


def test_a_watch_does_not_go_on_over_other_errors(service: FakeService, job: fitserve.Job) -> None:
    gone = rich_status(grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", "There is no such job.")
    service.handlers["WatchTrainingJob"] = lambda request, context: abort(context, gone)
    with pytest.raises(errors.NotFound):
        job.wait()


def test_a_job_that_failed_raises_with_its_own_error(service: FakeService, job: fitserve.Job) -> None:
    failed = news(training_job_pb2.JOB_STATE_FAILED)
    failed.job.error.CopyFrom(
        rich_status(grpc.StatusCode.DEADLINE_EXCEEDED, "TIME_LIMIT_EXCEEDED", "It took longer than 1 s.", job="j1")
    )
    watch(service, [failed])
    with pytest.raises(fitserve.TrainingFailed) as caught:
        job.wait()
    error = caught.value
    assert (error.code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "TIME_LIMIT_EXCEEDED")
    assert (error.metadata, error.job) == ({"job": "j1"}, job.latest)
    assert isinstance(error.job.error, errors.DeadlineExceeded)
    assert str(error) == "Job j1 of model iris FAILED: [DEADLINE_EXCEEDED TIME_LIMIT_EXCEEDED] It took longer than 1 s."


def test_a_job_that_could_not_load_its_version_has_succeeded(service: FakeService, job: fitserve.Job) -> None:
    done = news(SUCCEEDED)
    done.job.load_error.CopyFrom(
        rich_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_LOADED_MODELS", "8 models are loaded.")
    )
    watch(service, [done])
    assert isinstance(job.wait().load_error, errors.ResourceExhausted)


def test_waiting_ends_in_time_and_the_job_goes_on(service: FakeService, job: fitserve.Job) -> None:
    def never_end(request: object, context: grpc.ServicerContext) -> Iterator[News]:
        yield news(RUNNING)
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(10)

    service.handlers["WatchTrainingJob"] = never_end
    with pytest.raises(TimeoutError, match=r"job j1 is RUNNING after 0.1 s; it goes on"):
        job.wait(timeout=0.1)
    assert "CancelTrainingJob" not in service.calls


def test_a_job_can_be_cancelled_and_asked(service: FakeService, job: fitserve.Job) -> None:
    service.handlers["CancelTrainingJob"] = lambda request, context: training_service_pb2.CancelTrainingJobResponse(
        job=training_job(training_job_pb2.JOB_STATE_CANCELLED)
    )
    assert job.cancel().state == "CANCELLED"
    assert job.refresh().state == job.state == "QUEUED"
    assert "j1" in repr(job)

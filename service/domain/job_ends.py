"""How jobs end other than well, and what callers are told of it."""

from __future__ import annotations

from dataclasses import replace

from service.domain.entities import Job, JobError, JobState
from service.domain.errors import Reason, ServiceError
from service.domain.ports import TrainingEnded


def failure_of(job: Job, ended: TrainingEnded) -> ServiceError:
    """Returns the error of a training process that ended badly by itself."""
    metadata = {"job": job.id}
    if ended.reason == Reason.INVALID_FIELD:
        return ServiceError(Reason.INVALID_FIELD, f"{ended.field}: {ended.message}", metadata | {"field": ended.field})
    if ended.reason:
        return ServiceError(Reason(ended.reason), ended.message, metadata)
    if ended.exit_code < 0:
        return ServiceError(
            Reason.TRAINER_DIED,
            f"the training process was ended by signal {-ended.exit_code}; fit again, and look at the machine's log if it "
            "was not you (signal 9 without a sender usually means that the machine had no memory left)",
            metadata | {"signal": str(-ended.exit_code)},
        )
    return ServiceError(
        Reason.TRAINING_FAILED,
        f"the training of {job.algorithm} failed with exit code {ended.exit_code}; the service's log has the details",
        metadata,
    )


def interruption(job: Job) -> ServiceError:
    """Returns why a job ends that the stop of the service cuts off."""
    return ServiceError(
        Reason.JOB_INTERRUPTED, "the service stopped before the job had ended; fit again", {"job": job.id}
    )


def interrupted(job: Job) -> Job:
    """Returns a job that the service's own end has interrupted."""
    return ended_badly(job, interruption(job))


def ended_badly(job: Job, error: ServiceError) -> Job:
    """Returns a job that an error has ended."""
    state = JobState.CANCELLED if error.reason == Reason.CANCELLED else JobState.FAILED
    return replace(job, state=state, error=_as_job_error(error))


def stopped_before_load(job: Job, why: ServiceError, begun: bool) -> ServiceError:
    """Returns why the version of a job is not loaded that was stopped after the publication.

    Args:
        why: Why it was stopped.
        begun: Whether Triton is loading the version.
    """
    what = "the job was cancelled" if why.reason == Reason.CANCELLED else "the service stopped"
    if begun:
        rest = f"while version {job.version} was being loaded; GetModel says whether it is loaded now"
    else:
        rest = f"before version {job.version} was loaded"
    message = f"{what} {rest}. The version is published: Load loads it"
    return ServiceError(why.reason, message, {"job": job.id})


def not_loaded(job: Job, why: ServiceError) -> Job:
    """Returns a job whose version is published but was not loaded."""
    return replace(job, load_error=_as_job_error(why))


def _as_job_error(error: ServiceError) -> JobError:
    return JobError(error.reason, error.message, error.metadata)

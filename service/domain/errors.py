"""The one exception that the domain and the adapters raise for what a caller should know."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Reason(StrEnum):
    """Why a call fails: the names of the contract's enum `ErrorReason`, which documents each with an example."""

    INVALID_FIELD = "INVALID_FIELD"
    UNDECODABLE_MESSAGE = "UNDECODABLE_MESSAGE"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    VERSION_NOT_FOUND = "VERSION_NOT_FOUND"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    DATASET_NOT_FOUND = "DATASET_NOT_FOUND"
    MODEL_EXISTS = "MODEL_EXISTS"
    MODEL_NOT_LOADED = "MODEL_NOT_LOADED"
    MODEL_LOADED = "MODEL_LOADED"
    LOAD_FAILED = "LOAD_FAILED"
    DATASET_IN_USE = "DATASET_IN_USE"
    OPERATION_IN_PROGRESS = "OPERATION_IN_PROGRESS"
    NO_FREE_CORES = "NO_FREE_CORES"
    TRAINING_QUEUE_FULL = "TRAINING_QUEUE_FULL"
    PREDICTION_QUEUE_FULL = "PREDICTION_QUEUE_FULL"
    TOO_MANY_LOADED_MODELS = "TOO_MANY_LOADED_MODELS"
    DISK_FULL = "DISK_FULL"
    TRAINER_OOM = "TRAINER_OOM"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    TOO_MANY_CALLS = "TOO_MANY_CALLS"
    TRITON_UNAVAILABLE = "TRITON_UNAVAILABLE"
    MODEL_LOADING = "MODEL_LOADING"
    DRAINING = "DRAINING"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    TIME_LIMIT_EXCEEDED = "TIME_LIMIT_EXCEEDED"
    ARTIFACT_DAMAGED = "ARTIFACT_DAMAGED"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    TRAINING_FAILED = "TRAINING_FAILED"
    TRAINER_DIED = "TRAINER_DIED"
    JOB_INTERRUPTED = "JOB_INTERRUPTED"
    EXPORT_NOT_EQUAL = "EXPORT_NOT_EQUAL"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    ALIAS_NOT_FOUND = "ALIAS_NOT_FOUND"
    VERSION_HAS_ALIAS = "VERSION_HAS_ALIAS"
    NOTHING_TO_ROLL_BACK = "NOTHING_TO_ROLL_BACK"
    OPERATOR_MODEL = "OPERATOR_MODEL"


class ServiceError(Exception):
    """A failure that the caller is told of.

    Attributes:
        reason: Why; decides the status code, in `service/rpc/status.py`.
        message: A sentence for the caller: what was wrong, where, and how to mend it. Never a path or a traceback.
        metadata: Every changing part of the message, for programs.
        retry: Seconds after which the caller may try again, where those of the reason do not fit.
    """

    def __init__(
        self, reason: Reason, message: str, metadata: Mapping[str, str] | None = None, retry: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry = retry


def invalid(field: str, problem: str) -> ServiceError:
    """Returns the error for a bad field: `field` is its path in the request, `problem` says how to mend it."""
    return ServiceError(Reason.INVALID_FIELD, f"{field}: {problem}", {"field": field})


def operators_own(model: str) -> ServiceError:
    """Returns the error for a call that would change the files of a model that an operator has placed."""
    return ServiceError(
        Reason.OPERATOR_MODEL,
        f"model {model!r} has code of its own, which an operator has placed; no call changes or deletes it: the operator "
        "does, in the model directory, and a Fit takes another name",
        {"model": model},
    )

"""The ways in which a training can fail, each with its exit code."""

from __future__ import annotations

import errno
from enum import StrEnum


class Reason(StrEnum):
    """Why a training failed, in the words of the event `failed`."""

    TRAINING_FAILED = "TRAINING_FAILED"
    INVALID_FIELD = "INVALID_FIELD"
    TRAINER_OOM = "TRAINER_OOM"
    EXPORT_NOT_EQUAL = "EXPORT_NOT_EQUAL"
    DISK_FULL = "DISK_FULL"


EXIT_CODES = {
    Reason.TRAINING_FAILED: 1,
    Reason.INVALID_FIELD: 2,
    Reason.TRAINER_OOM: 3,
    Reason.EXPORT_NOT_EQUAL: 4,
    Reason.DISK_FULL: 5,
}

# What libraries say when an allocation fails and they raise something else than MemoryError.
_OUT_OF_MEMORY_TEXTS = (
    "std::bad_alloc",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "failed to allocate",
    "can't start new thread",
)


class FitError(Exception):
    """A training that cannot succeed, with a message for the caller.

    Args:
        reason: Why it failed.
        message: What was wrong and how to mend it; holds no paths and no exception texts.
        field: The path of the request's field to mend, or empty.
    """

    def __init__(self, reason: Reason, message: str, field: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field


class CannotExport(Exception):
    """A model has no such form; the message says why, and another step of the export ladder may have one."""


def invalid_field(field: str, message: str) -> FitError:
    """Returns the error for a field of the request that does not fit the data or the other fields."""
    return FitError(Reason.INVALID_FIELD, message, field)


def as_fit_error(error: BaseException, algorithm: str) -> FitError:
    """Returns what the caller is told about any exception of the training of `algorithm`."""
    if isinstance(error, FitError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FitError(Reason.DISK_FULL, "the disk is full; remove models or datasets and train again")
    if is_out_of_memory(error):
        return FitError(
            Reason.TRAINER_OOM,
            f"the training of {algorithm} ran out of memory; raise memory_limit_bytes, train on fewer rows "
            "or make the model smaller",
        )
    message = f"the training of {algorithm} failed; the service log has the details"
    return FitError(Reason.TRAINING_FAILED, message)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an exception says that an allocation has failed."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = str(error).lower()
    return any(known in text for known in _OUT_OF_MEMORY_TEXTS)

from __future__ import annotations

import errno
import json
import os

import pytest

from training.errors import FitError, Reason, as_fit_error
from training.progress import Progress


def written(progress_of: int, read_end: int) -> list[dict[str, object]]:
    os.close(progress_of)
    with os.fdopen(read_end) as lines:
        return [json.loads(line) for line in lines]


def test_steps_are_thinned_out_but_the_last_is_reported() -> None:
    read_end, write_end = os.pipe()
    progress = Progress(write_end)
    for number in range(1, 1001):
        progress.step(number, 1000, "epoch", {"loss": 1 / number, "broken": float("nan")})
    progress.done({"accuracy": 1.0})
    first, *_, last, done = events = written(write_end, read_end)
    assert first["number"] == 1
    assert last == {
        "event": "step",
        "number": 1000,
        "total": 1000,
        "unit": "epoch",
        "metrics": {"loss": 0.001},
        "progress": 1.0,
    }
    assert done == {"event": "done", "metrics": {"accuracy": 1.0}}
    assert len(events) < 100


def test_a_failure_says_the_field_to_mend() -> None:
    read_end, write_end = os.pipe()
    Progress(write_end).failed(FitError(Reason.INVALID_FIELD, "use gini", "random_forest.criterion"))
    assert written(write_end, read_end) == [
        {
            "event": "failed",
            "reason": "INVALID_FIELD",
            "message": "use gini",
            "field": "random_forest.criterion",
        }
    ]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), Reason.TRAINER_OOM),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), Reason.TRAINER_OOM),
        (RuntimeError("std::bad_alloc"), Reason.TRAINER_OOM),
        (RuntimeError("io.h:362: bad_malloc: Failed to allocate 50913280 bytes."), Reason.TRAINER_OOM),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), Reason.TRAINER_OOM),
        (OSError(errno.ENOSPC, "No space left on device", "/secret/path"), Reason.DISK_FULL),
        (ValueError("/secret/path"), Reason.TRAINING_FAILED),
    ],
)
def test_an_exception_becomes_a_reason_without_paths_or_its_text(error: Exception, reason: Reason) -> None:
    failure = as_fit_error(error, "xgboost")
    assert failure.reason == reason
    assert "/secret" not in failure.message

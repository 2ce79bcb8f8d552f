"""What callers are told of imports that ended badly."""

from __future__ import annotations

import os

import pytest

from service.domain.errors import Reason
from service.domain.import_ends import failure_of
from service.domain.ports import TrainingEnded


def ended(exit_code: int, reason: str = "", message: str = "", field: str = "") -> TrainingEnded:
    return TrainingEnded(exit_code, 0, 0.0, {}, reason, message, field)


@pytest.mark.parametrize(
    ("end", "reason", "words"),
    [
        (ended(2, "INVALID_FIELD", "the file is damaged", "content"), Reason.INVALID_FIELD, "content: the file"),
        (ended(3, "TRAINER_OOM", "raise memory_limit_bytes"), Reason.TRAINER_OOM, "1000 bytes (IMPORT_MEMORY_BYTES)"),
        (ended(4, "EXPORT_NOT_EQUAL", "nothing predicts"), Reason.EXPORT_NOT_EQUAL, "nothing predicts"),
        (ended(5, "DISK_FULL", "train again"), Reason.DISK_FULL, "repeat"),
        (ended(1, "TRAINING_FAILED", "the training"), Reason.TRAINING_FAILED, "the import failed"),
        (ended(-9, "TRAINER_DIED", "train again"), Reason.TRAINER_DIED, "import again"),
        (ended(-9), Reason.TRAINER_DIED, "was killed"),
        (ended(-11), Reason.INVALID_FIELD, "signal 11"),
        (ended(-6), Reason.INVALID_FIELD, "signal 6"),
        (ended(1), Reason.INVALID_FIELD, "crashed on it (exit code 1)"),
        (ended(os.EX_SOFTWARE), Reason.TRAINING_FAILED, "the import failed"),
    ],
)
def test_the_end_of_a_process_is_told_in_the_words_of_an_import(end: TrainingEnded, reason: Reason, words: str) -> None:
    failure = failure_of("import-1", end, 1000)
    assert failure.reason is reason
    assert words in failure.message
    assert "train again" not in failure.message


def test_a_file_that_crashes_its_library_is_the_callers_to_mend() -> None:
    assert failure_of("import-1", ended(-11), 1000).metadata["field"] == "content"

"""How imports end other than well, and what callers are told of it."""

from __future__ import annotations

from collections.abc import Mapping

from service.domain.errors import Reason, ServiceError, invalid
from service.domain.ports import TrainingEnded

_SIGKILL = 9
_EXITED = 1  # by a library, if the process has told no reason

_SAID: Mapping[str, str] = {
    Reason.TRAINER_DIED: "the process that starts imports died, and this one with it; import again",
    Reason.DISK_FULL: "the disk of the server is full; remove models or datasets that nobody needs, then repeat",
    Reason.TRAINING_FAILED: "the import failed; the service's log has the details",
}
"""What callers are told in place of what those of a training are."""


def failure_of(job: str, ended: TrainingEnded, memory_bytes: int) -> ServiceError:
    """Returns the error of a process that ended badly by itself.

    Args:
        job: The identifier of the import.
        ended: Its end.
        memory_bytes: The memory that it might use.
    """
    metadata = {"job": job}
    if ended.reason == Reason.INVALID_FIELD:
        return ServiceError(Reason.INVALID_FIELD, f"{ended.field}: {ended.message}", metadata | {"field": ended.field})
    if ended.reason == Reason.TRAINER_OOM:
        return ServiceError(
            Reason.TRAINER_OOM,
            f"the import needed more memory than {memory_bytes} bytes (IMPORT_MEMORY_BYTES), so the file is damaged or very "
            "large; import a smaller model, or ask the operator for a larger limit",
            metadata,
        )
    if ended.reason:
        return ServiceError(Reason(ended.reason), _SAID.get(ended.reason, ended.message), metadata)
    if ended.exit_code == -_SIGKILL:
        return ServiceError(
            Reason.TRAINER_DIED,
            "the process of the import was killed; import again, and look at the machine's log if it was not you (a kill "
            "without a sender usually means that the machine had no memory left)",
            {**metadata, "signal": str(_SIGKILL)},
        )
    if ended.exit_code < 0:
        return _crashed(f"signal {-ended.exit_code}")
    if ended.exit_code == _EXITED:
        return _crashed(f"exit code {_EXITED}")
    return ServiceError(Reason.TRAINING_FAILED, _SAID[Reason.TRAINING_FAILED], metadata)


def _crashed(how: str) -> ServiceError:
    return invalid(
        "content",
        f"the library that reads such files crashed on it ({how}), so it is damaged, or needs more memory than "
        "IMPORT_MEMORY_BYTES; save the model again with a current version of the library",
    )

"""Where what lies in the model directory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CONFIG_FILE = "config.pbtxt"
MANIFEST_FILE = "manifest.json"
PRIVATE_DIRECTORY = ".fitserve"
IMPORTED_FILE = "imported"

MODEL_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


@dataclass(frozen=True)
class RepositoryLayout:
    """The paths below the model directory. All of them are on one filesystem, so that a rename moves any of them.

    Attributes:
        model_dir: The model repository, as Triton reads it: `<model>/config.pbtxt` and `<model>/<version>/`.
    """

    model_dir: Path

    @property
    def staging(self) -> Path:
        """What is being written, and is not complete yet."""
        return self.model_dir / PRIVATE_DIRECTORY / "staging"

    @property
    def jobs(self) -> Path:
        """One private directory a job."""
        return self.model_dir / PRIVATE_DIRECTORY / "jobs"

    @property
    def datasets(self) -> Path:
        """One directory a shared dataset, named by the digest."""
        return self.model_dir / PRIVATE_DIRECTORY / "datasets"

    @property
    def trash(self) -> Path:
        """What is being deleted."""
        return self.model_dir / PRIVATE_DIRECTORY / "trash"

    @property
    def lock(self) -> Path:
        """The file that the service using the directory holds locked."""
        return self.model_dir / PRIVATE_DIRECTORY / "lock"

    def create(self) -> None:
        """Creates the directories that do not exist."""
        for directory in (self.staging, self.jobs, self.datasets, self.trash):
            directory.mkdir(parents=True, exist_ok=True)

    def job(self, job: str) -> Path:
        """Returns the private directory of a job."""
        return self.jobs / _checked(_JOB, job)

    def staged(self, job: str) -> Path:
        """Returns where a job writes its version."""
        return self.staging / _checked(_JOB, job)

    def model(self, model: str) -> Path:
        """Returns the directory of a model."""
        return self.model_dir / _checked(MODEL_NAME, model)

    def version(self, model: str, version: int) -> Path:
        """Returns the directory of a version."""
        return self.model(model) / _checked(_VERSION, str(version))


def version_number(name: str) -> int | None:
    """Returns the number that a version's directory is named by, or None if it is no such name."""
    return int(name) if _VERSION.fullmatch(name) else None


def _checked(pattern: re.Pattern[str], name: str) -> str:
    """Returns the name; names are checked at the service's edge, and here no mistake may become a path."""
    if not pattern.fullmatch(name):
        raise ValueError(f"{name!r} is no name that can stand in a path")
    return name

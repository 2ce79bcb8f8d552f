"""The model repository on disk, in Triton's layout.

A version becomes visible, and invisible, by one rename. What was there before or after a rename and is no version
lies in a private directory, which the next start clears.
"""

from __future__ import annotations

import fcntl
import logging
import os
import uuid
from pathlib import Path

from service.adapters import durable, linked_versions, operator_models
from service.adapters.hashed_file import HashedFile
from service.adapters.layout import (
    CONFIG_FILE,
    IMPORTED_FILE,
    MODEL_NAME,
    PRIVATE_DIRECTORY,
    RepositoryLayout,
    version_number,
)
from service.adapters.manifest import VersionDirectory, damaged
from service.adapters.triton_config import TritonModelConfig
from service.domain.entities import Manifest, StoredVersion
from service.domain.errors import Reason, ServiceError, operators_own

_log = logging.getLogger("fitserve.repository")


class RepositoryInUse(Exception):
    """Another service uses the model directory; the message says which process and how to mend it."""


def read_manifest(layout: RepositoryLayout, model: str, version: int) -> Manifest:
    """Returns what a version says of itself, or what its operator's configuration says. No other file is read.

    Raises:
        ServiceError: ARTIFACT_DAMAGED; LOAD_FAILED for a configuration that cannot be served.
    """
    if operator_models.is_of_operator(layout.model(model)):
        return operator_models.manifest_of(layout.model(model), version)
    return VersionDirectory.read(layout.version(model, version), model, version).manifest


class RepositoryArtifacts:
    """The models below one directory, which no other service can use at the same time. Implements `Artifacts`.

    The methods block; those for one model, or for one job, are called one after the other.
    """

    def __init__(self, model_dir: Path) -> None:
        """Creates the directory if there is none, and locks it.

        Raises:
            RepositoryInUse: Another service has it locked.
            ServiceError: DISK_FULL.
        """
        self._layout = RepositoryLayout(model_dir)
        with durable.disk_errors():
            self._layout.create()
            self._lock = _locked(self._layout)

    def close(self) -> None:
        """Unlocks the directory."""
        os.close(self._lock)

    @durable.disk_errors()
    def job_directory(self, job: str) -> Path:
        """Returns the private directory of a job; created when it does not exist."""
        directory = self._layout.job(job)
        directory.mkdir(exist_ok=True)
        return directory

    def staging_directory(self, job: str) -> Path:
        """Returns the path where the job's version is to be written; it does not exist yet, its parent does."""
        return self._layout.staged(job)

    def file_writer(self, job: str) -> HashedFile:
        """Returns a writer of the file `imported_file(job)`.

        Raises:
            ServiceError: DISK_FULL.
        """
        self.job_directory(job)
        return HashedFile(self.imported_file(job))

    def imported_file(self, job: str) -> Path:
        """Returns where the file that an import brings is kept, in its private directory."""
        return self._layout.job(job) / IMPORTED_FILE

    def discard(self, job: str) -> None:
        """Deletes what a job has left behind: its directory and its staging directory."""
        _delete(self._layout.job(job))
        _delete(self._layout.staged(job))

    @durable.disk_errors()
    def publish(self, job: str, model: str, version: int) -> Manifest:
        """Checks a staged version against its manifest, then makes it visible in one step that survives a crash.

        Raises:
            ServiceError: ARTIFACT_DAMAGED or DISK_FULL, or MODEL_EXISTS if the version does; nothing is visible then.
        """
        staged = VersionDirectory.read(self._layout.staged(job), model, version)
        if staged.manifest.job != job:
            raise damaged(model, version, f"its manifest is that of job '{staged.manifest.job}'")
        staged.check_contents()
        durable.sync_tree(staged.path)
        self._prepare_model(staged.manifest)
        self._reveal(staged.path, model, version)
        return staged.manifest

    def stored_versions(self) -> list[StoredVersion]:
        """Returns every version on disk, damaged ones with their error. File contents are not read."""
        trained = [model for model in self._models() if not self.of_operator(model)]
        stored = [self._stored(model, version) for model in trained for version in self._listed(model)]
        return stored + self.operator_versions()

    def of_operator(self, model: str) -> bool:
        """Whether an operator has placed a model of this name, or begins to: nothing of it is written or deleted."""
        return operator_models.is_of_operator(self._layout.model(model))

    def operator_versions(self) -> list[StoredVersion]:
        """Returns the versions of all models that operators have placed, those with a bad configuration with an error."""
        found: list[StoredVersion] = []
        for model in self._models():
            if self.of_operator(model):
                try:
                    found += operator_models.versions_in(self._layout.model(model))
                except OSError as error:
                    _log.error("the directory of model %s cannot be read (%s)", model, error.strerror)
        return found

    def _models(self) -> list[str]:
        return sorted(entry.name for entry in _directories(self._layout.model_dir) if _is_model(entry.name))

    @durable.disk_errors()
    def verify(self, model: str, version: int) -> Manifest:
        """Reads all files of a version and compares them with its manifest; of an operator's model, its configuration.

        Triton finds the version from then on.

        Raises:
            ServiceError: ARTIFACT_DAMAGED naming the file; LOAD_FAILED for a configuration that cannot be served;
                DISK_FULL.
        """
        if self.of_operator(model):
            return operator_models.manifest_of(self._layout.model(model), version)
        directory = VersionDirectory.read(self._layout.version(model, version), model, version)
        directory.check_contents()
        linked_versions.link(self._layout.model_dir, directory.manifest)
        return directory.manifest

    @durable.disk_errors()
    def remove(self, model: str, version: int | None) -> None:
        """Deletes a version, or the model with all versions; what is half deleted is never visible.

        With its last version a model goes. Nothing happens if there is no such version. After an error the call
        can be repeated.

        Raises:
            ServiceError: OPERATOR_MODEL if an operator has placed the model.
        """
        if self.of_operator(model):
            raise operators_own(model)
        for number in self._versions(model) if version is None else [version]:
            linked_versions.unlink(self._layout.model_dir, model, number)
        if version is None or self._versions(model) == [version]:
            self._throw_away(self._layout.model(model))
        else:
            self._throw_away(self._layout.version(model, version))

    def clean(self) -> list[str]:
        """Deletes leftovers of a crash; returns the names of the directories that FitServe does not know.

        Nothing else may run: what jobs, uploads and removals have under way is such a leftover.
        """
        for place in (self._layout.staging, self._layout.jobs, self._layout.trash):
            for leftover in list(place.iterdir()):
                _delete(leftover)
        unknown: list[str] = []
        for entry in _directories(self._layout.model_dir):
            if entry.name != PRIVATE_DIRECTORY:
                try:
                    unknown.extend(self._clean_model(Path(entry)))
                except OSError:  # one that cannot be read keeps no other away
                    unknown.append(entry.name)
        return sorted(unknown)

    def _clean_model(self, directory: Path) -> list[str]:
        """Deletes a model's directory that never got a version; returns what is unknown in it, or itself."""
        names = {path.name for path in directory.iterdir()}
        written = {CONFIG_FILE, durable.temporary_name(directory / CONFIG_FILE).name}
        if linked_versions.clean(directory):
            return []
        if not _is_model(directory.name):
            return [directory.name]
        if operator_models.is_of_operator(directory):
            return []
        if names <= written:
            _delete(directory)
            return []
        if not self._versions(directory.name):
            return [directory.name]
        inside = [entry.name for entry in _directories(directory) if version_number(entry.name) is None]
        return [f"{directory.name}/{name}" for name in inside]

    def _listed(self, model: str) -> list[int]:
        """Returns the numbers of a model's versions, none if its directory cannot be read: that keeps no other away."""
        try:
            return self._versions(model)
        except OSError as error:
            _log.error("the directory of model %s cannot be read (%s); the model is left out", model, error.strerror)
            return []

    def _versions(self, model: str) -> list[int]:
        """Returns the numbers of a model's versions in order, damaged ones too."""
        directory = self._layout.model(model)
        if not directory.is_dir():
            return []
        numbers = [version_number(entry.name) for entry in _directories(directory)]
        return sorted(number for number in numbers if number is not None)

    def _stored(self, model: str, version: int) -> StoredVersion:
        try:
            directory = VersionDirectory.read(self._layout.version(model, version), model, version)
            directory.check_sizes()
        except ServiceError as error:
            return StoredVersion(model, version, None, error)
        return StoredVersion(model, version, directory.manifest)

    def _prepare_model(self, manifest: Manifest) -> None:
        """Creates the model's directory and its configuration, which alone do not make a model."""
        directory = self._layout.model(manifest.model)
        if self.of_operator(manifest.model):
            raise operators_own(manifest.model)
        directory.mkdir(exist_ok=True)
        durable.sync_file(self._layout.model_dir)
        config = TritonModelConfig.of(manifest)
        file = directory / CONFIG_FILE
        if not _holds(file, config):
            durable.write_file(file, config.to_text().encode())

    def _reveal(self, staged: Path, model: str, version: int) -> None:
        target = self._layout.version(model, version)
        if os.path.lexists(target):
            raise ServiceError(
                Reason.MODEL_EXISTS,
                f"model '{model}' has a version {version} on disk already; it stays as it is: remove it, or fit again",
                {"model": model, "version": str(version)},
            )
        os.rename(staged, target)
        try:
            durable.sync_file(target.parent)
        except OSError:
            os.rename(target, staged)
            raise

    def _throw_away(self, path: Path) -> None:
        trashed = self._layout.trash / uuid.uuid4().hex
        if os.path.lexists(path):
            os.rename(path, trashed)
        # Also when it is gone already: the call before may have failed here.
        durable.sync_file(path.parent if path.parent.is_dir() else self._layout.model_dir)
        _delete(trashed)


def _locked(layout: RepositoryLayout) -> int:
    """Returns a descriptor that holds the lock until it is closed, or until the process dies."""
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise RepositoryInUse(
            f"{layout.model_dir} is in use by another FitServe (process {owner}): stop it, or choose another "
            "directory with MODEL_DIR"
        ) from error
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _directories(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]


def _is_model(name: str) -> bool:
    return MODEL_NAME.fullmatch(name) is not None


def _holds(file: Path, config: TritonModelConfig) -> bool:
    """Returns whether a config.pbtxt says what is wanted, however it is written."""
    try:
        return TritonModelConfig.from_text(file.read_text()) == config
    except (FileNotFoundError, ValueError):
        return False


def _delete(path: Path) -> None:
    """Deletes what is no longer visible. If that fails it is left to the next start."""
    try:
        durable.remove(path)
    except OSError:
        _log.warning("cannot delete %s; the next start tries again", path, exc_info=True)

"""What the domain needs from the outside. Adapters implement these; tests have fakes of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from service.domain.entities import (
    Alias,
    DataBlock,
    Dataset,
    Floats,
    Job,
    JobState,
    Manifest,
    Signature,
    StoredVersion,
    TrainingStep,
    WantedModel,
)
from service.domain.errors import Reason, ServiceError
from service.domain.named_tensors import TensorBatch
from service.domain.shared_state import Work


class Clock(Protocol):
    """The time of day."""

    def now(self) -> datetime:
        """Returns the current time, with the time zone UTC."""


class Processes(Protocol):
    """What the operating system says of processes."""

    def memory_bytes(self, pid: int) -> int:
        """Returns the resident memory of a process in bytes, 0 if there is no such process."""


class Followers(Protocol):
    """The further processes that answer predictions, each of which knows what is loaded.

    One that does not answer in time is ended, and started again with what is loaded then. So no method raises.
    """

    def tell(self) -> None:
        """Tells each what is loaded and what aliases name now; returns at once."""

    async def told(self) -> None:
        """Tells each what is loaded and what aliases name now; returns when all go by it."""

    async def drained(self, serials: Sequence[int]) -> None:
        """Returns when no process works any more with loaded versions that it was told are leaving."""

    async def work(self) -> Mapping[int, Sequence[Work]]:
        """Returns the work of each process with each loaded version, by its serial number."""


class ModelCrashed(ServiceError):
    """The inference server has lost a model that it had loaded, and brings it back only when it is loaded anew."""

    def __init__(self, model: str) -> None:
        super().__init__(
            Reason.MODEL_LOADING,
            f"model {model!r} crashed in Triton and is being loaded again; try again",
            {"model": model},
        )


class InputsRefused(ServiceError):
    """A model says that the inputs of a batch are wrong; the code of an operator's, how to mend them too."""

    def __init__(self, problem: str) -> None:
        super().__init__(Reason.INVALID_FIELD, f"inputs: {problem}", {"field": "inputs"})


class LoadHung(ServiceError):
    """The inference server never answered to a load. It counts as down."""

    def __init__(self, model: str) -> None:
        super().__init__(
            Reason.TRITON_UNAVAILABLE,
            f"Triton did not finish loading model {model!r} and is being started again; try again",
            {"model": model},
        )


class InferenceStream(Protocol):
    """One long-lived stream of batches to one loaded version. Batches are answered in order."""

    async def infer(self, batch: bytes, rows: int) -> Floats:
        """Sends `rows` rows of little-endian float32 features and returns their scores [rows, outputs].

        Raises:
            ServiceError: INTERNAL if the server refused the batch; TRITON_UNAVAILABLE if the stream broke or is closed.
            ModelCrashed: The model must be unloaded and loaded again.
        """

    async def close(self) -> None:
        """Ends the stream. Batches in flight fail with TRITON_UNAVAILABLE."""


class TensorStream(Protocol):
    """One long-lived stream of batches of named tensors to one loaded version. Batches are answered in order."""

    async def infer(self, batch: TensorBatch, rows: int) -> TensorBatch:
        """Sends named tensors of `rows` rows and returns all outputs, with as many rows.

        Raises:
            As InferenceStream.infer does.
            InputsRefused: The model's own code refuses them.
        """

    async def close(self) -> None:
        """Ends the stream. Batches in flight fail with TRITON_UNAVAILABLE."""


class Inference(Protocol):
    """The inference server, Triton."""

    @property
    def embedded(self) -> bool:
        """Whether the service runs the server itself."""

    async def start(self) -> None:
        """Starts or finds the server and proves with a known row that it computes. Can be called again after it was down.

        Raises:
            ServiceError: TRITON_UNAVAILABLE, saying what is missing, if it does not answer or answers wrongly.
        """

    async def wait_until_down(self) -> str:
        """Returns, with the reason, when the server has died or no longer answers, also to a load alone."""

    async def stop(self) -> None:
        """Stops the server if it is ours, and closes the connection."""

    async def serve(self, manifest: Manifest, beside: Sequence[Manifest], instances: int) -> None:
        """Makes the server hold a version and others of its model, none else of it, and returns when that one is ready.

        Versions that it holds already go on answering meanwhile.

        Args:
            manifest: The version.
            beside: The others.
            instances: How many copies of each version work in parallel.

        Raises:
            ServiceError: LOAD_FAILED if the server refuses it; TRITON_UNAVAILABLE if the server is away.
            LoadHung: The server did not answer.
        """

    async def unload(self, model: str) -> None:
        """Makes the server hold no version of a model. One that it does not hold is no error.

        Raises:
            ServiceError: TRITON_UNAVAILABLE if the server is away; INTERNAL if it refuses.
        """

    async def loaded_models(self) -> set[str]:
        """Returns the names of the models that the server has loaded."""

    async def configuration(self, manifest: Manifest) -> bytes:
        """Returns a loaded version's configuration as the server has it: its own message, which the domain never opens.

        Raises:
            ServiceError: TRITON_UNAVAILABLE if the server is away, or has lost the version.
        """

    def open_stream(self, manifest: Manifest) -> InferenceStream:
        """Returns a new stream to a loaded version that takes rows of features."""

    def open_tensor_stream(self, manifest: Manifest) -> TensorStream:
        """Returns a new stream to a loaded version that takes named tensors."""

    @property
    def version(self) -> str:
        """The server's version, empty before it was first reached."""

    @property
    def address(self) -> str:
        """The host:port where the server answers, empty before it was first started."""


class Artifacts(Protocol):
    """The model repository on disk, and the directories of jobs."""

    def job_directory(self, job: str) -> Path:
        """Returns the private directory of a job; created when it does not exist."""

    def staging_directory(self, job: str) -> Path:
        """Returns the path where the job's version is to be written; it does not exist yet, its parent does."""

    def file_writer(self, job: str) -> FileWriter:
        """Returns a writer of the file `imported_file(job)`. Raises ServiceError DISK_FULL."""

    def imported_file(self, job: str) -> Path:
        """Returns where the file that an import brings is kept, in its private directory."""

    def discard(self, job: str) -> None:
        """Deletes what a job has left behind: its directory and its staging directory."""

    def publish(self, job: str, model: str, version: int) -> Manifest:
        """Checks a staged version against its manifest, then makes it visible in one step that survives a crash.

        Raises:
            ServiceError: ARTIFACT_DAMAGED or DISK_FULL; nothing is visible then.
        """

    def stored_versions(self) -> list[StoredVersion]:
        """Returns every version on disk, damaged ones with their error. File contents are not read."""

    def verify(self, model: str, version: int) -> Manifest:
        """Reads all files of a version and compares them with its manifest. The inference server finds it from then on.

        Raises:
            ServiceError: ARTIFACT_DAMAGED naming the file; DISK_FULL.
        """

    def remove(self, model: str, version: int | None) -> None:
        """Deletes a version, or the model with all versions; what is half deleted is never visible."""

    def of_operator(self, model: str) -> bool:
        """Whether an operator has placed a model of this name, or begins to: nothing of it is written or deleted."""

    def operator_versions(self) -> list[StoredVersion]:
        """Returns the versions of all models that operators have placed, those with a bad configuration with an error."""

    def clean(self) -> list[str]:
        """Deletes leftovers of a crash; returns the names of the directories that FitServe does not know."""


class DatasetWriter(Protocol):
    """Data on its way to disk."""

    def append(self, block: DataBlock) -> None:
        """Writes the next rows.

        Raises:
            ServiceError: INVALID_FIELD if they do not fit to the rows before; DISK_FULL.
        """

    def digest(self) -> str:
        """Returns the digest of what was written so far. Raises ServiceError INVALID_FIELD if there are no rows."""

    def finish(self, display_name: str, create_time: datetime) -> Dataset:
        """Makes the data durable and returns its summary. Raises ServiceError INVALID_FIELD if there are no rows."""

    def abort(self) -> None:
        """Deletes what was written. Does nothing after `finish`."""


class Datasets(Protocol):
    """Training data on disk."""

    def writer(self, job: str | None) -> DatasetWriter:
        """Returns a writer into a job's directory, or into the shared place under the digest if `job` is None."""

    def path(self, digest: str) -> Path:
        """Returns the directory of a shared dataset."""

    def inline_path(self, job: str) -> Path:
        """Returns the directory of a job's own dataset."""

    def get(self, digest: str) -> Dataset | None:
        """Returns a shared dataset, or None."""

    def list(self) -> Sequence[Dataset]:
        """Returns the shared datasets, the latest first."""

    def delete(self, digest: str) -> None:
        """Deletes a shared dataset."""


@dataclass(frozen=True)
class TrainingOrder:
    """What a training process is to do."""

    job: str
    model: str
    version: int
    request: bytes
    task: str
    target: str
    dataset: Path
    dataset_digest: str
    cores: int
    memory_limit_bytes: int | None
    spec: Path
    output: Path
    signature: Signature | None


@dataclass(frozen=True)
class ConversionOrder:
    """What a process that imports a model is to do.

    Attributes:
        job: The identifier of the import.
        description: The request's description, serialized.
        file: The file, which has the digest `file_digest`.
        signature: The signature that the model must keep, None for its first version.
    """

    job: str
    model: str
    version: int
    description: bytes
    file: Path
    file_digest: str
    memory_limit_bytes: int
    spec: Path
    output: Path
    signature: Signature | None


ProcessOrder = TrainingOrder | ConversionOrder


class FileWriter(Protocol):
    """A file on its way to disk. The methods block."""

    def append(self, content: bytes) -> None:
        """Writes the next bytes. Raises ServiceError DISK_FULL."""

    def finish(self) -> str:
        """Closes the file and returns its digest, "sha256:" and 64 hexadecimal digits. Raises ServiceError DISK_FULL."""


@dataclass(frozen=True)
class TrainingStarted:
    """The process has read its data."""

    train_rows: int
    validation_rows: int


@dataclass(frozen=True)
class TrainingProgress:
    """The process has finished a step; `progress` is the share of the whole, 0 to 1."""

    step: TrainingStep
    progress: float


@dataclass(frozen=True)
class TrainingLog:
    """The process has written a line."""

    line: str


@dataclass(frozen=True)
class TrainingEnded:
    """The process is gone; always the last event.

    Attributes:
        exit_code: 0 for success, -n for death by signal n.
        reason: A Reason's name if the process could say why it failed, else empty.
    """

    exit_code: int
    peak_memory_bytes: int
    cpu_seconds: float
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    message: str = ""
    field: str = ""


TrainingEvent = TrainingStarted | TrainingProgress | TrainingLog | TrainingEnded


class TrainingRun(Protocol):
    """One training process."""

    @property
    def pid(self) -> int:
        """The process id, 0 until the process exists."""

    def events(self) -> AsyncIterator[TrainingEvent]:
        """Yields the events as they come, and TrainingEnded last, whatever happens to the process."""

    async def kill(self) -> None:
        """Ends the process and all its children at once. Returns when they are gone."""


class Trainer(Protocol):
    """Starts training processes."""

    async def start(self) -> None:
        """Starts the idle interpreter in the background."""

    async def stop(self) -> None:
        """Ends every process."""

    async def run(self, order: ProcessOrder) -> TrainingRun:
        """Starts a process for the order.

        Raises:
            ServiceError: TRAINING_FAILED if no process can be started; DISK_FULL.
        """

    @property
    def idle_interpreters(self) -> int:
        """The number of interpreters that stand ready."""


class Journal(Protocol):
    """The database: jobs, wanted models and aliases. Every method returns when the change is durable."""

    async def add_job(self, job: Job) -> None:
        """Stores a new job."""

    async def update_job(self, job: Job) -> None:
        """Stores the new state of a job."""

    async def job(self, job_id: str) -> Job | None:
        """Returns a job, or None."""

    async def job_of_request(self, request_id: str) -> Job | None:
        """Returns the job that a request_id made, or None."""

    async def jobs(
        self, model: str | None, states: Sequence[JobState], limit: int, before: tuple[datetime, str] | None
    ) -> Sequence[Job]:
        """Returns jobs, the latest first; `before` is the (create_time, id) of the last one of the page before."""

    async def unfinished_jobs(self) -> Sequence[Job]:
        """Returns the jobs that are queued or running."""

    async def want_loaded(self, wanted: WantedModel) -> None:
        """Notes what should be loaded of a model, in place of what was noted of it before."""

    async def want_unloaded(self, model: str) -> None:
        """Notes that no version of a model should be loaded."""

    async def wanted_models(self) -> Sequence[WantedModel]:
        """Returns what should be loaded, by model."""

    async def set_alias(self, alias: Alias) -> None:
        """Stores an alias, in place of the model's one of that name."""

    async def delete_alias(self, model: str, name: str) -> None:
        """Deletes an alias. One that is not there is no error."""

    async def aliases(self) -> Sequence[Alias]:
        """Returns all aliases, by model and name."""

    async def close(self) -> None:
        """Closes the database."""

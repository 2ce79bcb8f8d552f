"""What the service has and gives: jobs, models, datasets, predictions and its own state, as frozen
dataclasses.

All but `Prediction` have the fields of the messages in fitserve.v1, with Python's own types: an enum value is
its name without the prefix ("RUNNING" for JOB_STATE_RUNNING, "" when it is not set), a timestamp is a
datetime in UTC, a duration is seconds, and an error is an exception. A missing message is None.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_type_hints

from google.protobuf import duration_pb2, json_format, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2

from fitserve import errors
from fitserve._tensors import Array
from fitserve.v1 import data_pb2, model_pb2

Resource = TypeVar("Resource")


@dataclass(frozen=True)
class Step:
    """One finished step of a training.

    Attributes:
        number: The number of the step, from 1.
        total: The number of steps planned.
        unit: What a step is: epoch, round, tree or iteration.
        metrics: What was measured after the step.
    """

    number: int
    total: int
    unit: str
    metrics: Mapping[str, float]

    def __str__(self) -> str:
        """Returns for instance `epoch 3/10 loss=0.21`."""
        return " ".join([f"{self.unit} {self.number}/{self.total}", *_pairs(self.metrics)])


@dataclass(frozen=True)
class TrainingJob:
    """A job as it was when the service last told.

    Attributes:
        id: The identifier.
        model: The name of the model that is trained.
        version: The version that the job makes.
        algorithm: The algorithm, such as random_forest.
        task: CLASSIFICATION or REGRESSION.
        state: QUEUED, RUNNING, SUCCEEDED, FAILED or CANCELLED; the last three are final.
        progress: How far the training is, from 0 to 1.
        step: The latest finished step.
        metrics: The metrics on the held-out rows, when the job succeeded.
        error: Why the job failed or was cancelled.
        load_error: Why the model was not loaded although that was asked for.
        dataset: The digest of the data.
        train_row_count: The number of rows trained on.
        validation_row_count: The number of rows held out.
        cores: The cores that the job has or waits for.
        peak_memory_bytes: The largest memory that the training used.
        cpu_seconds: The processor time that the training used.
        create_time: When the job was accepted.
        start_time: When its training started.
        end_time: When it ended.
        request_id: The request_id of the fit.
        time_limit: The wall time allowed, in seconds.
    """

    id: str
    model: str
    version: int
    algorithm: str
    task: str
    state: str
    progress: float
    step: Step | None
    metrics: Mapping[str, float]
    error: errors.FitServeError | None
    load_error: errors.FitServeError | None
    dataset: str
    train_row_count: int
    validation_row_count: int
    cores: int
    peak_memory_bytes: int
    cpu_seconds: float
    create_time: datetime.datetime | None
    start_time: datetime.datetime | None
    end_time: datetime.datetime | None
    request_id: str
    time_limit: float | None

    @property
    def has_ended(self) -> bool:
        """Whether the state is final."""
        return self.state in ("SUCCEEDED", "FAILED", "CANCELLED")

    def __str__(self) -> str:
        """Returns one line for people, such as `iris 1 random_forest RUNNING 45% tree 90/200`."""
        parts = [self.model, str(self.version), self.algorithm, self.state]
        if self.state == "RUNNING":
            parts += [f"{self.progress:.0%}", str(self.step or "")]
        parts += _pairs(self.metrics)
        parts += [str(error) for error in (self.error, self.load_error) if error]
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class JobUpdate:
    """One piece of news about a job.

    Attributes:
        job: The job as it is now.
        steps: The steps finished since the last update; in the first one all so far.
        log_lines: The log lines written since the last update.
    """

    job: TrainingJob
    steps: tuple[Step, ...]
    log_lines: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """Training data that was uploaded.

    Attributes:
        digest: "sha256:" and 64 hexadecimal digits; names the data in `fit(dataset=...)`.
        row_count: The number of rows.
        shape: The shape of one row's features: [columns], or [channels, height, width].
        columns: The names of the columns, for data that came as columns.
        has_targets: Whether the data came with targets.
        size_bytes: The size on disk.
        create_time: When the upload was complete.
        display_name: The name for people.
        has_weights: Whether the rows came with weights.
    """

    digest: str
    row_count: int
    shape: tuple[int, ...]
    columns: tuple[str, ...]
    has_targets: bool
    size_bytes: int
    create_time: datetime.datetime | None
    display_name: str
    has_weights: bool


@dataclass(frozen=True)
class ColumnSpec:
    """A column of a model.

    Attributes:
        name: The name.
        kind: NUMBER, INTEGER, BOOLEAN, CATEGORY or TEXT.
        categories: The categories that the model was trained on, sorted; the first 100.
        category_count: How many there are.
        unknown_category: What becomes of others: NONE of them, or MISSING.
        missing_values: Whether the rows trained on had missing values here.
        fill: What stands for a missing number, None if it stays missing.
    """

    name: str
    kind: str
    categories: tuple[str, ...]
    category_count: int
    unknown_category: str
    missing_values: bool
    fill: float | None


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor of a model: its name, its type such as FP32, its shape with -1 for any length, and
    whether a request may leave it out.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    optional: bool


@dataclass(frozen=True)
class Signature:
    """What a version takes and gives.

    Attributes:
        task: CLASSIFICATION or REGRESSION.
        shape: The shape of one row's features.
        columns: The columns in order, for models trained on columns.
        missing_values: Whether NaN is allowed.
        classes: The labels in the order of the probabilities. Whole numbers are int.
        prediction_dtype: The type of the predictions, such as INT64.
        inputs: The inputs of a model that takes named tensors.
        outputs: The outputs of such a model.
        targets: The names of the values of a prediction, if it has several.
    """

    task: str
    shape: tuple[int, ...]
    columns: tuple[ColumnSpec, ...]
    missing_values: bool
    classes: tuple[object, ...]
    prediction_dtype: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Parity:
    """How close the served file's predictions are to the library's own.

    Attributes:
        max_difference: The largest absolute difference seen.
        tolerance: The largest difference accepted.
        row_count: The number of rows compared.
    """

    max_difference: float
    tolerance: float
    row_count: int


@dataclass(frozen=True)
class ImportedFile:
    """The file that a version was imported from.

    Attributes:
        format: The format, such as onnx.
        digest: The digest, "sha256:" and 64 hexadecimal digits.
        size_bytes: The size.
    """

    format: str
    digest: str
    size_bytes: int


@dataclass(frozen=True)
class ModelVersion:
    """One trained or imported artifact; it never changes.

    Attributes:
        version: The number, from 1.
        state: STORED, LOADING, LOADED, UNLOADING or FAILED.
        signature: What goes in and comes out.
        algorithm: The algorithm; empty for imported models.
        parameters: The hyper-parameters that the library was given, defaults included.
        metrics: The metrics on the held-out rows.
        parity: The proof that the served file predicts what the library predicts.
        backend: The Triton backend.
        job: The job that made it.
        dataset: The digest of the training data.
        train_row_count: The number of rows trained on.
        validation_row_count: The number of rows held out.
        library_versions: The versions of the libraries that made it.
        size_bytes: The size on disk.
        create_time: When it was published.
        load_time: When it was loaded, while it is.
        loaded_by: Who asked for the load, while it is loaded.
        error: Why it is in the state FAILED.
        imported: The file that it was imported from; None if it was trained.
        source: FIT, IMPORT, or OPERATOR for one that an operator has placed.
        prefer_gpu: Whether a GPU computes it where Triton has one.
    """

    version: int
    state: str
    signature: Signature | None
    algorithm: str
    parameters: Mapping[str, object]
    metrics: Mapping[str, float]
    parity: Parity | None
    backend: str
    job: str
    dataset: str
    train_row_count: int
    validation_row_count: int
    library_versions: Mapping[str, str]
    size_bytes: int
    create_time: datetime.datetime | None
    load_time: datetime.datetime | None
    loaded_by: str
    error: errors.FitServeError | None
    imported: ImportedFile | None
    source: str
    prefer_gpu: bool


@dataclass(frozen=True)
class ModelAlias:
    """A second name of a version, which can be moved to another one.

    Attributes:
        name: The name, such as champion.
        version: The version that it names.
        previous_version: The version that a rollback moves it back to; 0 if there is none.
        update_time: When it was moved last.
    """

    name: str
    version: int
    previous_version: int
    update_time: datetime.datetime | None


@dataclass(frozen=True)
class Model:
    """A name with its versions.

    Attributes:
        name: The name.
        state: The state of the version that is furthest on the way to serving.
        versions: The versions in ascending order.
        latest_version: The highest version.
        serving_version: The version that answers calls which name none; 0 if it is not loaded.
        aliases: The aliases by name.
        instances: How many copies of each loaded version work in parallel; 0 if none is loaded.
        max_batch_rows: The most rows of one batch, if a load has set it.
        max_queue_rows: The most rows that may wait for a version, if a load has set it.
    """

    name: str
    state: str
    versions: tuple[ModelVersion, ...]
    latest_version: int
    serving_version: int
    aliases: tuple[ModelAlias, ...]
    instances: int
    max_batch_rows: int | None
    max_queue_rows: int | None

    @property
    def loaded_versions(self) -> tuple[int, ...]:
        """The versions that answer, in ascending order."""
        return tuple(one.version for one in self.versions if one.state == "LOADED")

    def version_of(self, alias: str) -> int | None:
        """Returns the version that an alias names, or None if there is no such alias."""
        return next((one.version for one in self.aliases if one.name == alias), None)


@dataclass(frozen=True)
class TrainingProcess:
    """One process in training: its job, model, process id, cores and resident memory."""

    job: str
    model: str
    pid: int
    cores: int
    memory_bytes: int


@dataclass(frozen=True)
class TrainingStatus:
    """The core budget: cores in all and free, the processes that run, the jobs that wait and how many may."""

    total_cores: int
    free_cores: int
    active_processes: tuple[TrainingProcess, ...]
    queued_job_count: int
    queue_limit: int
    idle_interpreter_count: int


@dataclass(frozen=True)
class LoadedModel:
    """One loaded version, with the number of its requests that wait or are in flight, and of its copies."""

    model: str
    version: int
    pending_request_count: int
    instances: int


@dataclass(frozen=True)
class ModelPoolStatus:
    """The loaded versions, how many there may be, and how many models are on disk."""

    loaded: tuple[LoadedModel, ...]
    limit: int
    stored_count: int


@dataclass(frozen=True)
class TritonStatus:
    """Whether Triton answers, its version, whether the service runs it, and how often it was started
    again.
    """

    ready: bool
    version: str
    embedded: bool
    restart_count: int


@dataclass(frozen=True)
class ServerStatus:
    """The state of the service.

    Attributes:
        version: The version of the service.
        start_time: When it started.
        draining: Whether it is stopping.
        training: The core budget.
        models: The loaded models.
        triton: The Triton Inference Server.
        memory_bytes: The resident memory of the service's own process.
    """

    version: str
    start_time: datetime.datetime | None
    draining: bool
    training: TrainingStatus
    models: ModelPoolStatus
    triton: TritonStatus
    memory_bytes: int


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer to one batch of rows.

    Attributes:
        predictions: Shape [rows]: labels of the type given in training, or float32 for regression, or for
            models of named tensors a dict from the name of an output to its value.
        probabilities: Shape [rows, classes], float32; None unless they were asked for.
        classes: Shape [classes]: the labels in the order of the probabilities; None without these.
        model: The name of the model.
        version: The version that answered.
        outputs: The outputs by name, for models that take named tensors.
    """

    predictions: Array
    probabilities: Array | None
    classes: Array | None
    model: str
    version: int
    outputs: Mapping[str, Array] = field(default_factory=dict)


def read(kind: type[Resource], message: Message) -> Resource:
    """Returns a message as the dataclass that has its fields."""
    readers = _readers(cast("Hashable", kind), message.DESCRIPTOR)
    return kind(**{name: reader(message) for name, reader in readers.items()})


@cache
def _readers(kind: Callable[..., object], message_type: Descriptor) -> Mapping[str, Callable[[Message], object]]:
    hints = get_type_hints(kind)
    return {name: _field_reader(message_type.fields_by_name[name], hint) for name, hint in hints.items()}


def _field_reader(one: FieldDescriptor, hint: object) -> Callable[[Message], object]:
    """Returns a function that reads one field of a message into the type of the hint."""
    kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type)]
    convert = _converter(one, kinds[0] if kinds else type(None))
    name = one.name
    entry = one.message_type
    if entry is not None and entry.GetOptions().map_entry:
        return lambda message: dict(getattr(message, name))
    if one.is_repeated:
        return lambda message: tuple(convert(item) for item in getattr(message, name))
    if type(None) in get_args(hint):
        return lambda message: convert(getattr(message, name)) if message.HasField(name) else None
    return lambda message: convert(getattr(message, name))


# A field's value is of a type that only its descriptor knows.
def _converter(one: FieldDescriptor, kind: type) -> Callable[[Any], object]:
    enum = one.enum_type
    if enum is not None:
        return lambda number: enum_name(enum, number)
    if one.message_type is None:
        return lambda item: item
    return _MESSAGES.get(one.message_type.full_name) or (lambda message: read(kind, message))


def enum_name(enum: EnumDescriptor, number: int) -> str:
    """Returns an enum value's name without the prefix that all values share; empty for the zero value."""
    value = enum.values_by_number.get(number)
    # A newer service may have values that this client does not know.
    if value is None:
        return f"UNRECOGNIZED_{number}"
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return value.name.removeprefix(prefix) if number else ""


def labels(values: Iterable[struct_pb2.Value], integers: bool = False) -> list[object]:
    """Returns labels, which are all of one type. Integers beyond ±2^53 travel as texts of their digits.

    Args:
        integers: Whether the labels are known to be integers. Without it a text beside an integer is one.
    """
    plain = [value(one) for one in values]
    integers = integers or any(type(label) is int for label in plain)
    return [int(label) if integers and isinstance(label, str) else label for label in plain]


def value(message: struct_pb2.Value) -> object:
    """Returns a JSON value, a whole number as int."""
    plain: object = json_format.MessageToDict(message)
    return int(plain) if isinstance(plain, float) and plain.is_integer() else plain


def _signature(message: model_pb2.Signature) -> Signature:
    integers = message.prediction_dtype == data_pb2.DATA_TYPE_INT64
    return replace(read(Signature, message), classes=tuple(labels(message.classes, integers)))


def _time(message: timestamp_pb2.Timestamp) -> datetime.datetime:
    return message.ToDatetime(tzinfo=datetime.UTC)


def _seconds(message: duration_pb2.Duration) -> float:
    return message.ToTimedelta().total_seconds()


def _error(message: status_pb2.Status) -> errors.FitServeError | None:
    return errors.from_status(message) if message.code else None


# From the name of a message to its reader, which takes that message.
_MESSAGES: Mapping[str, Callable[[Any], object]] = {
    "google.protobuf.Timestamp": _time,
    "google.protobuf.Duration": _seconds,
    "google.protobuf.Struct": json_format.MessageToDict,
    "google.protobuf.Value": value,
    "google.rpc.Status": _error,
    "fitserve.v1.Signature": _signature,
}


def _pairs(metrics: Mapping[str, float]) -> list[str]:
    return [f"{name}={number:.4g}" for name, number in metrics.items()]

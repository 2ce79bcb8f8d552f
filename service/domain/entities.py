"""The nouns of the domain, as frozen dataclasses."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.domain.errors import ServiceError
from service.domain.named_tensors import TensorSpec

INPUT = "features"
OUTPUT = "scores"
"""What Triton calls the one input and the one output of every model, both FP32."""

Label = str | int | float | bool
"""A class label, as the caller gave it."""

Choice: TypeAlias = int | str | None
"""Which version of a model is meant: its number, an alias, or None for the one that is meant without a word."""

Floats = NDArray[np.float32]
"""A matrix of features [rows, ...] or of scores [rows, outputs]."""

UNKNOWN_CODE = -1.0
"""By which a row of features says a category that the model was not trained on. A missing one is NaN."""

MISSING_INTEGER = -(2**63)
MISSING_BOOLEAN = 2
"""What stands for a missing value in columns of integers and of truth values; numbers have NaN and texts None."""


class Task(StrEnum):
    """What a model learns."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"


class ValueKind(StrEnum):
    """The kind of values of a column."""

    NUMBER = "number"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    CATEGORY = "category"
    TEXT = "text"


class JobState(StrEnum):
    """The state of a job. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class VersionState(StrEnum):
    """The state of a version."""

    STORED = "stored"
    LOADING = "loading"
    LOADED = "loaded"
    UNLOADING = "unloading"
    FAILED = "failed"


class UnknownCategory(StrEnum):
    """What a model makes of a category that it was not trained on: none of them, a missing value, or what its library does,
    which alone knows the categories then.
    """

    NONE = "none"
    MISSING = "missing"
    LIBRARY = "library"


@dataclass(frozen=True)
class ColumnSpec:
    """A named column of a model's or a dataset's features.

    Attributes:
        categories: The categories in the order of their codes; of a model's columns of that kind.
        unknown_category: What the model makes of other ones, None for the other kinds.
        missing_values: Whether the rows trained on had missing values here.
        fill: What the model puts in the place of a missing number, None if it leaves it missing.
    """

    name: str
    kind: ValueKind
    categories: tuple[str, ...] = ()
    unknown_category: UnknownCategory | None = None
    missing_values: bool = False
    fill: float | None = None

    @property
    def goes_as_text(self) -> bool:
        """Whether its values go to Triton as texts, and not in the matrix of features."""
        return self.kind is ValueKind.TEXT or self.unknown_category is UnknownCategory.LIBRARY

    @cached_property
    def codes(self) -> Mapping[str, float] | None:
        """The number by which a row of features says each category, None for what has none. Made once."""
        if self.kind is not ValueKind.CATEGORY or self.goes_as_text:
            return None
        return {text: float(code) for code, text in enumerate(self.categories)}


@dataclass(frozen=True)
class ColumnData:
    """The values of one column for some rows: float64, int64 or uint8 array [rows], or a list of texts.

    A missing value is NaN, MISSING_INTEGER, MISSING_BOOLEAN or None.
    """

    name: str
    kind: ValueKind
    values: NDArray[np.float64] | NDArray[np.int64] | NDArray[np.uint8] | list[str | None]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class DataBlock:
    """Some rows of training data: a matrix or named columns, with or without targets. All parts have `rows` rows.

    Attributes:
        columns: The named columns; beside a matrix they are its targets, of which there are several.
        targets_field: The name of the field that the targets came in, for messages.
        weights: What each row counts in training, finite and not below zero; None if all count the same.
    """

    rows: int
    features: Floats | None
    columns: tuple[ColumnData, ...]
    targets: ColumnData | None
    targets_field: str = "targets"
    weights: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class ColumnSummary:
    """What is known of a column without reading it again.

    Attributes:
        distinct: The number of different values, counted up to `DISTINCT_LIMIT`.
        missing: The number of missing values.
        infinite: The number of infinite values.
    """

    name: str
    kind: ValueKind
    distinct: int
    missing: int
    infinite: int


@dataclass(frozen=True)
class Dataset:
    """Training data on disk.

    Attributes:
        digest: "sha256:" and the digest of the content.
        shape: The shape of one row of `features`, or None for named columns.
        features: The summary of the matrix, or None for named columns.
    """

    digest: str
    rows: int
    shape: tuple[int, ...] | None
    features: ColumnSummary | None
    columns: tuple[ColumnSummary, ...]
    targets: ColumnSummary | None
    size_bytes: int
    create_time: datetime
    display_name: str = ""
    has_weights: bool = False


@dataclass(frozen=True)
class Signature:
    """What a version takes and gives.

    Attributes:
        shape: The shape of one row of features.
        columns: The columns in order, empty if the training data had no names.
        missing_values: Whether NaN is allowed.
        classes: The labels in the order of the scores, empty for regression.
        label_kind: The kind of the labels, None for regression.
        inputs: The tensors that it takes by name, if its input is no matrix of features; all above is empty then, but for
            models with columns of texts (`text_columns.py`).
        outputs: The tensors that it gives.
        max_batch_size: The most rows of named tensors of one inference; 0 if they have no rows.
        targets: The names of the values of a prediction, if it has several; then it is a regression.
    """

    task: Task | None
    shape: tuple[int, ...]
    columns: tuple[ColumnSpec, ...]
    missing_values: bool
    classes: tuple[Label, ...]
    label_kind: ValueKind | None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    max_batch_size: int = 0
    targets: tuple[str, ...] = ()

    @classmethod
    def of_tensors(
        cls, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], max_batch_size: int
    ) -> Signature:
        """Returns the signature of a model that takes and gives named tensors."""
        return cls(None, (), (), False, (), None, inputs, outputs, max_batch_size)

    @property
    def takes_tensors(self) -> bool:
        """Whether callers name tensors, and not columns or a matrix of features."""
        return bool(self.inputs) and not self.columns

    @cached_property
    def inputs_by_name(self) -> Mapping[str, TensorSpec]:
        """The named tensors that it takes. Made once."""
        return {spec.name: spec for spec in self.inputs}

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The position of each column in a row, by name. Made once."""
        return {column.name: place for place, column in enumerate(self.columns)}

    @cached_property
    def named_codes(self) -> Sequence[tuple[str, Mapping[str, float] | None]]:
        """The columns in order: the name, and the codes of the categories or None. Made once."""
        return [(column.name, column.codes) for column in self.columns]

    @property
    def row_bytes(self) -> int:
        """The size of one row of features in bytes."""
        return 4 * int(np.prod(self.shape))


@dataclass(frozen=True)
class Parity:
    """The comparison of the exported file's predictions with the library's own."""

    max_difference: float
    tolerance: float
    rows: int


@dataclass(frozen=True)
class ImportedFile:
    """The file that a version was imported from."""

    format: str
    digest: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a version's directory says of itself.

    Attributes:
        job: The job that made it, or the import.
        algorithm: Empty for an imported version.
        imported: The file that it was imported from, None for a trained version.
        backend: The backend of Triton that runs the model.
        file: The name of the model file.
        prefer_gpu: Whether a GPU computes it where Triton has one.
        own_config: The text of the config.pbtxt that an operator wrote, "" for all other models.
    """

    model: str
    version: int
    job: str
    algorithm: str
    parameters: Mapping[str, object]
    signature: Signature
    backend: str
    metrics: Mapping[str, float]
    parity: Parity
    dataset: str
    train_rows: int
    validation_rows: int
    library_versions: Mapping[str, str]
    create_time: datetime
    size_bytes: int
    imported: ImportedFile | None = None
    file: str = "model.onnx"
    prefer_gpu: bool = False
    own_config: str = ""

    @property
    def of_operator(self) -> bool:
        """Whether an operator has placed it, with a configuration and code of its own."""
        return bool(self.own_config)

    @cached_property
    def own_config_digest(self) -> str:
        """Tells one configuration of an operator from another, "" for all other models. Made once."""
        return hashlib.sha256(self.own_config.encode()).hexdigest() if self.own_config else ""

    @property
    def score_count(self) -> int:
        """The number of scores of one row."""
        return len(self.signature.classes) or len(self.signature.targets) or 1


@dataclass(frozen=True)
class StoredVersion:
    """A version found on disk: its manifest, or what is wrong with it.

    Attributes:
        of_operator: Whether an operator has placed it.
    """

    model: str
    version: int
    manifest: Manifest | None
    error: ServiceError | None = None
    of_operator: bool = False


@dataclass(frozen=True)
class Capacity:
    """How much of a model may be at work. It holds for each of its loaded versions.

    Attributes:
        instances: The number of copies of a version that work in parallel.
        max_batch_rows: The most rows of one batch, or None for what the model takes.
        max_queue_rows: The most rows that may wait for a version, or None for what the settings say.
    """

    instances: int = 1
    max_batch_rows: int | None = None
    max_queue_rows: int | None = None


@dataclass(frozen=True)
class LoadOrder:
    """How a version is to be loaded.

    Attributes:
        alongside: Whether it is loaded beside the serving version, in whose place it is otherwise.
        evict: Whether another model may be unloaded for it.
        instances: As in `Capacity`; None, as for the two limits: as it is.
    """

    loaded_by: str
    alongside: bool = False
    evict: bool = False
    instances: int | None = None
    max_batch_rows: int | None = None
    max_queue_rows: int | None = None

    def changed(self, capacity: Capacity) -> Capacity:
        """Returns the capacity that is ordered, for a model that has this one."""
        return Capacity(
            self.instances or capacity.instances,
            self.max_batch_rows or capacity.max_batch_rows,
            self.max_queue_rows or capacity.max_queue_rows,
        )


@dataclass(frozen=True)
class WantedModel:
    """What should be loaded of a model, whatever happens to Triton or to the service: at least one version.

    Attributes:
        serving: The version that answers requests which name none.
        loaded_by: The versions, each with who asked for it.
    """

    model: str
    serving: int
    loaded_by: Mapping[int, str]
    capacity: Capacity = Capacity()

    @property
    def in_order(self) -> list[int]:
        """The versions, the serving one first."""
        return sorted(self.loaded_by, key=lambda version: (version != self.serving, version))

    def without(self, versions: Collection[int]) -> WantedModel | None:
        """Returns what is left without some versions, of which the highest serves if it must, or None for nothing."""
        left = {version: who for version, who in self.loaded_by.items() if version not in versions}
        serving = self.serving if self.serving in left else max(left, default=0)
        return replace(self, serving=serving, loaded_by=left) if left else None


@dataclass(frozen=True)
class Alias:
    """A second name of a version, which can be moved to another one.

    Attributes:
        previous: The version that it goes back to when it is rolled back, or None.
        update_time: When it was moved last.
    """

    model: str
    name: str
    version: int
    previous: int | None
    update_time: datetime


@dataclass(frozen=True)
class AlgorithmTraits:
    """What an algorithm accepts, as its message in the contract says."""

    name: str
    classification: bool
    regression: bool
    missing_values: bool
    images: bool
    native_categories: bool = False
    sample_weights: bool = False
    multiple_targets: bool = False
    texts: bool = False


@dataclass(frozen=True)
class FitOrder:
    """A request to train whose fields are well-formed.

    Attributes:
        request: The request as it came, serialized, without its data: the domain never opens it.
        request_hash: A digest of the whole request, data included.
        data: The rows themselves, or the digest of an uploaded dataset.
        target: The name of the column to predict, or "".
        targets: The names of the columns to predict, if they are several.
        class_weights: Whether labels are weighed.
        text_columns: The names of the columns that hold free text.
        time_limit: Seconds of wall time, or None.
    """

    model: str
    algorithm: AlgorithmTraits
    task: Task | None
    request: bytes
    request_id: str
    request_hash: str
    data: DataBlock | str
    target: str
    cores: int
    time_limit: float | None
    memory_limit_bytes: int | None
    queue: bool
    new_version: bool
    load: bool
    class_weights: bool = False
    targets: tuple[str, ...] = ()
    text_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImportOrder:
    """A request to import a model whose fields are well-formed.

    Attributes:
        description: The request's description, serialized: the domain never opens it.
        digest: The digest that the file is said to have, or "".
        loaded_by: Who asks for the load.
        torchscript: Whether the file is TorchScript, a program of the caller's.
    """

    model: str
    description: bytes
    digest: str
    new_version: bool
    load: bool
    loaded_by: str
    torchscript: bool = False


@dataclass(frozen=True)
class FitCommand:
    """A request to train that fits to its data.

    Attributes:
        dataset: The data; for inline data it is already stored under the job's directory.
        shape: The shape of one row of features.
        columns: The named columns of the features.
    """

    order: FitOrder
    task: Task
    dataset: Dataset
    shape: tuple[int, ...]
    columns: tuple[ColumnSpec, ...]

    @property
    def inline(self) -> bool:
        """Whether the data came with the request and goes with the job."""
        return not isinstance(self.order.data, str)


@dataclass(frozen=True)
class TrainingStep:
    """One finished step of a training, such as an epoch."""

    number: int
    total: int
    unit: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class JobError:
    """Why a job did not succeed; the durable form of a ServiceError."""

    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One Fit, from its acceptance to its end."""

    id: str
    model: str
    version: int
    algorithm: str
    task: Task
    state: JobState
    dataset: str
    cores: int
    create_time: datetime
    request_id: str = ""
    request_hash: str = ""
    time_limit: float | None = None
    progress: float = 0.0
    step: TrainingStep | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: JobError | None = None
    load_error: JobError | None = None
    train_rows: int = 0
    validation_rows: int = 0
    peak_memory_bytes: int = 0
    cpu_seconds: float = 0.0
    start_time: datetime | None = None
    end_time: datetime | None = None


@dataclass(frozen=True)
class JobNews:
    """What a watcher of a job is told: the job now, and what came since the last news."""

    job: Job
    steps: Sequence[TrainingStep]
    log_lines: Sequence[str]

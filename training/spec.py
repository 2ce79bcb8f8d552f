"""Reads the spec of one training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from fitserve.v1 import model_pb2, options_pb2, training_job_pb2, training_service_pb2, training_spec_pb2
from google.protobuf.message import Message

Task: TypeAlias = Literal["classification", "regression"]
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_TASKS: dict[int, Task] = {
    training_job_pb2.TASK_CLASSIFICATION: "classification",
    training_job_pb2.TASK_REGRESSION: "regression",
}
_DEFAULT_VALIDATION_FRACTION = 0.2


@dataclass(frozen=True)
class Spec:
    """One training, as the service asks for it.

    Attributes:
        job: The identifier of the job.
        model: The name of the model.
        version: The version to make.
        algorithm: The name of the request's algorithm field, such as random_forest.
        hyper_parameters: The message in that field.
        traits: What the contract says of the algorithm.
        task: What the model learns.
        target: The column to predict, or empty if the dataset has targets of its own.
        targets: The columns to predict, if they are several that the request names.
        inputs_field: The path of the request's field that the features came in, for messages.
        targets_field: The path of the field that says what to predict.
        weights_field: The path of the field that the weights of rows came in.
        class_weights: What the rows of a label count, by its text.
        validation_fraction: The share of the rows to hold out.
        seed: The seed of everything random.
        cores: The number of threads to use.
        memory_limit_bytes: The memory that the training may use, or None.
        dataset: The directory of the dataset.
        dataset_digest: Its digest.
        output: The directory to make.
        signature: The signature that the model must have; without a shape if any will do.
        prefer_gpu: Whether trees are served by a backend that has a GPU's code.
        text_columns: The names of the columns that hold free text.
    """

    job: str
    model: str
    version: int
    algorithm: str
    hyper_parameters: Message
    traits: options_pb2.AlgorithmTraits
    task: Task
    target: str
    targets: Sequence[str]
    inputs_field: str
    targets_field: str
    weights_field: str
    class_weights: Mapping[str, float]
    validation_fraction: float
    seed: int
    cores: int
    memory_limit_bytes: int | None
    dataset: Path
    dataset_digest: str
    output: Path
    signature: model_pb2.Signature
    prefer_gpu: bool
    text_columns: Sequence[str] = ()


def read(path: Path) -> Spec:
    """Returns the spec in the file `path`, a serialized `TrainingSpec`.

    Raises:
        ValueError: The spec names no algorithm or no task; the service always sets both.
    """
    message = training_spec_pb2.TrainingSpec.FromString(path.read_bytes())
    request = message.request
    algorithm = request.WhichOneof("algorithm")
    if algorithm is None or request.task not in _TASKS:
        raise ValueError("the spec must have an algorithm and a task")
    hyper_parameters: Message = getattr(request, algorithm)
    return Spec(
        job=message.job,
        model=request.model,
        version=message.version,
        algorithm=algorithm,
        hyper_parameters=hyper_parameters,
        traits=hyper_parameters.DESCRIPTOR.GetOptions().Extensions[options_pb2.traits],
        task=_TASKS[request.task],
        target=request.target,
        targets=list(request.targets),
        inputs_field="dataset" if request.dataset else "inline.inputs",
        targets_field=_targets_field(request),
        weights_field="dataset" if request.dataset else "inline.weights",
        class_weights=dict(request.class_weights),
        validation_fraction=(
            request.validation_fraction if request.HasField("validation_fraction") else _DEFAULT_VALIDATION_FRACTION
        ),
        seed=request.seed,
        cores=max(1, message.cores),
        memory_limit_bytes=request.memory_limit_bytes if request.HasField("memory_limit_bytes") else None,
        dataset=Path(message.dataset_uri),
        dataset_digest=message.dataset_digest,
        output=Path(message.output_uri),
        signature=message.signature,
        prefer_gpu=request.prefer_gpu,
        text_columns=list(request.text_columns),
    )


def _targets_field(request: training_service_pb2.FitRequest) -> str:
    """Returns the path of the field that the caller said in what to predict."""
    if request.target:
        return "target"
    if request.targets:
        return "targets"
    if request.dataset:
        return "dataset"
    return "inline.labels" if request.inline.HasField("labels") else "inline.targets"


def effective_parameters(message: Message, defaults: Mapping[str, Json]) -> dict[str, Json]:
    """Returns all hyper-parameters: what `message` sets, and `defaults` for the rest.

    Args:
        message: The algorithm's message.
        defaults: A value for each of its fields.
    """
    given = {field.name: value for field, value in message.ListFields()}
    return {name: _json(given[name]) if name in given else default for name, default in defaults.items()}


def _json(value: object) -> Json:
    if isinstance(value, (bool, int, float, str)):
        return value
    assert isinstance(value, Sequence), "a hyper-parameter is a scalar or a list"
    return [_json(item) for item in value]

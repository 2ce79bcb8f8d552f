"""Reads the spec of one import, and what the caller says of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fitserve.v1 import data_pb2, model_pb2, model_service_pb2, training_job_pb2, training_spec_pb2

from training.errors import invalid_field
from training.importing import labels
from training.importing.labels import Labels
from training.spec import Task

SIGNATURE = "description.signature"
"""Where the caller's signature stands in the request."""

MOST_FEATURES = 2**22
"""So many values make a batch of one row."""

_TASKS: dict[int, Task] = {
    training_job_pb2.TASK_CLASSIFICATION: "classification",
    training_job_pb2.TASK_REGRESSION: "regression",
}
_KINDS: Mapping[int, str] = {
    model_pb2.COLUMN_KIND_UNSPECIFIED: "number",
    model_pb2.COLUMN_KIND_NUMBER: "number",
    model_pb2.COLUMN_KIND_INTEGER: "integer",
    model_pb2.COLUMN_KIND_BOOLEAN: "boolean",
}
_KEPT_KINDS: Mapping[int, str] = {
    **_KINDS,
    model_pb2.COLUMN_KIND_CATEGORY: "category",
    model_pb2.COLUMN_KIND_TEXT: "text",
}


@dataclass(frozen=True)
class Column:
    """A named column of the features.

    Attributes:
        kind: number, integer or boolean; category or text for those of trained versions, and of files that say so.
    """

    name: str
    kind: str = "number"

    @property
    def described(self) -> dict[str, str]:
        """The column as the manifest keeps it. The categories of a file are known to its library only."""
        unknown = {"unknown_category": "library"} if self.kind == "category" else {}
        return {"name": self.name, "kind": self.kind, **unknown}

    @property
    def as_text(self) -> str:
        """What texts it holds: category or text; empty for numbers."""
        return self.kind if self.kind in ("category", "text") else ""


@dataclass(frozen=True)
class NamedTensor:
    """A tensor that a model takes or gives by its name.

    Attributes:
        dtype: The type of its elements in the words of the Open Inference Protocol, such as INT64; "" if it is not said.
        shape: The length of each dimension, -1 where any is allowed; empty if it is not said.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Wanted:
    """What the caller says of a model; what is None, or empty, the file must say.

    Attributes:
        shape: The shape of one row.
        missing_values: Whether predictions may have missing values.
        inputs: The tensors that it takes by name.
        outputs: The tensors that it gives by name.
        targets: The names of the values of a prediction, if it has several.
    """

    task: Task | None
    shape: tuple[int, ...]
    columns: tuple[Column, ...]
    missing_values: bool
    labels: Labels | None
    inputs: tuple[NamedTensor, ...] = ()
    outputs: tuple[NamedTensor, ...] = ()
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spec:
    """One import, as the service asks for it.

    Attributes:
        format: The format of the file, such as onnx.
        kept: The signature of the versions before, None for the first one.
    """

    job: str
    model: str
    version: int
    format: str
    file: Path
    digest: str
    output: Path
    memory_limit_bytes: int
    wanted: Wanted
    kept: Wanted | None
    trusted_types: tuple[str, ...]


def read(path: Path) -> Spec:
    """Returns the spec in the file `path`, a serialized `ImportSpec`.

    Raises:
        FitError: INVALID_FIELD; the caller's signature contradicts itself.
    """
    message = training_spec_pb2.ImportSpec.FromString(path.read_bytes())
    description = message.description
    return Spec(
        job=message.job,
        model=description.model,
        version=message.version,
        format=model_service_pb2.ModelFormat.Name(description.format).removeprefix("MODEL_FORMAT_").lower(),
        file=Path(message.file_uri),
        digest=message.file_digest,
        output=Path(message.output_uri),
        memory_limit_bytes=message.memory_limit_bytes,
        wanted=_wanted(description.signature, _KINDS, labels.given(description.signature)),
        kept=_kept(message.signature) if message.HasField("signature") else None,
        trusted_types=tuple(description.trusted_types),
    )


def check_names(names: Sequence[str], field: str) -> None:
    """Raises INVALID_FIELD naming `field` if columns cannot be named so."""
    if len(set(names)) < len(names):
        raise invalid_field(field, "two columns have the same name; give each a name of its own")
    for name in names:
        if not name or not labels.is_text(name):
            raise invalid_field(
                field, f"a column has a name of {len(name)} characters; names have 1 to {labels.LONGEST_NAME}, none NUL"
            )


def _kept(signature: model_pb2.Signature) -> Wanted:
    return _wanted(signature, _KEPT_KINDS, labels.kept(signature))


def _wanted(signature: model_pb2.Signature, kinds: Mapping[int, str], classes: Labels | None) -> Wanted:
    columns = tuple(_column(index, column, kinds) for index, column in enumerate(signature.columns))
    check_names([column.name for column in columns], f"{SIGNATURE}.columns")
    shape = tuple(signature.shape) or ((len(columns),) if columns else ())
    if any(length < 1 for length in shape) or math.prod(shape) > MOST_FEATURES:
        raise invalid_field(
            f"{SIGNATURE}.shape",
            f"{list(shape)} is no shape of a row: lengths are 1 or more, {MOST_FEATURES} values in all",
        )
    if columns and shape != (len(columns),):
        raise invalid_field(f"{SIGNATURE}.shape", f"it is {list(shape)} and there are {len(columns)} columns")
    task = _TASKS.get(signature.task)
    if classes is not None and task == "regression":
        raise invalid_field(f"{SIGNATURE}.classes", "regression has no labels; leave them out")
    return Wanted(
        task="classification" if classes is not None else task,
        shape=shape,
        columns=columns,
        missing_values=signature.missing_values,
        labels=classes,
        inputs=_tensors(signature.inputs, f"{SIGNATURE}.inputs"),
        outputs=_tensors(signature.outputs, f"{SIGNATURE}.outputs"),
        targets=tuple(signature.targets),
    )


def _tensors(specs: Sequence[model_pb2.TensorSpec], field: str) -> tuple[NamedTensor, ...]:
    if len({spec.name for spec in specs}) < len(specs):
        raise invalid_field(field, "two tensors have the same name; name each once")
    for index, spec in enumerate(specs):
        if any(length < -1 or length == 0 for length in spec.shape):
            raise invalid_field(
                f"{field}[{index}].shape", f"{list(spec.shape)} is no shape; lengths are 1 or more, or -1 for any"
            )
    return tuple(NamedTensor(spec.name, _type_name(spec.dtype), tuple(spec.shape)) for spec in specs)


def _type_name(number: data_pb2.DataType.ValueType) -> str:
    return data_pb2.DataType.Name(number).removeprefix("DATA_TYPE_") if number else ""


def _column(index: int, column: model_pb2.ColumnSpec, kinds: Mapping[int, str]) -> Column:
    if column.kind not in kinds:
        raise invalid_field(
            f"{SIGNATURE}.columns[{index}].kind",
            "columns of imported models are numbers, integers or truth values; a file that has categories or texts says so "
            "itself, so leave the kind out, or give categories as their codes",
        )
    return Column(column.name, kinds[column.kind])

"""Reads the spec of one import, and what the caller says of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fitserve.v1 import data_pb2, model_pb2, model_service_pb2, training_job_pb2, training_spec_pb2
from google.protobuf.struct_pb2 import Value

from training.data import Label
from training.errors import invalid_field
from training.spec import Task

SIGNATURE = "description.signature"
"""Where the caller's signature stands in the request."""

MOST_CLASSES = 1000
MOST_FEATURES = 2**22
"""So many values make a batch of one row."""

_LONGEST_NAME = 256
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
_KIND_OF_LABELS = {str: "category", bool: "boolean", int: "integer", float: "number"}


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
class Labels:
    """The labels of classes, in the order of the scores.

    Attributes:
        kind: category, boolean, integer or number.
    """

    classes: Sequence[Label]
    kind: str


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
    """

    task: Task | None
    shape: tuple[int, ...]
    columns: tuple[Column, ...]
    missing_values: bool
    labels: Labels | None
    inputs: tuple[NamedTensor, ...] = ()
    outputs: tuple[NamedTensor, ...] = ()


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
        wanted=_wanted(description.signature, _KINDS),
        kept=_wanted(message.signature, _KEPT_KINDS) if message.HasField("signature") else None,
        trusted_types=tuple(description.trusted_types),
    )


def labels_of(classes: Sequence[Label], field: str) -> Labels:
    """Returns labels with their kind.

    Raises:
        FitError: INVALID_FIELD naming `field`; they are of several kinds, too many, or two are the same.
    """
    kinds = {type(label) for label in classes}
    if len(kinds) > 1:
        raise invalid_field(
            field, "the labels are of several kinds; give texts, integers, numbers or truth values only"
        )
    if len(set(classes)) < len(classes):
        raise invalid_field(field, "two labels are the same; give each score a label of its own")
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise invalid_field(field, f"there are {len(classes)} labels, and 2 to {MOST_CLASSES} are allowed")
    return Labels(list(classes), _KIND_OF_LABELS[kinds.pop()])


def check_names(names: Sequence[str], field: str) -> None:
    """Raises INVALID_FIELD naming `field` if columns cannot be named so."""
    if len(set(names)) < len(names):
        raise invalid_field(field, "two columns have the same name; give each a name of its own")
    for name in names:
        if not name or len(name) > _LONGEST_NAME or "\0" in name:
            raise invalid_field(
                field, f"a column has a name of {len(name)} characters; names have 1 to {_LONGEST_NAME}"
            )


def _wanted(signature: model_pb2.Signature, kinds: Mapping[int, str]) -> Wanted:
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
    labels = _labels(signature) if signature.classes else None
    task = _TASKS.get(signature.task)
    if labels is not None and task == "regression":
        raise invalid_field(f"{SIGNATURE}.classes", "regression has no labels; leave them out")
    return Wanted(
        task="classification" if labels is not None else task,
        shape=shape,
        columns=columns,
        missing_values=signature.missing_values,
        labels=labels,
        inputs=_tensors(signature.inputs, f"{SIGNATURE}.inputs"),
        outputs=_tensors(signature.outputs, f"{SIGNATURE}.outputs"),
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


def _labels(signature: model_pb2.Signature) -> Labels:
    field = f"{SIGNATURE}.classes"
    labels = [_label(value, f"{field}[{index}]") for index, value in enumerate(signature.classes)]
    if all(isinstance(label, float) and label.is_integer() for label in labels):
        if signature.prediction_dtype != data_pb2.DATA_TYPE_FP64:
            return labels_of([int(label) for label in labels], field)
    elif signature.prediction_dtype == data_pb2.DATA_TYPE_INT64:
        try:
            return labels_of([int(label) for label in labels], field)
        except ValueError:
            raise invalid_field(field, "not every label is the integer that prediction_dtype asks for") from None
    return labels_of(labels, field)


def _label(value: Value, field: str) -> str | float | bool:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "number_value" if math.isfinite(value.number_value):
            return value.number_value
    raise invalid_field(field, "a label is a text, a finite number or a truth value")

"""The messages of an import, without any I/O on the network: what the sync and the async client share."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from google.protobuf.struct_pb2 import Value

from fitserve import errors, resources
from fitserve._core import CHUNK_BYTES, Task, known
from fitserve.resources import Model
from fitserve.v1 import data_pb2, model_pb2, model_service_pb2, training_job_pb2

Format: TypeAlias = Literal["onnx", "xgboost", "lightgbm", "catboost", "torchscript", "skops"]
ModelFile: TypeAlias = str | os.PathLike[str] | bytes
"""The path of a file, or its content."""

_FORMATS = {
    name.removeprefix("MODEL_FORMAT_").lower(): number
    for name, number in model_service_pb2.ModelFormat.items()
    if number
}
_SUFFIXES: dict[str, Format] = {
    ".onnx": "onnx",
    ".json": "xgboost",
    ".ubj": "xgboost",
    ".txt": "lightgbm",
    ".cbm": "catboost",
    ".pt": "torchscript",
    ".pth": "torchscript",
    ".ts": "torchscript",
    ".skops": "skops",
}
_TASKS = {
    "classification": training_job_pb2.TASK_CLASSIFICATION,
    "regression": training_job_pb2.TASK_REGRESSION,
}
_LABEL_TYPES = {
    "i": data_pb2.DATA_TYPE_INT64,
    "u": data_pb2.DATA_TYPE_INT64,
    "f": data_pb2.DATA_TYPE_FP64,
    "b": data_pb2.DATA_TYPE_BOOL,
}


@dataclass(frozen=True)
class Import:
    """What `import_model` was asked for.

    Attributes:
        file: The file's path or content.
        description: The first message, but for the digest.
    """

    file: ModelFile
    description: model_service_pb2.ImportDescription

    def messages(self) -> Iterator[model_service_pb2.ImportModelRequest]:
        """Yields the messages of the call; reads the file twice, first for its digest.

        Raises:
            OSError: The file cannot be read.
        """
        with self._open() as file:
            self.description.digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
            yield model_service_pb2.ImportModelRequest(description=self.description)
            file.seek(0)
            while part := file.read(CHUNK_BYTES):
                yield model_service_pb2.ImportModelRequest(content=part)

    def _open(self) -> io.BytesIO | io.BufferedReader:
        return io.BytesIO(self.file) if isinstance(self.file, bytes) else Path(self.file).open("rb")


def import_of(
    model: str,
    file: ModelFile,
    *,
    format: Format | None,
    task: Task | None,
    shape: Sequence[int] | None,
    columns: Iterable[str] | None,
    missing_values: bool,
    classes: npt.ArrayLike | None,
    inputs: Mapping[str, Sequence[int]] | None,
    outputs: Iterable[str] | None,
    trusted_types: Iterable[str],
    new_version: bool,
    load: bool,
) -> Import:
    """Builds the description of an import.

    Raises:
        ValueError: The format or the task is unknown, or the format cannot be told from the file's name.
    """
    signature = model_pb2.Signature(
        task=_TASKS[known("task", task, _TASKS)] if task is not None else training_job_pb2.TASK_UNSPECIFIED,
        shape=shape,
        columns=[model_pb2.ColumnSpec(name=name) for name in columns or ()],
        missing_values=missing_values,
        inputs=[model_pb2.TensorSpec(name=name, shape=lengths) for name, lengths in (inputs or {}).items()],
        outputs=[model_pb2.TensorSpec(name=name) for name in outputs or ()],
    )
    if classes is not None:
        labels = np.asarray(classes)
        signature.classes.extend(_value(label) for label in labels.tolist())
        signature.prediction_dtype = _LABEL_TYPES.get(labels.dtype.kind, data_pb2.DATA_TYPE_BYTES)
    description = model_service_pb2.ImportDescription(
        model=model,
        format=_FORMATS[known("format", format or _format_of(file), _FORMATS)],
        signature=signature,
        new_version=new_version,
        load=load,
        trusted_types=trusted_types,
    )
    return Import(file, description)


def read_import(reply: model_service_pb2.ImportModelResponse) -> Model:
    """Returns the model after an import.

    Raises:
        FitServeError: The version is published, but could not be loaded.
    """
    if reply.HasField("load_error"):
        error = errors.from_status(reply.load_error)
        error.add_note(f"Version {reply.version} of {reply.model.name} is imported; load() loads it.")
        raise error
    return resources.read(Model, reply.model)


def _format_of(file: ModelFile) -> Format:
    if isinstance(file, bytes):
        raise ValueError(f"content has no name that tells its format; set format to one of {', '.join(_FORMATS)}")
    suffix = Path(file).suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(f"{suffix!r} tells no format; set format to one of {', '.join(_FORMATS)}")
    return _SUFFIXES[suffix]


def _value(label: object) -> Value:
    match label:
        case bool():
            return Value(bool_value=label)
        case int() if abs(label) > 2**53:  # which a number of JSON does not hold
            return Value(string_value=str(label))
        case int() | float():
            return Value(number_value=label)
    return Value(string_value=str(label))

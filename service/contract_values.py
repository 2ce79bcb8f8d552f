"""The domain's kinds and labels as the contract's values, for callers and for the processes that train."""

from __future__ import annotations

from fitserve.v1 import data_pb2, model_pb2, training_job_pb2
from google.protobuf import struct_pb2

from service.domain.entities import Label, Task, ValueKind
from service.domain.named_tensors import TensorSpec

TASKS = {
    Task.CLASSIFICATION: training_job_pb2.TASK_CLASSIFICATION,
    Task.REGRESSION: training_job_pb2.TASK_REGRESSION,
}
COLUMN_KINDS = {
    ValueKind.NUMBER: model_pb2.COLUMN_KIND_NUMBER,
    ValueKind.INTEGER: model_pb2.COLUMN_KIND_INTEGER,
    ValueKind.BOOLEAN: model_pb2.COLUMN_KIND_BOOLEAN,
    ValueKind.CATEGORY: model_pb2.COLUMN_KIND_CATEGORY,
    ValueKind.TEXT: model_pb2.COLUMN_KIND_TEXT,
}
LABEL_DTYPES = {
    None: data_pb2.DATA_TYPE_FP32,
    ValueKind.NUMBER: data_pb2.DATA_TYPE_FP64,
    ValueKind.INTEGER: data_pb2.DATA_TYPE_INT64,
    ValueKind.BOOLEAN: data_pb2.DATA_TYPE_BOOL,
    ValueKind.CATEGORY: data_pb2.DATA_TYPE_BYTES,
}
"""The type of predictions in a tensor, by the kind of the labels; None is regression."""

EXACT_INTEGERS = 2**53
"""Up to here a double holds every integer."""


def value_of_label(label: Label) -> struct_pb2.Value:
    """Returns a class label as a JSON-like value. An integer that a double cannot hold is a text of its digits, as int64
    is in the JSON form of protobuf.
    """
    if isinstance(label, bool):
        return struct_pb2.Value(bool_value=label)
    if isinstance(label, int) and abs(label) > EXACT_INTEGERS:
        return struct_pb2.Value(string_value=str(label))
    if isinstance(label, str):
        return struct_pb2.Value(string_value=label)
    return struct_pb2.Value(number_value=label)


def tensor_spec(spec: TensorSpec) -> model_pb2.TensorSpec:
    """Returns what is said of a named tensor as a message."""
    dtype = data_pb2.DataType.Value(f"DATA_TYPE_{spec.dtype}")
    return model_pb2.TensorSpec(name=spec.name, dtype=dtype, shape=spec.shape, optional=spec.optional)

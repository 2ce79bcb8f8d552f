"""The outputs of a model of named tensors to the reply of a prediction."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from fitserve.v1 import data_pb2, prediction_service_pb2
from google.protobuf import struct_pb2

from service.domain.named_tensors import LENGTH_BYTES, Tensor, TensorBatch, TensorType
from service.domain.predictor import TensorPrediction
from service.rpc.messages import EXACT_INTEGERS
from service.rpc.replies import HAND_TYPED, number_or_null
from service.rpc.tensor_inputs import NUMPY_TYPES


def values_to_write(prediction: TensorPrediction, form: str) -> int:
    """Returns how many values the reply to inputs of a form has that are written one by one."""
    if form not in HAND_TYPED:
        return 0
    return sum(tensor.size for batch in prediction.outputs for tensor in batch.tensors)


def write(prediction: TensorPrediction, form: str) -> prediction_service_pb2.PredictResponse:
    """Returns the reply to inputs of a form: an object a row for those typed by hand, else tensors."""
    reply = prediction_service_pb2.PredictResponse(model=prediction.model, version=prediction.version)
    has_rows = prediction.signature.max_batch_size > 0
    if form in HAND_TYPED or (form == "table" and not has_rows):
        for batch in prediction.outputs:
            reply.predictions.extend(_objects(batch) if has_rows else [_object(batch)])
        return reply
    (batch,) = prediction.outputs
    for tensor in batch.tensors:
        dtype = data_pb2.DataType.Value(f"DATA_TYPE_{tensor.dtype}")
        reply.outputs[tensor.name].CopyFrom(data_pb2.Tensor(dtype=dtype, shape=tensor.shape, data=tensor.data))
    return reply


def _objects(batch: TensorBatch) -> Iterator[struct_pb2.Value]:
    """Yields an object for each row, from the name of an output to its value."""
    for row in range(batch.rows):
        yield _object(batch[row : row + 1], of_row=True)


def _object(batch: TensorBatch, of_row: bool = False) -> struct_pb2.Value:
    fields = {
        tensor.name: _nested(_values(tensor), tensor.shape[1:] if of_row else tensor.shape) for tensor in batch.tensors
    }
    return struct_pb2.Value(struct_value=struct_pb2.Struct(fields=fields))


def _nested(values: list[struct_pb2.Value], shape: tuple[int, ...]) -> struct_pb2.Value:
    """Returns the values of a tensor as nested lists; the value itself if a shape holds but one."""
    if shape in ((), (1,)):
        return values[0]
    step = math.prod(shape[1:])
    inner = (values[place * step : (place + 1) * step] for place in range(shape[0]))
    parts = values if len(shape) == 1 else [_list(part, shape[1:]) for part in inner]
    return struct_pb2.Value(list_value=struct_pb2.ListValue(values=parts))


def _list(values: list[struct_pb2.Value], shape: tuple[int, ...]) -> struct_pb2.Value:
    """Returns values as a list, also if it is of one value."""
    if len(shape) == 1:
        return struct_pb2.Value(list_value=struct_pb2.ListValue(values=values))
    return _nested(values, shape)


def _values(tensor: Tensor) -> list[struct_pb2.Value]:
    """Returns the elements of a tensor as JSON has them; what it has no number for is null, large integers are texts."""
    if tensor.dtype is TensorType.BYTES:
        return [struct_pb2.Value(string_value=text) for text in _texts(tensor.data)]
    items = np.frombuffer(tensor.data, NUMPY_TYPES[tensor.dtype]).tolist()
    if tensor.dtype is TensorType.BOOL:
        return [struct_pb2.Value(bool_value=item) for item in items]
    return [_number(item) for item in items]


def _texts(data: bytes) -> Iterator[str]:
    start = 0
    while start < len(data):
        begin = start + LENGTH_BYTES
        start = begin + int.from_bytes(data[start:begin], "little")
        yield data[begin:start].decode(errors="replace")


def _number(item: float) -> struct_pb2.Value:
    if isinstance(item, int):
        exact = abs(item) <= EXACT_INTEGERS
        return struct_pb2.Value(number_value=item) if exact else struct_pb2.Value(string_value=str(item))
    return number_or_null(item)

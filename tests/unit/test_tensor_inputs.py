"""Named tensors of a request: what costs the service more than it costs the caller is refused."""

from __future__ import annotations

import numpy as np
import pytest
from fitserve.v1 import data_pb2

from service.domain.entities import Signature
from service.domain.errors import ServiceError
from service.domain.named_tensors import TensorBatch, TensorSpec, TensorType
from service.rpc import tensor_inputs

OUTPUT = TensorSpec("scores", TensorType.FP32, (-1, 1))
FLOATS = Signature.of_tensors((TensorSpec("a", TensorType.FP32, (-1, -1)),), (OUTPUT,), 8)
PAIR = Signature.of_tensors(
    (TensorSpec("a", TensorType.UINT8, (-1, 1)), TensorSpec("b", TensorType.FP32, (-1, -1))), (OUTPUT,), 8
)
NO_ROWS = Signature.of_tensors((TensorSpec("a", TensorType.FP32, (-1, -1)),), (OUTPUT,), 0)


def tensor(dtype: int, shape: list[int], data: bytes = b"") -> data_pb2.Tensor:
    return data_pb2.Tensor(dtype=data_pb2.DataType.ValueType(dtype), shape=shape, data=data)


def batch_of(signature: Signature, **tensors: data_pb2.Tensor) -> TensorBatch:
    (batch,) = tensor_inputs.batches_for(data_pb2.Inputs(tensors=tensors), "tensors", signature)
    return batch


def refusal_of(signature: Signature, **tensors: data_pb2.Tensor) -> str:
    with pytest.raises(ServiceError) as refused:
        batch_of(signature, **tensors)
    return refused.value.message


@pytest.mark.parametrize("rows", [9, 2**25, 2**62])
def test_rows_that_no_data_bears_out_are_refused(rows: int) -> None:
    assert "without data" in refusal_of(FLOATS, a=tensor(data_pb2.DATA_TYPE_FP32, [rows, 0]))


def test_a_few_rows_may_be_empty() -> None:
    batch = batch_of(FLOATS, a=tensor(data_pb2.DATA_TYPE_FP32, [8, 0]))
    assert [tensor.shape for tensor in batch[2:5].tensors] == [(3, 0)]


def test_rows_of_no_width_may_stand_beside_others() -> None:
    batch = batch_of(
        PAIR,
        a=tensor(data_pb2.DATA_TYPE_UINT8, [100, 1], bytes(range(100))),
        b=tensor(data_pb2.DATA_TYPE_FP32, [100, 0]),
    )
    part = batch[10:12].tensors
    assert [(one.shape, one.data) for one in part] == [((2, 1), b"\x0a\x0b"), ((2, 0), b"")]


def test_lengths_without_data_stay_within_what_an_array_can_have() -> None:
    assert "without data" in refusal_of(NO_ROWS, a=tensor(data_pb2.DATA_TYPE_FP32, [2**40, 0]))
    assert batch_of(NO_ROWS, a=tensor(data_pb2.DATA_TYPE_FP32, [0, 4])).rows == 1


def test_rows_of_numbers_are_cut_at_their_ends() -> None:
    data = np.arange(12, dtype=np.float32)
    batch = batch_of(FLOATS, a=tensor(data_pb2.DATA_TYPE_FP32, [4, 3], data.tobytes()))
    assert batch[1:3].tensors[0].data == data[3:9].tobytes()

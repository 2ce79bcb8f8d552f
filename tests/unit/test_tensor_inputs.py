"""Named tensors of a request: what costs the service more than it costs the caller is refused."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from fitserve.v1 import data_pb2
from google.protobuf import json_format, struct_pb2
from tritonclient.grpc import service_pb2

from service.domain import text_columns
from service.domain.entities import ColumnSpec, Signature, ValueKind
from service.domain.errors import ServiceError
from service.domain.named_tensors import MAX_TEXTS, Tensor, TensorBatch, TensorSpec, TensorType
from service.rpc import oip_named_tensors, tensor_inputs, text_inputs

OUTPUT = TensorSpec("scores", TensorType.FP32, (-1, 1))
FLOATS = Signature.of_tensors((TensorSpec("a", TensorType.FP32, (-1, -1)),), (OUTPUT,), 8)
PAIR = Signature.of_tensors(
    (TensorSpec("a", TensorType.UINT8, (-1, 1)), TensorSpec("b", TensorType.FP32, (-1, -1))), (OUTPUT,), 8
)
NO_ROWS = Signature.of_tensors((TensorSpec("a", TensorType.FP32, (-1, -1)),), (OUTPUT,), 0)
TEXT = Signature.of_tensors((TensorSpec("a", TensorType.BYTES, (-1, 1)),), (OUTPUT,), 8)
TEXTS = Signature.of_tensors((TensorSpec("a", TensorType.BYTES, (-1, -1)),), (OUTPUT,), 8)


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


# -- texts -----------------------------------------------------------------------------------------------------------


def test_texts_are_cut_at_the_ends_of_rows() -> None:
    data = b"\1\0\0\0a\0\0\0\0\2\0\0\0bc\1\0\0\0d"
    batch = batch_of(TEXTS, a=tensor(data_pb2.DATA_TYPE_BYTES, [2, 2], data))
    assert [batch[row : row + 1].tensors[0].data for row in range(2)] == [data[:9], data[9:]]


@pytest.mark.parametrize(
    ("shape", "data", "says"),
    [
        ([1, 1], bytes(60 * 2**20), "follow the last of its 1 texts"),
        ([2, 1], b"\1\0\0\0a", "5 bytes are too few for 2 texts"),
        ([2, 1], b"\1\0\0\0a\0\0\0", "cut off"),
        ([2, 1], b"\5\0\0\0a\0\0\0", "cut off"),
        ([2, 1], b"\0\0\0\0\5\0\0\0a", "cut off"),
        ([1, 1], b"\xff\xff\xff\xffa", "cut off"),
        ([MAX_TEXTS + 1, 1], bytes(4 * MAX_TEXTS + 4), "too many"),
    ],
)
def test_what_are_not_the_texts_of_the_shape_is_refused_at_once(shape: list[int], data: bytes, says: str) -> None:
    began = time.process_time()
    assert says in refusal_of(TEXT, a=tensor(data_pb2.DATA_TYPE_BYTES, shape, data))
    assert time.process_time() - began < 1


def test_rows_of_no_texts_are_not_counted_one_by_one() -> None:
    assert "too many" in refusal_of(TEXTS, a=tensor(data_pb2.DATA_TYPE_BYTES, [2**31, 0]))


def test_an_output_is_checked_as_an_input_is() -> None:
    with pytest.raises(ValueError, match="too many"):
        Tensor("o", TensorType.BYTES, (1024, 2000), bytes(4 * 1024 * 2000)).check()


def test_texts_of_the_open_inference_protocol_are_counted_before_they_are_read() -> None:
    request = service_pb2.ModelInferRequest()
    given = request.inputs.add(name="a", datatype="BYTES", shape=[1, MAX_TEXTS + 1])
    given.contents.bytes_contents.extend([b""] * (MAX_TEXTS + 1))
    with pytest.raises(ServiceError, match="too many"):
        oip_named_tensors.batch_from(request, TEXTS)


@pytest.mark.parametrize("form", ["records", "rows", "table"])
def test_values_that_are_read_one_by_one_are_counted_first(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_inputs, "MAX_VALUES", 10)
    texts = data_pb2.Column(name="a", strings=data_pb2.StringValues(values=["t"] * 11))
    inputs = data_pb2.Inputs(
        records=[struct_pb2.Struct()] * 11, rows=[struct_pb2.ListValue()] * 11, table=data_pb2.Table(columns=[texts])
    )
    with pytest.raises(ServiceError, match="11 values are too many"):
        tensor_inputs.batches_for(inputs, form, TEXT)


def records_of(value: object) -> data_pb2.Inputs:
    return json_format.ParseDict({"records": [{"a": value}]}, data_pb2.Inputs())


@pytest.mark.parametrize(
    ("signature", "value"), [(TEXTS, [""] * 11), (FLOATS, [1.0] * 11), (FLOATS, [True] * 11), (FLOATS, [[]] * 11)]
)
def test_lists_are_counted_before_they_are_read(
    signature: Signature, value: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_inputs, "MAX_VALUES", 10)
    with pytest.raises(ServiceError, match="11 values are too many"):
        tensor_inputs.batches_for(records_of(value), "records", signature)


@pytest.mark.parametrize("value", [[1, 2.5], [1, True], [0, 0]])
def test_lists_of_numbers_are_read_whatever_else_they_hold(value: list[float]) -> None:
    (batch,) = tensor_inputs.batches_for(records_of(value), "records", FLOATS)
    assert np.frombuffer(batch.tensors[0].data, np.float32).tolist() == value


def test_columns_of_texts_are_counted_before_they_are_read() -> None:
    columns = (ColumnSpec("t", ValueKind.TEXT), ColumnSpec("u", ValueKind.TEXT))
    signature = text_columns.with_tensors(replace(TEXT, columns=columns, shape=(2,)))
    values = data_pb2.StringValues(values=[""] * (MAX_TEXTS // 2 + 1))
    table = data_pb2.Table(columns=[data_pb2.Column(name=name, strings=values) for name in "tu"])
    with pytest.raises(ServiceError, match="too many"):
        text_inputs.batch_for(data_pb2.Inputs(table=table), "table", signature)


# -- texts that are lists or objects ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["list", "mixed list", "object", "deep"])
def test_what_json_has_no_number_for_is_refused_in_lists_and_objects(number: float, place: str) -> None:
    odd = struct_pb2.Value(number_value=number)
    values = [odd] if place == "list" else [odd, struct_pb2.Value(string_value="x")]
    value = struct_pb2.Value(list_value=struct_pb2.ListValue(values=values))
    if place in ("object", "deep"):
        inner = odd if place == "object" else value
        value = struct_pb2.Value(struct_value=struct_pb2.Struct(fields={"b": inner}))
    inputs = data_pb2.Inputs(records=[struct_pb2.Struct(fields={"a": value})])
    with pytest.raises(ServiceError, match=r"inputs.records\[0\].a: .* infinity.* send null") as refused:
        tensor_inputs.batches_for(inputs, "records", TEXT)
    assert refused.value.metadata["field"] == "inputs.records[0].a"


@pytest.mark.parametrize("value", [[], [0, 1.5], [1, "a", None], {"b": [True, {"c": "ü"}]}])
def test_a_list_or_an_object_becomes_json(value: object) -> None:
    (batch,) = tensor_inputs.batches_for(records_of(value), "records", TEXT)
    assert json.loads(batch.tensors[0].data[4:]) == value

"""Arrays, columns and records as messages, and tensors back as arrays."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
from fitserve import _features, _tensors, resources
from fitserve.v1 import data_pb2, dataset_pb2, model_pb2, server_service_pb2, training_job_pb2, training_service_pb2
from google.protobuf.message import Message


@pytest.mark.parametrize("kind", ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ">f4", ">i8"])
@pytest.mark.parametrize("shape", [(6,), (2, 3), (0, 4), (1, 1, 2, 3)])
def test_a_tensor_comes_back_as_it_was(kind: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    tensor = _tensors.encode(array)
    decoded = _tensors.decode(tensor)
    np.testing.assert_array_equal(decoded, array)
    assert decoded.dtype == array.dtype.newbyteorder("=")
    assert decoded.shape == shape
    decoded[...] = 0


def test_texts_have_their_length_before_them() -> None:
    tensor = _tensors.encode(np.array(["a", "", "äö"]))
    assert tensor.data == b"\x01\0\0\0a\0\0\0\0\x04\0\0\0\xc3\xa4\xc3\xb6"
    assert _tensors.decode(tensor).tolist() == ["a", "", "äö"]
    assert _tensors.decode(data_pb2.Tensor(dtype=data_pb2.DATA_TYPE_BYTES, shape=[0])).dtype.kind == "U"


def test_elements_that_tensors_do_not_have_are_refused() -> None:
    with pytest.raises(TypeError, match="complex128; convert them to float32"):
        _tensors.encode(np.array([1j]))


@pytest.mark.parametrize(
    ("rows", "dtype", "values"),
    [
        ([[1, 2], [3, 4]], data_pb2.DATA_TYPE_FP32, [1, 2, 3, 4]),
        (np.array([[1.5, 2.5]]), data_pb2.DATA_TYPE_FP32, [1.5, 2.5]),
        (np.asfortranarray(np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)), data_pb2.DATA_TYPE_FP32, [1, 2, 3, 4]),
        ([[1, None]], data_pb2.DATA_TYPE_FP32, [1, np.nan]),
        (np.array([[[[7]]]], np.uint8), data_pb2.DATA_TYPE_UINT8, [7]),
    ],
)
# Rows in all forms of arrays.
def test_an_array_becomes_a_tensor(rows: Any, dtype: data_pb2.DataType.ValueType, values: list[float]) -> None:
    inputs = _features.features(rows).message()
    assert inputs.tensor.dtype == dtype
    np.testing.assert_array_equal(_tensors.decode(inputs.tensor).ravel(), values)


class Frame:
    """A data frame of a library that this client does not know."""

    columns = ("number", "text")

    # The values of a column.
    def __getitem__(self, name: object, /) -> Any:
        return {"number": np.array([1.5, np.nan]), "text": np.array(["a", None], object)}[str(name)]


@pytest.mark.parametrize(
    "rows",
    [
        Frame(),
        {"number": [1.5, None], "text": ["a", None]},
        [{"number": 1.5, "text": "a"}, {"number": None}],
    ],
)
# Rows in all forms with names.
def test_named_columns_become_a_table_with_missing_values(rows: Any) -> None:
    number, text = _features.features(rows).message().table.columns
    assert (number.name, text.name) == ("number", "text")
    np.testing.assert_array_equal(number.doubles.values, [1.5, np.nan])
    assert not number.missing
    assert (list(text.strings.values), list(text.missing)) == (["a", ""], [1])


class NAType:
    """Looks like pandas.NA."""


@pytest.mark.parametrize(
    ("values", "field", "items"),
    [
        ([1, 2], "integers", [1, 2]),
        (np.array([1, 2], np.uint8), "integers", [1, 2]),
        ([1, None], "integers", [1, 0]),
        (np.array([1, NAType()], object), "integers", [1, 0]),
        ([True, False], "booleans", [True, False]),
        (np.array([True, None], object), "booleans", [True, False]),
        ([1.0, 2.0], "doubles", [1, 2]),
        (np.array([1, 2.5], object), "doubles", [1, 2.5]),
        (["a", "b"], "strings", ["a", "b"]),
        (["a", float("nan")], "strings", ["a", ""]),
        (np.array([], object), "doubles", []),
        (np.array([], np.int64), "integers", []),
    ],
)
# Values of a column in all forms.
def test_a_column_has_the_type_of_its_values(values: Any, field: str, items: list[object]) -> None:
    column = _features.column("c", values).message()
    assert column.WhichOneof("values") == field
    assert list(getattr(column, field).values) == items


@pytest.mark.parametrize(
    ("rows", "kind", "text"),
    [
        ([1.0, 2.0], ValueError, r"shape \[rows, columns\], not \[2\]; a single row is \[\[...\]\]"),
        ([["a", "b"]], TypeError, "give texts in a dict of columns or a data frame"),
        (np.array([["a", 1]], object), TypeError, "give texts in a dict of columns"),
        ({"a": [1, 2], "b": [1]}, ValueError, "column 'a' has 2 values but column 'b' has 1"),
        ({"a": [[1]]}, ValueError, "column 'a' must have one dimension"),
        ({"a": [1, "x"]}, TypeError, "column 'a' holds values of the types int, str"),
        ({"a": np.array(["2026-01-01"], "M8[D]")}, TypeError, r"column 'a' holds datetime64\[D\]"),
        ({"a": np.array([2**63], np.uint64)}, ValueError, "column 'a' holds integers above"),
        ({}, ValueError, "X has no columns"),
    ],
)
# Rows that are wrong in all ways.
def test_wrong_rows_are_refused_with_a_way_to_mend_them(rows: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        _features.features(rows)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (resources.TrainingJob, training_job_pb2.TrainingJob()),
        (resources.JobUpdate, training_service_pb2.WatchTrainingJobResponse()),
        (resources.Dataset, dataset_pb2.Dataset()),
        (resources.Model, model_pb2.Model()),
        (resources.ServerStatus, server_service_pb2.GetStatusResponse()),
    ],
)
def test_the_resources_have_the_fields_of_the_contract(kind: type, message: Message) -> None:
    assert_same_fields(kind, message.DESCRIPTOR)


# A descriptor of either implementation of protobuf.
def assert_same_fields(kind: Any, descriptor: Any) -> None:
    assert [one.name for one in fields(kind)] == [one.name for one in descriptor.fields]
    for one in descriptor.fields:
        name = one.message_type.name if one.message_type else ""
        nested = {"TrainingStep": resources.Step}.get(name) or getattr(resources, name, None)
        if nested is not None and is_dataclass(nested):
            assert_same_fields(nested, one.message_type)


def test_a_value_of_a_later_contract_is_no_error() -> None:
    job = resources.read(resources.TrainingJob, training_job_pb2.TrainingJob.FromString(b"\x30\x63"))
    assert job.state == "UNRECOGNIZED_99"


def test_a_job_reads_well() -> None:
    job = training_job_pb2.TrainingJob(
        model="iris", version=2, algorithm="xgboost", state=training_job_pb2.JOB_STATE_RUNNING, progress=0.45
    )
    job.step.number, job.step.total, job.step.unit = 9, 20, "round"
    job.step.metrics["loss"] = 0.123456
    text = str(resources.read(resources.TrainingJob, job))
    assert text == "iris 2 xgboost RUNNING 45% round 9/20 loss=0.1235"

"""Protobuf tensors, rows and columns to numpy and back: the only place that knows both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from fitserve.v1 import data_pb2
from google.protobuf import struct_pb2
from numpy.typing import NDArray

from service.domain.entities import ColumnData, Floats, ValueKind
from service.domain.errors import invalid

DTYPES: dict[int, np.dtype[np.generic]] = {
    data_pb2.DATA_TYPE_BOOL: np.dtype("?"),
    data_pb2.DATA_TYPE_UINT8: np.dtype("u1"),
    data_pb2.DATA_TYPE_UINT16: np.dtype("<u2"),
    data_pb2.DATA_TYPE_UINT32: np.dtype("<u4"),
    data_pb2.DATA_TYPE_UINT64: np.dtype("<u8"),
    data_pb2.DATA_TYPE_INT8: np.dtype("i1"),
    data_pb2.DATA_TYPE_INT16: np.dtype("<i2"),
    data_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    data_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
    data_pb2.DATA_TYPE_FP16: np.dtype("<f2"),
    data_pb2.DATA_TYPE_FP32: np.dtype("<f4"),
    data_pb2.DATA_TYPE_FP64: np.dtype("<f8"),
}
"""The numeric types of tensors."""

MAX_DIMENSIONS = 8

SCALARS = frozenset({"number_value", "bool_value", "string_value"})
"""The kinds of google.protobuf.Value that a column can hold, besides null."""


def matrix_of_tensor(tensor: data_pb2.Tensor, path: str) -> Floats:
    """Returns a numeric tensor [rows, ...] as float32, without a copy if it is one.

    Raises:
        ServiceError: INVALID_FIELD naming dtype, shape or data below `path`.
    """
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        known = tensor.dtype in data_pb2.DataType.values()
        name = data_pb2.DataType.Name(tensor.dtype) if known else str(tensor.dtype)
        raise invalid(f"{path}.dtype", f"{name} is no numeric type; send DATA_TYPE_FP32, or another number type")
    if not 2 <= len(tensor.shape) <= MAX_DIMENSIONS:
        given = f"there are {len(tensor.shape)} dimensions"
        raise invalid(f"{path}.shape", f"{given}; send [rows, columns] or [rows, channels, height, width]")
    shape = tuple(tensor.shape)
    if any(length < 0 for length in shape):
        raise invalid(f"{path}.shape", f"{list(shape)} has a negative length")
    if 0 in shape:  # whose other lengths could be of any size, with no data to bear them out
        raise invalid(f"{path}.shape", f"there are no rows, or no features, in {list(shape)}; send at least one")
    needed = math.prod(shape) * dtype.itemsize
    if needed != len(tensor.data):
        raise invalid(
            f"{path}.data", f"it has {len(tensor.data)} bytes; shape {list(shape)} of {dtype.name} needs {needed}"
        )
    return to_float32(np.frombuffer(tensor.data, dtype).reshape(shape))


def to_float32(values: NDArray[np.generic]) -> Floats:
    """Returns numbers as float32, what training and serving both compute with; too large ones become infinite."""
    if values.dtype == np.float32:
        return values  # type: ignore[return-value]  # numpy's types do not follow the test
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def matrix_of_rows(rows: Sequence[struct_pb2.ListValue], path: str) -> Floats:
    """Returns rows typed by hand as float32 [rows, ...]; null is a missing value (NaN).

    Raises:
        ServiceError: INVALID_FIELD naming the first row or value that does not fit.
    """
    first: tuple[int, ...] | None = None
    values: list[float] = []
    for index, row in enumerate(rows):
        shape = _flatten(row, f"{path}[{index}]", values)
        if first is None:
            first = shape
        elif shape != first:
            raise invalid(f"{path}[{index}]", f"it has the shape {list(shape)}, the first row has {list(first)}")
    matrix = np.array(values, np.float64).reshape(len(rows), *(first or (0,)))
    return to_float32(matrix)


def _flatten(row: struct_pb2.ListValue, path: str, into: list[float]) -> tuple[int, ...]:
    """Appends the numbers of a list, nested or not, and returns its shape."""
    numbers: list[float] = []
    for value in row.values:
        if value.WhichOneof("kind") != "number_value":
            return _flatten_mixed(row, path, into)
        numbers.append(value.number_value)
    into.extend(numbers)
    return (len(numbers),)


def _flatten_mixed(row: struct_pb2.ListValue, path: str, into: list[float]) -> tuple[int, ...]:
    """Does the work of `_flatten` for lists of lists, and of other values than numbers, which takes three times as long."""
    inner: tuple[int, ...] | None = None
    for index, value in enumerate(row.values):
        kind = value.WhichOneof("kind")
        if kind == "list_value":
            shape = _flatten(value.list_value, f"{path}[{index}]", into)
        else:
            shape = ()
            into.append(_number(value, kind, f"{path}[{index}]"))
        if inner is not None and shape != inner:
            raise invalid(f"{path}[{index}]", f"it has the shape {list(shape)}, its neighbours have {list(inner)}")
        inner = shape
    return (len(row.values), *(inner or ()))


def _number(value: struct_pb2.Value, kind: str | None, path: str) -> float:
    if kind == "number_value":
        return value.number_value
    if kind == "bool_value":
        return float(value.bool_value)
    if kind == "null_value" or kind is None:
        return math.nan
    raise invalid(path, "it is not a number; features are numbers, true, false or null")


def column_of_values(values: Sequence[struct_pb2.Value], name: str, path: str) -> ColumnData:
    """Returns values typed by hand as a column: texts, truth values, integers if all numbers are whole, or numbers.

    Raises:
        ServiceError: INVALID_FIELD naming the first value of another kind than the rest.
    """
    kinds = {kind for value in values if (kind := value.WhichOneof("kind")) not in (None, "null_value")}
    if len(kinds) > 1 or kinds - SCALARS:
        first = next((kind for value in values if (kind := value.WhichOneof("kind")) in SCALARS), None)
        odd = next(i for i, v in enumerate(values) if v.WhichOneof("kind") not in (None, "null_value", first))
        raise invalid(
            f"{path}[{odd}]",
            "it is of another kind than the other values; send texts, numbers or truth values, and do not mix them",
        )
    missing = any(value.WhichOneof("kind") in (None, "null_value") for value in values)
    kind = kinds.pop() if kinds else "number_value"
    if kind == "string_value":
        if missing:
            raise invalid(path, "texts with null among them are not supported; leave those rows out")
        return ColumnData(name, ValueKind.CATEGORY, [value.string_value for value in values])
    if kind == "bool_value" and not missing:
        return ColumnData(name, ValueKind.BOOLEAN, np.array([value.bool_value for value in values], np.uint8))
    numbers = np.array([_number(value, value.WhichOneof("kind"), path) for value in values], np.float64)
    whole = bool(np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all() and (abs(numbers) < 2**53).all())
    if whole:
        return ColumnData(name, ValueKind.INTEGER, numbers.astype(np.int64))
    return ColumnData(name, ValueKind.NUMBER, numbers)


def column_of_message(column: data_pb2.Column, path: str) -> ColumnData:
    """Returns a typed column.

    Raises:
        ServiceError: INVALID_FIELD naming the part that does not fit.
    """
    form = column.WhichOneof("values")
    if form is None:
        raise invalid(path, "it has no values; set one of doubles, integers, booleans, strings")
    missing = np.array(column.missing, np.int64)
    if form == "strings":
        if missing.size:
            raise invalid(f"{path}.missing", "texts with missing values are not supported; leave those rows out")
        return ColumnData(column.name, ValueKind.CATEGORY, list(column.strings.values))
    if form == "doubles":
        data = ColumnData(column.name, ValueKind.NUMBER, np.array(column.doubles.values, np.float64))
    elif form == "integers":
        data = ColumnData(column.name, ValueKind.INTEGER, np.array(column.integers.values, np.int64))
    else:
        data = ColumnData(column.name, ValueKind.BOOLEAN, np.array(column.booleans.values, np.uint8))
    return _with_missing(data, missing, path) if missing.size else data


def _with_missing(data: ColumnData, missing: NDArray[np.int64], path: str) -> ColumnData:
    if missing.min() < 0 or missing.max() >= len(data):
        raise invalid(f"{path}.missing", f"a row number is not between 0 and {len(data) - 1}")
    numbers = np.array(data.values, np.float64)
    numbers[missing] = math.nan
    return ColumnData(data.name, ValueKind.NUMBER, numbers)


def texts_tensor(texts: Sequence[bytes]) -> data_pb2.Tensor:
    """Returns a tensor [texts] of DATA_TYPE_BYTES from texts that have their length before them already."""
    return data_pb2.Tensor(dtype=data_pb2.DATA_TYPE_BYTES, shape=[len(texts)], data=b"".join(texts))


def sized(text: str) -> bytes:
    """Returns a text as an element of a DATA_TYPE_BYTES tensor: its length as 4 bytes, then its UTF-8 bytes."""
    data = text.encode()
    return len(data).to_bytes(4, "little") + data

"""Protobuf tensors, rows and columns to numpy and back: the only place that knows both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from fitserve.v1 import data_pb2
from google.protobuf import struct_pb2
from numpy.typing import NDArray

from service.contract_values import EXACT_INTEGERS
from service.domain.entities import MISSING_BOOLEAN, MISSING_INTEGER, ColumnData, Floats, ValueKind
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

NO_VALUE = (None, "null_value")
"""The kinds of google.protobuf.Value that are a missing value."""

_NUMBERS: dict[str, tuple[ValueKind, type[np.generic], float]] = {
    "doubles": (ValueKind.NUMBER, np.float64, math.nan),
    "integers": (ValueKind.INTEGER, np.int64, MISSING_INTEGER),
    "booleans": (ValueKind.BOOLEAN, np.uint8, MISSING_BOOLEAN),
}
"""The kinds of columns of numbers: what their values become, and what stands for a missing one."""


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
    return to_float32(array_of(tensor.data, dtype, tuple(tensor.shape[:]), f"{path}.data", f"{path}.shape"))


def array_of(
    data: bytes, dtype: np.dtype[np.generic], shape: tuple[int, ...], data_path: str, shape_path: str
) -> NDArray[np.generic]:
    """Returns little-endian bytes as an array [rows, ...], without a copy.

    Args:
        data_path: Where the bytes stand in the request.
        shape_path: Where the shape stands.

    Raises:
        ServiceError: INVALID_FIELD naming one of them.
    """
    if not 2 <= len(shape) <= MAX_DIMENSIONS:
        given = f"there are {len(shape)} dimensions"
        raise invalid(shape_path, f"{given}; send [rows, columns] or [rows, channels, height, width]")
    if min(shape) < 0:
        raise invalid(shape_path, f"{list(shape)} has a negative length")
    if 0 in shape:  # whose other lengths could be of any size, with no data to bear them out
        raise invalid(shape_path, f"there are no rows, or no features, in {list(shape)}; send at least one")
    needed = math.prod(shape) * dtype.itemsize
    if needed != len(data):
        raise invalid(data_path, f"it has {len(data)} bytes; shape {list(shape)} of {dtype.name} needs {needed}")
    return np.ndarray(shape, dtype, data)


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
    raise invalid(
        path, "it is not a number; features are numbers, true, false or null, and texts go into records or table"
    )


def column_of_values(values: Sequence[struct_pb2.Value], name: str, path: str) -> ColumnData:
    """Returns values typed by hand as a column: texts, truth values, integers if all numbers are whole, or numbers.

    Null is a missing value.

    Raises:
        ServiceError: INVALID_FIELD naming the first value of another kind than the rest.
    """
    kinds = [value.WhichOneof("kind") for value in values]
    missing = np.fromiter((kind in NO_VALUE for kind in kinds), np.bool_, len(kinds))
    given = {kind for kind in kinds if kind not in NO_VALUE}
    if len(given) > 1 or given - SCALARS:
        first = next((kind for kind in kinds if kind in SCALARS), None)
        odd = next(index for index, kind in enumerate(kinds) if kind not in (*NO_VALUE, first))
        raise invalid(
            f"{path}[{odd}]",
            "it is of another kind than the other values; send texts, numbers or truth values, and do not mix them",
        )
    if given == {"string_value"}:
        texts = [None if gap else value.string_value for value, gap in zip(values, missing, strict=True)]
        return ColumnData(name, ValueKind.CATEGORY, texts)
    if given == {"bool_value"}:
        truths = np.array([value.bool_value for value in values], np.uint8)
        return ColumnData(name, ValueKind.BOOLEAN, np.where(missing, np.uint8(MISSING_BOOLEAN), truths))
    numbers = np.array([value.number_value for value in values], np.float64)
    if given and _all_whole(numbers):
        integers = numbers.astype(np.int64)
        return ColumnData(name, ValueKind.INTEGER, np.where(missing, MISSING_INTEGER, integers))
    return ColumnData(name, ValueKind.NUMBER, np.where(missing, np.nan, numbers))


def _all_whole(numbers: NDArray[np.float64]) -> bool:
    whole = np.isfinite(numbers) & (abs(numbers) < EXACT_INTEGERS)
    return bool(whole.all() and (numbers == np.floor(numbers)).all())


def column_of_message(column: data_pb2.Column, path: str) -> ColumnData:
    """Returns a typed column.

    Raises:
        ServiceError: INVALID_FIELD naming the part that does not fit.
    """
    form = form_of_column(column, path)
    missing = missing_rows(column, len(getattr(column, form).values), path)
    if form == "strings":
        texts: list[str | None] = list(column.strings.values)
        for row in missing:
            texts[row] = None
        return ColumnData(column.name, ValueKind.CATEGORY, texts)
    kind, dtype, gap = _NUMBERS[form]
    values = doubles(column.doubles) if form == "doubles" else np.array(getattr(column, form).values, dtype)
    values[missing] = gap
    return ColumnData(column.name, kind, values)


def form_of_column(column: data_pb2.Column, path: str) -> str:
    """Returns which values of a column are set. Raises ServiceError INVALID_FIELD if none are."""
    form = column.WhichOneof("values")
    if form is None:
        raise invalid(path, "it has no values; set one of doubles, integers, booleans, strings")
    return form


def doubles(message: data_pb2.DoubleValues) -> NDArray[np.float64]:
    """Returns numbers as an array. Their bytes are taken at once, fifty times as fast as one number after the other."""
    size = 8 * len(message.values)
    data = message.SerializeToString()
    # A message of one packed field is its tag, its size in groups of 7 bits, and the numbers in little-endian order. There
    # may be more behind them, of fields that a later contract has.
    start = 1 + max(1, -(-size.bit_length() // 7))
    if size == 0 or len(data) != start + size:
        return np.array(message.values, np.float64)
    return np.frombuffer(data, "<f8", offset=start).astype(np.float64)


def missing_rows(column: data_pb2.Column, rows: int, path: str) -> NDArray[np.int64]:
    """Returns the numbers of the rows that a column calls missing. Raises ServiceError INVALID_FIELD."""
    missing = np.array(column.missing, np.int64)
    if missing.size and not 0 <= missing.min() <= missing.max() < rows:
        raise invalid(f"{path}.missing", f"a row number is not between 0 and {rows - 1}")
    return missing


def texts_tensor(texts: Sequence[bytes]) -> data_pb2.Tensor:
    """Returns a tensor [texts] of DATA_TYPE_BYTES from texts that have their length before them already."""
    return data_pb2.Tensor(dtype=data_pb2.DATA_TYPE_BYTES, shape=[len(texts)], data=b"".join(texts))


def sized(text: str) -> bytes:
    """Returns a text as an element of a DATA_TYPE_BYTES tensor: its length as 4 bytes, then its UTF-8 bytes."""
    data = text.encode()
    return len(data).to_bytes(4, "little") + data


def bytes_tensor_data(elements: Sequence[bytes]) -> bytes:
    """Returns the data of a DATA_TYPE_BYTES tensor: each element with its length before it."""
    return b"".join([len(element).to_bytes(4, "little") + element for element in elements])

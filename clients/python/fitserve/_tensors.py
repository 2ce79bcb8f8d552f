"""numpy arrays to and from `Tensor`."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fitserve.v1 import data_pb2

# The element type of an array is known only at run time.
Array: TypeAlias = npt.NDArray[Any]

_DTYPES = {
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
_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}
_LENGTH = struct.Struct("<I")


def encode(array: Array) -> data_pb2.Tensor:
    """Returns an array of any shape as a tensor of the same type; texts become DATA_TYPE_BYTES.

    Raises:
        TypeError: Tensors have no such element type.
    """
    if array.dtype.kind in "UOS":
        data = b"".join(_with_length(item) for item in array.ravel())
        return data_pb2.Tensor(dtype=data_pb2.DATA_TYPE_BYTES, shape=array.shape, data=data)
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _NUMBERS:
        raise TypeError(f"a tensor cannot hold elements of type {array.dtype}; convert them to float32")
    data = np.ascontiguousarray(array, dtype).tobytes()
    return data_pb2.Tensor(dtype=_NUMBERS[dtype], shape=array.shape, data=data)


def decode(tensor: data_pb2.Tensor) -> Array:
    """Returns a tensor as an array of its shape, which the caller owns; DATA_TYPE_BYTES becomes texts."""
    if tensor.dtype == data_pb2.DATA_TYPE_BYTES:
        return text_array(_texts(tensor.data)).reshape(tensor.shape)
    return np.frombuffer(tensor.data, _DTYPES[tensor.dtype]).reshape(tensor.shape).copy()


def text_array(texts: Iterable[str]) -> Array:
    """Returns texts as an array of numpy's own text type, also if there are none."""
    return np.array(list(texts), dtype=np.str_)


def _with_length(item: object) -> bytes:
    data = item if isinstance(item, bytes) else str(item).encode("utf-8", "surrogateescape")
    return _LENGTH.pack(len(data)) + data


def _texts(data: bytes) -> Iterable[str]:
    start = 0
    while start < len(data):
        (length,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size + length
        # Byte strings that are no UTF-8, as imported models may give, survive a round trip.
        yield data[start - length : start].decode("utf-8", "surrogateescape")

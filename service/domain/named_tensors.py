"""Named tensors: what models take and give whose input is no matrix of features, and how their requests are joined.

A tensor stays the bytes that came: requests are joined into a batch, and answers taken apart, by joining and cutting bytes.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

LENGTH_BYTES = 4
"""Each element of TensorType.BYTES begins with its length, a little-endian integer of so many bytes."""

MAX_TEXTS = 2**20
"""The most texts of one tensor. They are looked at one by one, and cost their sender 4 bytes each."""

OPEN_LENGTH = 128
"""What a dimension of any length counts, and each text in bytes, where the size of a row is estimated."""

_length_at = struct.Struct("<I").unpack_from


class TensorType(StrEnum):
    """The type of a tensor's elements, as the Open Inference Protocol names it."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"

    @property
    def item_bytes(self) -> int:
        """The size of an element; 0 for BYTES, whose elements have sizes of their own."""
        if self is TensorType.BYTES:
            return 0
        digits = "".join(filter(str.isdigit, self.value))
        return int(digits) // 8 if digits else 1


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a model takes or gives.

    Attributes:
        shape: The length of each dimension, -1 where any is allowed. The first one counts the rows, if the model has rows.
        optional: Whether a request may leave it out.
    """

    name: str
    dtype: TensorType
    shape: tuple[int, ...]
    optional: bool = False

    @property
    def row_bytes(self) -> int:
        """About the size of one row in bytes, if the first dimension counts rows."""
        lengths = (OPEN_LENGTH if length < 0 else length for length in self.shape[1:])
        return math.prod(lengths) * (self.dtype.item_bytes or OPEN_LENGTH)


@dataclass
class Tensor:
    """A tensor: its elements in row-major order, little-endian, those of BYTES with their length before them.

    It does not change. Python is not asked to see to that: it takes four times as long to make one then, and a record of ten
    inputs makes twenty.
    """

    name: str
    dtype: TensorType
    shape: tuple[int, ...]
    data: bytes

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @cached_property
    def row_ends(self) -> Sequence[int]:
        """Where each row of TensorType.BYTES ends in `data`, with a 0 before them. Made once.

        Raises:
            ValueError: There are not as many texts in the data, or too many.
        """
        rows = self.shape[0] if self.shape else 1
        return _text_ends(self.data, rows, math.prod(self.shape[1:]))

    def check(self) -> None:
        """Raises ValueError, saying why, if the data are not the elements of the shape."""
        if self.dtype is TensorType.BYTES:
            if self.row_ends[-1] < len(self.data):
                raise ValueError(f"{len(self.data) - self.row_ends[-1]} bytes follow the last of its {self.size} texts")
        elif len(self.data) != (needed := self.size * self.dtype.item_bytes):
            raise ValueError(f"it has {len(self.data)} bytes; shape {list(self.shape)} of {self.dtype} needs {needed}")

    def part(self, start: int, stop: int) -> Tensor:
        """Returns some rows."""
        data = self.data[self._end_of(start) : self._end_of(stop)]
        return Tensor(self.name, self.dtype, (stop - start, *self.shape[1:]), data)

    def _end_of(self, rows: int) -> int:
        """Returns where the first so many rows end in `data`."""
        if self.dtype is TensorType.BYTES:
            return self.row_ends[rows]
        return len(self.data) // self.shape[0] * rows


@dataclass
class TensorBatch:
    """Named tensors that go to a model together, or come from it. As a tensor, it does not change.

    Attributes:
        rows: The number of rows, which all of them have; 1 for a model without rows, whose tensors are not joined.
    """

    rows: int
    tensors: tuple[Tensor, ...]

    @cached_property
    def kind(self) -> tuple[object, ...]:
        """What batches have in common that can be joined: names, and all lengths but the number of rows. Made once."""
        return tuple((tensor.name, tensor.shape[1:]) for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        """The size of all tensors."""
        return sum(len(tensor.data) for tensor in self.tensors)

    def __getitem__(self, rows: slice) -> TensorBatch:
        """Returns some rows, `[start:stop]`."""
        start, stop, _ = rows.indices(self.rows)
        if (start, stop) == (0, self.rows):
            return self
        return TensorBatch(stop - start, tuple(tensor.part(start, stop) for tensor in self.tensors))


def joined(batches: Sequence[TensorBatch]) -> TensorBatch:
    """Returns the rows of batches of one kind as one batch."""
    if len(batches) == 1:
        return batches[0]
    rows = sum(batch.rows for batch in batches)
    return TensorBatch(
        rows,
        tuple(
            Tensor(
                first.name,
                first.dtype,
                (rows, *first.shape[1:]),
                b"".join(batch.tensors[place].data for batch in batches),
            )
            for place, first in enumerate(batches[0].tensors)
        ),
    )


def _text_ends(data: bytes, rows: int, texts: int) -> Sequence[int]:
    """Returns where each of some rows of so many texts ends, with a 0 before them. It takes 0.1 us a text."""
    count = rows * texts
    if max(rows, count) > MAX_TEXTS:
        raise ValueError(f"{rows} rows of {texts} texts are too many for one tensor; {MAX_TEXTS} texts are allowed")
    if len(data) < count * LENGTH_BYTES:
        raise ValueError(f"its {len(data)} bytes are too few for {count} texts")
    ends, end = array("q", [0]), 0
    try:
        for _ in range(rows):
            for _ in range(texts):
                end += LENGTH_BYTES + _length_at(data, end)[0]
            ends.append(end)
    except struct.error:
        end = len(data) + 1
    if end > len(data):
        raise ValueError(f"one of its {count} texts is cut off")
    return ends

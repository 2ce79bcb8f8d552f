"""Named tensors: what models take and give whose input is no matrix of features, and how their requests are joined.

A tensor stays the bytes that came: requests are joined into a batch, and answers taken apart, by joining and cutting bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

LENGTH_BYTES = 4
"""Each element of TensorType.BYTES begins with its length, a little-endian integer of so many bytes."""


OPEN_LENGTH = 128
"""What a dimension of any length counts, and each text in bytes, where the size of a row is estimated."""


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


@dataclass(frozen=True)
class Tensor:
    """A tensor: its elements in row-major order, little-endian, those of BYTES with their length before them."""

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
        """Where each row ends in `data`, with a 0 before them. Made once."""
        rows = self.shape[0]
        if self.dtype is not TensorType.BYTES:
            step = len(self.data) // rows
            return range(0, len(self.data) + 1, step) if step else [0] * (rows + 1)
        ends = element_ends(self.data)
        return ends[:: len(ends) // rows] if len(ends) > 1 else [0] * (rows + 1)

    def part(self, start: int, stop: int) -> Tensor:
        """Returns some rows."""
        data = self.data[self.row_ends[start] : self.row_ends[stop]]
        return Tensor(self.name, self.dtype, (stop - start, *self.shape[1:]), data)


@dataclass(frozen=True)
class TensorBatch:
    """Named tensors that go to a model together, or come from it.

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


def element_ends(data: bytes) -> list[int]:
    """Returns where each element of TensorType.BYTES ends, with a 0 before them.

    Raises:
        ValueError: The last element is cut off.
    """
    ends = [0]
    while (start := ends[-1] + LENGTH_BYTES) <= len(data):
        ends.append(start + int.from_bytes(data[start - LENGTH_BYTES : start], "little"))
    if ends[-1] != len(data):
        raise ValueError(f"the last of {len(ends) - 1} texts is cut off")
    return ends

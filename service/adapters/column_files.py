"""Files of raw values that grow block by block, with the counts that later checks need."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.adapters.dataset_format import ColumnFile, Counts, MatrixFile
from service.domain.entities import MISSING_BOOLEAN, MISSING_INTEGER, Floats, ValueKind

DISTINCT_LIMIT = 10_000
"""The number up to which different values are counted."""
VOCABULARY_LIMIT = 100_000
"""How many different texts a column may have."""
VOCABULARY_BYTES = 64 << 20
"""How much memory the different texts of all columns of a dataset may take: they stay there during an upload."""

_ENTRY_BYTES = 128  # of a text's entry in a dict, and its code

Numbers: TypeAlias = NDArray[np.float64] | NDArray[np.int64] | NDArray[np.uint8]
Fingerprint: TypeAlias = dict[str, object]
"""What identifies the content of a file, as JSON values."""

_MISSING_CODE = -1
_DTYPES = {
    ValueKind.NUMBER: "<f8",
    ValueKind.INTEGER: "<i8",
    ValueKind.BOOLEAN: "|u1",
    ValueKind.CATEGORY: "<i4",
}


class ValuesFile:
    """A file of little-endian values. What is not written yet is in memory, and the file is closed in between.

    So a table of a thousand columns needs no descriptor for each, and small blocks are not written one by one.
    """

    def __init__(self, path: Path, dtype: str) -> None:
        """Creates no file yet; `flush` does."""
        self.path = path
        self.dtype = dtype
        self.size_bytes = 0
        self._digest = hashlib.sha256()
        self._pending = bytearray()

    @property
    def sha256(self) -> str:
        """The digest of all values."""
        return self._digest.hexdigest()

    @property
    def pending_bytes(self) -> int:
        """How much is in memory."""
        return len(self._pending)

    def append(self, values: Numbers | Floats | NDArray[np.int32]) -> None:
        """Adds values, in memory."""
        content = np.ascontiguousarray(values, dtype=self.dtype).tobytes()
        self._digest.update(content)
        self._pending += content
        self.size_bytes += len(content)

    def flush(self) -> None:
        """Writes what is in memory."""
        with open(self.path, "ab") as file:
            file.write(self._pending)
        self._pending.clear()


class _DistinctValues:
    """Counts different numbers up to DISTINCT_LIMIT."""

    def __init__(self) -> None:
        self._seen: NDArray[np.generic] | None = None

    @property
    def count(self) -> int:
        return 0 if self._seen is None else len(self._seen)

    def add(self, values: Numbers) -> None:
        if self.count == DISTINCT_LIMIT:
            return
        seen = values if self._seen is None else np.concatenate([self._seen, values])
        self._seen = np.unique(seen)[:DISTINCT_LIMIT]


class ColumnWriter:
    """A column, or the targets, on the way to disk."""

    def __init__(self, path: Path, name: str, kind: ValueKind, becomes_float32: bool) -> None:
        """Describes the column.

        Args:
            becomes_float32: The values are features: rounded to float32 in training and in serving, where a number
                too large for that is infinite, and is counted as such.
        """
        self.name = name
        self.kind = kind
        self.file = ValuesFile(path, _DTYPES[kind])
        self._becomes_float32 = becomes_float32
        self.vocabulary_bytes = 0
        self._codes: dict[str, int] = {}
        self._distinct = _DistinctValues()
        self._missing = 0
        self._infinite = 0

    def vocabulary_with(self, values: Numbers | Sequence[str | None]) -> tuple[int, int]:
        """Returns how many different texts the column would have with these values, and the memory that they take."""
        if isinstance(values, np.ndarray):
            return 0, 0
        new = {text for text in set(values).difference(self._codes) if text is not None}
        return len(self._codes) + len(new), self.vocabulary_bytes + sum(map(_bytes_of, new))

    def append(self, values: Numbers | Sequence[str | None]) -> None:
        """Adds the values of the next rows."""
        if isinstance(values, np.ndarray):
            self._append_numbers(values)
        else:
            self._append_texts(values)

    def describe(self) -> ColumnFile:
        """Returns the column's part of the dataset's description."""
        vocabulary = list(self._codes) if self.kind is ValueKind.CATEGORY else None
        return ColumnFile(
            name=self.name,
            kind=self.kind,
            file=self.file.path.name,
            dtype=self.file.dtype,
            vocabulary=vocabulary,
        )

    def counts(self) -> Counts:
        """Returns the column's summary."""
        distinct = self._distinct.count or min(len(self._codes), DISTINCT_LIMIT)
        return Counts(distinct=distinct, missing=self._missing, infinite=self._infinite)

    def fingerprint(self) -> Fingerprint:
        """Returns what identifies the values; the name is not part of it."""
        texts = json.dumps(list(self._codes)).encode()
        return {"kind": self.kind, "values": self.file.sha256, "texts": hashlib.sha256(texts).hexdigest()}

    def _append_texts(self, values: Sequence[str | None]) -> None:
        _, self.vocabulary_bytes = self.vocabulary_with(values)
        # Codes follow the order of the rows, so they do not depend on how the rows came in blocks.
        codes = (_MISSING_CODE if text is None else self._codes.setdefault(text, len(self._codes)) for text in values)
        written = np.fromiter(codes, np.int32, len(values))
        self.file.append(written)
        self._missing += int(np.count_nonzero(written == _MISSING_CODE))

    def _append_numbers(self, values: Numbers) -> None:
        self.file.append(values)
        missing = _missing(values, self.kind)
        self._missing += int(np.count_nonzero(missing))
        self._distinct.add(values[~missing])
        if self.kind is ValueKind.NUMBER:
            with np.errstate(over="ignore"):
                used = values.astype(np.float32) if self._becomes_float32 else values
            self._infinite += int(np.count_nonzero(np.isinf(used)))


def _missing(values: Numbers, kind: ValueKind) -> NDArray[np.bool_]:
    gaps = {ValueKind.INTEGER: MISSING_INTEGER, ValueKind.BOOLEAN: MISSING_BOOLEAN}
    missing: NDArray[np.bool_] = values == gaps[kind] if kind in gaps else np.isnan(values)
    return missing


def _bytes_of(text: str) -> int:
    return sys.getsizeof(text) + _ENTRY_BYTES


class MatrixWriter:
    """The matrix of features on the way to disk."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        """Describes the matrix; `shape` is that of one row."""
        self.shape = shape
        self.file = ValuesFile(path, "<f4")
        self._missing = 0
        self._infinite = 0

    def append(self, values: Floats) -> None:
        """Adds the next rows."""
        self.file.append(values)
        self._missing += int(np.count_nonzero(np.isnan(values)))
        self._infinite += int(np.count_nonzero(np.isinf(values)))

    def describe(self) -> MatrixFile:
        """Returns the matrix's part of the dataset's description."""
        return MatrixFile(file=self.file.path.name, shape=self.shape)

    def counts(self) -> Counts:
        """Returns the matrix's summary; different values are not counted."""
        return Counts(distinct=0, missing=self._missing, infinite=self._infinite)

    def fingerprint(self) -> Fingerprint:
        """Returns what identifies the values."""
        return {"shape": self.shape, "values": self.file.sha256}

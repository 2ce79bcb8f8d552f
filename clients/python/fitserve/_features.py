"""What callers hold (arrays, columns, data frames, lists of objects) as `Inputs` and `Column`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from fitserve import _tensors
from fitserve._tensors import Array
from fitserve.v1 import data_pb2, training_service_pb2

_LARGEST_INTEGER = 2**63 - 1


@runtime_checkable
class DataFrame(Protocol):
    """A data frame of any library that names its columns in `columns` and gives one by `frame[name]`."""

    @property
    def columns(self) -> Iterable[object]:
        """The names of the columns."""

    def __getitem__(self, name: object, /) -> npt.ArrayLike:
        """Returns the column of a name."""


Rows: TypeAlias = npt.ArrayLike | Mapping[str, npt.ArrayLike] | Sequence[Mapping[str, object]] | DataFrame
"""Features: an array of shape [rows, columns] or [rows, channels, height, width], a dict from column name to
values, a data frame, or a list with one dict a row."""


@dataclass(frozen=True)
class TypedColumn:
    """One column whose type is known.

    Attributes:
        name: The name; empty for targets.
        values: Shape [rows], of float64, int64, bool, or objects that all are str.
        missing: Shape [rows], true where the value is missing; None if none is. Floats have NaN instead.
    """

    name: str
    values: Array
    missing: npt.NDArray[np.bool_] | None = None

    @property
    def size_bytes(self) -> int:
        """About how many bytes the column takes in a message."""
        if self.values.dtype == object:
            return sum(len(text.encode()) + 2 for text in self.values)
        return self.values.nbytes

    def part(self, start: int, stop: int) -> TypedColumn:
        """Returns the rows from start to before stop."""
        missing = None if self.missing is None else self.missing[start:stop]
        return replace(self, values=self.values[start:stop], missing=missing)

    def message(self) -> data_pb2.Column:
        """Returns the column as a message."""
        column = data_pb2.Column(name=self.name)
        if self.missing is not None:
            column.missing.extend(np.flatnonzero(self.missing).tolist())
        items = self.values.tolist()
        match self.values.dtype.kind:
            case "f":
                column.doubles.values.extend(items)
            case "i":
                column.integers.values.extend(items)
            case "b":
                column.booleans.values.extend(items)
            case _:
                column.strings.values.extend(items)
        # Touched even if it is empty, so that the column says its type.
        return column


@dataclass(frozen=True)
class Matrix:
    """Features as one array of float32 or uint8 of shape [rows, ...]."""

    values: Array

    @property
    def row_count(self) -> int:
        """The number of rows."""
        return len(self.values)

    @property
    def size_bytes(self) -> int:
        """How many bytes the features take in a message."""
        return self.values.nbytes

    def part(self, start: int, stop: int) -> Matrix:
        """Returns the rows from start to before stop, without a copy."""
        return Matrix(self.values[start:stop])

    def message(self) -> data_pb2.Inputs:
        """Returns the features as a message."""
        return data_pb2.Inputs(tensor=_tensors.encode(self.values))


@dataclass(frozen=True)
class Columns:
    """Features as named columns of equal length."""

    columns: tuple[TypedColumn, ...]

    @property
    def row_count(self) -> int:
        """The number of rows."""
        return len(self.columns[0].values)

    @property
    def size_bytes(self) -> int:
        """About how many bytes the features take in a message."""
        return sum(column.size_bytes for column in self.columns)

    def part(self, start: int, stop: int) -> Columns:
        """Returns the rows from start to before stop."""
        return Columns(tuple(column.part(start, stop) for column in self.columns))

    def message(self) -> data_pb2.Inputs:
        """Returns the features as a message."""
        return data_pb2.Inputs(table=data_pb2.Table(columns=[one.message() for one in self.columns]))


@dataclass(frozen=True)
class TrainingData:
    """Features with the values to learn from them, if they do not stand in a column of the features."""

    features: Matrix | Columns
    targets: TypedColumn | None
    weights: npt.NDArray[np.float64] | None = None
    several: Columns | None = None
    """The values to learn, if each row has several."""

    @property
    def size_bytes(self) -> int:
        """About how many bytes the data takes in a message."""
        weights = 0 if self.weights is None else self.weights.nbytes
        return (
            self.features.size_bytes + weights + sum(part.size_bytes for part in (self.targets, self.several) if part)
        )

    def parts(self, row_count: int | None, size_bytes: int) -> Iterator[TrainingData]:
        """Yields the data in parts of `row_count` rows or, if that is None, of about `size_bytes`."""
        total = self.features.row_count
        fitting = size_bytes * total // max(self.size_bytes, 1)
        step = max(1, fitting if row_count is None else row_count)
        for start in range(0, total, step):
            stop = min(start + step, total)
            targets = self.targets.part(start, stop) if self.targets else None
            weights = None if self.weights is None else self.weights[start:stop]
            several = self.several.part(start, stop) if self.several else None
            yield TrainingData(self.features.part(start, stop), targets, weights, several)

    def inline(self) -> training_service_pb2.InlineDataset:
        """Returns the data as part of a FitRequest."""
        return training_service_pb2.InlineDataset(
            inputs=self.features.message(),
            targets=self.targets.message() if self.targets else None,
            weights=self.weights,
            target_table=self.several.message().table if self.several else None,
        )


def features(rows: Rows) -> Matrix | Columns:
    """Reads features in any of the forms that callers hold.

    Raises:
        TypeError: The elements are no numbers, or a column mixes types.
        ValueError: The shape is not that of rows.
    """
    if isinstance(rows, Mapping):
        return _columns(rows.items())
    # An array with named fields has no `columns`; an array never counts as a data frame.
    if not isinstance(rows, np.ndarray) and isinstance(rows, DataFrame):
        return _columns((str(name), rows[name]) for name in rows.columns)
    records = _records(rows)
    if records:
        return _columns(_columns_of_records(records))
    return _matrix(np.asarray(rows))


def inputs(rows: Rows) -> data_pb2.Inputs:
    """Reads rows to predict, in any of the forms that `features` reads, as a message.

    A list of dicts whose values are lists or dicts too, which models of named tensors take, stays a list of records.

    Raises:
        TypeError, ValueError: As `features` does.
    """
    records = _records(rows)
    if not any(
        isinstance(value, list | tuple | Mapping | np.ndarray) for record in records for value in record.values()
    ):
        return features(rows).message()
    message = data_pb2.Inputs()
    for record in records:
        message.records.add().update({name: _plain(value) for name, value in record.items()})
    return message


def _plain(value: object) -> Any:  # Any: as JSON has it
    """Returns a value without numpy's types, and None for what is missing."""
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if _is_missing(value) else value


def tensors(named: Mapping[str, npt.ArrayLike]) -> data_pb2.Inputs:
    """Returns named arrays, each with its own type, as a message.

    Raises:
        TypeError: An array is of a type that tensors do not have.
    """
    return data_pb2.Inputs(tensors={name: _tensors.encode(np.asarray(values)) for name, values in named.items()})


def training_data(rows: Rows, targets: npt.ArrayLike | None, weights: npt.ArrayLike | None = None) -> TrainingData:
    """Reads features, targets, and what each row counts.

    Raises:
        TypeError: As `features` does.
        ValueError: As `features` does, and if features and targets or weights differ in length.
    """
    counts = None if weights is None else np.asarray(weights, np.float64)
    if targets is not None and np.ndim(targets) == 2:
        data = TrainingData(features(rows), None, counts, _several(targets))
        if isinstance(data.features, Columns):
            raise TypeError("X has columns with names; put those of y into it, and name them in target=[...]")
    else:
        data = TrainingData(features(rows), None if targets is None else column("", targets), counts)
    if counts is not None and counts.shape != (data.features.row_count,):
        raise ValueError(f"X has {data.features.row_count} rows but sample_weight has the shape {counts.shape}")
    if data.targets is not None and len(data.targets.values) != data.features.row_count:
        raise ValueError(f"X has {data.features.row_count} rows but y has {len(data.targets.values)} values")
    if data.several is not None and data.several.row_count != data.features.row_count:
        raise ValueError(f"X has {data.features.row_count} rows but y has {data.several.row_count}")
    return data


def _several(targets: npt.ArrayLike) -> Columns:
    """Reads several values a row; those of an array are named y0, y1 and so on."""
    if not isinstance(targets, np.ndarray) and isinstance(targets, DataFrame):
        return _columns((str(name), targets[name]) for name in targets.columns)
    return _columns((f"y{place}", values) for place, values in enumerate(np.asarray(targets).T))


def column(name: str, values: npt.ArrayLike) -> TypedColumn:
    """Reads one column of numbers, truth values or texts; None and NaN are missing values.

    Raises:
        TypeError: The values mix types, or are of a type that columns cannot hold.
        ValueError: The values are not one-dimensional.
    """
    label = f"column {name!r}" if name else "y"
    array = np.asarray(values)
    if array.dtype.kind == "U" and isinstance(values, Sequence):
        # numpy makes texts of everything that stands beside a text.
        array = np.asarray(values, dtype=object)
    if array.ndim != 1:
        raise ValueError(f"{label} must have one dimension, not the shape {list(array.shape)}")
    match array.dtype.kind:
        case "f":
            return TypedColumn(name, array.astype(np.float64))
        case "i" | "u":
            if array.size and int(array.max()) > _LARGEST_INTEGER:
                raise ValueError(f"{label} holds integers above {_LARGEST_INTEGER}; give them as numbers or texts")
            return TypedColumn(name, array.astype(np.int64))
        case "b":
            return TypedColumn(name, array)
        case "U" | "T":
            return TypedColumn(name, array.astype(object))
        case "O":
            return _object_column(name, label, array)
    raise TypeError(f"{label} holds {array.dtype}; give numbers, truth values or texts")


def _object_column(name: str, label: str, array: Array) -> TypedColumn:
    missing = np.fromiter((_is_missing(value) for value in array), np.bool_, len(array))
    kinds = {_kind(value) for value in array[~missing]}
    gaps = missing if missing.any() else None
    if kinds == {str}:
        return TypedColumn(name, np.where(missing, "", array), gaps)
    if kinds == {bool}:
        return TypedColumn(name, np.where(missing, False, array).astype(np.bool_), gaps)
    if kinds == {int}:
        return TypedColumn(name, np.where(missing, 0, array).astype(np.int64), gaps)
    if kinds <= {int, float}:
        return TypedColumn(name, np.where(missing, np.nan, array).astype(np.float64))
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise TypeError(f"{label} holds values of the types {names}; give numbers only, truth values only or texts only")


def _is_missing(value: object) -> bool:
    # pandas.NA and pandas.NaT are known by the names of their types: this client does not import pandas.
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _kind(value: object) -> type:
    for kind, also in ((bool, np.bool_), (int, np.integer), (float, np.floating), (str, np.str_)):
        if isinstance(value, (kind, also)):
            return kind
    return type(value)


def _columns(items: Iterable[tuple[str, npt.ArrayLike]]) -> Columns:
    columns = Columns(tuple(column(name, values) for name, values in items))
    if not columns.columns:
        raise ValueError("X has no columns")
    for one in columns.columns:
        if len(one.values) != columns.row_count:
            first = f"column {columns.columns[0].name!r} has {columns.row_count} values"
            raise ValueError(f"{first} but column {one.name!r} has {len(one.values)}")
    return columns


def _records(rows: object) -> list[Mapping[str, object]]:
    if isinstance(rows, list | tuple) and rows and all(isinstance(row, Mapping) for row in rows):
        return list(rows)
    return []


def _columns_of_records(records: Sequence[Mapping[str, object]]) -> Iterator[tuple[str, Array]]:
    # A dict keeps the order in which the names were first seen. A name that a row lacks is a missing value.
    for name in dict.fromkeys(name for record in records for name in record):
        values = np.empty(len(records), dtype=object)
        values[:] = [record.get(name) for record in records]
        yield name, values


def _matrix(array: Array) -> Matrix:
    if array.dtype.kind not in "biufO" or any(isinstance(item, str) for item in _objects(array)):
        raise TypeError(f"X is an array of {array.dtype}; give texts in a dict of columns or a data frame")
    if array.ndim < 2:
        raise ValueError(f"X must have the shape [rows, columns], not {list(array.shape)}; a single row is [[...]]")
    # Images of bytes travel as they are, a quarter of the size; everything else as what models compute with.
    return Matrix(array if array.dtype == np.uint8 else array.astype(np.float32, copy=False))


def _objects(array: Array) -> Array:
    return array.ravel() if array.dtype == object else np.empty(0)

"""Named columns of a prediction, in records or in a table, to the matrix that the model takes.

A category becomes the code that the model's signature gives it, UNKNOWN_CODE if it gives none; a missing value NaN. The
dictionaries for that are made once a signature.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat

import numpy as np
from fitserve.v1 import data_pb2
from google.protobuf import struct_pb2
from numpy.typing import NDArray

from service.domain.entities import MISSING_INTEGER, UNKNOWN_CODE, ColumnSpec, Floats, Signature
from service.domain.errors import invalid
from service.domain.nearest import hint
from service.rpc import tensors, validate

MOST_NAMES = 100
"""So many names of columns are listed in a message."""


def check_names(given: Iterable[str], wanted: Iterable[str], path: str) -> None:
    """Checks that the names of columns are those that are wanted, in any order.

    Raises:
        ServiceError: INVALID_FIELD naming the column that is not known, with the nearest known name, or is missing.
    """
    have, known = set(given), list(wanted)
    listed = ", ".join(known[:MOST_NAMES]) + (", ..." if len(known) > MOST_NAMES else "")
    for name in sorted(have.difference(known)):
        left = [column for column in known if column not in have]
        raise invalid(path, f"column {name!r} is not known{hint(name, left or known)}; the columns are {listed}")
    for name in known:
        if name not in have:
            raise invalid(path, f"column {name!r} is missing; the columns are {listed}")


# -- records ---------------------------------------------------------------------------------------------------------


def matrix_of_records(records: Sequence[struct_pb2.Struct], signature: Signature, path: str) -> Floats:
    """Returns records as rows [records, columns] of the model.

    Raises:
        ServiceError: INVALID_FIELD naming the record and the column that does not fit.
    """
    columns = signature.named_codes
    values: list[float] = []
    for row, record in enumerate(records):
        fields = record.fields
        if len(fields) != len(columns):
            check_names(fields, signature.places, f"{path}[{row}]")
        for name, codes in columns:
            value = fields[name]
            # The value of the kind that is most likely; it is empty if there is another kind, too.
            if codes is None:
                values.append(value.number_value or number_of(value, f"{path}[{row}].{name}"))
            elif text := value.string_value:
                values.append(codes.get(text, UNKNOWN_CODE))
            else:
                values.append(code_of(value, codes, f"{path}[{row}].{name}"))
        if len(fields) != len(columns):  # what is not there is made when it is looked up
            check_names(fields, signature.places, f"{path}[{row}]")
    # An array of C floats takes a list twice as fast as numpy does.
    return np.frombuffer(array("f", values), np.float32).reshape(len(records), len(columns))


def number_of(value: struct_pb2.Value, path: str) -> float:
    """Returns the number of a cell, NaN if it is missing. Raises ServiceError INVALID_FIELD for what is none."""
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        return value.number_value
    if kind == "bool_value":
        return float(value.bool_value)
    if kind in tensors.NO_VALUE:
        return math.nan
    given = f"the text {_shown(value.string_value)}" if kind == "string_value" else "a list or an object"
    raise invalid(path, f"it is {given}, but the column holds numbers; send a number, true, false or null")


def code_of(value: struct_pb2.Value, codes: Mapping[str, float], path: str) -> float:
    """Returns the code of a cell's category, NaN if it is missing. Raises ServiceError INVALID_FIELD for what is no text."""
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return codes.get(value.string_value, UNKNOWN_CODE)
    if kind in tensors.NO_VALUE:
        return math.nan
    given = {"number_value": "a number", "bool_value": "a truth value"}.get(kind or "", "a list or an object")
    raise invalid(path, f"it is {given}, but the column holds texts; send a text or null")


# -- tables ----------------------------------------------------------------------------------------------------------


def matrix_of_table(table: data_pb2.Table, signature: Signature, path: str) -> Floats:
    """Returns a table as rows [rows, columns] of the model.

    Raises:
        ServiceError: INVALID_FIELD naming the column, and the row, that does not fit.
    """
    rows = rows_of_table(table, signature, path)
    matrix = np.empty((rows, len(signature.columns)), np.float32)
    for index, column in enumerate(table.columns):
        place = signature.places[column.name]
        matrix[:, place] = values_of_column(column, signature.columns[place], rows, f"{path}.columns[{index}]")
    return matrix


def rows_of_table(table: data_pb2.Table, signature: Signature, path: str) -> int:
    """Returns how many rows a table has, whose columns are those of a signature.

    Raises:
        ServiceError: INVALID_FIELD; they are others, or one is there twice.
    """
    validate.bounds(table, path)
    if not table.columns:
        raise invalid(f"{path}.columns", "there are no columns")
    _check_column_names([column.name for column in table.columns], signature, path)
    return _row_count(table.columns[0])


def _check_column_names(names: Sequence[str], signature: Signature, path: str) -> None:
    check_names(names, signature.places, path)
    if len(names) > len(signature.places):
        index = next(index for index, name in enumerate(names) if name in names[:index])
        raise invalid(f"{path}.columns[{index}].name", f"there are two columns {names[index]!r}")


def _row_count(column: data_pb2.Column) -> int:
    form = column.WhichOneof("values")
    return len(getattr(column, form).values) if form else 0


def values_of_column(column: data_pb2.Column, spec: ColumnSpec, rows: int, path: str) -> NDArray[np.float32]:
    """Returns the values of a column for the model, float32 [rows]. Raises ServiceError INVALID_FIELD."""
    form, missing = form_and_missing(column, rows, path)
    if (form == "strings") is not (spec.codes is not None):
        check_all_missing(column, form, missing, path)
        return np.full(rows, np.nan, np.float32)
    if spec.codes is not None:
        codes = map(spec.codes.get, column.strings.values, repeat(UNKNOWN_CODE))
        values = np.fromiter(codes, np.float32, rows)
    else:
        values = _numbers(column, form)
    values[missing] = np.nan
    return values


def form_and_missing(column: data_pb2.Column, rows: int, path: str) -> tuple[str, NDArray[np.int64]]:
    """Returns which values of a column are set, and the rows where they are missing.

    Raises:
        ServiceError: INVALID_FIELD; none are set, or another number than that of the rows.
    """
    form = tensors.form_of_column(column, path)
    count = len(getattr(column, form).values)
    if count != rows:
        raise invalid(path, f"column {column.name!r} has {count} values, the first column has {rows}")
    return form, tensors.missing_rows(column, rows, path)


def _numbers(column: data_pb2.Column, form: str) -> Floats:
    if form == "doubles":
        return tensors.to_float32(tensors.doubles(column.doubles))
    if form == "booleans":
        return np.array(column.booleans.values, np.float32)
    integers = np.array(column.integers.values, np.int64)
    return np.where(integers == MISSING_INTEGER, np.float32(np.nan), integers.astype(np.float32))


def check_all_missing(column: data_pb2.Column, form: str, missing: NDArray[np.int64], path: str) -> None:
    """Refuses a column of the wrong kind, unless each value of it is missing: then it has no kind."""
    gone = set(missing.tolist())
    for row, value in enumerate(getattr(column, form).values):
        if row not in gone and value == value and value != MISSING_INTEGER:
            given = f"row {row} of column {column.name!r} is {_said(form, value)}"
            wanted = "numbers; send doubles or integers" if form == "strings" else "texts; send strings"
            raise invalid(path, f"{given}, but the column holds {wanted}")


def _said(form: str, value: object) -> str:
    return f"the text {_shown(str(value))}" if form == "strings" else f"the number {value}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")

"""The message `Inputs`, in any of its forms, to rows of training data or to the matrix that a model takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from fitserve.v1 import data_pb2, dataset_pb2, options_pb2, training_service_pb2
from google.protobuf import struct_pb2
from numpy.typing import NDArray

from service.domain.entities import ColumnData, DataBlock, Floats, Signature
from service.domain.errors import Reason, ServiceError, invalid
from service.rpc import named_columns, tensors, validate

FORMS = ("tensor", "table", "rows", "records", "tensors")

MAX_COLUMNS = 100_000
"""The most columns of a matrix to train on."""

MAX_ROW_VALUES = 2**22
"""The most values of a row of more dimensions to train on, such as an image."""

MAX_WEIGHT = 1e12
"""The largest weight of a row or a label."""

MAX_NAMED_COLUMNS: int = (
    data_pb2.Table.DESCRIPTOR.fields_by_name["columns"].GetOptions().Extensions[options_pb2.bounds].max_items
)
"""The most columns of a table; records have no more."""


def form_of(inputs: data_pb2.Inputs, path: str) -> str:
    """Returns the name of the one form that is set. Raises ServiceError INVALID_FIELD if none or several are."""
    fields = inputs.ListFields()
    if len(fields) == 1:
        return fields[0][0].name
    forms = [field.name for field, _ in fields]
    problem = f"{' and '.join(forms)} are set" if forms else "it is empty"
    raise invalid(path, f"{problem}; set exactly one of {', '.join(FORMS)}, with at least one row")


# -- training --------------------------------------------------------------------------------------------------------


def block_of_inline(inline: training_service_pb2.InlineDataset) -> DataBlock:
    """Returns the training data that came with a Fit.

    Raises:
        ServiceError: INVALID_FIELD naming the part below `inline` that does not fit.
    """
    if inline.HasField("targets") and inline.HasField("labels"):
        raise invalid("inline.labels", "targets are set too; give one of them")
    targets = None
    if inline.HasField("targets"):
        targets = tensors.column_of_message(inline.targets, "inline.targets")
    elif inline.HasField("labels"):
        targets = tensors.column_of_values(inline.labels.values, "", "inline.labels")
    targets_field = "labels" if inline.HasField("labels") else "targets"
    return _block(inline, targets, "inline", targets_field)


def block_of_chunk(chunk: dataset_pb2.DatasetChunk) -> DataBlock:
    """Returns the rows of one chunk of an upload.

    Raises:
        ServiceError: INVALID_FIELD naming the part below `chunk` that does not fit.
    """
    targets = tensors.column_of_message(chunk.targets, "chunk.targets") if chunk.HasField("targets") else None
    if form_of(chunk.inputs, "chunk.inputs") not in ("tensor", "table"):
        raise invalid("chunk.inputs", "uploads take tensor or table")
    return _block(chunk, targets, "chunk", "targets")


def _block(
    part: training_service_pb2.InlineDataset | dataset_pb2.DatasetChunk,
    targets: ColumnData | None,
    path: str,
    targets_field: str,
) -> DataBlock:
    features, columns = _training_features(part.inputs, f"{path}.inputs")
    weights = part.weights
    rows = len(columns[0]) if features is None else len(features)
    if rows == 0:
        raise invalid(f"{path}.inputs", "there are no rows")
    if targets is not None and len(targets) != rows:
        raise invalid(f"{path}.{targets_field}", f"there are {len(targets)} values for {rows} rows")
    if weights and len(weights) != rows:
        raise invalid(f"{path}.weights", f"there are {len(weights)} weights for {rows} rows")
    if part.HasField("target_table"):
        columns = _several_targets(part.target_table, features, targets, f"{path}.target_table")
        targets_field = "target_table"
    return DataBlock(rows, features, columns, targets, targets_field, check_weights(weights, f"{path}.weights"))


def _several_targets(
    table: data_pb2.Table, features: Floats | None, targets: ColumnData | None, path: str
) -> tuple[ColumnData, ...]:
    """Returns the columns of several targets of a matrix.

    Raises:
        ServiceError: INVALID_FIELD; they are not several, not alone, or not beside a matrix of as many rows.
    """
    if features is None:
        raise invalid(path, "it is for tensor and rows; put the columns into the table and name them in targets")
    if targets is not None:
        raise invalid(path, "targets or labels are set too; give one of them")
    columns = _columns_of_table(table, path)
    if len(columns) == 1:
        raise invalid(path, "it has one column; give that in targets")
    if len(columns[0]) != len(features):
        raise invalid(path, f"there are {len(columns[0])} values in a column for {len(features)} rows")
    return columns


def check_weights(weights: Iterable[float], path: str) -> NDArray[np.float64] | None:
    """Returns weights as an array, or None if there are none.

    Raises:
        ServiceError: INVALID_FIELD; one is no number from 0 to MAX_WEIGHT.
    """
    values = np.fromiter(weights, np.float64)
    if not len(values):
        return None
    # A comparison with NaN never holds.
    wrong = np.flatnonzero(~((values >= 0) & (values <= MAX_WEIGHT)))
    if len(wrong):
        raise invalid(
            f"{path}[{wrong[0]}]", f"{values[wrong[0]]:g} is no weight; it takes numbers from 0 to {MAX_WEIGHT:g}"
        )
    return values


def _training_features(inputs: data_pb2.Inputs, path: str) -> tuple[Floats | None, tuple[ColumnData, ...]]:
    form = form_of(inputs, path)
    if form == "tensor":
        _check_width(inputs.tensor.shape[1:], f"{path}.tensor.shape")
        return tensors.matrix_of_tensor(inputs.tensor, f"{path}.tensor"), ()
    if form == "rows":
        matrix = tensors.matrix_of_rows(inputs.rows, f"{path}.rows")
        _check_width(matrix.shape[1:], f"{path}.rows")
        return matrix, ()
    if form == "table":
        return None, _columns_of_table(inputs.table, f"{path}.table")
    if form == "records":
        return None, _columns_of_records(inputs.records, f"{path}.records")
    raise invalid(f"{path}.tensors", "named tensors are for imported models; train on tensor, table, rows or records")


def _check_width(shape: Sequence[int], path: str) -> None:
    """Refuses rows of features that are too wide to train on."""
    if len(shape) == 1 and shape[0] > MAX_COLUMNS:
        raise invalid(path, f"there are {shape[0]} columns and {MAX_COLUMNS} are allowed; leave some out")
    if math.prod(shape) > MAX_ROW_VALUES:
        raise invalid(path, f"a row has the shape {list(shape)} and {MAX_ROW_VALUES} values are allowed; scale it down")


def _columns_of_table(table: data_pb2.Table, path: str) -> tuple[ColumnData, ...]:
    validate.bounds(table, path)
    columns = tuple(
        tensors.column_of_message(column, f"{path}.columns[{index}]") for index, column in enumerate(table.columns)
    )
    if not columns:
        raise invalid(f"{path}.columns", "there are no columns")
    seen: set[str] = set()
    for index, column in enumerate(columns):
        place = f"{path}.columns[{index}]"
        if not column.name:
            raise invalid(f"{place}.name", "the column has no name")
        validate.text(column.name, f"{place}.name")
        if column.name in seen:
            raise invalid(f"{place}.name", f"there are two columns {column.name!r}")
        seen.add(column.name)
        if len(column) != len(columns[0]):
            raise invalid(
                place, f"column {column.name!r} has {len(column)} values, the first column has {len(columns[0])}"
            )
    return columns


def _columns_of_records(records: Sequence[struct_pb2.Struct], path: str) -> tuple[ColumnData, ...]:
    """Returns records as columns, sorted by name: objects have no order."""
    names = sorted(records[0].fields)
    if not names:
        raise invalid(f"{path}[0]", "it is empty")
    if len(names) > MAX_NAMED_COLUMNS:
        raise invalid(f"{path}[0]", f"there are {len(names)} columns and at most {MAX_NAMED_COLUMNS} are allowed")
    for name in names:
        if not name:
            raise invalid(f"{path}[0]", "a column has no name")
        validate.text(name, f"{path}[0]")
    for index, record in enumerate(records):
        named_columns.check_names(record.fields, names, f"{path}[{index}]")
    return tuple(
        tensors.column_of_values([record.fields[name] for record in records], name, f"{path}[*].{name}")
        for name in names
    )


# -- prediction ------------------------------------------------------------------------------------------------------


def matrix_for(inputs: data_pb2.Inputs, form: str, signature: Signature, path: str = "inputs") -> Floats:
    """Returns the rows of a prediction request as the float32 matrix that the model takes.

    Args:
        form: What `form_of` says of the inputs.

    Raises:
        ServiceError: INVALID_FIELD naming the part that does not fit.
    """
    if form == "tensor":
        return tensors.matrix_of_tensor(inputs.tensor, f"{path}.tensor")
    if form == "rows":
        return tensors.matrix_of_rows(inputs.rows, f"{path}.rows")
    if form == "tensors":
        raise invalid(f"{path}.tensors", "the model takes one matrix; send tensor, rows, table or records")
    if not signature.columns:
        raise invalid(f"{path}.{form}", "the model was trained without column names; send tensor or rows")
    if form == "records":
        return named_columns.matrix_of_records(inputs.records, signature, f"{path}.records")
    return named_columns.matrix_of_table(inputs.table, signature, f"{path}.table")


def unsupported_format() -> ServiceError:
    """Returns the error for uploads in a file format."""
    return ServiceError(
        Reason.UNIMPLEMENTED,
        "description.format: this release takes DATASET_FORMAT_CHUNKS only; send tensor or table chunks",
        {"field": "description.format"},
    )

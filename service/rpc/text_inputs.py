"""Named columns of a prediction to the tensors of a model with columns of texts.

A missing text is an empty one. Where the model's library knows the categories, an integer is the text of its digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fitserve.v1 import data_pb2
from google.protobuf import struct_pb2

from service.contract_values import EXACT_INTEGERS
from service.domain import text_columns
from service.domain.entities import MISSING_INTEGER, ColumnSpec, Floats, Signature, ValueKind
from service.domain.errors import invalid
from service.domain.named_tensors import MAX_TEXTS, TensorBatch
from service.domain.predictor import check_rows
from service.rpc import named_columns
from service.rpc.tensor_inputs import check_count
from service.rpc.tensors import NO_VALUE, sized

_NOTHING = sized("")


def batch_for(inputs: data_pb2.Inputs, form: str, signature: Signature, path: str = "inputs") -> TensorBatch:
    """Returns the rows of a prediction request as the tensors that the model takes.

    Args:
        form: What `form_of` says of the inputs.

    Raises:
        ServiceError: INVALID_FIELD naming the part that does not fit.
    """
    path = f"{path}.{form}"
    if form == "records":
        features, texts = _of_records(inputs.records, signature, path)
    elif form == "table":
        features, texts = _of_table(inputs.table, signature, path)
    else:
        raise invalid(path, "the model has columns of texts; send table or records")
    check_rows(features, signature)
    return text_columns.batch_of(features, texts, signature)


def _check_texts(rows: int, signature: Signature, path: str) -> None:
    """Refuses more texts than one tensor may have. Raises ServiceError INVALID_FIELD."""
    _, texts = text_columns.counts_of(signature.columns)
    check_count(rows * texts, MAX_TEXTS, path)


def _of_records(records: Sequence[struct_pb2.Struct], signature: Signature, path: str) -> tuple[Floats, bytes]:
    """Returns all columns as a matrix, 0 in those of texts, and the texts row by row."""
    _check_texts(len(records), signature, path)
    matrix = np.zeros((len(records), len(signature.columns)), np.float32)
    texts: list[bytes] = []
    for row, record in enumerate(records):
        fields = record.fields
        if fields.keys() != signature.places.keys():
            named_columns.check_names(fields, signature.places, f"{path}[{row}]")
        for place, column in enumerate(signature.columns):
            value, where = fields[column.name], f"{path}[{row}].{column.name}"
            if column.goes_as_text:
                texts.append(_text(value, column, where))
            elif column.codes is None:
                matrix[row, place] = named_columns.number_of(value, where)
            else:
                matrix[row, place] = named_columns.code_of(value, column.codes, where)
    return matrix, b"".join(texts)


def _text(value: struct_pb2.Value, column: ColumnSpec, path: str) -> bytes:
    """Returns the text of a cell as an element of a tensor."""
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return sized(value.string_value)
    if kind in NO_VALUE:
        return _NOTHING
    number = value.number_value if kind == "number_value" else None
    if (
        number is not None
        and column.kind is ValueKind.CATEGORY
        and number.is_integer()
        and abs(number) < EXACT_INTEGERS
    ):
        return sized(str(int(number)))
    given = {"number_value": "a number", "bool_value": "a truth value"}.get(kind or "", "a list or an object")
    wanted = "a text, an integer or null" if column.kind is ValueKind.CATEGORY else "a text or null"
    raise invalid(path, f"it is {given}, but the column holds texts; send {wanted}")


def _of_table(table: data_pb2.Table, signature: Signature, path: str) -> tuple[Floats, bytes]:
    """Returns all columns as a matrix, 0 in those of texts, and the texts row by row."""
    rows = named_columns.rows_of_table(table, signature, path)
    _check_texts(rows, signature, path)
    matrix = np.zeros((rows, len(signature.columns)), np.float32)
    texts: dict[int, list[bytes]] = {}
    for index, column in enumerate(table.columns):
        place, where = signature.places[column.name], f"{path}.columns[{index}]"
        spec = signature.columns[place]
        if spec.goes_as_text:
            texts[place] = _texts(column, spec, rows, where)
        else:
            matrix[:, place] = named_columns.values_of_column(column, spec, rows, where)
    in_order = [texts[place] for place in sorted(texts)]
    return matrix, b"".join([text for row in zip(*in_order, strict=True) for text in row])


def _texts(column: data_pb2.Column, spec: ColumnSpec, rows: int, path: str) -> list[bytes]:
    """Returns the texts of a column as elements of a tensor."""
    form, missing = named_columns.form_and_missing(column, rows, path)
    if form == "strings":
        texts = list(map(sized, column.strings.values))
    elif form == "integers" and spec.kind is ValueKind.CATEGORY:
        values = column.integers.values
        texts = [_NOTHING if value == MISSING_INTEGER else sized(str(value)) for value in values]
    else:
        named_columns.check_all_missing(column, form, missing, path)
        return [_NOTHING] * rows
    for row in missing:
        texts[row] = _NOTHING
    return texts

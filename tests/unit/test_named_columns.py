"""Named columns of a prediction: records and tables become the rows that the model takes, or are refused by place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fitserve.v1 import data_pb2
from google.protobuf import json_format

from service.domain.entities import ColumnSpec, Signature, Task, UnknownCategory, ValueKind
from service.domain.errors import Reason, ServiceError
from service.rpc import inputs, tensors

NAN = float("nan")
SIGNATURE = Signature(
    task=Task.REGRESSION,
    shape=(3,),
    columns=(
        ColumnSpec("island", ValueKind.CATEGORY, ("Biscoe", "Dream", ""), UnknownCategory.NONE, missing_values=True),
        ColumnSpec("length", ValueKind.NUMBER),
        ColumnSpec("ringed", ValueKind.BOOLEAN),
    ),
    missing_values=True,
    classes=(),
    label_kind=None,
)


# Records and tables are written as JSON.
def message(**forms: Any) -> data_pb2.Inputs:
    return json_format.ParseDict(forms, data_pb2.Inputs())


def rows_of(given: data_pb2.Inputs, signature: Signature = SIGNATURE) -> np.ndarray:
    return inputs.matrix_for(given, inputs.form_of(given, "inputs"), signature)


def column(name: str, kind: str, values: list[Any], missing: tuple[int, ...] = ()) -> dict[str, Any]:
    return {"name": name, kind: {"values": values}, "missing": list(missing)}


def table(*columns: dict[str, Any]) -> data_pb2.Inputs:
    return message(table={"columns": list(columns)})


ISLAND = column("island", "strings", ["Dream", "Dream"])
LENGTH = column("length", "doubles", [1.5, 2.5])
RINGED = column("ringed", "booleans", [True, False])


@pytest.mark.parametrize(
    ("record", "row"),
    [
        ({"island": "Dream", "length": 1.5, "ringed": True}, [1, 1.5, 1]),
        ({"ringed": 1, "length": True, "island": "Biscoe"}, [0, 1, 1]),
        ({"island": "", "length": 0, "ringed": False}, [2, 0, 0]),
        ({"island": "Torgersen", "length": -0.25, "ringed": 0}, [-1, -0.25, 0]),
        ({"island": "Dream", "length": -1e300, "ringed": 1e300}, [1, -np.inf, np.inf]),
        ({"island": None, "length": None, "ringed": None}, [NAN, NAN, NAN]),
    ],
)
def test_a_record_becomes_a_row_whatever_the_order_of_its_names(record: dict[str, object], row: list[float]) -> None:
    matrix = rows_of(message(records=[record, record]))
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, [row, row])


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        ((RINGED, LENGTH, ISLAND), [[1, 1.5, 1], [1, 2.5, 0]]),
        (
            (
                column("island", "strings", ["Torgersen", "Biscoe"], (1,)),
                column("length", "integers", [7, 2**24 + 1], (0,)),
                column("ringed", "booleans", [True, True], (0, 1)),
            ),
            [[-1, NAN, NAN], [NAN, 2**24, NAN]],
        ),
        ((ISLAND, column("length", "integers", [-(2**63), 3]), RINGED), [[1, NAN, 1], [1, 3, 0]]),
        # A column in which all is missing has no kind.
        (
            (column("island", "doubles", ["NaN", 0], (1,)), column("length", "strings", ["a", "b"], (0, 1)), RINGED),
            [[NAN, NAN, 1], [NAN, NAN, 0]],
        ),
    ],
)
def test_a_table_becomes_rows_whatever_the_order_of_its_columns(
    columns: tuple[dict[str, Any], ...], rows: list[list[float]]
) -> None:
    np.testing.assert_array_equal(rows_of(table(*columns)), rows)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 2047, 2048, 300_000])
def test_numbers_are_taken_from_their_bytes(count: int) -> None:
    numbers = np.arange(count) / 7
    np.testing.assert_array_equal(tensors.doubles(data_pb2.DoubleValues(values=numbers)), numbers)
    later = data_pb2.DoubleValues.FromString(
        data_pb2.DoubleValues(values=numbers).SerializeToString() + b"\x98\x06\x07"
    )
    np.testing.assert_array_equal(tensors.doubles(later), numbers)


RECORD = {"island": "Dream", "length": 1, "ringed": True}
REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a text for a number": (
        {"records": [RECORD, RECORD | {"length": "1.5"}]},
        "inputs.records[1].length",
        "it is the text '1.5', but the column holds numbers",
    ),
    "a number for a text": ({"records": [RECORD | {"island": 3}]}, "inputs.records[0].island", "it is a number"),
    "a truth value for a text": ({"records": [RECORD | {"island": True}]}, "inputs.records[0].island", "a truth value"),
    "a list": ({"records": [RECORD | {"length": [1]}]}, "inputs.records[0].length", "a list or an object"),
    "a list for a text": ({"records": [RECORD | {"island": {"a": 1}}]}, "inputs.records[0].island", "a list or"),
    "a missing name": (
        {"records": [RECORD, {"island": "Dream", "length": 1}]},
        "inputs.records[1]",
        "'ringed' is missing",
    ),
    "no names": ({"records": [{}]}, "inputs.records[0]", "'island' is missing"),
    "a name more": (
        {"records": [RECORD | {"lenght": 2}]},
        "inputs.records[0]",
        "column 'lenght' is not known; did you mean 'length'?; the columns are island, length, ringed",
    ),
    "another name": (
        {"records": [{"island": "Dream", "lenght": 1, "ringed": True}]},
        "inputs.records[0]",
        "column 'lenght' is not known; did you mean 'length'?",
    ),
    "a column of texts for numbers": (
        {"table": {"columns": [ISLAND, RINGED, column("length", "strings", ["a", "b"], (0,))]}},
        "inputs.table.columns[2]",
        "row 1 of column 'length' is the text 'b', but the column holds numbers",
    ),
    "a column of numbers for texts": (
        {"table": {"columns": [column("island", "doubles", ["NaN", 2]), LENGTH, RINGED]}},
        "inputs.table.columns[0]",
        "row 1 of column 'island' is the number 2.0, but the column holds texts",
    ),
    "another column": (
        {"table": {"columns": [column("iland", "strings", ["a", "b"]), LENGTH, RINGED]}},
        "inputs.table",
        "column 'iland' is not known; did you mean 'island'?",
    ),
    "a missing column": ({"table": {"columns": [LENGTH, RINGED]}}, "inputs.table", "column 'island' is missing"),
    "a column twice": (
        {"table": {"columns": [ISLAND, LENGTH, LENGTH, RINGED]}},
        "inputs.table.columns[2].name",
        "two columns 'length'",
    ),
    "a short column": (
        {"table": {"columns": [ISLAND, column("length", "doubles", [1]), RINGED]}},
        "inputs.table.columns[1]",
        "column 'length' has 1 values, the first column has 2",
    ),
    "a column without values": (
        {"table": {"columns": [{"name": "island"}, LENGTH, RINGED]}},
        "inputs.table.columns[0]",
        "no values",
    ),
    "a gap that is no row": (
        {"table": {"columns": [column("island", "strings", ["a", "b"], (2,)), LENGTH, RINGED]}},
        "inputs.table.columns[0].missing",
        "between 0 and 1",
    ),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS.keys())
def test_what_does_not_fit_is_refused_by_column_and_row(case: tuple[dict[str, Any], str, str]) -> None:
    given, field, why = case
    with pytest.raises(ServiceError) as refused:
        rows_of(message(**given))
    assert refused.value.reason is Reason.INVALID_FIELD
    assert refused.value.metadata["field"] == field
    assert why in refused.value.message


def test_a_message_does_not_list_ten_thousand_columns() -> None:
    columns = tuple(ColumnSpec(f"column {number}", ValueKind.NUMBER) for number in range(10_000))
    wide = Signature(Task.REGRESSION, (10_000,), columns, False, (), None)
    with pytest.raises(ServiceError, match=r"column 99, \.\.\.$"):
        rows_of(message(records=[{"a": 1}]), wide)


@pytest.mark.parametrize(
    ("values", "kind", "read"),
    [
        (["a", None, "b"], ValueKind.CATEGORY, ["a", None, "b"]),
        ([1, None, 3], ValueKind.INTEGER, [1, -(2**63), 3]),
        ([True, None], ValueKind.BOOLEAN, [1, 2]),
        ([1.5, None], ValueKind.NUMBER, [1.5, NAN]),
        ([None, None], ValueKind.NUMBER, [NAN, NAN]),
    ],
)
def test_null_in_records_to_train_on_is_a_gap_and_changes_no_kind(
    values: list[object], kind: ValueKind, read: list[object]
) -> None:
    given = message(records=[{"c": value} for value in values])
    found = tensors.column_of_values([record.fields["c"] for record in given.records], "c", "records")
    assert found.kind is kind
    assert str(list(found.values)) == str(list(np.array(read, found.values.dtype)) if kind != "category" else read)  # type: ignore[union-attr]

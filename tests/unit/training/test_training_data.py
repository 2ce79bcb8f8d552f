from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.unit.training.cases import make_spec, write_spec, write_table_dataset, write_tensor_dataset
from training import data, spec
from training.data import Rows
from training.errors import FitError, Reason


def read_spec(tmp_path: Path, dataset: Path, task: str = "classification", target: str = "") -> spec.Spec:
    message = make_spec(dataset, tmp_path / "out", "random_forest", task, target=target)
    return spec.read(write_spec(tmp_path / "spec.pb", message))


def matrix(rows: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)


def test_text_labels_become_class_indexes_in_sorted_order(tmp_path: Path) -> None:
    dataset = write_tensor_dataset(tmp_path / "d", matrix(4), "category", ["pear", "apple", "pear", "fig"])
    rows, schema = data.load(read_spec(tmp_path, dataset))
    assert schema.classes == ["apple", "fig", "pear"]
    assert rows.targets.tolist() == [2, 0, 2, 1]


@pytest.mark.parametrize(
    ("kind", "labels", "classes"),
    [
        ("integer", [10, -1, 10], [-1, 10]),
        ("number", [2.5, 1.0, 2.5], [1.0, 2.5]),
        ("boolean", [True, False, True], [False, True]),
    ],
)
def test_labels_keep_their_type(tmp_path: Path, kind: str, labels: list[object], classes: list[object]) -> None:
    dataset = write_tensor_dataset(tmp_path / "d", matrix(3), kind, labels)
    rows, schema = data.load(read_spec(tmp_path, dataset))
    assert schema.classes == classes
    assert [type(label) for label in schema.classes] == [type(label) for label in classes]
    assert rows.targets.tolist() == [1, 0, 1]
    assert schema.label_kind == kind


def test_the_target_column_is_no_feature(tmp_path: Path) -> None:
    columns: dict[str, tuple[str, Sequence[object]]] = {
        "width": ("number", [0.5, 1.5, 2.5]),
        "kind": ("category", ["a", "b", "a"]),
        "round": ("boolean", [True, False, True]),
        "count": ("integer", [1, 2, 3]),
    }
    dataset = write_table_dataset(tmp_path / "d", columns)
    rows, schema = data.load(read_spec(tmp_path, dataset, target="kind"))
    assert [(column.name, column.kind) for column in schema.columns] == [
        ("width", "number"),
        ("round", "boolean"),
        ("count", "integer"),
    ]
    assert rows.features.dtype == np.float32
    assert rows.features.tolist() == [[0.5, 1, 1], [1.5, 0, 2], [2.5, 1, 3]]


def test_missing_features_are_noticed(tmp_path: Path) -> None:
    features = matrix(3)
    features[1, 0] = np.nan
    dataset = write_tensor_dataset(tmp_path / "d", features, "number", [1.0, 2.0, 3.0])
    _, schema = data.load(read_spec(tmp_path, dataset, "regression"))
    assert schema.missing_values


def test_a_value_of_any_kind_may_be_missing(tmp_path: Path) -> None:
    columns: dict[str, tuple[str, Sequence[object]]] = {
        "number": ("number", [0.5, float("nan"), 2.5]),
        "integer": ("integer", [7, 8, -(2**63)]),
        "boolean": ("boolean", [2, 1, 0]),
        "category": ("category", ["b", None, "a"]),
        "y": ("number", [1.0, 2.0, 3.0]),
    }
    dataset = write_table_dataset(tmp_path / "d", columns)
    rows, schema = data.load(read_spec(tmp_path, dataset, "regression", target="y"))
    nan = np.nan
    np.testing.assert_array_equal(rows.features, [[0.5, 7, nan, 0], [nan, 8, 1, nan], [2.5, nan, 0, 1]])
    assert schema.missing_values
    assert schema.columns[3].categories == ["b", "a"]


def test_the_columns_of_a_new_version_are_in_the_order_of_the_versions_before(tmp_path: Path) -> None:
    columns: dict[str, tuple[str, Sequence[object]]] = {
        "a": ("number", [1.0, 2.0]),
        "b": ("number", [3.0, 4.0]),
        "y": ("number", [1.0, 2.0]),
    }
    dataset = write_table_dataset(tmp_path / "d", columns)
    message = make_spec(dataset, tmp_path / "out", "random_forest", "regression", target="y")
    message.signature.columns.add(name="b")
    message.signature.columns.add(name="a")
    rows, schema = data.load(spec.read(write_spec(tmp_path / "spec.pb", message)))
    assert [column.name for column in schema.columns] == ["b", "a"]
    assert rows.features.tolist() == [[3, 1], [4, 2]]


@pytest.mark.parametrize(
    ("task", "kind", "targets", "says"),
    [
        ("classification", "category", ["a", "a", "a"], "at least two labels"),
        ("classification", "category", ["a", "b", "c"], "occurs only once"),
        ("classification", "category", ["a", None, "a"], "row 1 is missing"),
        ("classification", "integer", [1, 2, -(2**63)], "row 2 is missing"),
        ("regression", "number", [1.0, 2.0, float("nan")], "row 2 is missing"),
        ("regression", "number", [1.0, 2.0, float("inf")], "infinite"),
    ],
)
def test_targets_that_cannot_be_learned_are_refused(
    tmp_path: Path, task: str, kind: str, targets: list[object], says: str
) -> None:
    dataset = write_tensor_dataset(tmp_path / "d", matrix(3), kind, targets)
    with pytest.raises(FitError, match=says) as caught:
        data.load(read_spec(tmp_path, dataset, task))
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_FIELD, "inline.targets")


def test_a_column_too_large_for_32_bit_floats_is_refused(tmp_path: Path) -> None:
    dataset = write_table_dataset(tmp_path / "d", {"a": ("number", [1e300, 1.0]), "y": ("number", [1.0, 2.0])})
    with pytest.raises(FitError, match="too large") as caught:
        data.load(read_spec(tmp_path, dataset, "regression", target="y"))
    assert caught.value.field == "inline.inputs"


def test_the_split_depends_on_the_seed_alone_and_keeps_every_row() -> None:
    rows = Rows(matrix(50), np.arange(50.0))
    first, again = data.split(rows, False, 0.2, 7), data.split(rows, False, 0.2, 7)
    other = data.split(rows, False, 0.2, 8)
    assert [len(part) for part in first] == [40, 10]
    assert first[1].targets.tolist() == again[1].targets.tolist() != other[1].targets.tolist()
    assert sorted([*first[0].targets, *first[1].targets]) == list(range(50))


def test_classes_are_held_out_in_proportion() -> None:
    targets = np.repeat([0, 1, 2], [60, 30, 10])
    train, held_out = data.split(Rows(matrix(100), targets), True, 0.2, 0)
    assert np.bincount(held_out.targets).tolist() == [12, 6, 2]
    assert np.bincount(train.targets).tolist() == [48, 24, 8]


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("sizes", [[1, 2], [1, 1, 1, 2], [3, 1, 7], [1, 40]])
def test_every_class_stays_in_training_and_some_row_is_held_out(sizes: list[int], fraction: float) -> None:
    targets = np.repeat(np.arange(len(sizes)), sizes)
    train, held_out = data.split(Rows(matrix(len(targets)), targets), True, fraction, 3)
    assert (np.bincount(train.targets, minlength=len(sizes)) >= 1).all()
    assert len(held_out) >= 1
    assert len(train) + len(held_out) == len(targets)


def test_two_rows_of_a_regression_are_one_to_train_on_and_one_held_out() -> None:
    assert [len(part) for part in data.split(Rows(matrix(2), np.arange(2.0)), False, 0.9, 0)] == [1, 1]

"""What is refused before it reaches a training or Triton, and how the refusal names the field."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from service.domain.entities import ColumnSpec, ColumnSummary, Dataset, FitOrder, Manifest, Task, ValueKind
from service.domain.errors import Reason, ServiceError
from service.domain.intake import (
    FEW_INTEGERS,
    MAX_CATEGORIES,
    MAX_CLASSES,
    MAX_NATIVE_CATEGORIES,
    check_fit,
)
from service.domain.jobs import check_same_inputs
from service.domain.nearest import hint, nearest
from service.domain.predictor import check_rows
from tests.unit.domain.fakes import TREE, dataset, manifest, order, signature, summary

REGRESSOR = replace(TREE, classification=False)
CLASSIFIER = replace(TREE, regression=False)
ROBUST = replace(TREE, missing_values=True)
NATIVE = replace(ROBUST, native_categories=True)
CNN = replace(TREE, images=True)


def columns_of(*columns: ColumnSummary) -> Dataset:
    return dataset(shape=None, features=None, columns=columns, targets=None)


def table(*columns: str, target: str = "") -> Dataset:
    kinds = {name: ValueKind.CATEGORY if name == target else ValueKind.NUMBER for name in columns}
    return columns_of(*(summary(name, kind) for name, kind in kinds.items()))


REFUSALS = {
    "nothing to learn": (order(), dataset(targets=None), "inline.targets", "nothing to learn"),
    "nothing to learn, uploaded": (order(data="sha256:0"), dataset(targets=None), "dataset", "nothing to learn"),
    "targets twice": (order(target="a"), dataset(), "target", "not both"),
    "unknown target": (order(target="speces"), table("size", "species"), "target", "did you mean 'species'"),
    "target of a matrix": (order(target="a"), dataset(targets=None), "target", "no named columns"),
    "only the target": (order(target="a"), table("a", target="a"), "inline.inputs", "no column to learn from"),
    "too many categories": (
        order(target="b"),
        columns_of(summary("a", ValueKind.CATEGORY, distinct=MAX_CATEGORIES + 1), summary("b")),
        "inline.inputs (column 'a')",
        "more than 1000 different texts",
    ),
    "too many categories of its own": (
        order(target="b", algorithm=NATIVE),
        columns_of(summary("a", ValueKind.CATEGORY, distinct=MAX_NATIVE_CATEGORIES + 1), summary("b")),
        "inline.inputs (column 'a')",
        "more than 9999 different texts",
    ),
    "too many categories together": (
        order(target="b"),
        columns_of(*(summary(f"a{i}", ValueKind.CATEGORY, distinct=1000) for i in range(11)), summary("b")),
        "inline.inputs",
        "11000 categories together",
    ),
    "infinity": (order(), dataset(features=summary(infinite=2)), "inline.inputs", "2 values are infinite"),
    "missing": (order(), dataset(features=summary(missing=3)), "inline.inputs", "3 values are missing"),
    "images for a tree": (order(), dataset(shape=(1, 8, 8)), "inline.inputs", "takes a matrix"),
    "a matrix for a CNN": (order(algorithm=CNN), dataset(), "inline.inputs", "takes images"),
    "no features": (order(), dataset(shape=(0,)), "inline.inputs", "there are no features"),
    "no regression": (order(algorithm=CLASSIFIER, task=Task.REGRESSION), dataset(), "task", "does no regression"),
    "no classification": (
        order(algorithm=REGRESSOR, task=Task.CLASSIFICATION),
        dataset(),
        "task",
        "does no classification",
    ),
    "missing target": (order(), dataset(targets=summary(missing=1)), "inline.targets", "every row needs one"),
    "infinite target": (order(), dataset(targets=summary(infinite=1)), "inline.targets", "every row needs one"),
    "texts for a regression": (
        order(task=Task.REGRESSION),
        dataset(targets=summary(kind=ValueKind.CATEGORY)),
        "inline.targets",
        "regression learns numbers",
    ),
    "one row": (order(task=Task.REGRESSION), dataset(rows=1), "inline.targets", "at least two"),
    "one class": (
        order(task=Task.CLASSIFICATION),
        dataset(targets=summary(distinct=1)),
        "inline.targets",
        "at least two different labels",
    ),
    "too many classes": (
        order(task=Task.CLASSIFICATION),
        dataset(targets=summary(distinct=MAX_CLASSES + 1)),
        "inline.targets",
        "is this a regression?",
    ),
    "as many labels as rows": (
        order(task=Task.CLASSIFICATION),
        dataset(rows=5, targets=summary(distinct=5)),
        "inline.targets",
        "more rows than labels",
    ),
    "weights of rows that the algorithm does not take": (
        order(),
        dataset(has_weights=True),
        "inline.weights",
        "takes no weights of rows",
    ),
    "weights of labels that the algorithm does not take": (
        order(class_weights=True),
        dataset(),
        "class_weights",
        "takes no weights of labels",
    ),
    "weights of labels for numbers": (
        order(algorithm=replace(TREE, sample_weights=True), class_weights=True, task=Task.REGRESSION),
        dataset(),
        "class_weights",
        "regression has no labels",
    ),
    "bad target column": (
        order(target="a", data="sha256:0"),
        dataset(shape=None, features=None, targets=None, columns=(summary("a", missing=1), summary("b"))),
        "dataset (column 'a')",
        "every row needs one",
    ),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_fit_that_cannot_work_is_refused_by_field(case: tuple[FitOrder, Dataset, str, str]) -> None:
    wrong, data, field, why = case
    with pytest.raises(ServiceError) as refused:
        check_fit(wrong, data)
    assert refused.value.reason == Reason.INVALID_FIELD
    assert refused.value.metadata["field"] == field
    assert why in refused.value.message


def test_missing_values_are_fine_for_algorithms_that_take_them() -> None:
    assert check_fit(order(algorithm=ROBUST), dataset(features=summary(missing=3))).shape == (2,)


def test_the_features_of_a_table_are_its_columns_without_the_target() -> None:
    command = check_fit(order(target="b"), table("a", "b", "c", target="b"))
    assert [column.name for column in command.columns] == ["a", "c"]
    assert command.shape == (2,)


@pytest.mark.parametrize(
    ("kind", "distinct", "algorithm", "task"),
    [
        (ValueKind.CATEGORY, 3, TREE, Task.CLASSIFICATION),
        (ValueKind.BOOLEAN, 2, TREE, Task.CLASSIFICATION),
        (ValueKind.INTEGER, 3, TREE, Task.CLASSIFICATION),
        (ValueKind.INTEGER, FEW_INTEGERS + 1, TREE, Task.REGRESSION),
        (ValueKind.NUMBER, 3, TREE, Task.REGRESSION),
        (ValueKind.NUMBER, 3, CLASSIFIER, Task.CLASSIFICATION),
        (ValueKind.INTEGER, 3, REGRESSOR, Task.REGRESSION),
    ],
)
def test_the_task_follows_from_the_targets(kind: ValueKind, distinct: int, algorithm: object, task: Task) -> None:
    data = dataset(rows=1000, targets=summary(kind=kind, distinct=distinct))
    assert check_fit(order(algorithm=algorithm), data).task == task


def test_a_new_version_must_take_what_the_versions_before_take() -> None:
    before = manifest("iris")
    check_same_inputs(check_fit(order(), dataset()), None)
    check_same_inputs(check_fit(order(), dataset()), before)
    wrong = {
        "inline.inputs": check_fit(order(), dataset(shape=(3,))),
        "dataset": check_fit(order(data="sha256:0"), dataset(shape=(3,))),
        "task": check_fit(order(task=Task.REGRESSION), dataset()),
    }
    for field, command in wrong.items():
        with pytest.raises(ServiceError) as refused:
            check_same_inputs(command, before)
        assert refused.value.metadata["field"] == field


def test_named_columns_may_have_gaps_and_texts_for_every_algorithm() -> None:
    data = columns_of(summary("a", missing=3), summary("b", ValueKind.CATEGORY, missing=1), summary("c"))
    assert check_fit(order(target="c"), data).shape == (2,)


def before_with(*columns: ColumnSpec) -> Manifest:
    return replace(manifest("iris"), signature=signature(columns=columns))


def test_a_new_version_may_have_the_columns_in_another_order() -> None:
    before = before_with(ColumnSpec("b", ValueKind.NUMBER), ColumnSpec("a", ValueKind.INTEGER))
    check_same_inputs(check_fit(order(target="c"), table("a", "b", "c", target="c")), before)


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ((ColumnSpec("a", ValueKind.NUMBER), ColumnSpec("x", ValueKind.NUMBER)), r"versions take \['a', 'x'\]"),
        (
            (ColumnSpec("a", ValueKind.NUMBER), ColumnSpec("b", ValueKind.CATEGORY)),
            "column 'b'.*versions take category",
        ),
    ],
)
def test_a_new_version_must_have_the_names_and_kinds_of_the_columns(columns: tuple[ColumnSpec, ...], why: str) -> None:
    with pytest.raises(ServiceError, match=why):
        check_same_inputs(check_fit(order(target="c"), table("a", "b", "c", target="c")), before_with(*columns))


@pytest.mark.parametrize(
    ("rows", "missing", "field", "why"),
    [
        (np.zeros((1, 3)), False, "inputs", r"\[1, 3\] but the model takes \[rows, 2\]"),
        (np.zeros((1, 2, 1)), False, "inputs", r"\[1, 2, 1\]"),
        (np.zeros((0, 2)), False, "inputs", "no rows"),
        (np.array([[0, 0], [0, np.nan]]), False, "inputs[1, 1]", "it takes none"),
        (np.array([[0, np.nan], [-np.inf, 0]]), True, "inputs[1, 0]", "infinity"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_place(rows: np.ndarray, missing: bool, field: str, why: str) -> None:
    with pytest.raises(ServiceError, match=why) as refused:
        check_rows(rows.astype(np.float32), signature(missing_values=missing))
    assert refused.value.metadata["field"] == field


def test_missing_values_are_taken_where_training_saw_some() -> None:
    check_rows(np.array([[np.nan, 1]], np.float32), signature(missing_values=True))


def test_the_nearest_name_is_told_only_if_it_is_near() -> None:
    assert nearest("irs", ["wine", "iris"]) == "iris"
    assert hint("irs", ["wine", "iris"]) == "; did you mean 'iris'?"
    assert hint("zebra", ["wine", "iris"]) == ""
    assert nearest("iris", []) == ""

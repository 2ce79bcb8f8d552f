"""Reads a dataset and splits it into rows to train on and rows held out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from training.errors import invalid_field
from training.spec import Spec, Task

Label: TypeAlias = str | int | float | bool
Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]

_MISSING = {"integer": -(2**63), "boolean": 2, "category": -1}
"""What stands for a missing value in a column's file, but for numbers, which have NaN."""


class Column(TypedDict):
    """A column as dataset.json describes it."""

    name: str
    kind: str
    file: str
    dtype: str
    vocabulary: list[str] | None


@dataclass(frozen=True)
class Rows:
    """Rows with their targets.

    Attributes:
        features: float32 [rows, ...].
        targets: int64 class indexes or float64 values, [rows]; values [rows, targets] if they are several.
        weights: What each row counts in training, float64 [rows]; None if all count the same.
    """

    features: Floats
    targets: NDArray[np.int64] | NDArray[np.float64]
    weights: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.features)

    def take(self, rows: Integers) -> Rows:
        """Returns a copy of some rows."""
        weights = None if self.weights is None else self.weights[rows]
        return Rows(self.features[rows], self.targets[rows], weights)


def matrix_of(features: Floats) -> Floats:
    """Returns features of any shape, [rows, ...], as [rows, columns]."""
    return features.reshape(len(features), -1)


def doubles_of(features: Floats) -> NDArray[np.float64]:
    """Returns features of any shape, [rows, ...], as [rows, columns] in double precision."""
    return matrix_of(features).astype(np.float64)


@dataclass(frozen=True)
class FeatureColumn:
    """A named column of features.

    Attributes:
        name: The name.
        kind: The kind of its values: number, integer, boolean, category or text.
        categories: The texts that the codes of a category or a text are positions of; empty for the other kinds.
        missing_values: Whether some row to train on lacks the value.
    """

    name: str
    kind: str
    categories: Sequence[str] = ()
    missing_values: bool = False


@dataclass(frozen=True)
class Schema:
    """What the rows of a dataset mean.

    Attributes:
        classes: The labels in the order of the class indexes, sorted; empty for regression.
        label_kind: The kind of the labels; empty for regression.
        columns: The feature columns; empty for tensors.
        missing_values: Whether some feature is NaN.
        targets: The names of the targets, if there are several.
    """

    classes: list[Label]
    label_kind: str
    columns: Sequence[FeatureColumn]
    missing_values: bool
    targets: Sequence[str] = ()

    @property
    def category_places(self) -> list[int]:
        """The positions of the columns of categories."""
        return [place for place, column in enumerate(self.columns) if column.kind == "category"]


def load(spec: Spec) -> tuple[Rows, Schema]:
    """Returns the rows of the dataset of `spec`, and what they mean.

    Raises:
        FitError: INVALID_FIELD; the data cannot be learned from.
    """
    description = json.loads((spec.dataset / "dataset.json").read_text())
    columns: list[Column] = description["columns"]
    learned = _columns_to_learn(spec, description)
    columns = [column for column in columns if column not in learned]
    columns = _in_order(columns, [column.name for column in spec.signature.columns])
    row_count: int = description["row_count"]
    if row_count < 2:
        raise invalid_field(spec.inputs_field, "training needs at least 2 rows")
    columns = [_as_text(column) if column["name"] in spec.text_columns else column for column in columns]
    features = _features(spec.dataset, description["features"], columns, row_count)
    if np.isinf(features).any():
        raise invalid_field(
            spec.inputs_field,
            "some features are infinite, or too large for 32-bit floats; remove or scale them",
        )
    targets, classes = _targets(spec.dataset, learned[0], spec.task, spec.targets_field)
    if len(learned) > 1:
        several = [_targets(spec.dataset, column, spec.task, spec.targets_field)[0] for column in learned]
        targets = np.stack(several, axis=1).astype(np.float64)
    schema = Schema(
        classes=classes,
        label_kind=learned[0]["kind"] if spec.task == "classification" else "",
        columns=[FeatureColumn(column["name"], column["kind"], column["vocabulary"] or ()) for column in columns],
        missing_values=bool(np.isnan(features).any()),
        targets=[column["name"] for column in learned] if len(learned) > 1 else [],
    )
    return Rows(features, targets, _weights(spec, description.get("weights"), targets, schema)), schema


def _as_text(column: Column) -> Column:
    """Returns a column of texts as one of free text, whose missing ones are empty."""
    return {**column, "kind": "text", "vocabulary": [*(column["vocabulary"] or ()), ""]}


# Any: the description as JSON.
def _columns_to_learn(spec: Spec, description: Mapping[str, Any]) -> list[Column]:
    """Returns the columns of the targets: the dataset's own, those beside its matrix, or those that the request names."""
    if description["targets"] is not None:
        return [description["targets"]]
    columns: list[Column] = description["columns"]
    if description["features"] is not None:
        return columns
    by_name = {column["name"]: column for column in columns}
    return [by_name[name] for name in spec.targets or [spec.target]]


def _weights(
    spec: Spec, file: dict[str, str] | None, targets: NDArray[np.int64] | NDArray[np.float64], schema: Schema
) -> NDArray[np.float64] | None:
    """Returns what each row counts: its own weight times that of its label."""
    weights = None if file is None else np.fromfile(spec.dataset / file["file"], file["dtype"])
    if not spec.class_weights:
        return weights
    of_class = weights_of_classes(spec.class_weights, schema.classes)[targets.astype(np.int64)]
    return of_class if weights is None else weights * of_class


def weights_of_classes(given: Mapping[str, float], classes: Sequence[Label]) -> NDArray[np.float64]:
    """Returns the weight of each class, 1 for those that are not named.

    Raises:
        FitError: INVALID_FIELD; a name is that of no class.
    """
    weights = np.ones(len(classes))
    texts = [_text(label) for label in classes]
    for text, weight in given.items():
        if text not in texts:
            known = ", ".join(texts[:20]) + (" ..." if len(texts) > 20 else "")
            raise invalid_field("class_weights", f"there is no label {text!r}; the labels are {known}")
        weights[texts.index(text)] = weight
    return weights


def _text(label: Label) -> str:
    """Returns a label as a text, as JSON has it: true, 3, 2.5, or the text itself."""
    return label if isinstance(label, str) else json.dumps(label)


def check_weights(train: Rows, classes: Sequence[Label], field: str) -> None:
    """Checks that something is left to learn from.

    Raises:
        FitError: INVALID_FIELD; all rows, or all of a class, count nothing.
    """
    if train.weights is None:
        return
    if not classes and not train.weights.any():
        raise invalid_field(field, "all rows to train on have the weight 0; give some of them another")
    if classes:
        sums = np.bincount(train.targets.astype(np.int64), train.weights, minlength=len(classes))
        if not sums.all():
            label = classes[int(np.argmin(sums))]
            raise invalid_field(field, f"all rows to train on with the label {label!r} have the weight 0; give more")


def _features(directory: Path, tensor: dict[str, object] | None, columns: list[Column], row_count: int) -> Floats:
    if tensor is not None:
        shape = tensor["shape"]
        assert isinstance(shape, list)
        features: Floats = np.fromfile(directory / str(tensor["file"]), "<f4").reshape(row_count, *shape)
    else:
        features = np.empty((row_count, len(columns)), np.float32)
        with np.errstate(over="ignore"):
            for index, column in enumerate(columns):
                values = np.fromfile(directory / column["file"], column["dtype"])
                features[:, index] = values
                if column["kind"] == "text":
                    features[values == _MISSING["category"], index] = len(column["vocabulary"] or ()) - 1
                else:
                    features[_missing(values, column["kind"]), index] = np.nan
    return features


def _in_order(columns: list[Column], names: Sequence[str]) -> list[Column]:
    """Returns columns in the order of `names`, if they have these names: that of the model's versions before."""
    by_name = {column["name"]: column for column in columns}
    return [by_name[name] for name in names] if by_name.keys() == set(names) else columns


def _missing(values: NDArray[np.generic], kind: str) -> NDArray[np.bool_]:
    """Returns which values of a column are missing."""
    missing: NDArray[np.bool_] = values == _MISSING[kind] if kind in _MISSING else np.isnan(values)
    return missing


def _targets(
    directory: Path, column: Column, task: Task, field: str
) -> tuple[NDArray[np.int64] | NDArray[np.float64], list[Label]]:
    values = np.fromfile(directory / column["file"], column["dtype"])
    missing = _missing(values, column["kind"])
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        raise invalid_field(field, f"the target of row {row} is missing; give one or remove the row")
    if task == "regression":
        if not np.isfinite(values).all():
            raise invalid_field(field, "some targets are infinite; remove these rows")
        return values.astype(np.float64), []
    indexes, classes = encode_labels(values, column)
    if len(classes) == len(values):
        raise invalid_field(field, "each label occurs only once; give at least two rows of some label")
    if len(classes) < 2:
        raise invalid_field(field, f"all rows have the label {classes[0]!r}; a classifier needs at least two labels")
    return indexes, classes


def encode_labels(values: NDArray[np.generic], column: Column) -> tuple[Integers, list[Label]]:
    """Returns the class index of each value and the classes, which are the distinct labels in sorted order."""
    distinct, indexes = np.unique(values, return_inverse=True)
    indexes = indexes.astype(np.int64)
    if column["kind"] == "boolean":
        return indexes, [bool(value) for value in distinct]
    if column["kind"] != "category":
        return indexes, distinct.tolist()
    vocabulary = column["vocabulary"] or []
    labels = [vocabulary[code] for code in distinct.tolist()]
    order = np.array(sorted(range(len(labels)), key=labels.__getitem__))
    position = np.empty(len(labels), np.int64)
    position[order] = np.arange(len(labels))
    return position[indexes], [labels[index] for index in order]


def split(rows: Rows, by_class: bool, validation_fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Returns the rows to train on and the rows held out, both in random order and never empty.

    Args:
        rows: All rows.
        by_class: Whether the targets are classes; each is held out in proportion and keeps a row to train on.
        validation_fraction: The share to hold out.
        seed: Chooses the rows.
    """
    generator = np.random.default_rng(seed)
    order: Integers = generator.permutation(len(rows))
    count = min(max(1, round(len(order) * validation_fraction)), len(order) - 1)
    if by_class:
        held_out = _hold_out_by_class(rows.targets[order].astype(np.int64), count)
    else:
        held_out = np.arange(len(order)) < count
    return rows.take(order[~held_out]), rows.take(order[held_out])


def _hold_out_by_class(targets: Integers, count: int) -> NDArray[np.bool_]:
    """Returns which rows to hold out: of each class its first ones, `count` together if the classes allow it."""
    sizes = np.bincount(targets)
    shares = sizes * (count / len(targets))
    quotas = np.minimum(np.floor(shares).astype(np.int64), sizes - 1)
    # What rounding down left over goes to the classes that lost most by it and still can spare a row.
    while quotas.sum() < count and (quotas < sizes - 1).any():
        spare = np.where(quotas < sizes - 1, shares - quotas, -np.inf)
        quotas[np.argmax(spare)] += 1
    by_class = np.argsort(targets, kind="stable")
    rank = np.arange(len(targets)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    held_out = np.zeros(len(targets), np.bool_)
    held_out[by_class] = rank < np.repeat(quotas, sizes)
    return held_out

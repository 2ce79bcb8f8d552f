"""What the reader of a format finds in a file, and how it refuses one."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from training.algorithms.base import Trained
from training.data import Floats
from training.errors import FitError, invalid_field, is_out_of_memory
from training.export import trees
from training.export.ladder import Exported
from training.importing.labels import Labels
from training.importing.spec import Column, check_names
from training.spec import Task
from training.texts import TextColumn

CONTENT = "content"
"""The field of the request that the file came in."""

_MOST_ROWS = 1000
_MOST_VALUES = 2**20
_WIDEST = 1e6


@dataclass(frozen=True)
class Found:
    """A model that was read.

    Attributes:
        trained: What predicts as the library does, and is exported.
        shape: The shape of one row of features.
        score_count: The number of scores of a row: one a class, or one value.
        columns: The columns that the file names, or none.
        missing_values: Whether the model takes missing values.
        labels: The labels that the file names, or None.
        rows: The rows for the proof.
        libraries: The distributions that read it, for the manifest.
        exported: What is served, if only one form is possible; None if the export ladder decides.
        texts: The columns that come as texts, with those that the rows for the proof have.
    """

    trained: Trained
    task: Task
    shape: tuple[int, ...]
    score_count: int
    columns: tuple[Column, ...]
    missing_values: bool
    labels: Labels | None
    rows: Floats
    libraries: Sequence[str]
    exported: Exported | None = None
    texts: tuple[TextColumn, ...] = ()


def damaged(what: str) -> FitError:
    """Returns the error for a file that is not what it should be.

    Args:
        what: What it should be, such as "an XGBoost model in JSON or UBJSON".
    """
    return invalid_field(CONTENT, f"the file is damaged, or not {what}; save the model again and send it as a whole")


def refused(problem: str) -> FitError:
    """Returns the error for a file that is whole, but holds what is not served."""
    return invalid_field(CONTENT, problem)


def part_damaged(part: str, problem: str) -> FitError:
    """Returns the error for a model of which one part is not as its library makes it.

    Args:
        part: What it is, such as the class of an estimator.
    """
    return refused(f"a {part} in the file is damaged: {problem}; fit the model again and save it as its library does")


def estimator_damaged(estimator: object, problem: str) -> FitError:
    """Returns the error for an estimator of scikit-learn that is not as a fit makes it."""
    return part_damaged(type(estimator).__name__, problem)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Takes whatever a library raises in a block as its word that the file is damaged.

    Raises:
        FitError: INVALID_FIELD; or what the block raises of it. Other errors are those of a full memory or disk.
    """
    try:
        yield
    except (FitError, OSError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise damaged(what) from error


def check_zip(file: Path, limit_bytes: int) -> None:
    """Refuses a zip that would unpack to more than the process may have. Raises BadZipFile if it is none."""
    with zipfile.ZipFile(file) as parts:
        size = sum(part.file_size for part in parts.infolist())
    if size > limit_bytes:
        raise refused(f"unpacked it has {size} bytes, and {limit_bytes} are the most")


def random_rows(shape: Sequence[int], splits: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]] = ()) -> Floats:
    """Returns rows on which the proof compares, [rows, *shape].

    Args:
        splits: For trees: the features that are compared and the thresholds that they are compared with. Half of the values
            are a threshold or next to one, where an inexact copy of the model would go wrong first.
    """
    columns = int(np.prod(shape))
    count = max(3, min(_MOST_ROWS, _MOST_VALUES // columns))
    chance = np.random.default_rng(0)
    rows = chance.normal(size=(count, columns)).astype(np.float32)
    features = np.concatenate([feature for feature, _ in splits]) if splits else np.zeros(0, np.int64)
    thresholds = np.concatenate([threshold for _, threshold in splits]) if splits else np.zeros(0)
    for feature in np.unique(features):
        near = _around(thresholds[features == feature])
        chosen = chance.random(count) < 0.5
        spread = np.float32(min(np.abs(near).max(), _WIDEST))
        rows[:, feature] = np.where(chosen, chance.choice(near, count), rows[:, feature] * spread)
    return rows.reshape(count, *shape)


def _around(thresholds: NDArray[np.float64]) -> Floats:
    """Returns the thresholds as features, and their neighbours."""
    exact = thresholds.astype(np.float32)
    with np.errstate(over="ignore"):
        near = np.concatenate([exact, *(np.nextafter(exact, np.float32(end)) for end in (-np.inf, np.inf))])
    finite: Floats = near[np.isfinite(near)]
    return finite if len(finite) else np.ones(1, np.float32)


def rows_of_trees(ensemble: trees.Ensemble, shape: Sequence[int]) -> Floats:
    """Returns rows for the proof of an ensemble; columns split by sets of codes hold codes, and some that are none."""
    splits, largest = [], dict[int, int]()
    for tree in ensemble.trees:
        compared = ~tree.leaf
        compared[list(tree.sets)] = False
        splits.append((tree.feature[compared], tree.threshold[compared]))
        for node, codes in tree.sets.items():
            feature = int(tree.feature[node])
            largest[feature] = max(largest.get(feature, 0), codes.count)
    rows = random_rows(shape, splits)
    chance = np.random.default_rng(1)
    for feature, count in largest.items():
        rows[:, feature] = chance.integers(-1, count + 2, len(rows))
    return rows


@dataclass(frozen=True)
class TreesOfFile:
    """An ensemble of trees that was read, and what its library predicts with it."""

    grown: trees.Ensemble
    shape: tuple[int, ...]
    library: Callable[[Floats], NDArray[np.float64]]

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the library's own predictions."""
        return self.library(features)

    def export(self) -> onnx.ModelProto:
        """Returns the trees as one ONNX operation."""
        return trees.model(self.grown, self.shape)

    def ensemble(self) -> trees.Ensemble:
        """Returns the trees."""
        return self.grown


def of_trees(
    ensemble: trees.Ensemble,
    columns: int,
    predict: Callable[[Floats], NDArray[np.float64]],
    names: Sequence[str],
    labels: Labels | None,
    library: str,
) -> Found:
    """Returns an ensemble of trees that was read.

    Args:
        columns: The number of columns.
        predict: The library's own predictions.
        names: The names of the columns, or none.
        labels: The labels of the classes, None for values.
        library: The distribution that read it.

    Raises:
        FitError: INVALID_FIELD; columns cannot be named so, or the trees have what is no number.
    """
    check_names(names, CONTENT)
    _check_numbers(ensemble)
    return Found(
        trained=TreesOfFile(ensemble, (columns,), predict),
        task="regression" if labels is None else "classification",
        shape=(columns,),
        score_count=1 if labels is None else len(labels.classes),
        columns=tuple(Column(name) for name in names),
        missing_values=True,
        labels=labels,
        rows=rows_of_trees(ensemble, (columns,)),
        libraries=(library,),
    )


def _check_numbers(ensemble: trees.Ensemble) -> None:
    leaves = [tree.values[tree.leaf] for tree in ensemble.trees]
    thresholds = [tree.threshold[~tree.leaf] for tree in ensemble.trees]
    if not all(np.isfinite(part).all() for part in (*leaves, ensemble.base_values)):
        raise part_damaged("tree", "a value of a leaf, or what the sums start from, is no finite number")
    if any(np.isnan(part).any() for part in thresholds):
        raise part_damaged("tree", "a threshold is no number")

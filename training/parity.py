"""Proves that an exported model predicts what the library that trained it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.algorithms.base import Trained
from training.data import Floats
from training.encoding import UNKNOWN
from training.spec import Task

TOLERANCE = 1e-5
_MOST_ROWS = 20_000


@dataclass(frozen=True)
class Proof:
    """The comparison, as the manifest keeps it.

    Attributes:
        max_difference: The largest absolute difference seen; where several values are predicted, each as a share of the
            largest one of its kind, if that is above 1.
        tolerance: The largest one accepted.
        row_count: The number of rows compared.
    """

    max_difference: float
    tolerance: float
    row_count: int

    @property
    def holds(self) -> bool:
        """Whether the exported model may be served."""
        return self.max_difference <= self.tolerance  # not so if the difference is NaN


@dataclass(frozen=True)
class Expectation:
    """What the library predicts, which every form of the model must predict too.

    Attributes:
        rows: The rows, as serving sends them.
        scores: The library's predictions, [rows, scores].
        tolerance: The largest difference accepted.
        scales: What the difference of each score is divided by, [scores].
    """

    rows: Floats
    scores: NDArray[np.float64]
    tolerance: float
    scales: NDArray[np.float64]

    def compare(self, scores: NDArray[np.float32] | NDArray[np.float64]) -> Proof:
        """Returns the comparison with the scores of an exported model for the same rows."""
        return Proof(float((np.abs(scores - self.scores) / self.scales).max()), self.tolerance, len(self.rows))


def expect(
    learner: Trained,
    task: Task,
    features: Floats,
    missing_values: bool,
    seed: int,
    category_places: Sequence[int] = (),
) -> Expectation:
    """Returns what a learner predicts.

    Args:
        learner: The trained one, or the one that was read from a file.
        task: What it learned.
        features: The held-out rows; the first 20,000 are compared.
        missing_values: Whether features may be NaN; then the rows are compared a second time, with values missing.
        seed: Chooses the missing values and the unknown categories.
        category_places: The columns that hold codes of categories; if there are some, the rows are compared once more, with
            categories that the model does not know.
    """
    held_out = features[:_MOST_ROWS]
    rows = held_out
    if missing_values:
        rows = np.concatenate([rows, _with_missing(held_out, seed)])
    if category_places:
        rows = np.concatenate([rows, _with_unknown(held_out, category_places, seed)])
    scores = learner.predict(rows)
    tolerance, scales = TOLERANCE, np.ones(scores.shape[1])
    if task == "regression":
        # A 32-bit float has seven digits, so large values can only be equal in proportion.
        sizes = np.maximum(1.0, np.abs(scores).max(axis=0))
        if len(sizes) == 1:
            tolerance *= float(sizes[0])
        else:  # of several, each has a size of its own
            scales = sizes
    return Expectation(rows, scores, tolerance, scales)


def _with_missing(features: Floats, seed: int) -> Floats:
    """Returns a copy of `features` in which a third of the values is NaN."""
    chosen = np.random.default_rng(seed).random(features.shape) < 1 / 3
    return np.where(chosen, np.float32(np.nan), features)


def _with_unknown(features: Floats, category_places: Sequence[int], seed: int) -> Floats:
    """Returns a copy of `features` in which a third of the categories is none that the model knows."""
    changed = features.copy()
    for place in category_places:
        changed[np.random.default_rng(seed + place).random(len(features)) < 1 / 3, place] = UNKNOWN
    return changed

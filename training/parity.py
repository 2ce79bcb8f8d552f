"""Proves that an exported model predicts what the library that trained it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.data import Floats
from training.encoding import UNKNOWN
from training.errors import FitError, Reason
from training.export.graph import FEATURES, SCORES
from training.spec import Task

TOLERANCE = 1e-5
_BATCH_ROWS = 1024
_MOST_ROWS = 20_000


@dataclass(frozen=True)
class Proof:
    """The comparison, as the manifest keeps it.

    Attributes:
        max_difference: The largest absolute difference seen.
        tolerance: The largest one accepted.
        row_count: The number of rows compared.
    """

    max_difference: float
    tolerance: float
    row_count: int


class Predictor(Protocol):
    """What a library predicts."""

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the library's own predictions: class probabilities [rows, classes], or values [rows, 1]."""


def prove(
    model: bytes,
    learner: Predictor,
    task: Task,
    features: Floats,
    missing_values: bool,
    seed: int,
    category_places: Sequence[int] = (),
) -> Proof:
    """Returns the comparison of `model` with `learner`.

    Args:
        model: The ONNX file.
        learner: The trained one, or the one that was read from a file.
        task: What it learned.
        features: The held-out rows; the first 20,000 are compared.
        missing_values: Whether features may be NaN; then the rows are compared a second time, with values missing.
        seed: Chooses the missing values and the unknown categories.
        category_places: The columns that hold codes of categories; if there are some, the rows are compared once more, with
            categories that the model does not know.

    Raises:
        FitError: EXPORT_NOT_EQUAL; the predictions differ by more than the tolerance.
    """
    held_out = features[:_MOST_ROWS]
    rows = held_out
    if missing_values:
        rows = np.concatenate([rows, _with_missing(held_out, seed)])
    if category_places:
        rows = np.concatenate([rows, _with_unknown(held_out, category_places, seed)])
    expected = learner.predict(rows)
    difference = float(np.abs(onnx_scores(model, rows) - expected).max())
    tolerance = TOLERANCE
    if task == "regression":
        # A 32-bit float has seven digits, so large values can only be equal in proportion.
        tolerance *= max(1.0, float(np.abs(expected).max()))
    if not difference <= tolerance:
        raise FitError(
            Reason.EXPORT_NOT_EQUAL,
            f"the exported model differs from the trained one by {difference:.2g}, which is more than {tolerance:.2g}; "
            "it was not kept; scale the features or change the hyper-parameters, and report this",
        )
    return Proof(difference, tolerance, len(rows))


# Any: onnxruntime has no types.
def session_of(model: bytes):  # type: ignore[no-untyped-def]
    """Returns a session of onnxruntime that computes with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_scores(model: bytes, features: Floats) -> NDArray[np.float64]:
    """Returns the scores [rows, k] that onnxruntime computes with one thread."""
    session = session_of(model)
    batches = [
        session.run([SCORES], {FEATURES: features[start : start + _BATCH_ROWS]})[0]
        for start in range(0, len(features), _BATCH_ROWS)
    ]
    return np.concatenate(batches).astype(np.float64)


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

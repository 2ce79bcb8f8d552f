"""Proves that an exported model predicts what the library that trained it predicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.algorithms.base import Algorithm
from training.data import Floats
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


def prove(model: bytes, algorithm: Algorithm, task: Task, features: Floats, missing_values: bool, seed: int) -> Proof:
    """Returns the comparison of `model` with `algorithm`.

    Args:
        model: The ONNX file.
        algorithm: The trained algorithm.
        task: What it learned.
        features: The held-out rows; the first 20,000 are compared.
        missing_values: Whether features may be NaN; then the rows are compared a second time, with values missing.
        seed: Chooses the missing values.

    Raises:
        FitError: EXPORT_NOT_EQUAL; the predictions differ by more than the tolerance.
    """
    rows = features[:_MOST_ROWS]
    if missing_values:
        rows = np.concatenate([rows, _with_missing(rows, seed)])
    expected = algorithm.predict(rows)
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

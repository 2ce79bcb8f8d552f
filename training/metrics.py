"""Measures predictions on held-out rows."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from training.data import Rows
from training.spec import Task


def score(task: Task, rows: Rows, scores: NDArray[np.float64]) -> dict[str, float]:
    """Returns the metrics of the predictions for `rows`, without those that are undefined for them.

    Args:
        task: What the model learned.
        rows: The held-out rows.
        scores: Class probabilities [rows, classes], or values [rows, targets], whose metrics are their means.
    """
    if task == "regression":
        measured = _regression(rows.targets.astype(np.float64), scores.reshape(rows.targets.shape))
    else:
        measured = _classification(rows.targets.astype(np.int64), scores)
    return {name: float(value) for name, value in measured.items() if math.isfinite(value)}


def _regression(targets: NDArray[np.float64], values: NDArray[np.float64]) -> dict[str, float]:
    measured = {
        "rmse": metrics.root_mean_squared_error(targets, values),
        "mae": metrics.mean_absolute_error(targets, values),
    }
    if len(targets) >= 2:
        measured["r2"] = metrics.r2_score(targets, values)
    return measured


def _classification(targets: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, float]:
    class_count = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    # scikit-learn wants rows that sum to one in double precision.
    normalized = probabilities / probabilities.sum(axis=1, keepdims=True)
    binary = class_count == 2
    measured = {
        "accuracy": metrics.accuracy_score(targets, predicted),
        "log_loss": metrics.log_loss(targets, normalized, labels=range(class_count)),
        "f1": metrics.f1_score(targets, predicted, average="binary" if binary else "macro", zero_division=0),
    }
    if len(np.unique(targets)) == class_count:
        measured["roc_auc"] = (
            metrics.roc_auc_score(targets, probabilities[:, 1])
            if binary
            else metrics.roc_auc_score(targets, normalized, multi_class="ovr", average="macro")
        )
    return measured

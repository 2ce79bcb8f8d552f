"""Boosted trees: what the sum of the trees is, by what was learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.algorithms.base import Problem
from training.export import trees


def ensemble(
    grown: Sequence[trees.Tree],
    comparison: trees.Comparison,
    base_values: NDArray[np.float64],
    problem: Problem,
    log_link: bool = False,
) -> trees.Ensemble:
    """Returns boosted trees as an ensemble.

    Args:
        grown: The trees, which add up to one value for regression and for two classes, else to one a class.
        comparison: How a feature is compared with a threshold.
        base_values: What the sums start from.
        problem: What was learned. The sums for classes are logits.
        log_link: Whether the sum for regression is the logarithm of the value.
    """
    classes = problem.class_count
    link: trees.Link = "logit" if classes == 2 else "softmax" if classes else "log" if log_link else "identity"
    return trees.Ensemble(grown, comparison, base_values, link)


def scores_of(predictions: ArrayLike, class_count: int) -> NDArray[np.float64]:
    """Returns the predictions of a booster as class probabilities or values, [rows, scores].

    Args:
        predictions: One score or several a row; of two classes it may be the probability of the second alone, [rows].
        class_count: The number of classes; 0 for values.
    """
    scores = np.asarray(predictions, np.float64)
    if class_count == 2 and scores.ndim == 1:
        return np.stack([1.0 - scores, scores], axis=1)
    return scores.reshape(len(scores), -1)

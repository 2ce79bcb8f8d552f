"""Looks through estimators of scikit-learn that predict from the nearest rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import DistanceMetric
from sklearn.neighbors import BallTree, KDTree

from training.importing import found
from training.importing.found import estimator_damaged

_METRICS = (
    "braycurtis",
    "canberra",
    "chebyshev",
    "cityblock",
    "correlation",
    "cosine",
    "euclidean",
    "hamming",
    "infinity",
    "l1",
    "l2",
    "manhattan",
    "minkowski",
    "nan_euclidean",
    "p",
    "sqeuclidean",
)
"""The metrics without parameters, or with an exponent and weights of the columns alone."""
_PARAMETERS = frozenset({"p", "w"})
_MOST_LEVELS = 40
_KINDS = {KDTree: 2, BallTree: 1}
"""The trees, with how many bounds they keep of each node and column."""


# Any: scikit-learn has no types for its estimators.
def check_classifier(estimator: Any) -> None:
    """Looks through a KNeighborsClassifier, which counts the labels of rows by their numbers. Raises as `check`."""
    check(estimator)
    labels, classes = estimator._y, estimator.classes_
    if estimator.outputs_2d_ or not isinstance(classes, np.ndarray) or classes.ndim != 1:
        raise found.refused("it gives several values a row; a classifier of one target is served")
    if labels.ndim != 1 or labels.dtype.kind != "i" or not ((labels >= 0) & (labels < len(classes))).all():
        raise estimator_damaged(estimator, f"a row has a label that is none of its {len(classes)} classes")


# Any: as above.
def check(estimator: Any) -> None:
    """Looks through a KNeighbors estimator: its rows, its tree of them, and how it measures distances.

    Raises:
        FitError: INVALID_FIELD.
    """
    rows, columns, count = estimator._fit_X, estimator.n_features_in_, estimator.n_samples_fit_
    if not isinstance(rows, np.ndarray):
        raise found.refused("it keeps its rows in a sparse matrix; fit it on a dense array")
    if type(columns) is not int or rows.shape != (count, columns) or rows.dtype.kind not in "fiu":
        raise estimator_damaged(estimator, f"it has not the {count} rows of {columns} numbers that it says")
    if not isinstance(estimator._y, np.ndarray) or len(estimator._y) != count:
        raise estimator_damaged(estimator, f"it has not a target for each of its {count} rows")
    if type(estimator.n_neighbors) is not int or not 1 <= estimator.n_neighbors <= count:
        raise estimator_damaged(estimator, f"it looks at {estimator.n_neighbors} of its {count} rows")
    _check_metric(estimator, columns)
    tree = estimator._tree
    if tree is not None:
        if type(tree) not in _KINDS or estimator._fit_method not in ("kd_tree", "ball_tree"):
            raise estimator_damaged(estimator, "it finds rows by what is no tree")
        _check_tree(estimator, tree, rows.shape)
    elif estimator._fit_method != "brute":
        raise estimator_damaged(estimator, "it has no tree")


# Any: as above.
def _check_metric(estimator: Any, columns: int) -> None:
    metrics = (estimator.metric, estimator.effective_metric_)
    if any(metric not in _METRICS for metric in metrics):
        raise found.refused(f"distances by the metric {str(metrics[1])[:80]!r} are not served; export it as ONNX")
    for parameters in (estimator.metric_params, estimator.effective_metric_params_):
        given = {name: value for name, value in (parameters or {}).items() if value is not None}
        weights = np.asarray(given.get("w", np.ones(columns)))
        if not _PARAMETERS.issuperset(given) or weights.shape != (columns,) or weights.dtype.kind not in "fiu":
            raise estimator_damaged(estimator, f"its metric_params are not a weight for each of its {columns} columns")


# Any: as above, and its tree.
def _check_tree(estimator: Any, tree: Any, shape: tuple[int, int]) -> None:
    """Checks that each node holds places of rows, and that the two nodes below an inner one are there."""
    rows, places, nodes, bounds, leaf_size, levels, count, *_, metric, _ = tree.__getstate__()
    if rows.shape != shape or leaf_size < 1 or not np.array_equal(np.sort(places), np.arange(shape[0])):
        raise estimator_damaged(estimator, "its tree is for other rows")
    if not 1 <= levels <= _MOST_LEVELS or count != 2**levels - 1:
        raise estimator_damaged(estimator, f"its tree says that it has {count} nodes on {levels} levels")
    if nodes.shape != (count,) or bounds.shape != (_KINDS[type(tree)], count, shape[1]):
        raise estimator_damaged(estimator, f"its tree has not the {count} nodes that it says")
    start, end = nodes["idx_start"], nodes["idx_end"]
    lowest = np.arange(count) >= count // 2
    if not ((start >= 0) & (start <= end) & (end <= shape[0])).all() or (lowest & (nodes["is_leaf"] == 0)).any():
        raise estimator_damaged(estimator, "a node of its tree holds rows or nodes that are not there")
    _check_distance(estimator, metric, shape[1])


# Any: as above, and scikit-learn's own class of distances.
def _check_distance(estimator: Any, metric: Any, columns: int) -> None:
    if not isinstance(metric, DistanceMetric):
        raise estimator_damaged(estimator, "its tree measures no distances")
    power, weights, _ = metric.__getstate__()
    weighted = type(metric).__name__.startswith("Minkowski") and len(weights) > 0
    if np.isnan(power) or (weighted and len(weights) != columns):
        raise estimator_damaged(
            estimator, f"the distances of its tree have not a weight for each of its {columns} columns"
        )

"""Looks through arrays of scikit-learn that compiled code reads as far as another array or number says."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.interpolate import BSpline

from training.importing import found
from training.importing.found import estimator_damaged

_KERNELS = ("linear", "poly", "rbf", "sigmoid")
_MOST_DEGREES = 100


# Any: scikit-learn has no types for its estimators.
def check_centers(estimator: Any) -> None:
    """Refuses centers of clusters that are not for the columns of a row.

    Raises:
        FitError: INVALID_FIELD.
    """
    centers, columns = estimator.cluster_centers_, estimator.n_features_in_
    if not isinstance(centers, np.ndarray) or type(columns) is not int or centers.shape[1:] != (columns,):
        raise estimator_damaged(estimator, "its centers are not for the columns of a row")


# Any: as above.
def check_machine(estimator: Any) -> None:
    """Refuses support vectors, coefficients and intercepts that do not belong together. Raises as above."""
    if estimator.kernel not in _KERNELS or estimator._sparse:
        raise found.refused("a kernel of one's own, or sparse vectors, are not served; fit it on rows of numbers")
    vectors, columns, counts = estimator.support_vectors_, estimator.n_features_in_, estimator._n_support
    if type(columns) is not int or vectors.shape[1:] != (columns,) or not vectors.size:
        raise estimator_damaged(estimator, "its support vectors are not for the columns of a row")
    total = len(vectors)
    classifies = estimator._impl in ("c_svc", "nu_svc")
    classes = len(estimator.classes_) if classifies else 2
    pairs = classes * (classes - 1) // 2
    # A regression counts its vectors in the first of two places.
    counted = counts.sum() if classifies else counts[0]
    if classes < 2 or counts.shape != (classes,) or (counts < 0).any() or counted != total:
        raise estimator_damaged(estimator, f"its classes have not the {total} support vectors that there are")
    if estimator.support_.shape != (total,) or estimator._dual_coef_.shape != (classes - 1, total):
        raise estimator_damaged(estimator, f"it has not an index and a coefficient for each of {total} support vectors")
    probabilities = {len(estimator._probA), len(estimator._probB)}
    if estimator._intercept_.shape != (pairs,) or not (probabilities <= {0, pairs}):
        raise estimator_damaged(estimator, f"it has not an intercept for each of {pairs} pairs of classes")


# Any: as above.
def check_encoder(estimator: Any) -> None:
    """Refuses categories whose places are beyond the columns that are made of them. Raises as above."""
    if estimator._infrequent_enabled:
        raise found.refused("infrequent categories of a OneHotEncoder are not served; encode all categories")
    sizes = []
    for categories in estimator.categories_:
        numbers = isinstance(categories, np.ndarray) and categories.ndim == 1 and categories.dtype.kind in "biuf"
        if not numbers or not len(categories) or not (categories[:-1] < categories[1:])[: _known(categories) - 1].all():
            raise estimator_damaged(estimator, "its categories are not numbers in order")
        sizes.append(len(categories))
    dropped = estimator._drop_idx_after_grouping
    if dropped is not None:
        if len(dropped) != len(sizes) or any(
            one is not None and not 0 <= one < size for one, size in zip(dropped, sizes, strict=True)
        ):
            raise estimator_damaged(estimator, "it drops categories that it does not have")
        sizes = [size - (one is not None) for one, size in zip(dropped, sizes, strict=True)]
    if list(estimator._n_features_outs) != sizes or estimator.n_features_in_ != len(sizes):
        raise estimator_damaged(
            estimator, f"its categories do not make {list(estimator._n_features_outs)[:20]} columns"
        )


def _known(categories: np.ndarray[Any, Any]) -> int:
    """Returns the number of categories without a last one that is missing."""
    return len(categories) - int(categories.dtype.kind == "f" and np.isnan(categories[-1]))


# Any: as above.
def check_polynomial(estimator: Any) -> None:
    """Refuses products of columns in more places than are written: the others would show what memory held. As above."""
    places = estimator._num_combinations(
        n_features=estimator.n_features_in_,
        min_degree=0,
        max_degree=estimator._max_degree,
        interaction_only=estimator.interaction_only,
        include_bias=estimator.include_bias,
    )
    if estimator._n_out_full != places:
        raise estimator_damaged(estimator, f"it has {estimator._n_out_full} places for {places} products")


# Any: as above.
def check_splines(estimator: Any) -> None:
    """Refuses splines whose knots and coefficients do not belong together. Raises as above."""
    splines, columns = estimator.bsplines_, estimator.n_features_in_
    if len(splines) != columns or any(type(spline) is not BSpline for spline in splines):
        raise estimator_damaged(estimator, f"it has not a spline for each of its {columns} columns")
    for spline in splines:
        knots, coefficients, degree = spline.t, spline.c, spline.k
        if type(degree) is not int or not 0 <= degree <= _MOST_DEGREES or knots.ndim != 1 or knots.dtype != np.float64:
            raise estimator_damaged(estimator, "a spline has no degree or no knots")
        count = len(knots) - degree - 1
        if count <= degree or coefficients.shape[:1] != (count,) or coefficients.dtype != np.float64:
            raise estimator_damaged(estimator, f"a spline has not a coefficient for each of its {count} parts")
        if not np.isfinite(knots).all() or (np.diff(knots) < 0).any() or knots[degree] == knots[count]:
            raise estimator_damaged(estimator, "the knots of a spline are not in order")

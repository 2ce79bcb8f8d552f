"""Looks through an estimator that skops has loaded, before anything predicts with it.

skops says of which types the parts of a file are, not what they hold. A crafted file may hold indices beyond the arrays that
they are for, which would end the process that predicts or let it read what is none of the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import scipy.sparse
from scipy.interpolate import BSpline
from sklearn import base
from sklearn.ensemble._hist_gradient_boosting.binning import _BinMapper
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.metrics import DistanceMetric
from sklearn.neighbors import BallTree, KDTree
from sklearn.tree._tree import Tree

from training.importing import found
from training.importing.skops_estimators import CHECKS, COMPILED, SERVED

_COMPILED = (Tree, TreePredictor, _BinMapper, KDTree, BallTree, DistanceMetric, BSpline)
_BEFORE_FIT = ("_metadata_request", "_sklearn_output_config")
"""The attributes of its own that an estimator may have before it is fitted, such as the one that a forest copies."""

_PLAIN = (str, bytes, bytearray, int, float, complex, type, slice, np.generic, np.dtype, np.ufunc, type(None))


# Any: scikit-learn has no types for its estimators.
def check(estimator: Any) -> None:
    """Looks through an estimator and all that it is made of.

    Raises:
        FitError: INVALID_FIELD; it has parts that are not served, or are damaged.
    """
    left, seen = [estimator], dict[int, Any]()
    while left:
        part = left.pop()
        if id(part) in seen or isinstance(part, _PLAIN):
            continue
        seen[id(part)] = part
        left.extend(_parts(part))


# Any: whatever skops loads.
def _parts(part: Any) -> Iterable[Any]:
    """Returns what a part is made of. Raises FitError, see `check`."""
    if isinstance(part, Mapping):
        return [*part.keys(), *part.values()]
    if isinstance(part, (list, tuple, set)):
        return part
    if isinstance(part, np.ndarray):
        return part.ravel().tolist() if part.dtype == object else ()
    if isinstance(part, _COMPILED) or scipy.sparse.issparse(part):
        raise found.refused(
            f"it has a {type(part).__name__} where scikit-learn keeps none; save the model again, as it was fitted"
        )
    return _attributes(part)


# Any: an object of scikit-learn.
def _attributes(part: Any) -> Iterable[Any]:
    """Returns the attributes of an object, those of an estimator after a look at its compiled parts."""
    attributes = dict(getattr(part, "__dict__", {}))
    kind = type(part)
    for name in attributes:
        # In the place of a method it would be called; only flags such as `positive` of LassoLars stand in both.
        if not isinstance(getattr(kind, name, False), bool):
            raise found.part_damaged(kind.__name__, f"it has {name!r} of its own")
    if not isinstance(part, base.BaseEstimator):
        return attributes.values()
    _, module, *_ = kind.__module__.split(".")
    name = f"{module}.{kind.__name__}"
    if name not in SERVED:
        raise found.refused(
            f"estimators of the type {kind.__name__} are not served, since what their files hold cannot be looked through; "
            "export the model as ONNX"
        )
    if name in CHECKS and any(map(_is_fitted, attributes)):
        CHECKS[name](part)
    return [value for key, value in attributes.items() if key not in COMPILED.get(name, ())]


def _is_fitted(attribute: str) -> bool:
    """Returns whether an estimator has an attribute of this name only when it is fitted."""
    return attribute.endswith("_") or (attribute.startswith("_") and attribute not in _BEFORE_FIT)

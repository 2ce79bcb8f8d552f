"""Proves that a row gets the same whatever rows share its batch: serving joins the rows of many callers."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.data import Floats
from training.errors import FitError, Reason, is_out_of_memory
from training.parity import TOLERANCE

_ROWS = 100
_CUTS = (1, 3, 10)
"""Where the rows are cut: one alone, two, seven, and all others."""


def check(predict: Callable[[Floats], NDArray[np.float64]], rows: Floats) -> None:
    """Compares what rows get together, in parts, and beside a row of the largest values there are.

    Args:
        predict: Returns the scores of rows, [rows, ...].
        rows: Rows, NaN and infinite scores among them or not; the first 100 are predicted.

    Raises:
        FitError: EXPORT_NOT_EQUAL; rows change what others get.
    """
    rows = rows[:_ROWS]
    together = predict(rows)
    try:
        parts = [predict(part) for part in np.split(rows, _CUTS) if len(part)]
    except Exception as error:  # whatever a library raises, which has predicted the same rows before
        if is_out_of_memory(error):
            raise
        raise _refused("it predicts rows together, and not the same rows in batches of other sizes") from error
    _compare(np.concatenate(parts), together)
    few = rows[: _CUTS[-1]].copy()
    few[-1] = np.finfo(np.float32).max  # what is summed over rows becomes infinite, and NaN when it is weighted with 0
    try:
        with warnings.catch_warnings(action="ignore"):
            beside = predict(few)
    except Exception as error:  # a library refuses such a row; serving predicts the others without it then
        if is_out_of_memory(error):
            raise
        return
    _compare(beside[:-1], together[: len(few) - 1])


def _compare(some: NDArray[np.float64], other: NDArray[np.float64]) -> None:
    same = (some == other) | (np.isnan(some) & np.isnan(other))
    if same.all():
        return
    apart = np.abs(some[~same] - other[~same])
    largest = np.abs(other[np.isfinite(other)]).max(initial=1.0)
    if not (apart <= TOLERANCE * largest).all():  # nor if it is NaN
        raise _refused(f"rows change what others in their batch get, by up to {apart.max():.2g}")


def _refused(problem: str) -> FitError:
    return FitError(
        Reason.EXPORT_NOT_EQUAL,
        f"{problem}, so it was not kept; save the model for inference, in PyTorch after eval(), without what reaches "
        "across rows",
    )

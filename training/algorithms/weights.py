"""What each row counts in training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_sample_weight

from training.data import Rows
from training.spec import Json


def of_rows(rows: Rows, class_weight: Json) -> NDArray[np.float64] | None:
    """Returns the weights of rows, float64 [rows], or None where all count the same.

    For libraries that take no weights of classes; the others multiply them by those of the rows in the same way.

    Args:
        rows: The rows, with the weights that came with them, if any.
        class_weight: "balanced", for weights in inverse proportion to the frequency of each label, or None.
    """
    if class_weight is None:
        return rows.weights
    balanced: NDArray[np.float64] = compute_sample_weight(class_weight, rows.targets)
    return balanced if rows.weights is None else balanced * rows.weights

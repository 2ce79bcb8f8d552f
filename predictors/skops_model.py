"""Estimators and pipelines of scikit-learn, in files `model.skops`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, TypeAlias

import joblib
import numpy as np
import skops.io
from numpy.typing import NDArray

from predictors.files import UnreadableModel

Floats: TypeAlias = NDArray[np.float32]


class SkopsModel:
    """An estimator that takes 32-bit floats.

    What types a file may have was decided when it was imported, and it has not changed since: the service compares it with
    its digest before each load. So all of them are trusted here.

    Args:
        file: The estimator's file.

    Raises:
        UnreadableModel: The file holds no estimator.
    """

    def __init__(self, file: Path) -> None:
        try:
            self._estimator = skops.io.load(file, trusted=skops.io.get_untrusted_types(file=file))
        except Exception as error:  # whatever a library raises that reads a damaged file
            raise UnreadableModel(f"{file.name} is no estimator saved by skops: {error}") from error

    def scores(self, features: Floats) -> Floats:
        """Returns the class probabilities, or the values, [rows, outputs], of rows [rows, columns]."""
        return predictions(self._estimator, features).astype(np.float32)


# Any: scikit-learn has no types for its estimators.
def predictions(estimator: Any, features: Floats) -> NDArray[np.float64]:
    """Returns what an estimator predicts, computed in double precision: probabilities if it has them, else values."""
    rows = features.reshape(len(features), -1).astype(np.float64)
    # Rows without names are for one that has seen names, too. And n_jobs of a file would start processes at each call.
    with warnings.catch_warnings(action="ignore"), joblib.parallel_config(backend="sequential"):
        found = estimator.predict_proba(rows) if hasattr(estimator, "predict_proba") else estimator.predict(rows)
    return np.asarray(found, np.float64).reshape(len(features), -1)

"""The models as BentoML's documentation serves scikit-learn's: one API a model, with adaptive batching.

`MODELS` is the directory with forest.joblib, light.joblib and xgboost.json; `WORKERS` the number of processes.
"""

from __future__ import annotations

import os
from pathlib import Path

import bentoml
import joblib
import numpy as np
from xgboost import XGBRegressor

MODELS = Path(os.environ["MODELS"])
MOST_ROWS = 256
LATENCY_MS = 1000


@bentoml.service(workers=int(os.environ["WORKERS"]), traffic={"timeout": 60})
class Models:
    """All models in one service."""

    def __init__(self) -> None:
        """Loads the models."""
        self._forest = joblib.load(MODELS / "forest.joblib")
        self._light = joblib.load(MODELS / "light.joblib")
        self._xgboost = XGBRegressor()
        self._xgboost.load_model(MODELS / "xgboost.json")

    @bentoml.api(batchable=True, max_batch_size=MOST_ROWS, max_latency_ms=LATENCY_MS)
    def forest(self, features: np.ndarray) -> np.ndarray:
        """Predicts labels."""
        predictions: np.ndarray = self._forest.predict(features)
        return predictions

    @bentoml.api(batchable=True, max_batch_size=MOST_ROWS, max_latency_ms=LATENCY_MS)
    def light(self, features: np.ndarray) -> np.ndarray:
        """Predicts labels."""
        predictions: np.ndarray = self._light.predict(features)
        return predictions

    @bentoml.api(batchable=True, max_batch_size=MOST_ROWS, max_latency_ms=LATENCY_MS)
    def xgboost(self, features: np.ndarray) -> np.ndarray:
        """Predicts values."""
        predictions: np.ndarray = self._xgboost.predict(features)
        return predictions

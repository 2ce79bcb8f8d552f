"""What scikit-learn's linear regressors have in common: all but how the coefficients are found."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from sklearn.linear_model import ElasticNet, LinearRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from training.algorithms.base import Problem
from training.data import Floats, Rows, doubles_of
from training.export import products
from training.progress import Progress
from training.spec import Json


class LinearFamily:
    """A linear regressor over standardized features, computed in double precision in training and in serving.

    Args:
        parameters: The effective hyper-parameters.
        problem: What to learn.
        regressor: scikit-learn's untrained model.
    """

    LIBRARIES: ClassVar[tuple[str, ...]] = ("scikit-learn",)

    def __init__(
        self, parameters: dict[str, Json], problem: Problem, regressor: LinearRegression | Ridge | ElasticNet
    ) -> None:
        self.parameters = parameters
        self._problem = problem
        self._regressor = regressor
        self._pipeline = Pipeline([("scale", StandardScaler()), ("regress", regressor)])

    def fit(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Trains the model; the solvers show nothing until they end, so there is one step."""
        self._pipeline.fit(doubles_of(train.features), train.targets, regress__sample_weight=train.weights)
        iterations = int(np.max(getattr(self._regressor, "n_iter_", None) or 1))  # of ElasticNet
        progress.step(iterations, iterations, "iteration")

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the values."""
        values: NDArray[np.float64] = self._pipeline.predict(doubles_of(features))
        return values.reshape(len(features), -1)

    def export(self) -> onnx.ModelProto:
        """Returns the model as one matrix product: the scaling is part of the weights."""
        scaler = self._pipeline["scale"]
        weights = np.atleast_2d(self._regressor.coef_) / scaler.scale_
        bias = np.atleast_1d(self._regressor.intercept_) - weights @ scaler.mean_
        return products.model(weights, bias, self._problem.feature_shape, classes=False)

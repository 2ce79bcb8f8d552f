"""Logistic regression of scikit-learn, over standardized features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from training.algorithms.base import Problem
from training.data import Floats, Rows, doubles_of
from training.export import products
from training.progress import Progress
from training.spec import Json, effective_parameters


class Family:
    """A linear classifier, computed in double precision in training and in serving."""

    DEFAULTS: ClassVar[Mapping[str, Json]] = {
        "c": 1.0,
        "max_iter": 1000,
        "tol": 1e-4,
        "fit_intercept": True,
        "solver": "lbfgs",
        "class_weight": None,
    }
    LIBRARIES: ClassVar[tuple[str, ...]] = ("scikit-learn",)

    def __init__(self, hyper_parameters: Message, problem: Problem) -> None:
        """Builds the untrained model."""
        self.parameters = effective_parameters(hyper_parameters, self.DEFAULTS)
        self._problem = problem
        names = {"c": "C"}
        self._classifier = LogisticRegression(
            **{names.get(name, name): value for name, value in self.parameters.items()},
            random_state=problem.seed,
        )
        self._pipeline = Pipeline([("scale", StandardScaler()), ("classify", self._classifier)])

    def fit(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Trains the model; the solver shows nothing until it ends, so there is one step."""
        self._pipeline.fit(doubles_of(train.features), train.targets, classify__sample_weight=train.weights)
        iterations = int(self._classifier.n_iter_.max())
        progress.step(iterations, iterations, "iteration")

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the class probabilities."""
        probabilities: NDArray[np.float64] = self._pipeline.predict_proba(doubles_of(features))
        return probabilities

    def export(self) -> onnx.ModelProto:
        """Returns the model as one matrix product: the scaling is part of the weights."""
        scaler = self._pipeline["scale"]
        coefficients, intercept = decisions(self._classifier)
        weights = coefficients / scaler.scale_
        bias = intercept - weights @ scaler.mean_
        return products.model(weights, bias, self._problem.feature_shape, classes=True)


def decisions(classifier: LogisticRegression) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the weights [classes, columns] and the bias of the logits of all classes."""
    coefficients, intercept = classifier.coef_, classifier.intercept_
    if len(coefficients) > 1:
        return coefficients, intercept
    # scikit-learn keeps one decision value for two; the softmax over zero and it is its logistic function.
    return np.vstack([np.zeros_like(coefficients), coefficients]), np.array([0.0, float(np.ravel(intercept)[0])])

"""Naive Bayes of scikit-learn, with normal distributions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import helper
from sklearn.naive_bayes import GaussianNB

from training.algorithms.base import Problem
from training.data import Floats, Rows, doubles_of
from training.export import graph, products
from training.progress import Progress
from training.spec import Json, effective_parameters


class Family:
    """A mean and a variance a label and feature, computed in double precision in training and in serving."""

    DEFAULTS: ClassVar[Mapping[str, Json]] = {"var_smoothing": 1e-9}
    LIBRARIES: ClassVar[tuple[str, ...]] = ("scikit-learn",)

    def __init__(self, hyper_parameters: Message, problem: Problem) -> None:
        """Builds the untrained model."""
        self.parameters = effective_parameters(hyper_parameters, self.DEFAULTS)
        self._problem = problem
        self._classifier = GaussianNB(**self.parameters)

    def fit(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Computes means and variances, in one step."""
        self._classifier.fit(doubles_of(train.features), train.targets, sample_weight=train.weights)
        progress.step(1, 1, "iteration")

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the class probabilities."""
        probabilities: NDArray[np.float64] = self._classifier.predict_proba(doubles_of(features))
        return probabilities

    def export(self) -> onnx.ModelProto:
        """Returns the logarithms of the densities as products with the features and with their squares."""
        variances = self._classifier.var_
        # Squares around a point among the means are small, so that their difference loses no digits.
        centre = self._classifier.theta_.mean(axis=0)
        means = self._classifier.theta_ - centre
        constants: dict[str, NDArray[np.generic]] = {"centre": centre}
        logarithms = np.log(self._classifier.class_prior_) - 0.5 * np.log(2.0 * np.pi * variances).sum(axis=1)
        bias = logarithms - 0.5 * (means**2 / variances).sum(axis=1)
        nodes = [
            *products.doubles(),
            helper.make_node("Sub", ["doubles", "centre"], ["centred"]),
            helper.make_node("Mul", ["centred", "centred"], ["squares"]),
            *products.affine("centred", means / variances, bias, "linear", constants),
            *products.affine("squares", -0.5 / variances, np.zeros(len(bias)), "quadratic", constants),
            helper.make_node("Add", ["linear", "quadratic"], ["densities"]),
            *products.probabilities("densities"),
        ]
        return graph.model(nodes, constants, self._problem.feature_shape, self._problem.class_count)

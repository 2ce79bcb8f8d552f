"""The library's own score: the same estimator, fitted on the rows that the service trained on, without FitServe's path."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.metrics import accuracy_score, r2_score
from xgboost import XGBRegressor

from demo.exercises import Exercise
from training import algorithms
from training.algorithms.base import Problem
from training.data import Rows, split
from training.progress import Progress

VALIDATION_FRACTION = 0.2
"""The share that the service holds out of what it is given, by default."""

Predict = Callable[[NDArray[np.float32]], NDArray[np.generic]]


def score(exercise: Exercise, predictions: NDArray[np.generic]) -> float:
    """Returns the accuracy, or R2 for regression, of predictions for the test rows."""
    measure = accuracy_score if exercise.task == "classification" else r2_score
    return float(measure(exercise.test[1], predictions))


def reference_score(exercise: Exercise) -> float:
    """Returns the score of the library's own model on the same test rows."""
    classes, targets = _targets(exercise)
    rows = Rows(exercise.train[0], targets)
    train, validation = split(rows, exercise.task == "classification", VALIDATION_FRACTION, seed=0)
    predictions = _FITS[exercise.algorithm](exercise, train, validation)(exercise.test[0])
    return score(exercise, predictions if classes is None else classes[predictions.astype(int)])


def _targets(
    exercise: Exercise,
) -> tuple[NDArray[np.generic] | None, NDArray[np.int64] | NDArray[np.float64]]:
    if exercise.task == "regression":
        return None, exercise.train[1].astype(np.float64)
    classes, indexes = np.unique(exercise.train[1], return_inverse=True)
    return classes, indexes.astype(np.int64)


def _parameters(exercise: Exercise) -> dict[str, int]:
    return {field.name: value for field, value in exercise.parameters.ListFields()}


def _forest(exercise: Exercise, train: Rows, validation: Rows) -> Predict:
    forest = RandomForestClassifier(**_parameters(exercise), random_state=0).fit(train.features, train.targets)
    predict: Predict = forest.predict
    return predict


def _boosting(exercise: Exercise, train: Rows, validation: Rows) -> Predict:
    model = HistGradientBoostingClassifier(**_parameters(exercise), early_stopping=False, random_state=0)
    predict: Predict = model.fit(train.features, train.targets).predict
    return predict


def _xgboost(exercise: Exercise, train: Rows, validation: Rows) -> Predict:
    model = XGBRegressor(**_parameters(exercise), tree_method="hist", random_state=0, n_jobs=1)
    predict: Predict = model.fit(train.features, train.targets).predict
    return predict


def _network(exercise: Exercise, train: Rows, validation: Rows) -> Predict:
    """The library has no ready network: the same one is trained here and asked in PyTorch, not in ONNX or Triton."""
    shape = train.features.shape[1:]
    problem = Problem("classification", shape, int(train.targets.max()) + 1, seed=0, cores=1)
    network = algorithms.build("torch_cnn", exercise.parameters, problem)
    silent = os.open(os.devnull, os.O_WRONLY)
    try:
        network.fit(train, validation, Progress(silent))
    finally:
        os.close(silent)
    return lambda features: network.predict(features).argmax(axis=1)


_FITS: dict[str, Callable[[Exercise, Rows, Rows], Predict]] = {
    "torch_cnn": _network,
    "random_forest": _forest,
    "hist_gradient_boosting": _boosting,
    "xgboost": _xgboost,
}

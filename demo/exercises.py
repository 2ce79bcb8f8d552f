"""What the demo trains: real data sets of scikit-learn, each with an algorithm, and what is expected of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from fitserve.v1.algorithm_pb2 import HistGradientBoosting, RandomForest, TorchCnn, Xgboost
from google.protobuf.message import Message
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split

SEED = 0
TEST_SHARE = 0.25

Features = NDArray[np.float32]
Labels = NDArray[np.generic]


@dataclass(frozen=True)
class Exercise:
    """One model to train.

    Attributes:
        algorithm: Its name in the contract.
        parameters: Its message in the contract, whose fields are named as the library names its parameters.
        train: Features [rows, ...] and targets [rows] that the service gets.
        test: Features and targets that only the demo sees.
        least_score: The accuracy, or R2, below which something is wrong.
        tolerance: How far the score may be from the library's own. 0 means that every prediction must be the same; a
            network's sums depend on the order in which a machine adds, so a few of its rows may differ.
    """

    model: str
    algorithm: str
    parameters: Message
    train: tuple[Features, Labels]
    test: tuple[Features, Labels]
    least_score: float
    tolerance: float

    @property
    def task(self) -> str:
        """Classification or regression."""
        return "regression" if self.train[1].dtype.kind == "f" else "classification"

    def score(self, predictions: Labels) -> float:
        """Returns the accuracy, or R2 for regression, of predictions for the test rows."""
        measure = accuracy_score if self.task == "classification" else r2_score
        return float(measure(self.test[1], predictions))


def exercises() -> list[Exercise]:
    """Returns the exercises, those that take longest first."""
    digits, tumours = datasets.load_digits(), datasets.load_breast_cancer()
    wine, diabetes = datasets.load_wine(), datasets.load_diabetes()
    images, forest, boosting = TorchCnn(epochs=12), RandomForest(n_estimators=300), HistGradientBoosting(max_iter=200)
    trees = Xgboost(n_estimators=60, max_depth=2)
    return [
        _exercise("digits", "torch_cnn", images, digits.images[:, None], digits.target, 0.95, tolerance=0.01),
        _exercise("tumours", "random_forest", forest, tumours.data, _named(tumours), 0.92),
        _exercise("wine", "hist_gradient_boosting", boosting, wine.data, _named(wine), 0.9),
        _exercise("diabetes", "xgboost", trees, diabetes.data, diabetes.target, 0.3),
    ]


def difference(exercise: Exercise, predictions: Labels, reference: Labels) -> list[str]:
    """Returns what is wrong with the predictions for the test rows, beside those of the library's own model."""
    score, own = exercise.score(predictions), exercise.score(reference)
    wrong = []
    # Written so that a score that is not a number is wrong too.
    if not score >= exercise.least_score:
        wrong.append(f"{exercise.model}: the score is {score:.4f}; at least {exercise.least_score} was wanted")
    if exercise.tolerance:
        if not abs(score - own) <= exercise.tolerance:
            wrong.append(f"{exercise.model}: the score is {score:.4f}; the library's is {own:.4f}")
    elif differing := np.count_nonzero(~_same(predictions, reference)):
        wrong.append(f"{exercise.model}: {differing} of {len(reference)} predictions are not the library's")
    return wrong


def _same(predictions: Labels, reference: Labels) -> NDArray[np.bool_]:
    if reference.dtype.kind == "f":
        return np.isclose(predictions.astype(np.float64), reference.astype(np.float64), rtol=1e-5)
    same: NDArray[np.bool_] = predictions == reference
    return same


def _named(data: datasets.Bunch) -> NDArray[np.str_]:
    """Returns the labels as texts, such as malignant."""
    labels: NDArray[np.str_] = data.target_names[data.target].astype(np.str_)
    return labels


def _exercise(
    model: str,
    algorithm: str,
    parameters: Message,
    features: NDArray[np.float64],
    targets: Labels,
    least_score: float,
    tolerance: float = 0.0,
) -> Exercise:
    x_train, x_test, y_train, y_test = train_test_split(
        features.astype(np.float32),
        targets,
        test_size=TEST_SHARE,
        random_state=SEED,
        stratify=None if targets.dtype.kind == "f" else targets,
    )
    return Exercise(model, algorithm, parameters, (x_train, y_train), (x_test, y_test), least_score, tolerance)

"""What the demo trains: real data sets of scikit-learn, each with an algorithm, and what is expected of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from fitserve.v1 import algorithm_pb2
from google.protobuf.message import Message
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.model_selection import train_test_split

SEED = 0
TEST_SHARE = 0.25


@dataclass(frozen=True)
class Exercise:
    """One model to train.

    Attributes:
        algorithm: Its name in the contract.
        parameters: Its message in the contract, named as the library names its own.
        task: classification or regression.
        train: Features [rows, ...] and targets [rows] that the service gets.
        test: Features and targets that only the demo sees.
        least_score: The accuracy, or R2, below which something is wrong.
        tolerance: How far the score may be from the library's own: 0, but for networks, whose sums depend on the machine.
    """

    model: str
    algorithm: str
    parameters: Message
    task: str
    train: tuple[NDArray[np.float32], NDArray[np.generic]]
    test: tuple[NDArray[np.float32], NDArray[np.generic]]
    least_score: float
    tolerance: float = 0.0


def exercises() -> list[Exercise]:
    """Returns the exercises, those that take longest first."""
    digits, tumours = datasets.load_digits(), datasets.load_breast_cancer()
    wine, diabetes = datasets.load_wine(), datasets.load_diabetes()
    images = digits.images[:, None, :, :]
    return [
        _exercise(
            "digits", "torch_cnn", algorithm_pb2.TorchCnn(epochs=12), images, digits.target, 0.95, tolerance=0.01
        ),
        _exercise(
            "tumours", "random_forest", algorithm_pb2.RandomForest(n_estimators=300), tumours.data, named(tumours), 0.92
        ),
        _exercise(
            "wine",
            "hist_gradient_boosting",
            algorithm_pb2.HistGradientBoosting(max_iter=200),
            wine.data,
            named(wine),
            0.9,
        ),
        _exercise(
            "diabetes",
            "xgboost",
            algorithm_pb2.Xgboost(n_estimators=60, max_depth=2),
            diabetes.data,
            diabetes.target,
            0.3,
        ),
    ]


def named(data: datasets.Bunch) -> NDArray[np.str_]:
    """Returns the labels as texts, such as malignant."""
    labels: NDArray[np.str_] = np.array([str(data.target_names[index]) for index in data.target])
    return labels


def _exercise(
    model: str,
    algorithm: str,
    parameters: Message,
    features: NDArray[np.float64],
    targets: NDArray[np.generic],
    least_score: float,
    tolerance: float = 0.0,
) -> Exercise:
    task = "regression" if targets.dtype.kind == "f" else "classification"
    x_train, x_test, y_train, y_test = train_test_split(
        features.astype(np.float32),
        targets,
        test_size=TEST_SHARE,
        random_state=SEED,
        stratify=targets if task == "classification" else None,
    )
    return Exercise(model, algorithm, parameters, task, (x_train, y_train), (x_test, y_test), least_score, tolerance)

"""The models that are measured: trained once, by FitServe's own Fit, on data sets of scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import fitserve
import numpy as np
from fitserve.v1.algorithm_pb2 import LogisticRegression, RandomForest, TorchCnn, Xgboost
from google.protobuf.message import Message
from sklearn import datasets

from benchmarks.work import Features, Predictions
from training.data import Rows, split

MOST_ROWS = 256
SEED = 0
_VALIDATION_FRACTION = 0.2  # what FitServe holds out by default


@dataclass(frozen=True)
class Model:
    """One model.

    Attributes:
        algorithm: Its message in the contract, whose fields are named as the library names its parameters.
        features: float32 [rows, ...] to train on.
        targets: [rows]; class numbers from 0, or float64 values.
    """

    name: str
    algorithm: Message
    features: Features
    targets: Predictions

    @property
    def classifies(self) -> bool:
        """Whether predictions are class numbers, and not values."""
        return self.targets.dtype.kind == "i"

    def rows(self, count: int) -> Features:
        """Returns the first rows, which every subject is asked to predict."""
        return self.features[:count]

    def predictions(self, scores: Features) -> Predictions:
        """Returns what the scores of Triton mean: class numbers or values, [rows]."""
        return scores.argmax(1) if self.classifies else scores[:, 0]

    def rows_trained_on(self) -> tuple[Features, Predictions]:
        """Returns features and targets that FitServe trains on, in its order, for a library's own model of the same."""
        train, _ = split(Rows(self.features, self.targets), self.classifies, _VALIDATION_FRACTION, SEED)
        return train.features, train.targets


def models() -> dict[str, Model]:
    """Returns the models by name."""
    tumours, diabetes, digits = datasets.load_breast_cancer(), datasets.load_diabetes(), datasets.load_digits()
    images = digits.images[:, None].astype(np.float32)
    found = [
        Model("forest", RandomForest(n_estimators=100), tumours.data.astype(np.float32), tumours.target),
        Model("xgboost", Xgboost(n_estimators=100), diabetes.data.astype(np.float32), diabetes.target),
        Model("light", LogisticRegression(), _standardized(tumours.data), tumours.target),
        Model("cnn", TorchCnn(epochs=12), images, digits.target),
    ]
    return {model.name: model for model in found}


def train(client: fitserve.Client, found: dict[str, Model]) -> dict[str, Predictions]:
    """Trains and loads all models. Returns the predictions for `MOST_ROWS` rows of each, which all must agree on."""
    jobs = [
        client.fit(name, model.features, model.targets, algorithm=model.algorithm, seed=SEED, queue=True, load=True)
        for name, model in found.items()
    ]
    for job in jobs:
        job.wait()
    return {name: client.predict(name, model.rows(MOST_ROWS)) for name, model in found.items()}


def _standardized(features: Features) -> Features:
    scaled: Features = ((features - features.mean(0)) / features.std(0)).astype(np.float32)
    return scaled

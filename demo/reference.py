"""What the libraries themselves predict: the same model, fitted on the rows that the service trained on.

Of FitServe's own code this uses only the split into rows to train on and rows held out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from torch import nn
from xgboost import XGBRegressor

from demo.exercises import SEED, Exercise, Features, Labels
from training.data import Rows, split

VALIDATION_FRACTION = 0.2
"""The share that the service holds out of what it is given, by default."""
BATCH_ROWS = 64

Predict = Callable[[Features], Labels]


def reference_predictions(exercise: Exercise) -> Labels:
    """Returns the predictions of the library's own model for the test rows."""
    features, targets = _rows_trained_on(exercise)
    parameters = {field.name: value for field, value in exercise.parameters.ListFields()}
    return _FITS[exercise.algorithm](parameters, features, targets)(exercise.test[0])


def _rows_trained_on(exercise: Exercise) -> tuple[Features, Labels]:
    """Returns the rows that the service trained on, in its order: what it was given, but for what it held out."""
    features, targets = exercise.train
    if exercise.task == "regression":
        train, _ = split(Rows(features, targets.astype(np.float64)), False, VALIDATION_FRACTION, SEED)
        return train.features, train.targets
    classes, indexes = np.unique(targets, return_inverse=True)
    train, _ = split(Rows(features, indexes.astype(np.int64)), True, VALIDATION_FRACTION, SEED)
    return train.features, classes[train.targets.astype(np.int64)]


def _forest(parameters: dict[str, int], features: Features, targets: Labels) -> Predict:
    predict: Predict = RandomForestClassifier(**parameters, random_state=SEED).fit(features, targets).predict
    return predict


def _boosting(parameters: dict[str, int], features: Features, targets: Labels) -> Predict:
    # FitServe's default differs from the library's here, as its contract says.
    model = HistGradientBoostingClassifier(**parameters, early_stopping=False, random_state=SEED)
    predict: Predict = model.fit(features, targets).predict
    return predict


def _xgboost(parameters: dict[str, int], features: Features, targets: Labels) -> Predict:
    model = XGBRegressor(**parameters, tree_method="hist", random_state=SEED, n_jobs=1)
    predict: Predict = model.fit(features, targets).predict
    return predict


def _network(parameters: dict[str, int], features: Features, targets: Labels) -> Predict:
    """Trains the network of the contract's defaults in plain PyTorch."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    mean, deviation = features.mean(), features.std()
    network = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 2 * 2, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    images, labels = torch.from_numpy((features - mean) / deviation), torch.from_numpy(targets)
    optimizer, loss_of = torch.optim.Adam(network.parameters(), lr=1e-3), nn.CrossEntropyLoss()
    for _ in range(parameters["epochs"]):
        for rows in torch.split(torch.randperm(len(images)), BATCH_ROWS):
            optimizer.zero_grad()
            loss_of(network(images[rows]), labels[rows]).backward()
            optimizer.step()

    def predict(unseen: Features) -> NDArray[np.int64]:
        with torch.no_grad():
            digits: NDArray[np.int64] = network(torch.from_numpy((unseen - mean) / deviation)).argmax(1).numpy()
        return digits

    return predict


_FITS: dict[str, Callable[[dict[str, int], Features, Labels], Predict]] = {
    "torch_cnn": _network,
    "random_forest": _forest,
    "hist_gradient_boosting": _boosting,
    "xgboost": _xgboost,
}

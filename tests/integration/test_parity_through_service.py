"""What the service predicts is what the library predicts, to 1e-5, for every algorithm and task."""

from __future__ import annotations

from collections.abc import Callable

import fitserve
import numpy as np
import pytest
from fitserve.v1 import training_service_pb2
from google.protobuf import json_format
from sklearn import datasets
from sklearn.preprocessing import StandardScaler

from tests.service_process import ServiceProcess
from training import algorithms
from training.algorithms.base import Problem
from training.data import Rows, split
from training.progress import Progress

LIMIT = 1e-5
CASES = {
    "logistic_regression": ("classification", {}, datasets.load_wine),
    "random_forest": ("classification", {"n_estimators": 30}, datasets.load_breast_cancer),
    "random_forest of numbers": ("regression", {"n_estimators": 20}, datasets.load_diabetes),
    "hist_gradient_boosting": ("classification", {"max_iter": 30}, datasets.load_iris),
    "hist_gradient_boosting of numbers": ("regression", {"max_iter": 30}, datasets.load_diabetes),
    "xgboost": ("classification", {"n_estimators": 30}, datasets.load_wine),
    "xgboost of two classes": ("classification", {"n_estimators": 30}, datasets.load_breast_cancer),
    "xgboost of numbers": ("regression", {"n_estimators": 30}, datasets.load_diabetes),
    "lightgbm": ("classification", {"n_estimators": 30}, datasets.load_wine),
    "lightgbm of two classes": ("classification", {"n_estimators": 30}, datasets.load_breast_cancer),
    "lightgbm of numbers": ("regression", {"n_estimators": 30}, datasets.load_diabetes),
    "catboost": ("classification", {"iterations": 30}, datasets.load_wine),
    "catboost of two classes": ("classification", {"iterations": 30}, datasets.load_breast_cancer),
    "catboost of numbers": ("regression", {"iterations": 30, "grow_policy": "Lossguide"}, datasets.load_diabetes),
    "extra_trees": ("classification", {"n_estimators": 30}, datasets.load_wine),
    "extra_trees of numbers": ("regression", {"n_estimators": 20}, datasets.load_diabetes),
    "linear": ("regression", {}, datasets.load_diabetes),
    "ridge": ("regression", {}, datasets.load_diabetes),
    "elastic_net": ("regression", {"alpha": 0.1}, datasets.load_diabetes),
    "gaussian_nb": ("classification", {}, datasets.load_wine),
    "svm": ("classification", {}, datasets.load_wine),
    "svm of two classes": ("classification", {}, datasets.load_breast_cancer),
    "svm of numbers": ("regression", {}, datasets.load_diabetes),
    "knn": ("classification", {"weights": "distance"}, datasets.load_wine),
    "knn of numbers": ("regression", {}, datasets.load_diabetes),
    "torch_mlp": ("classification", {"epochs": 10}, datasets.load_wine),
    "torch_mlp of numbers": ("regression", {"epochs": 10}, datasets.load_diabetes),
    "torch_cnn": ("classification", {"epochs": 2}, datasets.load_digits),
    "torch_cnn of numbers": ("regression", {"epochs": 2}, datasets.load_digits),
}


def library_predictions(
    algorithm: str, task: str, parameters: dict, rows: Rows, unseen: np.ndarray, classes: int
) -> np.ndarray:
    """Returns the predictions [rows, outputs] of the library's own model, trained on the rows that the service trains on."""
    train, validation = split(rows, task == "classification", 0.2, seed=0)
    message = json_format.ParseDict({algorithm: parameters}, training_service_pb2.FitRequest())
    problem = Problem(task, rows.features.shape[1:], classes, seed=0, cores=1)
    model = algorithms.build(algorithm, getattr(message, algorithm), problem)
    with open("/dev/null", "wb") as silent:
        model.fit(train, validation, Progress(silent.fileno()))
    return model.predict(unseen)


@pytest.mark.parametrize("case", CASES)
def test_served_predictions_equal_the_librarys(
    service: ServiceProcess, client: fitserve.Client, name: str, case: str
) -> None:
    task, parameters, load = CASES[case]
    algorithm = case.split()[0]
    x, y = example(load, algorithm)
    half = np.arange(len(x)) % 2 == 0
    targets = y[half].astype(np.int64 if task == "classification" else np.float64)
    job = client.fit(name, x[half], targets, algorithm=algorithm, task=task, queue=True, load=True, **parameters)
    job.wait(120)
    unseen = with_wild_rows(x[~half])
    answer = client.predict_proba(name, unseen) if task == "classification" else None
    served = answer.probabilities if answer else client.predict(name, unseen)[:, None]
    classes = len(np.unique(targets)) if task == "classification" else 0
    own = library_predictions(algorithm, task, parameters, Rows(x[half], targets), unseen, classes)
    scale = 1.0 if task == "classification" else max(1.0, float(np.abs(own).max()))
    assert np.abs(served - own).max() <= LIMIT * scale
    if answer:
        clear = np.sort(own, axis=1)[:, -1] - np.sort(own, axis=1)[:, -2] > 2 * LIMIT
        assert np.array_equal(answer.predictions[clear], answer.classes[own.argmax(axis=1)][clear])


def example(load: Callable[[], datasets.Bunch], algorithm: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns a data set of scikit-learn; as images for the network of images, scaled for the others of a network."""
    data = load()
    x = data.images[:, None] if algorithm == "torch_cnn" else data.data
    if algorithm == "torch_mlp":
        x = StandardScaler().fit_transform(x)
    return x.astype(np.float32), data.target


def with_wild_rows(rows: np.ndarray) -> np.ndarray:
    """Returns rows and, after them, some far from all that was trained on, zeros among them."""
    wild = np.random.default_rng(0).normal(rows.mean(), 3 * rows.std(), size=(20, *rows.shape[1:]))
    return np.concatenate([rows, wild, np.zeros((1, *rows.shape[1:]))]).astype(np.float32)


def test_weights_and_early_stopping_reach_the_training(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    data = datasets.load_iris()
    species = data.target_names[data.target]
    # What counts nothing in training is not learned: one species takes the place of another.
    swapped = np.where(species == "setosa", "virginica", species)
    x = np.concatenate([data.data, data.data]).astype(np.float32)
    job = client.fit(
        name,
        x,
        np.concatenate([species, swapped]),
        algorithm="lightgbm",
        sample_weight=np.repeat([1.0, 0.0], len(data.data)),
        class_weights={"versicolor": 2},
        n_estimators=1000,
        early_stopping_rounds=3,
        queue=True,
        load=True,
    )
    assert job.wait(120).state == "SUCCEEDED"
    assert set(client.predict(name, x[:50])) == {"setosa"}
    with pytest.raises(fitserve.FitServeError, match="knn takes no weights of rows"):
        client.fit(f"{name}-knn", x, np.concatenate([species, swapped]), algorithm="knn", sample_weight=np.ones(300))

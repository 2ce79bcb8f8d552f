from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import numpy as np
import pytest
from fitserve.v1 import training_service_pb2
from google.protobuf import json_format
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor

from training import algorithms, metrics, parity
from training.algorithms.base import Algorithm, Problem
from training.data import Rows, split
from training.errors import FitError, Reason
from training.export import graph
from training.progress import Progress
from training.spec import Task

# Small models, so that the tests are fast.
SMALL: dict[str, Mapping[str, object]] = {
    "logistic_regression": {},
    "random_forest": {"n_estimators": 12},
    "hist_gradient_boosting": {"max_iter": 8},
    "xgboost": {"n_estimators": 8},
    "torch_mlp": {"epochs": 3, "hidden_sizes": [16, 8]},
    "torch_cnn": {"epochs": 2, "channels": [4, 8]},
}
REGRESSORS = sorted(set(SMALL) - {"logistic_regression"})


class Steps(Progress):
    """Keeps the steps in memory."""

    def __init__(self) -> None:
        super().__init__(os.open(os.devnull, os.O_WRONLY))
        self.steps: list[tuple[int, int, str, dict[str, float]]] = []

    def step(self, number: int, total: int, unit: str, metrics: object = None) -> None:
        assert isinstance(metrics, dict | None)
        self.steps.append((number, total, unit, metrics or {}))


def digits(task: Task, images: bool) -> tuple[Rows, Rows]:
    features, targets = load_digits(return_X_y=True)
    shape = (-1, 1, 8, 8) if images else (-1, 64)
    features = features.astype(np.float32).reshape(shape)
    rows = Rows(features, targets if task == "classification" else targets.astype(np.float64))
    return split(rows, task == "classification", 0.2, 0)


def build(name: str, problem: Problem, parameters: Mapping[str, object] | None = None) -> Algorithm:
    given = SMALL[name] if parameters is None else parameters
    request = json_format.ParseDict({name: dict(given)}, training_service_pb2.FitRequest())
    return algorithms.build(name, getattr(request, name), problem)


def unseen(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns rows that mix the values of others, so that many lie exactly on thresholds' neighbours."""
    flat = np.random.default_rng(5).permuted(features.reshape(len(features), -1), axis=0)
    return flat.reshape(features.shape)


def difference(algorithm: Algorithm, name: str, features: NDArray[np.float32]) -> float:
    model = graph.serialize(algorithm.export(), name)
    return float(np.abs(parity.onnx_scores(model, features) - algorithm.predict(features)).max())


@pytest.fixture
def progress() -> Steps:
    return Steps()


@pytest.mark.parametrize("name", SMALL)
def test_a_classifier_of_ten_classes_is_exported_equal(name: str, progress: Steps) -> None:
    train, held_out = digits("classification", name == "torch_cnn")
    algorithm = build(name, Problem("classification", train.features.shape[1:], 10, 0, 1))
    algorithm.fit(train, held_out, progress)
    assert difference(algorithm, name, unseen(held_out.features)) < 1e-5
    assert metrics.score("classification", held_out, algorithm.predict(held_out.features))["accuracy"] > 0.3


@pytest.mark.parametrize("name", [name for name in SMALL if name != "torch_cnn"])
def test_a_classifier_of_two_classes_is_exported_equal(name: str, progress: Steps) -> None:
    features, targets = load_breast_cancer(return_X_y=True)
    train, held_out = split(Rows(features.astype(np.float32), targets), True, 0.2, 0)
    algorithm = build(name, Problem("classification", (30,), 2, 0, 1))
    algorithm.fit(train, held_out, progress)
    assert difference(algorithm, name, unseen(held_out.features)) < 1e-5
    assert metrics.score("classification", held_out, algorithm.predict(held_out.features))["roc_auc"] > 0.9


@pytest.mark.parametrize("scale", [1.0, 1e6])
@pytest.mark.parametrize("name", REGRESSORS)
def test_a_regressor_is_exported_equal_at_any_scale(name: str, scale: float, progress: Steps) -> None:
    train, held_out = digits("regression", name == "torch_cnn")
    train = Rows(train.features, train.targets.astype(np.float64) * scale)
    algorithm = build(name, Problem("regression", train.features.shape[1:], 0, 0, 1))
    algorithm.fit(train, held_out, progress)
    assert difference(algorithm, name, unseen(held_out.features)) < 1e-5 * max(1, 9 * scale)


@pytest.mark.parametrize("name", ["hist_gradient_boosting", "xgboost"])
def test_missing_values_take_the_same_way_in_training_and_in_serving(name: str, progress: Steps) -> None:
    features, targets = load_diabetes(return_X_y=True)
    features = features.astype(np.float32)
    features[np.random.default_rng(0).random(features.shape) < 0.2] = np.nan
    train, held_out = split(Rows(features, targets), False, 0.2, 0)
    algorithm = build(name, Problem("regression", (10,), 0, 0, 1))
    algorithm.fit(train, held_out, progress)
    model = graph.serialize(algorithm.export(), name)
    parity.prove(model, algorithm, "regression", held_out.features, missing_values=True, seed=0)


@pytest.mark.parametrize("name", ["hist_gradient_boosting", "xgboost"])
def test_a_column_without_any_value_is_no_failure(name: str, progress: Steps) -> None:
    features, targets = load_iris(return_X_y=True)
    features = features.astype(np.float32)
    features[:, 1] = np.nan
    train, held_out = split(Rows(features, targets), True, 0.2, 0)
    algorithm = build(name, Problem("classification", (4,), 3, 0, 1))
    algorithm.fit(train, held_out, progress)
    model = graph.serialize(algorithm.export(), name)
    parity.prove(model, algorithm, "classification", held_out.features, missing_values=True, seed=0)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "gamma", "poisson"])
def test_every_loss_of_gradient_boosting_is_exported_equal(loss: str, progress: Steps) -> None:
    features, targets = load_diabetes(return_X_y=True)
    train, held_out = split(Rows(features.astype(np.float32), targets), False, 0.2, 0)
    algorithm = build("hist_gradient_boosting", Problem("regression", (10,), 0, 0, 1), {"loss": loss, "max_iter": 8})
    algorithm.fit(train, held_out, progress)
    assert difference(algorithm, "hist_gradient_boosting", held_out.features) < 1e-5 * targets.max()


def test_pruned_boosted_trees_are_exported_equal(progress: Steps) -> None:
    train, held_out = digits("classification", images=False)
    algorithm = build("xgboost", Problem("classification", (64,), 10, 0, 1), {"gamma": 2.0, "n_estimators": 5})
    algorithm.fit(train, held_out, progress)
    assert difference(algorithm, "xgboost", held_out.features) < 1e-5


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("cores", [1, 3])
def test_a_forest_grown_in_parts_is_the_one_grown_at_once(task: Task, cores: int, progress: Steps) -> None:
    train, held_out = digits(task, images=False)
    classes = 10 if task == "classification" else 0
    algorithm = build("random_forest", Problem(task, (64,), classes, 42, cores))
    algorithm.fit(train, held_out, progress)
    assert len(progress.steps) > 1
    assert progress.steps[-1][:3] == (12, 12, "tree")
    if classes:
        plain = RandomForestClassifier(12, random_state=42).fit(train.features, train.targets)
        expected = plain.predict_proba(held_out.features)
    else:
        plain = RandomForestRegressor(12, random_state=42, max_features=None).fit(train.features, train.targets)
        expected = plain.predict(held_out.features).reshape(-1, 1)
    # With more threads scikit-learn adds the trees' predictions in any order.
    assert np.abs(algorithm.predict(held_out.features) - expected).max() < 1e-12


@pytest.mark.parametrize("early_stopping", [False, True])
def test_rounds_are_reported_without_changing_gradient_boosting(early_stopping: bool, progress: Steps) -> None:
    features, targets = load_iris(return_X_y=True)
    train, held_out = split(Rows(features.astype(np.float32), targets), True, 0.2, 0)
    parameters = {"max_iter": 60, "early_stopping": early_stopping}
    algorithm = build("hist_gradient_boosting", Problem("classification", (4,), 3, 42, 1), parameters)
    algorithm.fit(train, held_out, progress)
    plain = HistGradientBoostingClassifier(**parameters, random_state=42).fit(train.features, train.targets)
    expected = plain.predict_proba(held_out.features.astype(np.float64))
    assert (algorithm.predict(held_out.features) == expected).all()
    assert [step[0] for step in progress.steps] == list(range(1, plain.n_iter_ + 1))
    assert all(("early_stopping_loss" in step[3]) == early_stopping for step in progress.steps)


@pytest.mark.parametrize(
    ("name", "unit", "total", "measured"),
    [
        ("xgboost", "round", 8, {"train_mlogloss", "validation_mlogloss"}),
        ("torch_mlp", "epoch", 3, {"loss", "validation_loss"}),
        ("torch_cnn", "epoch", 2, {"loss", "validation_loss"}),
    ],
)
def test_every_step_is_reported_with_its_losses(
    name: str, unit: str, total: int, measured: set[str], progress: Steps
) -> None:
    train, held_out = digits("classification", name == "torch_cnn")
    algorithm = build(name, Problem("classification", train.features.shape[1:], 10, 0, 1))
    algorithm.fit(train, held_out, progress)
    assert [(*step[:3], set(step[3])) for step in progress.steps] == [
        (number, total, unit, measured) for number in range(1, total + 1)
    ]


@pytest.mark.parametrize("name", ["torch_mlp", "torch_cnn", "xgboost"])
def test_the_seed_decides_everything(name: str, progress: Steps) -> None:
    train, held_out = digits("classification", name == "torch_cnn")

    def predictions(seed: int) -> NDArray[np.float64]:
        problem = Problem("classification", train.features.shape[1:], 10, seed, 1)
        given = {**SMALL[name], ("subsample" if name == "xgboost" else "dropout"): 0.5}
        algorithm = build(name, problem, given)
        algorithm.fit(train, held_out, progress)
        return algorithm.predict(held_out.features)

    assert (predictions(4) == predictions(4)).all()
    assert (predictions(4) != predictions(5)).any()


def test_the_default_network_for_images_reads_digits(progress: Steps) -> None:
    train, held_out = digits("classification", images=True)
    algorithm = build("torch_cnn", Problem("classification", (1, 8, 8), 10, 0, 1), {})
    algorithm.fit(train, held_out, progress)
    measured = metrics.score("classification", held_out, algorithm.predict(held_out.features))
    assert measured["accuracy"] >= 0.95
    assert difference(algorithm, "torch_cnn", held_out.features) < 1e-5


@pytest.mark.parametrize(
    ("name", "parameters", "task", "field"),
    [
        ("random_forest", {"criterion": "gini"}, "regression", "criterion"),
        ("random_forest", {"criterion": "poisson"}, "classification", "criterion"),
        ("random_forest", {"class_weight": "balanced"}, "regression", "class_weight"),
        ("hist_gradient_boosting", {"loss": "gamma"}, "classification", "loss"),
        ("hist_gradient_boosting", {"class_weight": "balanced"}, "regression", "class_weight"),
        ("torch_mlp", {"hidden_sizes": [8192] * 16}, "classification", "hidden_sizes"),
        ("torch_cnn", {"channels": [4, 4, 4, 4]}, "classification", "channels"),
    ],
)
def test_hyper_parameters_that_do_not_fit_each_other_are_refused(
    name: str, parameters: dict[str, object], task: Task, field: str
) -> None:
    problem = Problem(task, (1, 8, 8), 10 if task == "classification" else 0, 0, 1)
    with pytest.raises(FitError) as caught:
        build(name, problem, parameters)
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_FIELD, f"{name}.{field}")


@pytest.mark.parametrize(
    ("name", "parameters", "targets", "field"),
    [
        ("random_forest", {"criterion": "poisson"}, [-1.0, 2.0, 3.0], "criterion"),
        ("hist_gradient_boosting", {"loss": "gamma"}, [0.0, 2.0, 3.0], "loss"),
        ("hist_gradient_boosting", {"loss": "poisson"}, [-1.0, 2.0, 3.0], "loss"),
        ("hist_gradient_boosting", {"early_stopping": True}, [1.0], "early_stopping"),
        ("torch_mlp", {"learning_rate": 10.0, "weight_decay": 10.0, "epochs": 200}, [1.0, 1e30, 1.0], "learning_rate"),
    ],
)
def test_targets_that_do_not_fit_the_hyper_parameters_are_refused(
    name: str, parameters: dict[str, object], targets: list[float], field: str, progress: Steps
) -> None:
    rows = Rows(np.ones((len(targets), 2), np.float32), np.array(targets))
    far = Rows(np.full((1, 2), 3e38, np.float32), np.array([1.0]))
    algorithm = build(name, Problem("regression", (2,), 0, 0, 1), parameters)
    with pytest.raises(FitError) as caught:
        algorithm.fit(rows, far, progress)
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_FIELD, f"{name}.{field}")


def test_training_a_network_leaves_the_compiler_out() -> None:
    assert "torch" in sys.modules
    assert "torch._dynamo" not in sys.modules

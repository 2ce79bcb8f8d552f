from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import numpy as np
import pytest
from fitserve.v1 import training_service_pb2
from google.protobuf import json_format
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from tests.unit.training.served import proof_of
from training import algorithms, metrics
from training.algorithms.base import Algorithm, Problem
from training.data import Rows, split
from training.errors import FitError, Reason
from training.export import graph, sessions
from training.progress import Progress
from training.spec import Task

# Small models, so that the tests are fast.
SMALL: dict[str, Mapping[str, object]] = {
    "logistic_regression": {},
    "random_forest": {"n_estimators": 12},
    "hist_gradient_boosting": {"max_iter": 8},
    "xgboost": {"n_estimators": 8},
    "lightgbm": {"n_estimators": 8, "min_child_samples": 2},
    "extra_trees": {"n_estimators": 12},
    "linear": {},
    "ridge": {},
    "elastic_net": {"alpha": 0.1},
    "gaussian_nb": {},
    "catboost": {"iterations": 8},
    "svm": {},
    "knn": {},
    "torch_mlp": {"epochs": 3, "hidden_sizes": [16, 8]},
    "torch_cnn": {"epochs": 2, "channels": [4, 8]},
}
MISSING = ["catboost", "hist_gradient_boosting", "lightgbm", "xgboost"]
REGRESSORS = sorted(set(SMALL) - {"logistic_regression", "gaussian_nb"})
CLASSIFIERS = sorted(set(SMALL) - {"linear", "ridge", "elastic_net"})


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


def noisy_rows() -> tuple[Rows, Rows]:
    """Returns rows of three classes that no model can tell apart well."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(600, 5)).astype(np.float32)
    sums = features[:, 0] + generator.normal(size=600)
    return split(Rows(features, np.digitize(sums, [-0.5, 0.5])), True, 0.3, 0)


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
    return float(np.abs(sessions.onnx_scores(model, features) - algorithm.predict(features)).max())


@pytest.fixture
def progress() -> Steps:
    return Steps()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_of_ten_classes_is_exported_equal(name: str, progress: Steps) -> None:
    train, held_out = digits("classification", name == "torch_cnn")
    algorithm = build(name, Problem("classification", train.features.shape[1:], 10, 0, 1))
    algorithm.fit(train, held_out, progress)
    assert difference(algorithm, name, unseen(held_out.features)) < 1e-5
    assert metrics.score("classification", held_out, algorithm.predict(held_out.features))["accuracy"] > 0.3


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name != "torch_cnn"])
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


@pytest.mark.parametrize("name", MISSING)
def test_missing_values_take_the_same_way_in_training_and_in_serving(name: str, progress: Steps) -> None:
    features, targets = load_diabetes(return_X_y=True)
    features = features.astype(np.float32)
    features[np.random.default_rng(0).random(features.shape) < 0.2] = np.nan
    train, held_out = split(Rows(features, targets), False, 0.2, 0)
    algorithm = build(name, Problem("regression", (10,), 0, 0, 1))
    algorithm.fit(train, held_out, progress)
    model = graph.serialize(algorithm.export(), name)
    assert proof_of(model, algorithm, "regression", held_out.features, missing_values=True).holds


@pytest.mark.parametrize("name", ["hist_gradient_boosting", "xgboost"])
def test_a_column_without_any_value_is_no_failure(name: str, progress: Steps) -> None:
    features, targets = load_iris(return_X_y=True)
    features = features.astype(np.float32)
    features[:, 1] = np.nan
    train, held_out = split(Rows(features, targets), True, 0.2, 0)
    algorithm = build(name, Problem("classification", (4,), 3, 0, 1))
    algorithm.fit(train, held_out, progress)
    model = graph.serialize(algorithm.export(), name)
    assert proof_of(model, algorithm, "classification", held_out.features, missing_values=True).holds


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


@pytest.mark.parametrize("name", ["random_forest", "extra_trees"])
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("cores", [1, 3])
def test_a_forest_grown_in_parts_is_the_one_grown_at_once(name: str, task: Task, cores: int, progress: Steps) -> None:
    train, held_out = digits(task, images=False)
    classes = 10 if task == "classification" else 0
    algorithm = build(name, Problem(task, (64,), classes, 42, cores))
    algorithm.fit(train, held_out, progress)
    assert len(progress.steps) > 1
    assert progress.steps[-1][:3] == (12, 12, "tree")
    if classes:
        classifier = RandomForestClassifier if name == "random_forest" else ExtraTreesClassifier
        plain = classifier(12, random_state=42).fit(train.features, train.targets)
        expected = plain.predict_proba(held_out.features)
    else:
        regressor = RandomForestRegressor if name == "random_forest" else ExtraTreesRegressor
        plain = regressor(12, random_state=42, max_features=None).fit(train.features, train.targets)
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
    plain = HistGradientBoostingClassifier(**parameters, random_state=42)
    evaluation = {"X_val": held_out.features.astype(np.float64), "y_val": held_out.targets} if early_stopping else {}
    plain.fit(train.features.astype(np.float64), train.targets, **evaluation)
    expected = plain.predict_proba(held_out.features.astype(np.float64))
    assert (algorithm.predict(held_out.features) == expected).all()
    assert [step[0] for step in progress.steps] == list(range(1, plain.n_iter_ + 1))
    assert (plain.n_iter_ < 60) == early_stopping
    assert all(set(step[3]) == {"loss", "validation_loss"} for step in progress.steps)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("xgboost", "validation_mlogloss"),
        ("lightgbm", "validation_multi_logloss"),
        ("catboost", "validation_MultiClass"),
    ],
)
def test_early_stopping_stops_and_keeps_the_round_that_was_best_on_the_held_out_rows(
    name: str, loss: str, progress: Steps
) -> None:
    train, held_out = noisy_rows()
    rounds = "iterations" if name == "catboost" else "n_estimators"
    parameters = {rounds: 400, "early_stopping_rounds": 5, "learning_rate": 0.5}
    algorithm = build(name, Problem("classification", (5,), 3, 0, 1), parameters)
    algorithm.fit(train, held_out, progress)
    losses = [step[3][loss] for step in progress.steps]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 5 < 400
    measured = metrics.score("classification", held_out, algorithm.predict(held_out.features))
    assert measured["log_loss"] == pytest.approx(losses[best], abs=1e-5)
    assert difference(algorithm, name, unseen(held_out.features)) < 1e-5


@pytest.mark.parametrize("policy", ["SymmetricTree", "Depthwise", "Lossguide"])
@pytest.mark.parametrize("nan_mode", ["Min", "Max"])
@pytest.mark.parametrize("loss", ["RMSE", "MAE", "Poisson"])
def test_every_shape_of_catboosts_trees_is_exported_equal(
    policy: str, nan_mode: str, loss: str, progress: Steps
) -> None:
    features, targets = load_diabetes(return_X_y=True)
    features = features.astype(np.float32)
    features[:, :5][np.random.default_rng(0).random((len(features), 5)) < 0.2] = np.nan
    train, held_out = split(Rows(features, targets / 100), False, 0.2, 0)
    parameters = {"grow_policy": policy, "nan_mode": nan_mode, "loss_function": loss, "iterations": 20}
    algorithm = build("catboost", Problem("regression", (10,), 0, 0, 1), parameters)
    algorithm.fit(train, held_out, progress)
    # Here values are missing also in columns that had none to learn from.
    model = graph.serialize(algorithm.export(), "catboost")
    assert proof_of(model, algorithm, "regression", held_out.features, missing_values=True).holds


@pytest.mark.parametrize("objective", ["regression", "regression_l1", "gamma", "poisson"])
def test_every_objective_of_lightgbm_is_exported_equal(objective: str, progress: Steps) -> None:
    features, targets = load_diabetes(return_X_y=True)
    train, held_out = split(Rows(features.astype(np.float32), targets), False, 0.2, 0)
    algorithm = build("lightgbm", Problem("regression", (10,), 0, 0, 1), {"objective": objective, "n_estimators": 8})
    algorithm.fit(train, held_out, progress)
    assert difference(algorithm, "lightgbm", held_out.features) < 1e-5 * targets.max()


@pytest.mark.parametrize("kernel", ["linear", "poly", "rbf", "sigmoid"])
@pytest.mark.parametrize("classes", [0, 2, 3])
def test_every_kernel_is_exported_equal(kernel: str, classes: int, progress: Steps) -> None:
    task: Task = "classification" if classes else "regression"
    features, targets = load_wine(return_X_y=True)
    rows = Rows(features.astype(np.float32), targets if classes == 3 else targets // 2 if classes else features[:, 0])
    train, held_out = split(rows, bool(classes), 0.2, 0)
    algorithm = build("svm", Problem(task, (13,), classes, 0, 1), {"kernel": kernel, "coef0": 0.5, "degree": 2})
    algorithm.fit(train, held_out, progress)
    assert difference(algorithm, "svm", unseen(held_out.features)) < 1e-5 * 15


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_svm_regression_is_the_librarys_own_on_scaled_features_and_targets(kernel: str, progress: Steps) -> None:
    features, targets = load_diabetes(return_X_y=True)
    train, held_out = split(Rows(features.astype(np.float32), targets), False, 0.2, 0)
    algorithm = build("svm", Problem("regression", (10,), 0, 0, 1), {"kernel": kernel})
    algorithm.fit(train, held_out, progress)
    scale, values = StandardScaler(), StandardScaler()
    scaled = scale.fit_transform(train.features.astype(np.float64))
    plain = SVR(kernel=kernel, gamma=0.1).fit(scaled, values.fit_transform(train.targets.reshape(-1, 1))[:, 0])
    predicted = plain.predict(scale.transform(held_out.features.astype(np.float64))).reshape(-1, 1)
    assert algorithm.predict(held_out.features) == pytest.approx(values.inverse_transform(predicted), rel=1e-9)


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("classes", [0, 3])
def test_neighbours_are_the_librarys_own_where_no_distances_are_equal(
    weights: str, classes: int, progress: Steps
) -> None:
    train, held_out = noisy_rows()
    task: Task = "classification" if classes else "regression"
    algorithm = build("knn", Problem(task, (5,), classes, 0, 1), {"weights": weights})
    algorithm.fit(train, held_out, progress)
    scale = StandardScaler()
    scaled = scale.fit_transform(train.features.astype(np.float64))
    # Rows that were trained on, too, where the distance is zero.
    asked = np.concatenate([held_out.features, train.features[:20]])
    points = scale.transform(asked.astype(np.float64))
    if classes:
        expected = KNeighborsClassifier(weights=weights).fit(scaled, train.targets).predict_proba(points)
    else:
        expected = KNeighborsRegressor(weights=weights).fit(scaled, train.targets).predict(points).reshape(-1, 1)
    assert np.abs(algorithm.predict(asked) - expected).max() < 1e-12
    assert difference(algorithm, "knn", asked) < 1e-5


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("values", [1, 2, 3])
def test_neighbours_at_equal_distances_are_the_first_ones_in_training_and_in_serving(
    weights: str, values: int, progress: Steps
) -> None:
    generator = np.random.default_rng(0)
    grid = generator.integers(0, values, size=(1000, 3)).astype(np.float32)
    rows = Rows(grid, generator.integers(0, 4, 1000))
    algorithm = build("knn", Problem("classification", (3,), 4, 0, 1), {"weights": weights, "n_neighbors": 7})
    algorithm.fit(rows, rows, progress)
    assert difference(algorithm, "knn", unseen(grid)) < 1e-5


@pytest.mark.parametrize(
    ("name", "unit", "total", "measured"),
    [
        ("xgboost", "round", 8, {"train_mlogloss", "validation_mlogloss"}),
        ("lightgbm", "round", 8, {"train_multi_logloss", "validation_multi_logloss"}),
        ("catboost", "round", 8, {"train_MultiClass", "validation_MultiClass"}),
        ("hist_gradient_boosting", "round", 8, {"loss", "validation_loss"}),
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


@pytest.mark.parametrize("name", ["torch_mlp", "torch_cnn", "xgboost", "lightgbm", "catboost"])
def test_the_seed_decides_everything(name: str, progress: Steps) -> None:
    train, held_out = digits("classification", name == "torch_cnn")

    def predictions(seed: int) -> NDArray[np.float64]:
        problem = Problem("classification", train.features.shape[1:], 10, seed, 1)
        randomness = {"xgboost": {"subsample": 0.5}, "lightgbm": {"subsample": 0.5}, "catboost": {"rsm": 0.5}}
        given = {**SMALL[name], **randomness.get(name, {"dropout": 0.5})}
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
        ("extra_trees", {"criterion": "gini"}, "regression", "criterion"),
        ("lightgbm", {"objective": "gamma"}, "classification", "objective"),
        ("lightgbm", {"class_weight": "balanced"}, "regression", "class_weight"),
        ("xgboost", {"class_weight": "balanced"}, "regression", "class_weight"),
        ("svm", {"class_weight": "balanced"}, "regression", "class_weight"),
        ("catboost", {"loss_function": "MAE"}, "classification", "loss_function"),
        ("catboost", {"auto_class_weights": "Balanced"}, "regression", "auto_class_weights"),
        ("catboost", {"max_leaves": 8}, "regression", "max_leaves"),
        ("catboost", {"min_data_in_leaf": 8}, "classification", "min_data_in_leaf"),
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
        ("extra_trees", {"criterion": "poisson"}, [-1.0, 2.0, 3.0], "criterion"),
        ("lightgbm", {"objective": "gamma"}, [0.0, 2.0, 3.0], "objective"),
        ("lightgbm", {"objective": "poisson"}, [-1.0, 2.0, 3.0], "objective"),
        ("catboost", {"loss_function": "Poisson"}, [-1.0, 2.0, 3.0], "loss_function"),
        ("knn", {"n_neighbors": 4}, [1.0, 2.0, 3.0], "n_neighbors"),
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


@pytest.mark.parametrize(
    ("features", "targets"),
    [(np.ones((4, 2)), [1.0, 2.0, 3.0, 4.0]), (np.eye(4), [1.0] * 4)],
    ids=["no feature varies", "no target varies"],
)
def test_what_catboost_cannot_learn_from_is_refused_in_words(
    features: NDArray[np.float64], targets: list[float], progress: Steps
) -> None:
    rows = Rows(features.astype(np.float32), np.array(targets))
    algorithm = build("catboost", Problem("regression", rows.features.shape[1:], 0, 0, 1))
    with pytest.raises(FitError, match="rows trained on") as caught:
        algorithm.fit(rows, rows, progress)
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_FIELD, "catboost")


def test_svm_asks_for_two_rows_of_each_label_and_for_few_labels(progress: Steps) -> None:
    rows = Rows(np.eye(4, dtype=np.float32), np.array([0, 0, 0, 1]))
    with pytest.raises(FitError, match="two rows of each label"):
        build("svm", Problem("classification", (4,), 2, 0, 1)).fit(rows, rows, progress)
    with pytest.raises(FitError, match="at most 100 labels"):
        build("svm", Problem("classification", (4,), 101, 0, 1))


def test_neighbours_of_more_rows_than_a_model_can_hold_are_refused(progress: Steps) -> None:
    rows = Rows(np.zeros((10_001, 1), np.float32), np.zeros(10_001))
    with pytest.raises(FitError, match="10000 rows"):
        build("knn", Problem("regression", (1,), 0, 0, 1)).fit(rows, rows, progress)

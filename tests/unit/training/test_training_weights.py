"""What rows and labels count in training."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from fitserve.v1 import options_pb2, training_service_pb2
from google.protobuf import json_format
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.datasets import load_diabetes, load_wine
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from tests.unit.training.cases import make_spec, write_spec, write_tensor_dataset
from training import algorithms, data, spec
from training.algorithms.base import Algorithm, Problem
from training.data import Rows, split
from training.errors import FitError
from training.progress import Progress

OPTIONS = training_service_pb2.FitRequest.DESCRIPTOR.oneofs_by_name["algorithm"].fields
WEIGHTED = [
    option.name
    for option in OPTIONS
    if option.message_type is not None
    and option.message_type.GetOptions().Extensions[options_pb2.traits].sample_weights
]
FAST: dict[str, dict[str, object]] = {
    "torch_mlp": {"epochs": 3},
    "torch_cnn": {"epochs": 1, "channels": [4]},
    "catboost": {"iterations": 10},
    "xgboost": {"n_estimators": 5, "max_depth": 2},
    "lightgbm": {"n_estimators": 10},
    "elastic_net": {"alpha": 0.1},
}


def trained(name: str, rows: Rows, classes: int, parameters: Mapping[str, object] | None = None) -> Algorithm:
    given = {name: dict(FAST.get(name, {}) if parameters is None else parameters)}
    request = json_format.ParseDict(given, training_service_pb2.FitRequest())
    task = "classification" if classes else "regression"
    algorithm = algorithms.build(name, getattr(request, name), Problem(task, rows.features.shape[1:], classes, 0, 1))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    algorithm.fit(rows, Rows(rows.features, rows.targets), Progress(nowhere))
    os.close(nowhere)
    return algorithm


def wine() -> Rows:
    features, targets = load_wine(return_X_y=True)
    return split(Rows(features.astype(np.float32), targets), True, 0.2, 0)[0]


def weights(rows: Rows) -> NDArray[np.float64]:
    return np.random.default_rng(1).integers(0, 4, len(rows)).astype(np.float64)


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_change_the_model(name: str) -> None:
    traits = (
        next(option for option in OPTIONS if option.name == name)
        .message_type.GetOptions()
        .Extensions[options_pb2.traits]
    )
    rows = wine()
    if traits.images:
        rows = Rows(rows.features[:, :12].reshape(-1, 1, 3, 4), rows.targets)
    classes = 3 if traits.classification else 0
    plain = trained(name, rows, classes).predict(rows.features)
    weighed = trained(name, Rows(rows.features, rows.targets, weights(rows)), classes).predict(rows.features)
    assert np.abs(plain - weighed).max() > 1e-4


@pytest.mark.parametrize(
    ("name", "parameters", "library"),
    [
        ("random_forest", {"n_estimators": 10}, lambda: RandomForestClassifier(10, random_state=0)),
        ("extra_trees", {"n_estimators": 10}, lambda: ExtraTreesClassifier(10, random_state=0)),
        (
            "hist_gradient_boosting",
            {"max_iter": 10},
            lambda: HistGradientBoostingClassifier(max_iter=10, random_state=0, early_stopping=False),
        ),
        ("gaussian_nb", {}, GaussianNB),
    ],
)
def test_a_weighed_classifier_is_the_librarys_own(
    name: str, parameters: Mapping[str, object], library: Callable[[], BaseEstimator]
) -> None:
    rows = wine()
    weighed = Rows(rows.features, rows.targets, weights(rows))
    expected = library().fit(rows.features.astype(np.float64), rows.targets, sample_weight=weighed.weights)
    predicted = trained(name, weighed, 3, parameters).predict(rows.features)
    assert np.abs(predicted - expected.predict_proba(rows.features.astype(np.float64))).max() < 1e-9


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("linear", LinearRegression()),
        ("ridge", Ridge(random_state=0)),
        ("elastic_net", ElasticNet(0.1, random_state=0)),
    ],
)
def test_a_weighed_linear_regression_is_the_librarys_own_on_scaled_features(name: str, library: BaseEstimator) -> None:
    features, targets = load_diabetes(return_X_y=True)
    rows = Rows((features * 100).astype(np.float32), targets)
    weighed = Rows(rows.features, targets, weights(rows))
    scaled = StandardScaler().fit_transform(rows.features.astype(np.float64))
    expected = library.fit(scaled, targets, sample_weight=weighed.weights).predict(scaled)
    assert trained(name, weighed, 0).predict(rows.features)[:, 0] == pytest.approx(expected, rel=1e-9)


def test_weights_of_labels_are_the_librarys_own() -> None:
    rows = wine()
    of_class = data.weights_of_classes({"1": 5.0}, [0, 1, 2])
    weighed = Rows(rows.features, rows.targets, of_class[rows.targets])
    scaled = StandardScaler().fit_transform(rows.features.astype(np.float64))
    expected = LogisticRegression(max_iter=1000, class_weight={1: 5.0}).fit(scaled, rows.targets)
    predicted = trained("logistic_regression", weighed, 3).predict(rows.features)
    assert np.abs(predicted - expected.predict_proba(scaled)).max() < 1e-6


@pytest.mark.parametrize(
    ("name", "field", "balanced"),
    [
        ("xgboost", "class_weight", "balanced"),
        ("lightgbm", "class_weight", "balanced"),
        ("svm", "class_weight", "balanced"),
        ("catboost", "auto_class_weights", "Balanced"),
        ("catboost", "auto_class_weights", "SqrtBalanced"),
    ],
)
def test_balanced_labels_are_found_more_often(name: str, field: str, balanced: str) -> None:
    generator = np.random.default_rng(0)
    targets = (generator.random(600) < 0.1).astype(np.int64)
    features = (generator.normal(size=(600, 3)) + targets[:, None]).astype(np.float32)
    rows = Rows(features, targets)
    plain = trained(name, rows, 2).predict(features)[:, 1].mean()
    assert trained(name, rows, 2, {**FAST.get(name, {}), field: balanced}).predict(features)[:, 1].mean() > plain + 0.02


def loaded(
    tmp_path: Path, labels: list[object], kind: str, of_rows: list[float] | None, of_classes: dict[str, float]
) -> list[float] | None:
    features = np.arange(len(labels), dtype=np.float32).reshape(-1, 1)
    dataset = write_tensor_dataset(tmp_path / "d", features, kind, labels, of_rows)
    message = make_spec(dataset, tmp_path / "out", "ridge")
    message.request.class_weights.update(of_classes)
    rows, _ = data.load(spec.read(write_spec(tmp_path / "spec.pb", message)))
    return None if rows.weights is None else rows.weights.tolist()


@pytest.mark.parametrize(
    ("labels", "kind", "named"),
    [
        (["a", "b", "a"], "category", "a"),
        ([7, 8, 7], "integer", "7"),
        ([2.5, 1.0, 2.5], "number", "2.5"),
        ([True, False, True], "boolean", "true"),
    ],
)
def test_weights_of_rows_and_of_labels_are_multiplied(
    tmp_path: Path, labels: list[object], kind: str, named: str
) -> None:
    assert loaded(tmp_path, labels, kind, [1.0, 2.0, 3.0], {named: 10.0}) == [10.0, 2.0, 30.0]


def test_without_weights_there_are_none(tmp_path: Path) -> None:
    assert loaded(tmp_path, ["a", "b", "a"], "category", None, {}) is None


def test_the_weight_of_an_unknown_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FitError, match="there is no label 'c'; the labels are a, b") as caught:
        loaded(tmp_path, ["a", "b", "a"], "category", None, {"c": 1.0})
    assert caught.value.field == "class_weights"


@pytest.mark.parametrize(
    ("targets", "classes", "given", "message"),
    [
        ([0, 1, 1], ["a", "b"], [0.0, 1.0, 1.0], "with the label 'a' have the weight 0"),
        ([0.5, 1.0, 1.0], [], [0.0, 0.0, 0.0], "all rows to train on have the weight 0"),
    ],
)
def test_weights_that_leave_nothing_to_learn_from_are_refused(
    targets: list[float], classes: list[str], given: list[float], message: str
) -> None:
    rows = Rows(np.zeros((3, 1), np.float32), np.array(targets), np.array(given))
    with pytest.raises(FitError, match=message):
        data.check_weights(rows, classes, "inline.weights")


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("hist_gradient_boosting", HistGradientBoostingRegressor(random_state=0, early_stopping=False)),
        ("svm", SVR(gamma=0.1)),
    ],
)
def test_a_weighed_regressor_is_the_librarys_own(name: str, library: BaseEstimator) -> None:
    features, targets = load_diabetes(return_X_y=True)
    rows = Rows(features.astype(np.float32), targets)
    scale, values = StandardScaler(), StandardScaler()
    scaled = scale.fit_transform(rows.features.astype(np.float64)) if name == "svm" else rows.features.astype(float)
    learned = values.fit_transform(targets.reshape(-1, 1))[:, 0] if name == "svm" else targets
    expected = library.fit(scaled, learned, sample_weight=weights(rows)).predict(scaled).reshape(-1, 1)
    predicted = trained(name, Rows(rows.features, targets, weights(rows)), 0).predict(rows.features)
    assert predicted == pytest.approx(values.inverse_transform(expected) if name == "svm" else expected, rel=1e-9)

"""Which form of a model is chosen, and what is said when none is equal."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from fitserve.v1 import training_service_pb2
from google.protobuf import json_format
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from tests.unit.training.served import served_scores
from training import algorithms, parity
from training.algorithms.base import Algorithm, Problem
from training.data import Floats, Rows, split
from training.errors import CannotExport, FitError, Reason
from training.export import fil, ladder, trees
from training.progress import Progress

TREES = ["xgboost", "lightgbm", "catboost", "hist_gradient_boosting", "random_forest", "extra_trees"]
MISSING = ["xgboost", "lightgbm", "catboost", "hist_gradient_boosting"]
PARAMETERS: dict[str, dict[str, object]] = {
    "catboost": {"iterations": 8},
    "hist_gradient_boosting": {"max_iter": 8},
}
Load = Callable[..., tuple[NDArray[np.float64], NDArray[np.float64]]]


def trained(name: str, load: Load, missing: bool = False) -> tuple[Algorithm, Problem, Rows]:
    """Returns a trained model, its problem and the rows held out."""
    features, targets = load(return_X_y=True)
    features = features.astype(np.float32)
    if missing:
        features[np.random.default_rng(0).random(features.shape) < 0.2] = np.nan
    classes = 0 if load is load_diabetes else len(np.unique(targets))
    train, held_out = split(Rows(features, targets), classes > 0, 0.3, 0)
    problem = Problem("classification" if classes else "regression", features.shape[1:], classes, 0, 1)
    given = PARAMETERS.get(name, {} if name == "logistic_regression" else {"n_estimators": 8})
    request = json_format.ParseDict({name: given}, training_service_pb2.FitRequest())
    algorithm = algorithms.build(name, getattr(request, name), problem)
    algorithm.fit(train, held_out, Progress(os.open(os.devnull, os.O_WRONLY)))
    return algorithm, problem, held_out


def expected_of(algorithm: Algorithm, problem: Problem, rows: Rows, missing: bool = False) -> parity.Expectation:
    return parity.expect(algorithm, problem.task, rows.features, missing, 0)


@pytest.mark.parametrize("load", [load_iris, load_breast_cancer, load_diabetes])
@pytest.mark.parametrize("name", TREES)
def test_trees_are_equal_in_fils_file(name: str, load: Load) -> None:
    algorithm, problem, rows = trained(name, load, missing=name in MISSING)
    expected = expected_of(algorithm, problem, rows, name in MISSING)
    exported = ladder.climb(algorithm, problem, name, expected, prefer_gpu=True)
    assert (exported.backend, exported.file.name) == ("fil", "checkpoint.tl")
    answer = served_scores(exported, rows.features, problem.class_count)
    assert np.abs(answer - algorithm.predict(rows.features)).max() <= expected.tolerance


@pytest.mark.parametrize("name", TREES)
def test_without_a_gpu_trees_are_served_as_onnx(name: str) -> None:
    algorithm, problem, rows = trained(name, load_iris)
    assert ladder.climb(algorithm, problem, name, expected_of(algorithm, problem, rows)).backend == "onnxruntime"


class Wrong:
    """A learner whose ONNX predicts something else, or cannot be written; the rest is a real one's."""

    def __init__(self, learner: Algorithm, cannot: bool) -> None:
        self._learner = learner
        self._cannot = cannot

    def predict(self, features: Floats) -> NDArray[np.float64]:
        return self._learner.predict(features)

    def export(self) -> onnx.ModelProto:
        if self._cannot:
            raise CannotExport("made so by a test")
        model = self._learner.export()
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "target_weights_as_tensor":
                    attribute.t.raw_data = (2 * np.frombuffer(attribute.t.raw_data)).tobytes()
        return model

    def ensemble(self) -> trees.Ensemble:
        return self._learner.ensemble()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("cannot", [False, True])
def test_a_model_whose_onnx_is_wrong_falls_to_fil(cannot: bool) -> None:
    algorithm, problem, rows = trained("random_forest", load_diabetes)
    expected = expected_of(algorithm, problem, rows)
    exported = ladder.climb(Wrong(algorithm, cannot), problem, "random_forest", expected)  # type: ignore[arg-type]
    assert exported.backend == "fil"
    assert exported.proof.holds


def test_no_equal_form_is_an_error_that_names_each_form_and_what_is_wrong_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    algorithm, problem, rows = trained("random_forest", load_diabetes)
    monkeypatch.setattr(fil, "checkpoint", lambda *_: (_ for _ in ()).throw(CannotExport("no FIL today")))
    with pytest.raises(FitError) as refused:
        ladder.climb(Wrong(algorithm, False), problem, "random_forest", expected_of(algorithm, problem, rows))  # type: ignore[arg-type]
    assert refused.value.reason == Reason.EXPORT_NOT_EQUAL
    assert "onnxruntime: it differs by " in refused.value.message
    assert "fil: no FIL today" in refused.value.message
    assert "fitserve_native: random_forest has no safe format of its own" in refused.value.message


def test_catboost_without_onnx_and_fil_is_served_by_its_own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, problem, rows = trained("catboost", load_iris, missing=True)
    monkeypatch.setattr(type(algorithm), "ensemble", lambda _: (_ for _ in ()).throw(CannotExport("not today")))
    exported = ladder.climb(algorithm, problem, "catboost", expected_of(algorithm, problem, rows, missing=True))
    assert (exported.backend, exported.file.name) == ("fitserve_native", "model.cbm")
    assert np.abs(served_scores(exported, rows.features, 3) - algorithm.predict(rows.features)).max() <= 1e-6


def test_what_is_no_tree_stays_with_onnx_though_it_prefers_a_gpu() -> None:
    algorithm, problem, rows = trained("logistic_regression", load_iris)
    expected = expected_of(algorithm, problem, rows)
    assert ladder.climb(algorithm, problem, "logistic_regression", expected, prefer_gpu=True).backend == "onnxruntime"


@pytest.mark.parametrize(("comparison", "side"), [("BRANCH_LEQ", -1), ("BRANCH_LT", 1)])
def test_a_threshold_between_two_32_bit_floats_parts_them_in_fil(comparison: trees.Comparison, side: int) -> None:
    low = np.float32(1.0)
    high = np.nextafter(low, np.float32(2.0))
    for threshold in (float(low) + share * (float(high) - float(low)) for share in (0.25, 0.75)):
        rounded = fil._rounded(np.array([threshold]), comparison)[0]
        assert rounded == (low if side < 0 else high)
    assert fil._rounded(np.array([1.0]), comparison)[0] == low

"""Regression of several values a row."""

from __future__ import annotations

import os

import numpy as np
import pytest
from fitserve.v1 import options_pb2, training_service_pb2
from google.protobuf import json_format
from sklearn.datasets import load_linnerud

from tests.unit.training.served import served_scores
from training import algorithms, metrics, parity
from training.algorithms.base import Problem
from training.data import Rows, split
from training.errors import FitError
from training.export import ladder
from training.progress import Progress

OPTIONS = training_service_pb2.FitRequest.DESCRIPTOR.oneofs_by_name["algorithm"].fields
ABLE = [
    one.name
    for one in OPTIONS
    if one.message_type is not None and one.message_type.GetOptions().Extensions[options_pb2.traits].multiple_targets
]
PARAMETERS: dict[str, dict[str, object]] = {
    "xgboost": {"n_estimators": 8},
    "catboost": {"iterations": 8},
    "random_forest": {"n_estimators": 12},
    "extra_trees": {"n_estimators": 12},
    "torch_mlp": {"epochs": 3},
    "knn": {"weights": "distance", "n_neighbors": 3},
}


def linnerud() -> tuple[Rows, Rows]:
    """Returns exercises, and as targets three measures of the body, of which one has values a thousand times as large."""
    features, targets = load_linnerud(return_X_y=True)
    repeated = np.repeat(features, 5, axis=0) + np.random.default_rng(0).normal(size=(100, 3))
    rows = Rows(repeated.astype(np.float32), np.repeat(targets, 5, axis=0) * [1.0, 1000.0, 1.0])
    return split(rows, False, 0.3, 0)


@pytest.mark.parametrize("prefer_gpu", [False, True])
@pytest.mark.parametrize("name", ABLE)
def test_several_targets_are_learned_at_once_and_exported_equal(name: str, prefer_gpu: bool) -> None:
    train, held_out = linnerud()
    problem = Problem("regression", (3,), 0, 0, 1, target_count=3)
    request = json_format.ParseDict({name: PARAMETERS.get(name, {})}, training_service_pb2.FitRequest())
    algorithm = algorithms.build(name, getattr(request, name), problem)
    algorithm.fit(train, held_out, Progress(os.open(os.devnull, os.O_WRONLY)))
    values = algorithm.predict(held_out.features)
    assert values.shape == (len(held_out), 3)
    assert np.abs(values.mean(axis=0) / held_out.targets.mean(axis=0) - 1).max() < 0.2
    assert metrics.score("regression", held_out, values).keys() == {"rmse", "mae", "r2"}
    expected = parity.expect(algorithm, "regression", held_out.features, False, 0)
    exported = ladder.climb(algorithm, problem, name, expected, prefer_gpu)
    assert exported.backend == "onnxruntime"
    served = served_scores(exported, held_out.features, 0)
    assert (np.abs(served - values) / np.abs(values).max(axis=0)).max() < 1e-5


def test_each_target_is_compared_by_its_own_size() -> None:
    class Two:
        def predict(self, features: object) -> np.ndarray:
            return np.array([[1e6, 1.0]])

    expected = parity.expect(Two(), "regression", np.zeros((1, 1), np.float32), False, 0)  # type: ignore[arg-type]
    assert expected.compare(np.array([[1e6 + 1, 1.0]])).holds
    assert not expected.compare(np.array([[1e6, 1.0001]])).holds


def test_a_loss_for_one_target_is_refused_for_several() -> None:
    request = json_format.ParseDict({"catboost": {"loss_function": "MAE"}}, training_service_pb2.FitRequest())
    with pytest.raises(FitError, match="MAE is for one target") as refused:
        algorithms.build("catboost", request.catboost, Problem("regression", (3,), 0, 0, 1, target_count=3))
    assert refused.value.field == "catboost.loss_function"

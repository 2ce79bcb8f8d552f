"""Models that are served in other forms than ONNX, from Fit to Predict through the embedded Triton."""

from __future__ import annotations

from pathlib import Path

import catboost
import fitserve
import numpy as np
import pytest
from fitserve.v1 import training_service_pb2
from google.protobuf import json_format
from palmerpenguins import load_penguins
from sklearn import datasets

from tests.service_process import ServiceProcess
from training import algorithms
from training.algorithms.base import Problem
from training.data import Rows, split
from training.progress import Progress

LIMIT = 1e-5
TREES = {
    "xgboost": {"n_estimators": 30},
    "lightgbm": {"n_estimators": 30},
    "catboost": {"iterations": 30},
    "hist_gradient_boosting": {"max_iter": 30},
    "random_forest": {"n_estimators": 30},
    "extra_trees": {"n_estimators": 30},
}
DATA = {
    "classification of three": datasets.load_wine,
    "classification of two": datasets.load_breast_cancer,
    "regression": datasets.load_diabetes,
}


def library_predictions(algorithm: str, task: str, rows: Rows, unseen: np.ndarray, classes: int) -> np.ndarray:
    """Returns the predictions of the library's own model, trained on the rows that the service trains on."""
    train, validation = split(rows, task == "classification", 0.2, seed=0)
    message = json_format.ParseDict({algorithm: TREES[algorithm]}, training_service_pb2.FitRequest())
    problem = Problem(task, rows.features.shape[1:], classes, seed=0, cores=1)  # type: ignore[arg-type]
    model = algorithms.build(algorithm, getattr(message, algorithm), problem)
    with open("/dev/null", "wb") as silent:
        model.fit(train, validation, Progress(silent.fileno()))
    return model.predict(unseen)


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("algorithm", TREES)
def test_trees_that_prefer_a_gpu_are_served_by_fil_and_equal_the_librarys(
    client: fitserve.Client, name: str, algorithm: str, kind: str
) -> None:
    task = kind.split()[0]
    x, y = DATA[kind](return_X_y=True)
    x, half = x.astype(np.float32), np.arange(len(x)) % 2 == 0
    targets = y[half].astype(np.int64 if task == "classification" else np.float64)
    client.fit(
        name,
        x[half],
        targets,
        algorithm=algorithm,
        task=task,
        queue=True,
        load=True,
        prefer_gpu=True,
        **TREES[algorithm],
    ).wait(120)
    classes = len(np.unique(y)) if task == "classification" else 0
    expected = library_predictions(algorithm, task, Rows(x[half], targets), x[~half], classes)
    if classes:
        answer = client.predict_proba(name, x[~half])
        assert np.abs(answer.probabilities - expected).max() <= LIMIT
        assert np.array_equal(answer.predictions, expected.argmax(axis=1))
    else:
        values = client.predict(name, x[~half])
        assert np.abs(values - expected[:, 0]).max() <= LIMIT * np.abs(expected).max()
    version = client.model(name).versions[0]
    assert (version.backend, version.prefer_gpu) == ("fil", True)
    assert version.parity.max_difference <= version.parity.tolerance


def test_a_model_that_prefers_a_gpu_and_is_no_tree_stays_with_onnx(client: fitserve.Client, name: str) -> None:
    x, y = datasets.load_iris(return_X_y=True)
    client.fit(name, x, y, algorithm="logistic_regression", queue=True, load=True, prefer_gpu=True).wait(120)
    version = client.model(name).versions[0]
    assert (version.backend, version.prefer_gpu) == ("onnxruntime", True)
    assert (client.predict(name, x) == y).mean() > 0.9


def test_catboost_serves_categories_by_its_own_file_as_the_library_answers(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    penguins = load_penguins()
    features = penguins.drop(columns="species")
    client.fit(name, penguins, target="species", algorithm="catboost", iterations=40, queue=True, load=True).wait(120)
    version = client.model(name).versions[0]
    assert (version.backend, version.prefer_gpu) == ("fitserve_native", False)
    columns = {column.name: column for column in version.signature.columns}
    assert columns["island"].unknown_category == "MISSING"

    saved = catboost.CatBoost().load_model(str(Path(service.model_dir, name, "1", "model.cbm")))
    answer = client.predict_proba(name, features)
    assert np.abs(answer.probabilities - library_answer(saved, features, columns)).max() <= LIMIT
    assert (answer.predictions == penguins["species"]).mean() > 0.95
    changed = features.assign(island="Atlantis", sex=None)
    strange = client.predict_proba(name, changed)
    assert np.abs(strange.probabilities - library_answer(saved, changed, columns)).max() <= LIMIT


def test_lightgbm_splits_by_categories_in_onnx(client: fitserve.Client, name: str) -> None:
    penguins = load_penguins()
    client.fit(name, penguins, target="species", algorithm="lightgbm", n_estimators=40, queue=True, load=True).wait(120)
    version = client.model(name).versions[0]
    assert version.backend == "onnxruntime"
    columns = {column.name: column for column in version.signature.columns}
    assert (columns["island"].unknown_category, columns["bill_depth_mm"].fill) == ("MISSING", None)
    features = penguins.drop(columns="species")
    assert (client.predict(name, features) == penguins["species"]).mean() > 0.95
    unknown = client.predict_proba(name, features.assign(island="Atlantis")).probabilities
    missing = client.predict_proba(name, features.assign(island=None)).probabilities
    assert np.array_equal(unknown, missing)


def library_answer(saved: catboost.CatBoost, features, columns) -> np.ndarray:
    """Returns what CatBoost answers: numbers first, then each category as the text of its code, -1 for none."""
    texts = [name for name in features if columns[name].kind == "CATEGORY"]
    numbers = features.drop(columns=texts).to_numpy(np.float32)
    codes = [
        [
            str({text: code for code, text in enumerate(columns[name].categories)}.get(value, -1)).encode()
            for value in features[name]
        ]
        for name in texts
    ]
    pool = catboost.FeaturesData(num_feature_data=numbers, cat_feature_data=np.array(codes, object).T.copy())
    return np.asarray(saved.predict(catboost.Pool(pool), prediction_type="Probability"))

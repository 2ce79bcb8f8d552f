"""What Triton's Python-based backends compute, beside the libraries that wrote the files."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from predictors import native
from predictors.files import UnreadableModel
from predictors.forest import FILE_NAMES, Forest, Options

LOADS = {"two classes": load_breast_cancer, "three classes": load_wine, "values": load_diabetes}


def boosted(directory: Path, model_type: str, kind: str) -> tuple[Path, np.ndarray, np.ndarray]:
    """Returns the file of a trained model, rows, and the library's probabilities or values [rows, k]."""
    features, targets = LOADS[kind](return_X_y=True)
    features = features.astype(np.float32)
    file = directory / FILE_NAMES[model_type]
    if model_type == "lightgbm":
        objective = {"two classes": "binary", "three classes": "multiclass", "values": "regression"}[kind]
        parameters = {"objective": objective, "verbosity": -1, "num_threads": 1}
        if kind == "three classes":
            parameters["num_class"] = 3
        trees = lightgbm.train(parameters, lightgbm.Dataset(features, targets), 10)
        trees.save_model(file)
        answer = np.asarray(trees.predict(features))
    else:
        estimator = (xgboost.XGBRegressor if kind == "values" else xgboost.XGBClassifier)(n_estimators=10, n_jobs=1)
        estimator.fit(features, targets)
        estimator.save_model(file)
        answer = estimator.predict(features) if kind == "values" else estimator.predict_proba(features)
    if kind == "two classes" and answer.ndim == 1:
        answer = np.stack([1 - answer, answer], axis=1)
    return file, features, answer.reshape(len(features), -1)


@pytest.mark.parametrize("kind", LOADS)
@pytest.mark.parametrize("model_type", ["xgboost_ubj", "xgboost_json", "lightgbm"])
def test_fil_answers_as_the_library_that_wrote_the_file(tmp_path: Path, model_type: str, kind: str) -> None:
    file, features, expected = boosted(tmp_path, model_type, kind)
    classifies = kind != "values"
    forest = Forest(file, Options(model_type, classifies, classifies, outputs=expected.shape[1]))
    assert np.abs(forest.scores(features) - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


def test_fil_answers_with_classes_where_no_probabilities_are_asked_for(tmp_path: Path) -> None:
    file, features, expected = boosted(tmp_path, "xgboost_ubj", "three classes")
    classes = Forest(file, Options("xgboost_ubj", is_classifier=True)).scores(features)
    assert np.array_equal(classes, expected.argmax(axis=1)[:, None])
    file, features, expected = boosted(tmp_path, "xgboost_ubj", "two classes")
    strict = Forest(file, Options("xgboost_ubj", is_classifier=True, threshold=0.9)).scores(features)
    assert np.array_equal(strict, expected[:, 1:] > 0.9)


def test_fil_gives_one_probability_of_two_classes_where_one_output_is_configured(tmp_path: Path) -> None:
    file, features, expected = boosted(tmp_path, "xgboost_json", "two classes")
    one = Forest(file, Options("xgboost_json", True, True, outputs=1)).scores(features)
    assert np.abs(one - expected[:, 1:]).max() < 1e-6


@pytest.mark.parametrize("model_type", FILE_NAMES)
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path, model_type: str) -> None:
    file = tmp_path / FILE_NAMES[model_type]
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(UnreadableModel, match=f"{file.name} is no model of the type {model_type}"):
        Forest(file, Options(model_type))


def test_a_format_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableModel, match="model_type 'pickle' is not known"):
        Forest(tmp_path / "model.pkl", Options("pickle"))
    with pytest.raises(UnreadableModel, match=r"model\.pkl has a format that is not known"):
        native.open_model(tmp_path / "model.pkl")
    (tmp_path / "model.cbm").write_bytes(b"nothing of the kind")
    with pytest.raises(UnreadableModel, match=r"model\.cbm is no model of CatBoost"):
        native.open_model(tmp_path / "model.cbm")

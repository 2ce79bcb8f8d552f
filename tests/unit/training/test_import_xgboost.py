from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost
from fitserve.v1 import data_pb2, model_pb2, training_job_pb2

from tests.unit.training.importing import import_file, labels
from training.errors import FitError

CHANCE = np.random.default_rng(0)
X = CHANCE.normal(size=(300, 5)).astype(np.float32)
VALUES = np.exp(X[:, 0]) + X[:, 1] ** 2 + 0.1
Y = (X[:, 0] + X[:, 1] > 0).astype(int)
Y3 = np.digitize(X[:, 0], [-0.5, 0.5])
GAPS = np.where(CHANCE.random(X.shape) < 0.2, np.float32(np.nan), X)


def booster(**parameters: object) -> xgboost.Booster:
    objective = str(parameters["objective"])
    targets = Y3 if objective.startswith("multi") else Y if objective.startswith(("binary", "rank")) else VALUES
    if parameters.get("num_class") == 2:
        targets = Y
    rows = xgboost.DMatrix(GAPS, targets, group=[len(X)] if objective.startswith("rank") else None)
    return xgboost.train({"nthread": 1, **parameters}, rows, 12)


def saved(model: xgboost.Booster, form: str = "ubj") -> bytes:
    return bytes(model.save_raw(form))


@pytest.mark.parametrize(
    "parameters",
    [
        {"objective": "reg:squarederror"},
        {"objective": "reg:squarederror", "base_score": 3.5},
        {"objective": "reg:absoluteerror"},
        {"objective": "reg:pseudohubererror"},
        {"objective": "reg:quantileerror", "quantile_alpha": 0.3},
        {"objective": "rank:ndcg"},
        {"objective": "binary:logitraw"},
        {"objective": "count:poisson"},
        {"objective": "reg:gamma"},
        {"objective": "reg:tweedie"},
        {"objective": "binary:logistic"},
        {"objective": "binary:logistic", "base_score": 0.9},
        {"objective": "multi:softprob", "num_class": 3},
        {"objective": "multi:softmax", "num_class": 3},
        {"objective": "multi:softprob", "num_class": 2},
        {"objective": "binary:logistic", "booster": "dart", "rate_drop": 0.5},
        {"objective": "reg:squarederror", "num_parallel_tree": 3, "subsample": 0.5},
    ],
    ids=str,
)
def test_what_is_served_predicts_what_xgboost_predicts(tmp_path: Path, parameters: dict[str, object]) -> None:
    model = booster(**parameters)
    version = import_file(tmp_path, "xgboost", saved(model))
    expected = model.predict(xgboost.DMatrix(GAPS))
    scores = version.scores(GAPS)
    if parameters["objective"] == "multi:softmax":
        assert (scores.argmax(axis=1) == expected).all()
    elif parameters["objective"] == "binary:logistic":
        np.testing.assert_allclose(scores[:, 1], expected, atol=1e-5)
    else:
        np.testing.assert_allclose(scores, expected.reshape(len(X), -1), rtol=1e-5, atol=1e-5)
    assert version.manifest["parity"]["row_count"] > 1000
    assert version.manifest["signature"]["missing_values"]


@pytest.mark.parametrize("form", ["json", "ubj"])
def test_names_of_columns_come_from_the_file_and_labels_are_its_numbers(tmp_path: Path, form: str) -> None:
    rows = xgboost.DMatrix(X, Y3, feature_names=list("abcde"))
    model = xgboost.train({"nthread": 1, "objective": "multi:softprob", "num_class": 3}, rows, 3)
    version = import_file(tmp_path, "xgboost", saved(model, form))
    signature = version.manifest["signature"]
    assert [column["name"] for column in signature["columns"]] == list("abcde")
    assert (signature["classes"], signature["label_kind"]) == ([0, 1, 2], "integer")
    assert version.manifest["imported"]["format"] == "xgboost"
    assert (version.manifest["algorithm"], version.manifest["job"]) == ("", "import-1")


def test_an_estimator_that_stopped_early_predicts_with_its_best_round(tmp_path: Path) -> None:
    model = xgboost.XGBClassifier(n_estimators=200, learning_rate=1.0, early_stopping_rounds=5, nthread=1)
    noise = np.where(CHANCE.random(len(Y)) < 0.3, 1 - Y, Y)
    model.fit(X[:200], noise[:200], eval_set=[(X[200:], noise[200:])], verbose=False)
    assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    model.save_model(tmp_path / "model.ubj")
    version = import_file(tmp_path, "xgboost", (tmp_path / "model.ubj").read_bytes())
    np.testing.assert_allclose(version.scores(X), model.predict_proba(X), atol=1e-5)


def test_labels_may_be_given(tmp_path: Path) -> None:
    signature = model_pb2.Signature(classes=labels("no", "yes"))
    version = import_file(tmp_path, "xgboost", saved(booster(objective="binary:logistic")), signature)
    assert version.manifest["signature"]["classes"] == ["no", "yes"]


@pytest.mark.parametrize(
    ("signature", "field"),
    [
        (model_pb2.Signature(classes=labels("a", "b", "c")), "classes"),
        (model_pb2.Signature(classes=labels("a", "a")), "classes"),
        (model_pb2.Signature(classes=labels("a", 1)), "classes"),
        (model_pb2.Signature(classes=labels(float("nan"), 1)), "classes[0]"),
        (model_pb2.Signature(task=training_job_pb2.TASK_REGRESSION), "task"),
        (model_pb2.Signature(shape=[4]), "shape"),
        (model_pb2.Signature(shape=[0]), "shape"),
        (model_pb2.Signature(columns=[model_pb2.ColumnSpec(name="a")]), "shape"),
        (model_pb2.Signature(columns=[model_pb2.ColumnSpec(name="")] * 5), "columns"),
        (model_pb2.Signature(columns=[model_pb2.ColumnSpec(name="a")] * 5), "columns"),
        (
            model_pb2.Signature(columns=[model_pb2.ColumnSpec(name="a", kind=model_pb2.COLUMN_KIND_CATEGORY)]),
            "columns[0].kind",
        ),
    ],
    ids=str,
)
def test_a_signature_that_contradicts_the_file_is_refused(
    tmp_path: Path, signature: model_pb2.Signature, field: str
) -> None:
    with pytest.raises(FitError) as refused:
        import_file(tmp_path, "xgboost", saved(booster(objective="binary:logistic")), signature)
    assert refused.value.field == f"description.signature.{field}"


def test_a_new_version_keeps_the_signature(tmp_path: Path) -> None:
    content = saved(booster(objective="binary:logistic"))
    names = [model_pb2.ColumnSpec(name=name) for name in "abcde"]
    kept = model_pb2.Signature(
        task=training_job_pb2.TASK_CLASSIFICATION,
        shape=[5],
        columns=names,
        classes=labels("no", "yes"),
        prediction_dtype=data_pb2.DATA_TYPE_BYTES,
    )
    signature = import_file(tmp_path, "xgboost", content, kept=kept).manifest["signature"]
    assert [column["name"] for column in signature["columns"]] == list("abcde")
    for other in (
        model_pb2.Signature(task=training_job_pb2.TASK_REGRESSION, shape=[5]),
        model_pb2.Signature(task=training_job_pb2.TASK_CLASSIFICATION, shape=[4]),
    ):
        with pytest.raises(FitError) as refused:
            import_file(tmp_path, "xgboost", content, kept=other)
        assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")


# Any: a model's JSON, which the damage changes.
def damaged(damage: Callable[[dict[str, Any]], object]) -> bytes:
    model = json.loads(saved(booster(objective="binary:logistic"), "json"))
    damage(model["learner"])
    return json.dumps(model).encode()


def tree(learner: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = learner["gradient_booster"]["model"]["trees"][0]
    return found


@pytest.mark.parametrize(
    "damage",
    [
        lambda learner: tree(learner)["left_children"].__setitem__(1, 0),
        lambda learner: tree(learner)["left_children"].__setitem__(0, 2),
        lambda learner: tree(learner)["left_children"].__setitem__(0, 10_000),
        lambda learner: tree(learner)["split_indices"].__setitem__(0, 5),
        lambda learner: tree(learner)["split_conditions"].__setitem__(-1, np.nan),
        lambda learner: learner["gradient_booster"]["model"]["tree_info"].__setitem__(0, 7),
        lambda learner: learner["learner_model_param"].update(num_feature="0"),
        lambda learner: learner["learner_model_param"].update(num_feature="2000000000"),
        lambda learner: learner["objective"].update(name="multi:softprob"),
        lambda learner: learner.update(gradient_booster=[]),
        lambda learner: learner.clear(),
    ],
)
def test_what_is_no_tree_is_refused(tmp_path: Path, damage: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(FitError) as refused:
        import_file(tmp_path, "xgboost", damaged(damage))
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")
    assert not (tmp_path / "version").exists()


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"objective": "reg:squarederror", "booster": "gblinear"}, "linear booster"),
        ({"objective": "survival:cox"}, "objective"),
    ],
)
def test_what_is_not_served_is_named(tmp_path: Path, parameters: dict[str, object], word: str) -> None:
    with pytest.raises(FitError, match=word) as refused:
        import_file(tmp_path, "xgboost", saved(booster(**parameters)))
    assert refused.value.field == "content"


CODES = np.column_stack([X[:, 0], CHANCE.integers(0, 40, len(X)), CHANCE.integers(0, 4, len(X))]).astype(np.float32)
TYPES = ["q", "c", "c"]
BY_CODES = (CODES[:, 1] * 7 % 5 + CODES[:, 2] + X[:, 0] > 3).astype(int)


def split_by_codes(**parameters: object) -> xgboost.Booster:
    rows = xgboost.DMatrix(CODES, BY_CODES, feature_types=TYPES, enable_categorical=True)
    return xgboost.train({"nthread": 1, "objective": "binary:logistic", **parameters}, rows, 10)


@pytest.mark.parametrize(
    "parameters",
    [{"max_cat_to_onehot": 1}, {"max_cat_to_onehot": 100}, {"max_cat_to_onehot": 1, "max_cat_threshold": 100}],
    ids=str,
)
def test_sets_of_codes_are_served_with_codes_that_are_in_none(tmp_path: Path, parameters: dict[str, object]) -> None:
    model = split_by_codes(**parameters)
    assert tree(json.loads(saved(model, "json"))["learner"])["categories_nodes"]
    version = import_file(tmp_path, "xgboost", saved(model))
    odd = CODES.copy()
    odd[::7, 1], odd[1::7, 1], odd[2::7, 2], odd[3::7, 1] = 99, np.nan, -1, 2**20
    expected = model.predict(xgboost.DMatrix(odd, feature_types=TYPES, enable_categorical=True))
    np.testing.assert_allclose(version.scores(odd)[:, 1], expected, atol=1e-5)
    assert version.manifest["backend"] == "onnxruntime"


def test_categories_of_a_data_frame_are_served_by_their_codes(tmp_path: Path) -> None:
    names = np.array([f"kind {code:02d}" for code in range(40)])
    frame = pd.DataFrame({"size": CODES[:, 0], "kind": pd.Categorical(names[CODES[:, 1].astype(int)], names)})
    model = xgboost.XGBClassifier(n_estimators=10, enable_categorical=True, max_cat_to_onehot=1, n_jobs=1)
    model.fit(frame, BY_CODES)
    version = import_file(tmp_path, "xgboost", saved(model.get_booster()))
    np.testing.assert_allclose(version.scores(CODES[:, :2]), model.predict_proba(frame), atol=1e-5)
    assert [column["name"] for column in version.manifest["signature"]["columns"]] == ["size", "kind"]


# Other damage ends the process in XGBoost itself, which is the caller's fault too.
def test_codes_that_xgboost_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    model = json.loads(saved(split_by_codes(max_cat_to_onehot=1), "json"))
    tree(model["learner"])["categories"][0] = 2**24
    with pytest.raises(FitError) as refused:
        import_file(tmp_path, "xgboost", json.dumps(model).encode())
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import catboost
import lightgbm
import numpy as np
import pytest

from tests.unit.training.importing import import_file
from training.errors import FitError

CHANCE = np.random.default_rng(0)
X = CHANCE.normal(size=(400, 5)).astype(np.float32)
VALUES = np.exp(X[:, 0]) + X[:, 1] ** 2 + 0.1
Y = (X[:, 0] + X[:, 1] > 0).astype(int)
Y3 = np.digitize(X[:, 0], [-0.5, 0.5])
GAPS = np.where(CHANCE.random(X.shape) < 0.2, np.float32(np.nan), X)
CODES = np.column_stack([X, (Y * 7 + CHANCE.integers(0, 25, len(X))) % 40]).astype(np.float32)


def text_of(parameters: dict[str, object], features: np.ndarray = GAPS, **data: object) -> tuple[lightgbm.Booster, str]:
    objective = str(parameters["objective"])
    targets = Y3 if objective.startswith("multi") else Y if objective in ("binary", "lambdarank") else VALUES
    group = [100] * 4 if objective == "lambdarank" else None
    rows = lightgbm.Dataset(features, targets, group=group, **data)
    model = lightgbm.train({"num_threads": 1, "verbosity": -1, "min_data_in_leaf": 5, **parameters}, rows, 8)
    return model, model.model_to_string()


@pytest.mark.parametrize(
    "parameters",
    [
        {"objective": "regression"},
        {"objective": "regression_l1"},
        {"objective": "quantile", "alpha": 0.3},
        {"objective": "poisson"},
        {"objective": "gamma"},
        {"objective": "tweedie"},
        {"objective": "lambdarank"},
        {"objective": "binary"},
        {"objective": "binary", "sigmoid": 0.7},
        {"objective": "binary", "is_unbalance": True},
        {"objective": "multiclass", "num_class": 3},
        {"objective": "regression", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
        {"objective": "binary", "boosting": "dart"},
        {"objective": "regression", "use_missing": False},
    ],
    ids=str,
)
def test_what_is_served_predicts_what_lightgbm_predicts(tmp_path: Path, parameters: dict[str, object]) -> None:
    model, text = text_of(parameters)
    version = import_file(tmp_path, "lightgbm", text.encode())
    expected = model.predict(GAPS)
    scores = version.scores(GAPS)
    if parameters["objective"] == "binary":
        scores = scores[:, 1]
    np.testing.assert_allclose(scores, expected.reshape(scores.shape), rtol=1e-5, atol=1e-5)


def test_sets_of_codes_are_served_and_names_of_columns_come_from_the_file(tmp_path: Path) -> None:
    model, text = text_of(
        {"objective": "binary", "min_data_per_group": 2, "cat_smooth": 1, "cat_l2": 0, "max_cat_to_onehot": 1},
        CODES,
        categorical_feature=[5],
        feature_name=["a", "b", "c", "d", "e", "kind"],
    )
    assert any(int(count) for count in re.findall(r"num_cat=(\d+)", text))
    version = import_file(tmp_path, "lightgbm", text.encode())
    odd = CODES.copy()
    odd[::7, 5], odd[1::7, 5], odd[2::7, 5] = 99, np.nan, -1
    np.testing.assert_allclose(version.scores(odd)[:, 1], model.predict(odd), atol=1e-5)
    assert version.manifest["signature"]["columns"][5]["name"] == "kind"


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"objective": "regression", "reg_sqrt": True}, "sqrt"),
        ({"objective": "multiclassova", "num_class": 3}, "objective"),
        ({"objective": "regression", "zero_as_missing": True}, "zero_as_missing"),
        ({"objective": "regression", "linear_tree": True}, "linear"),
    ],
    ids=str,
)
def test_what_of_lightgbm_is_not_served_is_named(tmp_path: Path, parameters: dict[str, object], word: str) -> None:
    features = np.where(CHANCE.random(X.shape) < 0.2, 0, X) if "zero_as_missing" in parameters else X
    with pytest.raises(FitError, match=word) as refused:
        import_file(tmp_path, "lightgbm", text_of(parameters, features)[1].encode())
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("left_child", "0"),
        ("left_child", "1000"),
        ("right_child", "-1000"),
        ("split_feature", "5"),
        ("leaf_value", "x"),
        ("num_leaves", "0"),
        ("num_leaves", "1000000000"),
    ],
)
def test_what_is_no_tree_of_lightgbm_is_refused(tmp_path: Path, line: str, value: str) -> None:
    _, text = text_of({"objective": "binary"})
    before, after = text.split(f"\n{line}=", 1)
    words, rest = after.split("\n", 1)
    changed = " ".join([value, *words.split(" ")[1:]])
    with pytest.raises(FitError) as refused:
        import_file(tmp_path, "lightgbm", f"{before}\n{line}={changed}\n{rest}".encode())
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")
    assert not (tmp_path / "version").exists()


@pytest.mark.parametrize(
    ("line", "change"),
    [
        ("cat_boundaries", lambda words: ["-9", *words[1:]]),
        ("cat_boundaries", lambda words: [*words[:-1], "99999999"]),
        ("cat_boundaries", lambda words: words[:1]),
        ("cat_threshold", lambda words: words[:1]),
        ("cat_threshold", lambda words: ["-1", *words[1:]]),
        ("cat_threshold", lambda words: ["4294967296", *words[1:]]),
        ("threshold", lambda words: ["9999999" if word == "0" else word for word in words]),
        ("threshold", lambda words: ["-3" if word == "0" else word for word in words]),
    ],
)
def test_sets_of_codes_that_are_none_are_refused(
    tmp_path: Path, line: str, change: Callable[[list[str]], list[str]]
) -> None:
    options = {"objective": "binary", "min_data_per_group": 2, "cat_smooth": 1, "cat_l2": 0, "max_cat_to_onehot": 1}
    _, text = text_of(options, CODES, categorical_feature=[5])
    text = re.sub(r"\ntree_sizes=.*", "", text)  # or LightGBM would stumble over the lengths before
    start, end = next(
        found.span(1)
        for found in re.finditer(rf"\n{line}=(.*)", text)
        if line != "threshold" or "0" in found.group(1).split()
    )
    changed = text[:start] + " ".join(change(text[start:end].split())) + text[end:]
    with pytest.raises(FitError) as refused:
        import_file(tmp_path, "lightgbm", changed.encode())
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")


@pytest.mark.parametrize(("line", "value"), [("leaf_value", "nan"), ("leaf_value", "inf"), ("threshold", "nan")])
def test_what_is_no_number_in_a_tree_is_refused(tmp_path: Path, line: str, value: str) -> None:
    _, text = text_of({"objective": "binary"})
    text = re.sub(r"\ntree_sizes=.*", "", text)
    with pytest.raises(FitError, match="number") as refused:
        import_file(tmp_path, "lightgbm", re.sub(rf"\n{line}=\S+", f"\n{line}={value}", text, count=1).encode())
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")


def cbm_of(
    directory: Path, targets: object, features: object = GAPS, **parameters: object
) -> tuple[catboost.CatBoost, bytes]:
    options = {"iterations": 8, "thread_count": 1, "allow_writing_files": False, "logging_level": "Silent"}
    cat_features = parameters.pop("cat_features", None)
    model = catboost.CatBoost({**options, **parameters}).fit(features, targets, cat_features=cat_features)
    model.save_model(str(directory / "model.cbm"))
    return model, (directory / "model.cbm").read_bytes()


@pytest.mark.parametrize(
    ("parameters", "kind"),
    [
        ({"loss_function": "RMSE"}, "RawFormulaVal"),
        ({"loss_function": "RMSE", "grow_policy": "Lossguide"}, "RawFormulaVal"),
        ({"loss_function": "Quantile:alpha=0.3"}, "RawFormulaVal"),
        ({"loss_function": "MAE", "nan_mode": "Max"}, "RawFormulaVal"),
        ({"loss_function": "Poisson"}, "Exponent"),
        ({"loss_function": "Tweedie:variance_power=1.5"}, "Exponent"),
        ({"loss_function": "Logloss"}, "Probability"),
        ({"loss_function": "MultiClass"}, "Probability"),
    ],
    ids=str,
)
def test_what_is_served_predicts_what_catboost_predicts(
    tmp_path: Path, parameters: dict[str, object], kind: str
) -> None:
    targets = {"Logloss": np.array(["no", "yes"])[Y], "MultiClass": Y3 + 5}.get(
        str(parameters["loss_function"]), VALUES
    )
    model, content = cbm_of(tmp_path, targets, **parameters)
    version = import_file(tmp_path, "catboost", content)
    expected = model.predict(GAPS, prediction_type=kind).reshape(len(X), -1)
    np.testing.assert_allclose(version.scores(GAPS), expected, rtol=1e-5, atol=1e-5)
    labels = {"Logloss": ["no", "yes"], "MultiClass": [5, 6, 7]}.get(str(parameters["loss_function"]), [])
    assert version.manifest["signature"]["classes"] == labels


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"loss_function": "MultiClassOneVsAll", "targets": Y3}, "MultiClassOneVsAll"),
        ({"loss_function": "RMSEWithUncertainty"}, "RMSEWithUncertainty"),
    ],
)
def test_what_of_catboost_is_not_served_is_named(tmp_path: Path, parameters: dict[str, object], word: str) -> None:
    targets = parameters.pop("targets", VALUES)
    _, content = cbm_of(tmp_path, targets, **parameters)
    with pytest.raises(FitError, match=word) as refused:
        import_file(tmp_path, "catboost", content)
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")


@pytest.mark.parametrize("format", ["lightgbm", "catboost"])
def test_a_file_of_another_format_is_refused(tmp_path: Path, format: str) -> None:
    for content in (b"\x80\x04K\x00.", b"tree\n", bytes(1000), b"CBM1" + bytes(1000)):
        with pytest.raises(FitError) as refused:
            import_file(tmp_path, format, content)
        assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")

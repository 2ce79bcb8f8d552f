from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import skops.io
from sklearn import (
    base,
    calibration,
    ensemble,
    feature_selection,
    gaussian_process,
    linear_model,
    naive_bayes,
    neighbors,
    pipeline,
    preprocessing,
    svm,
    tree,
)

from tests.unit.training.importing import import_file
from training.errors import FitError

CHANCE = np.random.default_rng(0)
X = CHANCE.normal(size=(300, 5))
VALUES = np.exp(X[:, 0]) + X[:, 1] ** 2
Y = np.array(["no", "yes"])[(X[:, 0] + X[:, 1] > 0).astype(int)]
Y3 = np.digitize(X[:, 0], [-0.5, 0.5]) + 5
ROWS = X.astype(np.float32)


class Shell(base.BaseEstimator):
    """A type of no library of models."""


def scaled(last: object) -> pipeline.Pipeline:
    return pipeline.make_pipeline(preprocessing.StandardScaler(), last)


# Any: scikit-learn has no types for its estimators.
def check(directory: Path, estimator: Any, targets: object, backend: str) -> dict[str, Any]:
    """Imports an estimator and compares what is served with what it predicts; returns the manifest."""
    estimator.fit(X, targets)
    content = skops.io.dumps(estimator)
    trusted = tuple(skops.io.get_untrusted_types(data=content))
    version = import_file(directory, "skops", content, trusted_types=trusted)
    assert version.manifest["backend"] == backend
    assert version.manifest["parity"]["row_count"] == 1000
    if backend == "onnxruntime":
        expected = estimator.predict_proba(ROWS) if base.is_classifier(estimator) else estimator.predict(ROWS)
        np.testing.assert_allclose(version.scores(ROWS), expected.reshape(len(X), -1), rtol=1e-5, atol=1e-5)
    return version.manifest


@pytest.mark.parametrize(
    "estimator",
    [
        ensemble.RandomForestClassifier(8),
        ensemble.ExtraTreesClassifier(8, max_depth=4),
        tree.DecisionTreeClassifier(),
        linear_model.LogisticRegression(),
        scaled(linear_model.LogisticRegression(C=0.1)),
        pipeline.make_pipeline(preprocessing.StandardScaler(with_mean=False), linear_model.LogisticRegression()),
    ],
    ids=str,
)
@pytest.mark.parametrize("targets", [Y, Y3], ids=["two", "three"])
def test_classifiers_of_our_families_become_onnx(tmp_path: Path, estimator: object, targets: np.ndarray) -> None:
    manifest = check(tmp_path, estimator, targets, "onnxruntime")
    assert manifest["signature"]["classes"] == np.unique(targets).tolist()


@pytest.mark.parametrize(
    "estimator",
    [
        ensemble.RandomForestRegressor(8),
        ensemble.ExtraTreesRegressor(8),
        tree.DecisionTreeRegressor(),
        linear_model.LinearRegression(),
        scaled(linear_model.Ridge()),
        scaled(linear_model.Lasso(0.1)),
        linear_model.ElasticNet(0.1),
        linear_model.BayesianRidge(),
    ],
    ids=str,
)
def test_regressors_of_our_families_become_onnx(tmp_path: Path, estimator: object) -> None:
    assert check(tmp_path, estimator, VALUES, "onnxruntime")["task"] == "regression"


@pytest.mark.parametrize(
    ("estimator", "targets"),
    [
        (naive_bayes.GaussianNB(), Y),
        (neighbors.KNeighborsRegressor(), VALUES),
        (svm.SVR(), VALUES),
        (gaussian_process.GaussianProcessClassifier(), Y),
        (calibration.CalibratedClassifierCV(naive_bayes.GaussianNB(), cv=2), Y),
        (pipeline.make_pipeline(feature_selection.SelectKBest(k=2), linear_model.LogisticRegression()), Y),
        (pipeline.make_pipeline(preprocessing.PolynomialFeatures(), linear_model.Ridge()), VALUES),
        (ensemble.GradientBoostingClassifier(n_estimators=5), Y3),
        (ensemble.HistGradientBoostingClassifier(max_iter=5), Y3),
        (
            ensemble.VotingClassifier(
                [("a", naive_bayes.GaussianNB()), ("b", linear_model.LogisticRegression())], voting="soft"
            ),
            Y,
        ),
    ],
    ids=[
        "naive Bayes",
        "neighbours",
        "machine",
        "process",
        "calibrated",
        "selected",
        "pipeline",
        "boosting",
        "histograms",
        "voting",
    ],
)
def test_everything_else_is_served_by_scikit_learn_itself(tmp_path: Path, estimator: object, targets: object) -> None:
    check(tmp_path, estimator, targets, "fitserve_native")


def test_no_number_of_jobs_in_a_file_starts_processes(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    bagging = ensemble.BaggingClassifier(naive_bayes.GaussianNB(), 4).fit(X, Y).set_params(n_jobs=3)
    import_file(tmp_path, "skops", skops.io.dumps(bagging))
    assert set(psutil.Process().children(recursive=True)) <= before


def test_types_that_are_not_trusted_are_named(tmp_path: Path) -> None:
    content = skops.io.dumps(ensemble.HistGradientBoostingClassifier(max_iter=2).fit(X, Y3))
    strange = skops.io.get_untrusted_types(data=content)
    assert strange
    with pytest.raises(FitError) as refused:
        import_file(tmp_path, "skops", content)
    assert refused.value.field == "description.trusted_types"
    assert all(name in refused.value.message for name in strange)


def test_no_caller_can_have_other_types_loaded(tmp_path: Path) -> None:
    content = skops.io.dumps(Shell())
    (strange,) = skops.io.get_untrusted_types(data=content)
    with pytest.raises(FitError, match="never loaded") as refused:
        import_file(tmp_path, "skops", content, trusted_types=(strange,))
    assert refused.value.field == "description.trusted_types"


def test_a_file_that_names_a_function_runs_nothing(tmp_path: Path) -> None:
    content = skops.io.dumps(preprocessing.FunctionTransformer(np.sqrt).fit(X))
    parts = {
        name: zipfile.ZipFile(io.BytesIO(content)).read(name)
        for name in zipfile.ZipFile(io.BytesIO(content)).namelist()
    }
    parts["schema.json"] = parts["schema.json"].replace(b'"sqrt"', b'"system"').replace(b'"numpy"', b'"os"')
    assert b'"os"' in parts["schema.json"]
    with pytest.raises(FitError) as refused:
        import_file(tmp_path, "skops", packed(parts), trusted_types=("os.system", "posix.system"))
    assert refused.value.reason == "INVALID_FIELD"


def reduced(module: str, name: str, *arguments: object, loader: str = "ConstructorFromReduceNode") -> bytes:
    """Returns a file in which a name is to be called with arguments."""
    values = [
        {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": json.dumps(value)}
        for value in arguments
    ]
    called = {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": values}
    node = {"__class__": name, "__module__": module, "__loader__": loader, "content": called}
    return packed({"schema.json": json.dumps({**node, "protocol": 2}).encode()})


@pytest.mark.parametrize(
    ("module", "name"), [("numpy.testing", "runstring"), ("numpy", "memmap"), ("scipy.io", "savemat")], ids=str
)
def test_what_a_library_of_models_has_beside_models_is_never_called(tmp_path: Path, module: str, name: str) -> None:
    written = tmp_path / "written"
    arguments = {
        "runstring": (f"open({str(written)!r}, 'w').close()", {}),
        "memmap": (str(written), "uint8", "w+", 0, [8]),
        "savemat": (str(written), {}),
    }[name]
    content = reduced(module, name, *arguments)
    assert skops.io.get_untrusted_types(data=content) == [f"{module}.{name}"]
    with pytest.raises(FitError, match="never loaded") as refused:
        import_file(tmp_path, "skops", content, trusted_types=(f"{module}.{name}",))
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "description.trusted_types")
    assert not list(tmp_path.glob("written*"))


@pytest.mark.parametrize("loader", ["ConstructorFromReduceNode", "TypeNode"])
def test_a_type_that_may_be_trusted_is_read_only_as_skops_writes_it(tmp_path: Path, loader: str) -> None:
    content = reduced("sklearn.neighbors._kd_tree", "KDTree", loader=loader)
    with pytest.raises(FitError, match="never loaded") as refused:
        import_file(tmp_path, "skops", content, trusted_types=("sklearn.neighbors._kd_tree.KDTree",))
    assert refused.value.field == "description.trusted_types"


def packed(parts: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("estimator", "word"),
    [
        (preprocessing.StandardScaler().fit(X), "neither"),
        (svm.LinearSVC().fit(X, Y), "predict_proba"),
        (linear_model.LinearRegression(), "damaged"),
        (linear_model.LinearRegression().fit(X, np.column_stack([VALUES, VALUES])), "2 values"),
        ([1, 2, 3], "no estimator"),
    ],
    ids=str,
)
def test_what_is_not_served_is_named(tmp_path: Path, estimator: object, word: str) -> None:
    with pytest.raises(FitError, match=word) as refused:
        import_file(tmp_path, "skops", skops.io.dumps(estimator))
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")


def test_a_pickle_and_other_files_are_refused(tmp_path: Path) -> None:
    whole = skops.io.dumps(linear_model.LinearRegression().fit(X, VALUES))
    pickled = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
    others = [pickled, b"PK\x03\x04", bytes(1000), packed({"schema.json": b"{" * 100_000}), packed({"other": b""})]
    cut = [whole[: int(len(whole) * share)] for share in (0.1, 0.5, 0.99)]
    for content in (*others, *cut):
        with pytest.raises(FitError) as refused:
            import_file(tmp_path, "skops", content)
        assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")
    assert not (tmp_path / "version").exists()


def test_numbers_of_another_type_than_the_estimator_has_are_refused(tmp_path: Path) -> None:
    model = linear_model.LinearRegression().fit(X, VALUES)
    model.coef_ = model.coef_.astype(np.complex128)
    with pytest.raises(FitError) as refused:
        import_file(tmp_path, "skops", skops.io.dumps(model))
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(40):
            archive.writestr(f"{number}.npy", bytes(2**20))
    assert len(bomb.getvalue()) < 2**18
    with pytest.raises(FitError, match="unpacked") as refused:
        import_file(tmp_path, "skops", bomb.getvalue(), memory_limit_bytes=2**25)
    assert refused.value.field == "content"

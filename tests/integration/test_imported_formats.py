"""Imported models of every format in a real Triton: what comes back is what their libraries predict."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import catboost
import fitserve
import lightgbm
import numpy as np
import pytest
import skops.io
import torch
from fitserve import errors
from numpy.typing import NDArray
from sklearn import linear_model, naive_bayes, pipeline, preprocessing
from sklearn.datasets import load_iris

from service.settings import ROOT
from tests.conftest import StartService

X, Y = load_iris(return_X_y=True)
ROWS = X.astype(np.float32)
SPECIES = np.array(["setosa", "versicolor", "virginica"])
HAS_TORCH = bool(list((ROOT / ".venv-triton").glob("lib/python*/site-packages/torch")))
Expected = NDArray[np.float64]


def of_lightgbm(directory: Path) -> tuple[bytes, Expected]:
    options = {"objective": "multiclass", "num_class": 3, "verbosity": -1, "num_threads": 1}
    model = lightgbm.train(options, lightgbm.Dataset(X, Y), 5)
    return model.model_to_string().encode(), np.asarray(model.predict(ROWS))


def of_catboost(directory: Path) -> tuple[bytes, Expected]:
    model = catboost.CatBoostClassifier(iterations=5, thread_count=1, allow_writing_files=False, logging_level="Silent")
    model.fit(X, SPECIES[Y])
    model.save_model(str(directory / "model.cbm"))
    return (directory / "model.cbm").read_bytes(), model.predict_proba(ROWS)


def of_logistic_regression(directory: Path) -> tuple[bytes, Expected]:
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression()).fit(X, SPECIES[Y])
    return skops.io.dumps(model), model.predict_proba(X)


def of_naive_bayes(directory: Path) -> tuple[bytes, Expected]:
    model = naive_bayes.GaussianNB().fit(X, SPECIES[Y])
    return skops.io.dumps(model), model.predict_proba(ROWS.astype(np.float64))


def of_torch(directory: Path) -> tuple[bytes, Expected]:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Softmax(1)).eval()
    content = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(module), content)
    return content.getvalue(), module(torch.from_numpy(ROWS)).detach().numpy()


@pytest.mark.parametrize(
    ("make", "format", "said", "backend"),
    [
        (of_lightgbm, "lightgbm", {"classes": SPECIES}, "onnxruntime"),
        (of_catboost, "catboost", {}, "onnxruntime"),
        (of_logistic_regression, "skops", {}, "onnxruntime"),
        (of_naive_bayes, "skops", {}, "fitserve_native"),
    ],
)
def test_an_imported_model_answers_as_its_library_does(
    client: fitserve.Client,
    name: str,
    tmp_path: Path,
    make: Callable[[Path], tuple[bytes, Expected]],
    format: str,
    said: dict[str, object],
    backend: str,
) -> None:
    content, expected = make(tmp_path)
    model = client.import_model(name, content, format=format, load=True, **said)  # type: ignore[arg-type]
    assert model.versions[0].backend == backend
    answer = client.predict_proba(name, ROWS)
    np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)
    assert (answer.predictions == SPECIES[expected.argmax(axis=1)]).all()
    client.remove(name, force=True)


def test_torchscript_is_served_where_there_is_a_torch_and_told_how_where_there_is_none(
    start_service: StartService, tmp_path: Path
) -> None:
    service = start_service(IMPORT_TORCHSCRIPT="true")
    content, expected = of_torch(tmp_path)
    with fitserve.Client(service.address) as client:
        client.import_model("net", content, format="torchscript", classes=SPECIES, shape=[4])
        if not HAS_TORCH:
            with pytest.raises(errors.FailedPrecondition, match="make setup TRITON_TORCH=1") as refused:
                client.load("net")
            assert refused.value.reason == "LOAD_FAILED"
            return
        client.load("net")
        answer = client.predict_proba("net", ROWS)
        np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)
        assert (answer.predictions == SPECIES[expected.argmax(axis=1)]).all()

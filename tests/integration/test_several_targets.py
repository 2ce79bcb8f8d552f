"""Regression of several values a row, from Fit to Predict."""

from __future__ import annotations

import fitserve
import numpy as np
import pandas as pd
import pytest
from fitserve import errors
from fitserve.v1 import data_pb2
from google.protobuf import struct_pb2
from sklearn.datasets import load_linnerud
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import StandardScaler

from tests.service_process import ServiceProcess
from training.data import Rows, split

X, Y = load_linnerud(return_X_y=True)
X = X.astype(np.float32)
NAMES = ["weight", "waist", "pulse"]


def own_answer() -> np.ndarray:
    """Returns what scikit-learn predicts, trained on the rows that the service trains on."""
    train, _ = split(Rows(X, Y), False, 0.2, 0)
    scaler = StandardScaler().fit(train.features)
    return LinearRegression().fit(scaler.transform(train.features), train.targets).predict(scaler.transform(X))


def test_a_matrix_with_several_targets_is_answered_with_as_many_values(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    client.fit(name, X, Y, algorithm="linear", queue=True, load=True).wait(120)
    values = client.predict(name, X)
    assert values.shape == Y.shape
    assert np.abs(values - own_answer()).max() < 1e-5 * np.abs(Y).max()
    assert client.model(name).versions[0].signature.targets == ("y0", "y1", "y2")

    lists = [struct_pb2.ListValue(values=[struct_pb2.Value(number_value=float(v)) for v in row]) for row in X[:2]]
    assert np.allclose(client.predict(name, data_pb2.Inputs(rows=lists)), values[:2])


@pytest.mark.parametrize("algorithm", ["ridge", "xgboost", "catboost", "random_forest", "knn", "torch_mlp"])
def test_columns_that_are_named_are_learned_at_once(client: fitserve.Client, name: str, algorithm: str) -> None:
    frame = pd.DataFrame(np.hstack([X, Y]), columns=["chins", "situps", "jumps", *NAMES])
    frame["group"] = np.where(frame["weight"] > 180, "heavy", "light")
    client.fit(name, frame, target=NAMES, algorithm=algorithm, queue=True, load=True).wait(120)
    version = client.model(name).versions[0]
    assert version.signature.targets == tuple(NAMES)
    assert {column.name for column in version.signature.columns} == {"chins", "situps", "jumps", "group"}
    values = client.predict(name, frame.drop(columns=NAMES))
    assert values.shape == (len(frame), 3)
    assert np.abs(values.mean(axis=0) / Y.mean(axis=0) - 1).max() < 0.2


def test_uploaded_data_may_have_several_targets(client: fitserve.Client, name: str) -> None:
    uploaded = client.upload_dataset(X, Y, chunk_rows=7)
    assert uploaded.has_targets
    assert uploaded.columns == ()
    client.fit(name, dataset=uploaded.digest, algorithm="linear", queue=True, load=True).wait(120)
    assert np.abs(client.predict(name, X) - own_answer()).max() < 1e-5 * np.abs(Y).max()
    client.delete_dataset(uploaded.digest)


def test_what_cannot_be_learned_at_once_is_refused_and_named(client: fitserve.Client, name: str) -> None:
    frame = pd.DataFrame(np.hstack([X, Y]), columns=["chins", "situps", "jumps", *NAMES])
    with pytest.raises(errors.InvalidArgument, match="svm learns one value a row"):
        client.fit(name, X, Y, algorithm="svm")
    with pytest.raises(errors.InvalidArgument, match="no column 'wiest'; did you mean 'waist'"):
        client.fit(name, frame, target=["weight", "wiest"], algorithm="ridge")
    with pytest.raises(errors.InvalidArgument, match="'weight' is named twice"):
        client.fit(name, frame, target=["weight", "weight"], algorithm="ridge")
    with pytest.raises(errors.InvalidArgument, match="give that in target"):
        client.fit(name, frame, target=["weight"], algorithm="ridge")
    with pytest.raises(errors.InvalidArgument, match="several targets are learned as numbers"):
        client.fit(name, X, Y, algorithm="knn", task="classification")
    with pytest.raises(TypeError, match=r"target=\[\.\.\.\]"):
        client.fit(name, frame[["chins"]], Y, algorithm="ridge")

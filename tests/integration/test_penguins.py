"""Penguins, with an island and a sex in texts and with gaps, from Fit to Predict, beside scikit-learn's own pipelines."""

from __future__ import annotations

from collections.abc import Iterator

import fitserve
import grpc
import numpy as np
import pandas as pd
import pytest
import xgboost
from fitserve import errors
from fitserve.v1 import (
    data_pb2,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
    training_service_pb2,
    training_service_pb2_grpc,
)
from google.protobuf import json_format, struct_pb2
from palmerpenguins import load_penguins
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.service_process import ServiceProcess
from training.data import Rows, split

PENGUINS = load_penguins()
TEXTS = ["island", "sex"]
NUMBERS = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g", "year"]
HELD_OUT = np.arange(len(PENGUINS)) % 3 == 0
SENT, UNSEEN = PENGUINS[~HELD_OUT], PENGUINS[HELD_OUT]
SPECIES = sorted(PENGUINS["species"].unique())
ALGORITHMS = {
    "logistic_regression": {},
    "random_forest": {"n_estimators": 50},
    "hist_gradient_boosting": {"max_iter": 30},
    "xgboost": {"n_estimators": 30},
    "torch_mlp": {"epochs": 60},
}


@pytest.fixture(scope="module", params=ALGORITHMS)
def trained(request: pytest.FixtureRequest, service: ServiceProcess) -> Iterator[tuple[str, str]]:
    """The algorithm, and a loaded model that it trained on the data frame."""
    algorithm, name = request.param, f"penguins-{request.param}"
    with fitserve.Client(service.address) as client:
        job = client.fit(
            name, SENT, target="species", algorithm=algorithm, queue=True, load=True, **ALGORITHMS[algorithm]
        )
        job.wait(120)
        yield algorithm, name
        client.remove(name, force=True)


def trained_on() -> pd.DataFrame:
    """Returns the rows that a Fit with the default seed trains on, in its order; the others it holds out."""
    targets = SENT["species"].map(SPECIES.index).to_numpy()
    places = Rows(np.arange(len(SENT), dtype=np.float32)[:, None], targets)
    train, _ = split(places, True, 0.2, 0)
    return SENT.iloc[train.features[:, 0].astype(int)]


# Any pipeline of scikit-learn, or of a library that is like it.
def pipeline_of(algorithm: str):
    """Returns what somebody would write without FitServe."""
    in_order = {"sparse_output": False, "handle_unknown": "ignore"}
    encoded = make_column_transformer(
        (SimpleImputer(strategy="median"), NUMBERS), (OneHotEncoder(**in_order), TEXTS), n_jobs=1
    )
    match algorithm:
        case "logistic_regression":
            return make_pipeline(encoded, StandardScaler(), LogisticRegression(max_iter=1000))
        case "random_forest":
            return make_pipeline(encoded, RandomForestClassifier(50, random_state=0))
        case "hist_gradient_boosting":
            return HistGradientBoostingClassifier(max_iter=30, categorical_features="from_dtype", early_stopping=False)
        case "xgboost":
            return xgboost.XGBClassifier(n_estimators=30, enable_categorical=True, tree_method="hist", n_jobs=1)
    return make_pipeline(encoded, StandardScaler(), LogisticRegression(max_iter=1000))


def as_categories(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype({name: pd.CategoricalDtype(sorted(PENGUINS[name].dropna().unique())) for name in TEXTS})


def pipelines_answer(algorithm: str, frame: pd.DataFrame) -> np.ndarray:
    """Returns the probabilities of a pipeline that was trained on the rows that the service trains on."""
    train, features = trained_on(), [*PENGUINS.columns.drop("species")]
    native = algorithm in ("hist_gradient_boosting", "xgboost")
    prepare = as_categories if native else lambda given: given
    pipeline = pipeline_of(algorithm)
    pipeline.fit(prepare(train[features]), train["species"].map(SPECIES.index))
    return pipeline.predict_proba(prepare(frame[features]))


def test_held_out_penguins_are_named_as_by_a_pipeline_of_ones_own(
    client: fitserve.Client, trained: tuple[str, str]
) -> None:
    algorithm, name = trained
    answer = client.predict_proba(name, UNSEEN.drop(columns="species"))
    own = pipelines_answer(algorithm, UNSEEN)
    right = {
        "served": (answer.predictions == UNSEEN["species"]).mean(),
        "own": (own.argmax(axis=1) == UNSEEN["species"].map(SPECIES.index)).mean(),
    }
    assert min(right.values()) > 0.95
    assert right["served"] >= right["own"] - 0.02
    if algorithm in ("logistic_regression", "hist_gradient_boosting", "xgboost"):
        # These draw nothing at random, so the same preparation is the same model.
        assert np.abs(answer.probabilities - own).max() < 1e-5


def test_the_signature_shows_what_the_columns_are(client: fitserve.Client, trained: tuple[str, str]) -> None:
    algorithm, name = trained
    version = client.model(name).versions[0]
    columns = {column.name: column for column in version.signature.columns}
    native = algorithm in ("hist_gradient_boosting", "xgboost")
    assert version.signature.missing_values
    assert columns["island"].categories == ("Biscoe", "Dream", "Torgersen")
    assert (columns["island"].kind, columns["island"].missing_values) == ("CATEGORY", False)
    assert (columns["sex"].category_count, columns["sex"].missing_values) == (2, True)
    assert {columns[text].unknown_category for text in TEXTS} == {"MISSING" if native else "NONE"}
    assert columns["bill_depth_mm"].kind == "NUMBER"
    assert columns["year"].kind == "INTEGER"
    median = trained_on()["body_mass_g"].median()
    assert columns["body_mass_g"].fill == (None if native else median)
    # The held-out part once as it is, once with gaps, once with categories that no model knows.
    assert version.parity.row_count == 3 * version.validation_row_count
    assert version.parity.max_difference <= version.parity.tolerance


def records_of(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Returns a data frame as records, with None where a value is missing."""
    return [
        {name: None if pd.isna(value) else value for name, value in row.items()} for row in frame.to_dict("records")
    ]


def structs(frame: pd.DataFrame) -> list[struct_pb2.Struct]:
    return [json_format.ParseDict(record, struct_pb2.Struct()) for record in records_of(frame)]


def test_records_and_tables_in_any_order_have_one_answer(
    service: ServiceProcess, client: fitserve.Client, trained: tuple[str, str]
) -> None:
    _, name = trained
    frame = UNSEEN.drop(columns="species")
    expected = client.predict_proba(name, frame).probabilities
    turned = frame[frame.columns[::-1]]
    forms = (turned, turned.to_dict("list"), records_of(turned), as_categories(frame), frame.convert_dtypes())
    for form in forms:
        assert np.array_equal(client.predict_proba(name, form).probabilities, expected)
    with grpc.insecure_channel(service.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        inputs = data_pb2.Inputs(records=structs(turned))
        reply = stub.Predict(
            prediction_service_pb2.PredictRequest(model=name, inputs=inputs, include_probabilities=True)
        )
    given = [[value.number_value for value in row.values] for row in reply.probabilities]
    assert np.abs(np.array(given) - expected).max() < 1e-7


def test_an_unknown_island_follows_the_rule_of_the_signature(client: fitserve.Client, trained: tuple[str, str]) -> None:
    algorithm, name = trained
    frame = UNSEEN.drop(columns="species")
    unknown = client.predict_proba(name, frame.assign(island="Elephant Island", sex="unsure")).probabilities
    if algorithm in ("hist_gradient_boosting", "xgboost"):
        missing = client.predict_proba(name, frame.assign(island=None, sex=None)).probabilities
        assert np.array_equal(unknown, missing)
    if algorithm == "logistic_regression":
        own = pipelines_answer(algorithm, UNSEEN.assign(island="Elephant Island", sex="unsure"))
        assert np.abs(unknown - own).max() < 1e-5


def test_a_model_is_trained_on_records_with_nulls(service: ServiceProcess, client: fitserve.Client, name: str) -> None:
    inline = training_service_pb2.InlineDataset(inputs=data_pb2.Inputs(records=structs(SENT)))
    request = training_service_pb2.FitRequest(model=name, inline=inline, target="species", queue=True, load=True)
    request.logistic_regression.SetInParent()
    with grpc.insecure_channel(service.address) as channel:
        job = training_service_pb2_grpc.TrainingServiceStub(channel).Fit(request).job.id
    assert client.job(job).wait(60).metrics["accuracy"] > 0.95
    assert (client.predict(name, UNSEEN.drop(columns="species")) == UNSEEN["species"]).mean() > 0.95


def test_a_number_is_learned_from_categories_too(client: fitserve.Client, name: str) -> None:
    known = SENT[SENT["body_mass_g"].notna()]
    client.fit(name, known, target="body_mass_g", algorithm="xgboost", n_estimators=30, queue=True, load=True).wait(60)
    checked = UNSEEN[UNSEEN["body_mass_g"].notna()]
    off = client.predict(name, checked.drop(columns="body_mass_g")) - checked["body_mass_g"]
    assert np.sqrt((off**2).mean()) < 400  # their deviation is 800 g


def test_a_new_version_may_know_other_categories_and_have_its_columns_in_another_order(
    client: fitserve.Client, name: str
) -> None:
    options = {"target": "species", "algorithm": "xgboost", "n_estimators": 10, "queue": True}
    two = SENT[SENT["island"] != "Torgersen"]
    client.fit(name, two, **options).wait(60)
    job = client.fit(name, SENT[SENT.columns[::-1]], existing="new_version", load=True, **options)
    assert job.wait(60).version == 2
    first, second = (version.signature.columns for version in client.model(name).versions)
    assert [column.name for column in first] == [column.name for column in second]
    assert (first[0].categories, second[0].categories) == (("Biscoe", "Dream"), ("Biscoe", "Dream", "Torgersen"))
    assert (client.predict(name, UNSEEN.drop(columns="species")) == UNSEEN["species"]).mean() > 0.95
    with pytest.raises(errors.InvalidArgument, match=r"column 'island'\): its kind is number"):
        client.fit(name, SENT.assign(island=1.5), existing="new_version", **options)


def test_an_upload_in_chunks_may_have_gaps_in_some_of_them(client: fitserve.Client, name: str) -> None:
    table = SENT.to_dict("list")
    table["year"][-5:] = [None] * 5
    dataset = client.upload_dataset(table, chunk_rows=50)
    job = client.fit(name, dataset=dataset.digest, target="species", algorithm="random_forest", queue=True)
    assert job.wait(60).metrics["accuracy"] > 0.9
    year = client.model(name).versions[0].signature.columns[-1]
    assert (year.name, year.kind, year.missing_values) == ("year", "INTEGER", True)


def test_what_does_not_fit_is_refused_by_column_and_row(client: fitserve.Client, trained: tuple[str, str]) -> None:
    _, name = trained
    frame = UNSEEN.drop(columns="species")
    cases = {
        "column 'iland' is not known; did you mean 'island'": frame.rename(columns={"island": "iland"}),
        "column 'species' is not known": UNSEEN,
        "column 'sex' is missing": frame.drop(columns="sex"),
        "row 0 of column 'year' is the text '2007'": frame.assign(year=frame["year"].astype(str)),
        "row 0 of column 'island' is the number 3": frame.assign(island=3),
    }
    for message, rows in cases.items():
        with pytest.raises(errors.InvalidArgument, match=message):
            client.predict(name, rows)

"""Columns of free text, from Fit to Predict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import catboost
import fitserve
import numpy as np
import pandas as pd
import pytest
import tritonclient.grpc
from fitserve import errors
from fitserve.v1 import data_pb2
from google.protobuf import json_format, struct_pb2

from tests.reviews import records_of, reviews
from tests.service_process import ServiceProcess
from training.data import Rows, split

SENT, UNSEEN = reviews(300), reviews(200, seed=1)
ASKED = UNSEEN.drop(columns="verdict")
OPTIONS = {"target": "verdict", "algorithm": "catboost", "iterations": 30, "text_columns": ["review"], "queue": True}


@pytest.fixture(scope="module")
def model(service: ServiceProcess) -> Iterator[str]:
    """A loaded model that was trained on reviews, beside a number and two categories."""
    with fitserve.Client(service.address) as client:
        client.fit("reviews", SENT, load=True, **OPTIONS).wait(120)
        yield "reviews"
        client.remove("reviews", force=True)


def test_words_are_learned_from_and_the_signature_shows_the_text(client: fitserve.Client, model: str) -> None:
    found = (client.predict(model, ASKED) == UNSEEN["verdict"]).to_numpy()
    assert found.mean() > 0.8
    assert found[UNSEEN["review"].notna()].mean() > 0.85
    version = client.model(model).versions[0]
    assert [(column.name, column.kind) for column in version.signature.columns] == [
        ("price", "NUMBER"),
        ("city", "CATEGORY"),
        ("review", "TEXT"),
        ("title", "CATEGORY"),
    ]
    assert (version.backend, version.signature.inputs) == ("fitserve_native", ())
    assert version.signature.prediction_dtype == "BYTES"
    # The held-out part as it is, once with gaps, once with unknown categories.
    assert version.parity.row_count == 3 * version.validation_row_count
    assert version.parity.max_difference <= 1e-6


def test_tables_records_and_streams_have_one_answer_in_any_order_of_columns(
    client: fitserve.Client, model: str
) -> None:
    expected = client.predict_proba(model, ASKED).probabilities
    assert expected.shape == (200, 2)
    turned = ASKED[ASKED.columns[::-1]]
    for form in (turned, turned.to_dict("list"), records_of(turned)):
        assert np.array_equal(client.predict_proba(model, form).probabilities, expected)
    alone = [
        client.predict_proba(model, record).probabilities[0] for record in map(lambda one: [one], records_of(ASKED[:5]))
    ]
    assert np.abs(np.array(alone) - expected[:5]).max() < 1e-7
    parts = [answer.predictions for answer in client.predict_stream(model, [ASKED[:120], ASKED[120:]])]
    assert list(np.concatenate(parts)) == list(client.predict(model, ASKED))
    many = pd.concat([ASKED] * 15)  # more than one batch may hold
    assert np.allclose(client.predict_proba(model, many).probabilities, np.tile(expected, (15, 1)), atol=1e-7)


def test_a_missing_text_is_an_empty_one_and_new_words_are_no_error(client: fitserve.Client, model: str) -> None:
    missing, empty, new = (
        client.predict_proba(model, ASKED.assign(review=text)).probabilities for text in (None, "", "neverseen")
    )
    assert np.array_equal(missing, empty)
    assert new.shape == missing.shape
    changed = client.predict_proba(model, ASKED.assign(review="lovely")).probabilities
    assert (changed[:, 0] > missing[:, 0]).mean() > 0.9


def test_what_does_not_fit_is_refused_by_column_and_row(client: fitserve.Client, model: str) -> None:
    cases = {
        r"inputs.table: column 'rewiew' is not known; did you mean 'review'": ASKED.rename(
            columns={"review": "rewiew"}
        ),
        r"column 'review' is missing": ASKED.drop(columns="review"),
        r"row 0 of column 'review' is the number 3": ASKED.assign(review=3),
        r"column 'price'": ASKED.assign(price="much"),
        r"the model has columns of texts; send table or records": np.zeros((1, 4), np.float32),
        r"column 'price'\): the value is inf": ASKED.assign(price=np.inf),
    }
    for message, rows in cases.items():
        with pytest.raises(errors.InvalidArgument, match=message):
            client.predict(model, rows)
    odd = [json_format.ParseDict(record, struct_pb2.Struct()) for record in records_of(ASKED[:2])]
    odd[1].fields["review"].number_value = 3
    with pytest.raises(
        errors.InvalidArgument, match=r"records\[1\].review: it is a number, but the column holds texts"
    ):
        client.predict(model, data_pb2.Inputs(records=odd))
    with pytest.raises(errors.InvalidArgument, match="send table or records"):
        client.predict(model, data_pb2.Inputs(tensors={"texts": data_pb2.Tensor()}))


def test_tritons_own_client_sends_features_and_texts(
    service: ServiceProcess, client: fitserve.Client, model: str
) -> None:
    with tritonclient.grpc.InferenceServerClient(service.address) as triton:
        metadata = triton.get_model_metadata(model)
        assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [
            ("features", "FP32", [-1, 3]),
            ("texts", "BYTES", [-1, 1]),
        ]
        features = tritonclient.grpc.InferInput("features", [1, 3], "FP32")
        features.set_data_from_numpy(np.array([[90, 0, 1]], np.float32))
        texts = tritonclient.grpc.InferInput("texts", [1, 1], "BYTES")
        texts.set_data_from_numpy(np.array([["lovely room"]], object))
        scores = triton.infer(model, [features, texts]).as_numpy("scores")
    record = {"price": 90, "city": "Oslo", "review": "lovely room", "title": "stay"}
    assert np.array_equal(scores, client.predict_proba(model, [record]).probabilities)


def test_what_is_served_is_what_catboost_learns_by_itself(client: fitserve.Client, name: str) -> None:
    frame = SENT[["price", "review"]].assign(review=SENT["review"].fillna(""))
    targets = (SENT["verdict"] == "never").to_numpy().astype(int)
    client.fit(name, frame, SENT["verdict"], load=True, **{**OPTIONS, "target": "", "early_stopping_rounds": 5}).wait(
        120
    )
    places = Rows(np.arange(len(SENT), dtype=np.float32)[:, None], targets)
    train, held_out = (part.features[:, 0].astype(int) for part in split(places, True, 0.2, 0))
    own = catboost.CatBoostClassifier(
        iterations=30,
        l2_leaf_reg=3,
        early_stopping_rounds=5,
        random_seed=0,
        thread_count=1,
        allow_writing_files=False,
        verbose=False,
    ).fit(
        frame.iloc[train].astype({"price": np.float32}),
        targets[train],
        text_features=["review"],
        eval_set=(frame.iloc[held_out].astype({"price": np.float32}), targets[held_out]),
    )
    asked = ASKED[["price", "review"]].assign(review=ASKED["review"].fillna(""))
    answers = client.predict_proba(name, asked).probabilities
    assert np.abs(answers - own.predict_proba(asked.astype({"price": np.float32}))).max() < 1e-6


@pytest.mark.parametrize("columns", [["review"], ["review", "title"]])
def test_a_model_may_have_texts_alone_and_texts_of_single_words(
    client: fitserve.Client, name: str, columns: list[str]
) -> None:
    job = client.fit(name, SENT[[*columns, "verdict"]], load=True, **{**OPTIONS, "text_columns": columns})
    assert job.wait(120).metrics["accuracy"] > 0.8
    found = client.predict(name, ASKED[columns]) == UNSEEN["verdict"]
    assert found[UNSEEN["review"].notna()].mean() > 0.85


def test_numbers_are_learned_from_uploaded_texts(client: fitserve.Client, name: str) -> None:
    table = SENT.assign(price=SENT["price"].fillna(100)).drop(columns=["verdict", "title"])
    dataset = client.upload_dataset(table, chunk_rows=100)
    options = {**OPTIONS, "target": "price"}
    job = client.fit(name, dataset=dataset.digest, load=True, **options)
    assert job.wait(120).metrics["rmse"] < 27  # their deviation is 28
    assert client.predict(name, ASKED[["city", "review"]]).shape == (200,)


def test_a_fit_names_what_is_wrong_with_its_text_columns(client: fitserve.Client, name: str, model: str) -> None:
    cases = {
        r"text_columns: random_forest learns nothing from free text; use catboost": {"algorithm": "random_forest"},
        r"text_columns\[0\]: there is no column 'rewiew' of features; did you mean 'review'": {
            "text_columns": ["rewiew"]
        },
        r"text_columns\[1\]: column 'price' holds values of the kind number": {"text_columns": ["review", "price"]},
        r"text_columns\[0\]: there is no column 'verdict'": {"text_columns": ["verdict"]},
        r"text_columns\[1\]: column 'review' is named twice": {"text_columns": ["review", "review"]},
    }
    for message, changed in cases.items():
        options = {**OPTIONS, **changed}
        if options["algorithm"] != "catboost":
            del options["iterations"]
        with pytest.raises(errors.InvalidArgument, match=message):
            client.fit(name, SENT, **options)
    with pytest.raises(errors.InvalidArgument, match=r"column 'title'\): its kind is text"):
        client.fit(model, SENT, existing="new_version", **{**OPTIONS, "text_columns": ["review", "title"]})
    job = client.fit(name, SENT.assign(review=""), **OPTIONS)
    with pytest.raises(fitserve.FitServeError, match="no words to learn from"):
        job.wait(120)


def test_a_file_of_catboost_with_categories_and_texts_is_imported(
    client: fitserve.Client, name: str, tmp_path: Path
) -> None:
    stars = np.random.default_rng(0).integers(1, 6, len(SENT))
    frame = SENT.drop(columns="verdict").assign(review=SENT["review"].fillna(""), stars=stars)
    own = catboost.CatBoostClassifier(iterations=20, thread_count=1, allow_writing_files=False, verbose=False)
    own.fit(frame, SENT["verdict"], cat_features=["city", "stars", "title"], text_features=["review"])
    own.save_model(str(tmp_path / "model.cbm"))
    client.import_model(name, (tmp_path / "model.cbm").read_bytes(), format="catboost", load=True)
    columns = {column.name: column for column in client.model(name).versions[0].signature.columns}
    assert {key: column.kind for key, column in columns.items()} == {
        "price": "NUMBER",
        "city": "CATEGORY",
        "review": "TEXT",
        "title": "CATEGORY",
        "stars": "CATEGORY",
    }
    assert {columns[key].unknown_category for key in ("city", "stars", "title")} == {"LIBRARY"}
    asked = ASKED.assign(stars=3, city=["Oslo", "Atlantis"] * 100)
    expected = own.predict_proba(asked.assign(review=asked["review"].fillna("")))
    for form in (asked, asked[asked.columns[::-1]].to_dict("list"), records_of(asked), asked.assign(stars="3")):
        assert np.abs(client.predict_proba(name, form).probabilities - expected).max() < 1e-6
    assert set(client.predict(name, asked)) <= {"again", "never"}
    empty = client.predict_proba(name, asked.assign(city="")).probabilities
    assert np.array_equal(client.predict_proba(name, asked.assign(city=None)).probabilities, empty)
    with pytest.raises(errors.InvalidArgument, match="row 0 of column 'stars' is the number"):
        client.predict(name, asked.assign(stars=2.5))

"""The plate picker that ships with the repository, with the customer's model: its answers are CatBoost's own."""

from __future__ import annotations

import json
from collections.abc import Iterator

import fitserve
import numpy as np
import pytest
from catboost import CatBoostClassifier, Pool

from tests import plates
from tests.service_process import ServiceProcess


@pytest.fixture(scope="module")
def plate_client(service: ServiceProcess) -> Iterator[fitserve.Client]:
    plates.need_data()
    plates.place(service.model_dir)
    with fitserve.Client(service.address) as client:
        client.load("plate_picker")
        yield client


@pytest.fixture(scope="module")
def expected() -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """CatBoost's own probabilities of all rows, shape [100, 2]."""
    plates.need_data()
    model = CatBoostClassifier()
    model.load_model(str(plates.DATA / "micromodel.cbm"))
    rows = [plates.expected_row(record, model.feature_names_) for record in plates.raw_records(as_text=False)]
    kinds = {"cat_features": model.get_cat_feature_indices(), "text_features": model.get_text_feature_indices()}
    found: np.ndarray[tuple[int, int], np.dtype[np.float64]] = model.predict_proba(Pool(rows, **kinds))
    return found


def probabilities(answers: np.ndarray[tuple[int], np.dtype[np.object_]]) -> list[list[float]]:
    return [[answer["negative"], answer["positive"]] for answer in answers]


@pytest.mark.parametrize("as_text", [False, True], ids=["lists", "lists as printed"])
def test_one_record_at_a_time(plate_client: fitserve.Client, expected: np.ndarray, as_text: bool) -> None:  # type: ignore[type-arg]
    records = plates.raw_records(as_text)
    found = [probabilities(plate_client.predict("plate_picker", [record]))[0] for record in records]
    assert len(found) == 100
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_all_records_at_once(plate_client: fitserve.Client, expected: np.ndarray) -> None:  # type: ignore[type-arg]
    found = plate_client.predict("plate_picker", plates.raw_records(as_text=False))
    np.testing.assert_allclose(probabilities(found), expected, rtol=0, atol=1e-6)


def test_tensors(plate_client: fitserve.Client, expected: np.ndarray) -> None:  # type: ignore[type-arg]
    records = plates.raw_records(as_text=True)
    columns = {name: np.array([[record[name]] for record in records]) for name in records[0]}
    outputs = plate_client.predict("plate_picker", tensors=columns)
    found = np.hstack([outputs["negative"], outputs["positive"]])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_empty_lists_and_short_readings_are_answered(plate_client: fitserve.Client) -> None:
    record = plates.raw_records(as_text=False)[0] | {"afts_regno_ai": "", "afts_regno_ai_char_scores": []}
    (answer,) = plate_client.predict("plate_picker", [record | {"afts_regno_ai_length_scores": []}])
    assert answer["negative"] + answer["positive"] == pytest.approx(1)


def test_a_column_with_a_wrong_name_is_named(plate_client: fitserve.Client) -> None:
    record = plates.raw_records(as_text=True)[0]
    record["camera_clas"] = record.pop("camera_class")
    with pytest.raises(fitserve.errors.InvalidArgument, match="did you mean 'camera_class'"):
        plate_client.predict("plate_picker", [record])


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("time_check", "yesterday", "time_check: 'yesterday' is no date and time such as 2021-08-01 09:02:59"),
        ("afts_regno_ai_char_scores", "[1, 2", r"afts_regno_ai_char_scores: '\[1, 2' is no list of numbers"),
        ("afts_regno_ai_length_scores", ["a"], "afts_regno_ai_length_scores: .* is no list of numbers"),
        ("afts_regno_ai_length_scores", "1", "afts_regno_ai_length_scores: '1' is no list of numbers"),
    ],
)
def test_a_record_that_makes_no_features_is_told_what_is_wrong(
    plate_client: fitserve.Client, field: str, value: object, says: str
) -> None:
    good = plates.raw_records(as_text=True)[:2]
    with pytest.raises(fitserve.errors.InvalidArgument, match=f"row 1, {says}"):
        plate_client.predict("plate_picker", [good[0], good[1] | {field: value}])
    assert len(plate_client.predict("plate_picker", good)) == 2


def test_json_of_a_record_is_what_the_repository_tells(plate_client: fitserve.Client) -> None:
    """A record survives JSON, as callers over REST send it."""
    record = json.loads(json.dumps(plates.raw_records(as_text=False)[0]))
    assert plate_client.predict("plate_picker", [record])[0]["positive"] > 0

"""The plate picker's features: the categories of plates, and what each character's score is."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from tests import plates
from tests.service_process import ROOT


@pytest.fixture(scope="module")
def features() -> ModuleType:
    path = ROOT / "model_repository" / "plate_picker" / "1" / "features.py"
    spec = importlib.util.spec_from_file_location("plate_features", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("plate", "category"),
    [
        ("А939НО19", "private car"),
        ("А939НО196", "private car"),
        ("АВ12345", " lk_taxi_r_pricep"),
        ("АВ123456", " lk_taxi_r_pricep"),
        ("АВ1234567", "lk_pricep_r_transit"),
        ("9519АС77", "lk_moto_tract"),
        ("9519АС777", "lk_moto_tract"),
        ("9519АС7", "unknown"),
        ("А1234ВС", "some"),
        ("АВ123С45", "lk_transit"),
        ("ТАВ12345", "lk_export"),
        ("TАВ123456", "lk_export"),
        ("А123456", "lk_mvd_avto"),
        ("1234А56", "lk_mvd_moto"),
        ("123А45", "lk_mvd_pricep"),
        ("123А456", "lk_mvd_pricep"),
        ("123CD456", "lk_diplomat"),
        ("123СD45678", "lk_diplomat"),
        ("123СD4567890", "unknown"),
        ("123D456789", "lk_diplomat"),
        ("123Т4567", "lk_diplomat"),
        ("A939HO196", "unknown"),
        ("", "unknown"),
        ("А939НО1967", "unknown"),
    ],
)
def test_plates_have_categories(features: ModuleType, plate: str, category: str) -> None:
    assert features.template(plate) == category == plates.category(plate)


def test_a_characters_score_is_its_lowest_and_one_where_it_does_not_occur(features: ModuleType) -> None:
    record = {
        "regno_recognize": "А123",
        "afts_regno_ai": "А11D",
        "recognition_accuracy": 1.0,
        "afts_regno_ai_score": 0.5,
        "afts_regno_ai_char_scores": "[0.9, 0.8, 0.7, 0.6]",
        "afts_regno_ai_length_scores": "[]",
        "camera_type": "a",
        "camera_class": "b",
        "time_check": "2021-08-01 09:02:59",
        "direction": 1.0,
    }
    found = features.features_of(record)
    assert (found["А"], found["1"], found["D"], found["2"]) == (0.9, 0.7, 0.6, 1.0)
    assert (found["max_sym_score"], found["min_sym_score"], found["max_len_score"]) == (0.9, 0.6, 0.0)
    assert (found["hour"], found["weekday"], found["month"]) == (9, "Sunday", "August")
    assert (found["afts_regno_ai_text"], found["ai_len"], found["cam_len"]) == ("А 1 1 D", 4, 4)

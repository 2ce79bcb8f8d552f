from __future__ import annotations

import math

import numpy as np
import pytest

from training import metrics
from training.data import Rows


def rows(targets: list[float] | list[int]) -> Rows:
    return Rows(np.zeros((len(targets), 1), np.float32), np.array(targets))


def test_two_classes_are_scored_by_the_second() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.6, 0.4]])
    measured = metrics.score("classification", rows([0, 0, 1, 1]), probabilities)
    assert measured == pytest.approx(
        {
            "accuracy": 0.75,
            "f1": 2 / 3,
            "roc_auc": 0.875,
            "log_loss": -(math.log(0.9) + math.log(0.6) + math.log(0.7) + math.log(0.4)) / 4,
        }
    )


def test_roc_auc_is_left_out_when_a_class_is_not_among_the_rows() -> None:
    measured = metrics.score("classification", rows([0, 1]), np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]]))
    assert set(measured) == {"accuracy", "log_loss", "f1"}


def test_a_regression_has_its_errors_in_the_unit_of_the_target() -> None:
    measured = metrics.score("regression", rows([1.0, 3.0]), np.array([[2.0], [3.0]]))
    assert measured == pytest.approx({"rmse": math.sqrt(0.5), "mae": 0.5, "r2": 0.5})


def test_one_row_has_no_r2() -> None:
    assert set(metrics.score("regression", rows([1.0]), np.array([[2.0]]))) == {"rmse", "mae"}

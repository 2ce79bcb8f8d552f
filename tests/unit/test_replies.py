"""Scores to replies: what is no number is no label and no JSON."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import json_format

from service.domain.entities import Signature, Task, ValueKind
from service.domain.predictor import Prediction
from service.rpc.replies import Replies

CLASSES = Signature(Task.CLASSIFICATION, (1,), (), False, ("no", "yes"), ValueKind.CATEGORY)
ONE_VALUE = Signature(Task.REGRESSION, (1,), (), False, (), None)
TWO_VALUES = Signature(Task.REGRESSION, (1,), (), False, (), None, targets=("a", "b"))
NAN, INFINITY = float("nan"), float("inf")


def written(signature: Signature, scores: list[list[float]], form: str = "rows") -> dict[str, object]:
    prediction = Prediction("m", 1, signature, np.array(scores, np.float32))
    return json_format.MessageToDict(Replies().write(prediction, form, include_probabilities=True))


def test_a_row_without_probabilities_has_no_label() -> None:
    reply = written(CLASSES, [[0.25, 0.75], [NAN, NAN], [0.5, NAN], [1, 0]])
    assert reply["predictions"] == ["yes", None, None, "no"]
    assert reply["probabilities"] == [[0.25, 0.75], [None, None], [0.5, None], [1, 0]]


@pytest.mark.parametrize("odd", [NAN, INFINITY, -INFINITY])
def test_a_value_that_json_does_not_know_is_null(odd: float) -> None:
    assert written(ONE_VALUE, [[1.5], [odd]])["predictions"] == [1.5, None]
    assert written(TWO_VALUES, [[1.5, odd]])["predictions"] == [[1.5, None]]


def test_tensors_keep_what_is_no_number() -> None:
    scores = np.array([[1.5], [NAN]], np.float32)
    reply = Replies().write(Prediction("m", 1, ONE_VALUE, scores), "tensor", include_probabilities=False)
    assert reply.prediction_tensor.data == scores.tobytes()

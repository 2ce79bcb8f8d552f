"""Scores to replies: what is no number is no label and no JSON."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from service.domain.entities import Signature, Task, ValueKind
from service.domain.predictor import Prediction
from service.rpc.replies import LabelCodec, Replies

CLASSES = Signature(Task.CLASSIFICATION, (1,), (), False, ("no", "yes"), ValueKind.CATEGORY)
ONE_VALUE = Signature(Task.REGRESSION, (1,), (), False, (), None)
TWO_VALUES = Signature(Task.REGRESSION, (1,), (), False, (), None, targets=("a", "b"))
NAN, INFINITY = float("nan"), float("inf")


def written(signature: Signature, scores: list[list[float]], form: str = "rows") -> dict[str, Any]:  # JSON
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


@pytest.mark.parametrize("signature", [CLASSES, ONE_VALUE, TWO_VALUES], ids=["classes", "one value", "two values"])
@pytest.mark.parametrize("odd", [NAN, INFINITY, -INFINITY])
def test_many_rows_are_written_as_each_alone(signature: Signature, odd: float) -> None:
    width = 1 if signature is ONE_VALUE else 2
    rows = np.random.default_rng(0).random((100, width)).tolist()
    for scores in (rows, [*rows[:50], [odd] * width, *rows[50:]]):
        alone = [written(signature, [row]) for row in scores]
        together = written(signature, scores)
        for kind in ("predictions", "probabilities"):
            values = [value for reply in alone for value in reply.get(kind, [])]
            assert together.get(kind, []) == values


def test_rows_of_many_scores_are_written_whole() -> None:
    signature = replace(TWO_VALUES, targets=tuple(f"day {day}" for day in range(2000)))
    scores = np.arange(6000, dtype=np.float32).reshape(3, 2000)
    assert written(signature, scores.tolist())["predictions"] == scores.tolist()


def test_tensors_keep_what_is_no_number() -> None:
    scores = np.array([[1.5], [NAN]], np.float32)
    reply = Replies().write(Prediction("m", 1, ONE_VALUE, scores), "tensor", include_probabilities=False)
    assert reply.prediction_tensor.data == scores.tobytes()


def test_a_lone_reply_has_the_label_and_the_version_of_its_prediction() -> None:
    replies, other = Replies(), replace(CLASSES, classes=("off", "on"))
    scores = np.array([[0, 1]], np.float32)
    predictions = [Prediction("m", version, labels, scores) for version in (1, 2, 1) for labels in (CLASSES, other)]
    found = [replies.write(one, "tensor", include_probabilities=False) for one in predictions * 2]
    told = [(one.version, one.signature.classes[1].encode()) for one in predictions * 2]  # type: ignore[union-attr]  # texts
    assert [(reply.version, reply.prediction_tensor.data[4:]) for reply in found] == told


def test_lone_replies_are_made_of_labels_that_are_answered_only(monkeypatch: pytest.MonkeyPatch) -> None:
    made, tensor = [], LabelCodec.tensor

    def noted(codec: LabelCodec, indices: Any) -> Any:  # numpy's arrays to a message
        made.extend(indices.tolist())
        return tensor(codec, indices)

    monkeypatch.setattr(LabelCodec, "tensor", noted)
    replies, many = Replies(), replace(CLASSES, classes=tuple(map(str, range(1000))))
    for best in (7, 9, 7):
        scores = np.zeros((1, 1000), np.float32)
        scores[0, best] = 1
        reply = replies.write(Prediction("m", 1, many, scores), "tensor", include_probabilities=False)
        assert reply.prediction_tensor.data[4:] == str(best).encode()
    assert made == [7, 9]

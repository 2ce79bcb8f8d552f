"""The scores of a model to the reply of a prediction: labels or values, and probabilities."""

from __future__ import annotations

from functools import cached_property
from math import isfinite

import numpy as np
from fitserve.v1 import data_pb2, prediction_service_pb2
from google.protobuf import struct_pb2

from service.contract_values import LABEL_DTYPES, value_of_label
from service.domain.entities import Floats, Signature, ValueKind
from service.domain.predictor import Prediction
from service.rpc.number_values import list_values, number_lists, number_values
from service.rpc.tensors import DTYPES, sized, texts_tensor

HAND_TYPED = ("rows", "records")
"""The forms of inputs that are answered with plain values instead of tensors."""

NULL = struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
NO_PREDICTION = prediction_service_pb2.PredictResponse(predictions=[NULL]).SerializeToString()

FEW = 64
"""So many numbers are written one by one, which is faster for them."""

MAX_CODECS = 256
"""The labels of so many versions are kept ready."""


def values_to_write(prediction: Prediction, form: str) -> int:
    """Returns how many values the reply to inputs of a form has that are written one by one."""
    return prediction.scores.size if form in HAND_TYPED else len(prediction.scores)


class LabelCodec:
    """The labels of one version, ready to be written."""

    def __init__(self, model: str, version: int, signature: Signature) -> None:
        self._model, self._version = model, version
        self.signature = signature
        self.dtype = LABEL_DTYPES[signature.label_kind]
        self._lone: dict[int, prediction_service_pb2.PredictResponse] = {}

    @cached_property
    def values(self) -> list[struct_pb2.Value]:
        """The labels as JSON-like values."""
        return [value_of_label(label) for label in self.signature.classes]

    @cached_property
    def predictions(self) -> list[bytes]:
        """Replies with each label as their one prediction: joined ones are the reply to several rows."""
        return [
            prediction_service_pb2.PredictResponse(predictions=[value]).SerializeToString() for value in self.values
        ]

    @cached_property
    def _array(self) -> np.ndarray[tuple[int], np.dtype[np.generic]]:
        return np.array(self.signature.classes, DTYPES[self.dtype])

    @cached_property
    def _texts(self) -> list[bytes]:
        return [sized(str(label)) for label in self.signature.classes]

    def lone_reply(self, index: int) -> prediction_service_pb2.PredictResponse:
        """Returns the reply to one row with a label as a tensor [1], not to be changed: most predictions are of one row.

        It is made when a label is answered first: each takes a kilobyte, and imported models may have 100,000 labels.
        """
        reply = self._lone.get(index)
        if reply is None:
            reply = self._lone[index] = prediction_service_pb2.PredictResponse(
                model=self._model, version=self._version, prediction_tensor=self.tensor(np.array([index]))
            )
        return reply

    def tensor(self, indices: np.ndarray[tuple[int], np.dtype[np.intp]]) -> data_pb2.Tensor:
        """Returns the labels with these indices as a tensor [rows]."""
        if self.signature.label_kind == ValueKind.CATEGORY:
            return texts_tensor([self._texts[index] for index in indices])
        return data_pb2.Tensor(dtype=self.dtype, shape=[len(indices)], data=self._array[indices].tobytes())


class Replies:
    """Writes prediction replies; keeps the labels of each version it has seen ready."""

    def __init__(self) -> None:
        self._codecs: dict[tuple[str, int], LabelCodec] = {}

    def write(
        self, prediction: Prediction, form: str, include_probabilities: bool
    ) -> prediction_service_pb2.PredictResponse:
        """Returns the reply to inputs of a form (a field name of `Inputs`); it is not to be changed."""
        scores = prediction.scores
        if prediction.signature.label_kind is None:
            reply = prediction_service_pb2.PredictResponse(model=prediction.model, version=prediction.version)
            if prediction.signature.targets:
                self._write_several(reply, scores, form)
            else:
                self._write_values(reply, scores[:, 0], form)
            return reply
        codec = self._codec(prediction)
        if len(scores) == 1 and form not in HAND_TYPED and not include_probabilities:
            return codec.lone_reply(int(scores.argmax()))
        reply = prediction_service_pb2.PredictResponse(model=prediction.model, version=prediction.version)
        indices = scores.argmax(axis=1)
        if form in HAND_TYPED:
            rows = zip(indices.tolist(), scores.tolist(), strict=True)
            # The highest score is NaN if any is, and a NaN does not equal itself.
            labels = [codec.predictions[best] if row[best] == row[best] else NO_PREDICTION for best, row in rows]
            reply.MergeFromString(b"".join(labels))
        else:
            reply.prediction_tensor.CopyFrom(codec.tensor(indices))
        if include_probabilities:
            reply.classes.extend(codec.values)
            self._write_probabilities(reply, scores, form)
        return reply

    def _codec(self, prediction: Prediction) -> LabelCodec:
        key = (prediction.model, prediction.version)
        codec = self._codecs.get(key)
        if codec is None or codec.signature is not prediction.signature:  # the name may have been used before
            if len(self._codecs) >= MAX_CODECS:
                self._codecs.clear()  # those in use are back with their next prediction
            codec = self._codecs[key] = LabelCodec(*key, prediction.signature)
        return codec

    @staticmethod
    def _write_values(
        reply: prediction_service_pb2.PredictResponse, values: np.ndarray[tuple[int], np.dtype[np.float32]], form: str
    ) -> None:
        if form in HAND_TYPED:
            if _many_numbers(values):
                reply.MergeFromString(number_values(reply.PREDICTIONS_FIELD_NUMBER, values))
            else:
                reply.predictions.extend([number_or_null(value) for value in values.tolist()])
        else:
            reply.prediction_tensor.dtype = data_pb2.DATA_TYPE_FP32
            reply.prediction_tensor.shape.append(len(values))
            reply.prediction_tensor.data = values.tobytes()

    @staticmethod
    def _write_several(reply: prediction_service_pb2.PredictResponse, scores: Floats, form: str) -> None:
        """Writes several values a row: a list each, or a tensor [rows, values]."""
        if form in HAND_TYPED:
            if _many_numbers(scores):
                reply.MergeFromString(list_values(reply.PREDICTIONS_FIELD_NUMBER, scores))
            else:
                reply.predictions.extend([struct_pb2.Value(list_value=_list_of(row)) for row in scores.tolist()])
        else:
            reply.prediction_tensor.dtype = data_pb2.DATA_TYPE_FP32
            reply.prediction_tensor.shape.extend(scores.shape)
            reply.prediction_tensor.data = scores.tobytes()

    @staticmethod
    def _write_probabilities(reply: prediction_service_pb2.PredictResponse, scores: Floats, form: str) -> None:
        if form in HAND_TYPED:
            if _many_numbers(scores):
                reply.MergeFromString(number_lists(reply.PROBABILITIES_FIELD_NUMBER, scores))
            else:
                reply.probabilities.extend([_list_of(row) for row in scores.tolist()])
        else:
            reply.probability_tensor.dtype = data_pb2.DATA_TYPE_FP32
            reply.probability_tensor.shape.extend(scores.shape)
            reply.probability_tensor.data = scores.tobytes()


def _many_numbers(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bool:
    """Returns whether values are best written as bytes at once, which NaN and infinity cannot be: they are null."""
    return values.size > FEW and bool(np.isfinite(values).all())


def _list_of(row: list[float]) -> struct_pb2.ListValue:
    return struct_pb2.ListValue(values=[number_or_null(value) for value in row])


def number_or_null(value: float) -> struct_pb2.Value:
    """Returns a number as a JSON-like value; JSON has none for NaN and infinity, so they are null."""
    return struct_pb2.Value(number_value=value) if isfinite(value) else NULL

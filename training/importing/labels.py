"""The labels of classes: those that a caller gives, that a file names, and that the versions before have."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fitserve.v1 import data_pb2, model_pb2
from google.protobuf.struct_pb2 import Value

from training.data import Label
from training.errors import invalid_field

MOST_CLASSES = 1000
LONGEST_NAME = 256

_FIELD = "description.signature.classes"
_KIND_OF_LABELS = {str: "category", bool: "boolean", int: "integer", float: "number"}
_TYPES: dict[data_pb2.DataType.ValueType, type[Label]] = {
    data_pb2.DATA_TYPE_BYTES: str,
    data_pb2.DATA_TYPE_BOOL: bool,
    data_pb2.DATA_TYPE_INT64: int,
    data_pb2.DATA_TYPE_FP64: float,
}
_DIGITS = re.compile(r"-?[0-9]{1,19}")


@dataclass(frozen=True)
class Labels:
    """The labels of classes, in the order of the scores.

    Attributes:
        kind: category, boolean, integer or number.
    """

    classes: Sequence[Label]
    kind: str

    @property
    def are_places(self) -> bool:
        """Whether they only count the classes, as libraries do which know no labels."""
        return self.kind == "integer" and list(self.classes) == list(range(len(self.classes)))


def labels_of(classes: Sequence[Label], field: str) -> Labels:
    """Returns labels with their kind.

    Raises:
        FitError: INVALID_FIELD naming `field`; they are of several kinds, too many, two are the same, or one cannot be
            answered as a prediction.
    """
    kinds = {type(label) for label in classes}
    if len(kinds) > 1:
        raise invalid_field(
            field, "the labels are of several kinds; give texts, integers, numbers or truth values only"
        )
    if len(set(classes)) < len(classes):
        raise invalid_field(field, "two labels are the same; give each score a label of its own")
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise invalid_field(field, f"there are {len(classes)} labels, and 2 to {MOST_CLASSES} are allowed")
    for index, label in enumerate(classes):
        if problem := _problem(label):
            raise invalid_field(f"{field}[{index}]", problem)
    return Labels(list(classes), _KIND_OF_LABELS[kinds.pop()])


def places(count: int) -> Labels:
    """Returns the numbers of so many classes, from 0."""
    return Labels(list(range(count)), "integer")


def given(signature: model_pb2.Signature) -> Labels | None:
    """Returns the labels that a caller gives, or None.

    Integers are whole numbers, or texts of their digits where prediction_dtype says INT64.

    Raises:
        FitError: INVALID_FIELD naming the label that is none, or not of the type in prediction_dtype.
    """
    if not signature.classes:
        return None
    wanted = signature.prediction_dtype
    if wanted and wanted not in _TYPES:
        raise invalid_field(
            "description.signature.prediction_dtype",
            f"labels are never {data_pb2.DataType.Name(wanted)}; leave it out, or say "
            f"{', '.join(data_pb2.DataType.Name(kind) for kind in _TYPES)}",
        )
    labels = [_label(value, f"{_FIELD}[{index}]") for index, value in enumerate(signature.classes)]
    if not wanted and all(isinstance(label, float) and label.is_integer() for label in labels):
        wanted = data_pb2.DATA_TYPE_INT64
    if wanted:
        labels = [_as(_TYPES[wanted], label, f"{_FIELD}[{index}]") for index, label in enumerate(labels)]
    return labels_of(labels, _FIELD)


def kept(signature: model_pb2.Signature) -> Labels | None:
    """Returns the labels of the versions before, or None."""
    if not signature.classes:
        return None
    kind = _TYPES[signature.prediction_dtype]
    labels = [_as(kind, _label(value, _FIELD), _FIELD) for value in signature.classes]
    return Labels(labels, _KIND_OF_LABELS[kind])


def is_text(text: str) -> bool:
    """Whether a text can be a label, or name a column."""
    return len(text) <= LONGEST_NAME and "\0" not in text and not any("\ud800" <= one <= "\udfff" for one in text)


def _problem(label: Label) -> str:
    """Returns what is wrong with a label, or nothing."""
    if isinstance(label, str) and not is_text(label):
        return f"it is a text of {len(label)} characters; labels have at most {LONGEST_NAME}, none of them NUL"
    if isinstance(label, float) and not math.isfinite(label):
        return "it is no finite number; give one that is"
    if isinstance(label, int) and not -(2**63) <= label < 2**63:
        return "it is an integer of more than 64 bits; give a smaller one, or a text"
    return ""


def _label(value: Value, field: str) -> Label:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "number_value" if math.isfinite(value.number_value):
            return value.number_value
    raise invalid_field(field, "a label is a text, a finite number or a truth value")


def _as(kind: type[Label], label: Label, field: str) -> Label:
    """Returns a label as one of a type."""
    if type(label) is kind:
        return label
    if kind is int and isinstance(label, float) and label.is_integer():
        return int(label)
    if kind is int and isinstance(label, str) and _DIGITS.fullmatch(label):
        return int(label)
    raise invalid_field(field, f"it is not of the kind {_KIND_OF_LABELS[kind]} that prediction_dtype asks for")

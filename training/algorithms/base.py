"""What every family of models can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray

from training.data import Floats, Rows
from training.progress import Progress
from training.spec import Json, Task


@dataclass(frozen=True)
class Categories:
    """A column of the features that holds codes of categories, from 0, or NaN for a missing or unknown one.

    Attributes:
        place: The column's position in a row.
        name: Its name, for messages.
        count: The number of categories.
    """

    place: int
    name: str
    count: int


@dataclass(frozen=True)
class Problem:
    """What an algorithm has to learn.

    Attributes:
        task: Classification or regression.
        feature_shape: The shape of one row.
        class_count: The number of classes; 0 for regression.
        seed: The seed of everything random.
        cores: The number of threads to use.
        inputs_field: The path of the request's field that the features came in, for messages.
        categories: The columns of codes, in order; only for algorithms that the contract calls `native_categories`.
    """

    task: Task
    feature_shape: tuple[int, ...]
    class_count: int
    seed: int
    cores: int
    inputs_field: str = "inline.inputs"
    categories: tuple[Categories, ...] = ()


class Learner(Protocol):
    """What learns from rows, predicts and is exported."""

    def fit(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Trains the model on `train`; `validation` may only be measured.

        Raises:
            FitError: INVALID_FIELD; the hyper-parameters do not fit the data.
        """

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the library's own predictions: class probabilities [rows, classes], or values [rows, 1]."""

    def export(self) -> onnx.ModelProto:
        """Returns the trained model as ONNX, with one input `features` and one output `scores` of 32-bit floats."""


class Algorithm(Learner, Protocol):
    """One family of models: builds a model, fits it and exports it.

    A family is the class `Family` in a module of this package. Its name in the caller's request is the name of the
    module without `_family`. What it takes of categories and missing values the traits of its message say; encoding.py
    gives it just that.
    """

    DEFAULTS: ClassVar[Mapping[str, Json]]
    """A value for every field of the family's message; what is null here is decided by the task or left out."""

    LIBRARIES: ClassVar[tuple[str, ...]]
    """The distributions that the family trains with, for the manifest."""

    parameters: Mapping[str, Json]
    """The effective hyper-parameters."""

    def __init__(self, hyper_parameters: Message, problem: Problem) -> None:
        """Builds the untrained model.

        Raises:
            FitError: INVALID_FIELD; the hyper-parameters do not fit each other or the problem.
        """

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
class Problem:
    """What an algorithm has to learn.

    Attributes:
        task: Classification or regression.
        feature_shape: The shape of one row.
        class_count: The number of classes; 0 for regression.
        seed: The seed of everything random.
        cores: The number of threads to use.
    """

    task: Task
    feature_shape: tuple[int, ...]
    class_count: int
    seed: int
    cores: int


class Algorithm(Protocol):
    """One family of models: builds a model, fits it and exports it.

    A family is the class `Family` in a module of this package. Its name in the caller's request is the name of the
    module without `_family`.
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

    def fit(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Trains the model on `train`; `validation` may only be measured.

        Raises:
            FitError: INVALID_FIELD; the hyper-parameters do not fit the data.
        """

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the library's own predictions: class probabilities [rows, classes], or values [rows, 1]."""

    def export(self) -> onnx.ModelProto:
        """Returns the trained model as ONNX, with one input `features` and one output `scores` of 32-bit floats."""

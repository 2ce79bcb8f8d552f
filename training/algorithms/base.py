"""What every family of models can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray

from training.data import Floats, Rows
from training.export import trees
from training.progress import Progress
from training.spec import Json, Task
from training.texts import TextColumn


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
        target_count: The number of values to learn for each row, for regression.
        categories: The columns of codes, in order; only for algorithms that the contract calls `native_categories`.
        texts: The columns of free text, in order; only for algorithms that the contract calls `texts`.
    """

    task: Task
    feature_shape: tuple[int, ...]
    class_count: int
    seed: int
    cores: int
    inputs_field: str = "inline.inputs"
    categories: tuple[Categories, ...] = ()
    target_count: int = 1
    texts: tuple[TextColumn, ...] = ()

    @property
    def score_count(self) -> int:
        """The number of scores of one row."""
        return self.class_count or self.target_count


@dataclass(frozen=True)
class NativeFile:
    """A model as a file.

    Attributes:
        name: The file's name; its ending says the format.
        content: Its bytes.
    """

    name: str
    content: bytes


class Trained(Protocol):
    """What predicts and is exported."""

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the library's own predictions: class probabilities [rows, classes], or values [rows, targets]."""

    def export(self) -> onnx.ModelProto:
        """Returns the trained model as ONNX, with one input `features` and one output `scores` of 32-bit floats.

        The fastest form. A family that has others too has the methods of `HasTrees` or `HasNativeFile`.

        Raises:
            CannotExport: ONNX cannot say what was learned.
        """


class Learner(Trained, Protocol):
    """What learns from rows, predicts and is exported."""

    def fit(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Trains the model on `train`; `validation` may only be measured.

        Raises:
            FitError: INVALID_FIELD; the hyper-parameters do not fit the data.
        """


@runtime_checkable
class HasTrees(Protocol):
    """A learner whose model is an ensemble of trees, which FIL computes."""

    def ensemble(self) -> trees.Ensemble:
        """Returns the trees. Raises CannotExport if they alone are not the model."""


@runtime_checkable
class HasNativeFile(Protocol):
    """A learner whose library has a safe file format that the backend `fitserve_native` reads."""

    def native(self) -> NativeFile:
        """Returns the file. Raises CannotExport."""


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

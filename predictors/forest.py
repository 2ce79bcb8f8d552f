"""Ensembles of trees in the files that NVIDIA's FIL backend reads, computed by treelite as it does without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import treelite
from numpy.typing import NDArray

from predictors.files import UnreadableModel

Floats: TypeAlias = NDArray[np.float32]

FILE_NAMES: Mapping[str, str] = {
    "xgboost_ubj": "xgboost.ubj",
    "xgboost_json": "xgboost.json",
    "lightgbm": "model.txt",
    "treelite_checkpoint": "checkpoint.tl",
}
"""The name of the file by its `model_type`, as FIL has them."""

_XGBOOST_FORMATS = {"xgboost_ubj": "ubjson", "xgboost_json": "json"}


@dataclass(frozen=True)
class Options:
    """What FIL's parameters say of a model; their defaults are its own.

    Attributes:
        model_type: The format of the file, one of FILE_NAMES.
        is_classifier: Whether the model chooses among classes.
        predict_proba: Whether a classifier answers with the probability of each class, and not with the class.
        threshold: The probability from which on a classifier of two classes chooses the second.
        outputs: The number of scores of a row in the configuration; a classifier of two classes gives two only if it is 2.
    """

    model_type: str
    is_classifier: bool = False
    predict_proba: bool = False
    threshold: float = 0.5
    outputs: int = 1


class Forest:
    """An ensemble of trees.

    Args:
        file: The model's file.
        options: What it is.

    Raises:
        UnreadableModel: The file holds no model of its type.
    """

    def __init__(self, file: Path, options: Options) -> None:
        self._options = options
        self._model = _read(file, options.model_type)
        header = self._model.get_header_accessor()
        classes = int(np.max(header.get_field("num_class")))
        self._several_classes = classes > 1
        if options.predict_proba and self._several_classes:
            vectors = int(header.get_field("leaf_vector_shape")[1]) > 1
            header.set_field("postprocessor", "identity_multiclass" if vectors else "softmax")

    def scores(self, features: Floats) -> Floats:
        """Returns the scores [rows, outputs] of rows [rows, columns]; NaN is a missing value."""
        raw = treelite.gtil.predict(self._model, features.reshape(len(features), -1), nthread=1)
        found: Floats = raw.reshape(len(features), -1).astype(np.float32)
        options = self._options
        if not options.is_classifier:
            return found
        if options.predict_proba:
            alone = not self._several_classes and options.outputs == 2
            return np.concatenate([1.0 - found, found], axis=1) if alone else found
        if self._several_classes:
            return np.asarray(found.argmax(axis=1), np.float32).reshape(-1, 1)
        return (found > options.threshold).astype(np.float32)


def _read(file: Path, model_type: str) -> treelite.Model:
    try:
        if model_type == "treelite_checkpoint":
            return treelite.Model.deserialize(str(file))
        if model_type == "lightgbm":
            return treelite.frontend.load_lightgbm_model(str(file))
        if model_type in _XGBOOST_FORMATS:
            return treelite.frontend.load_xgboost_model(str(file), format_choice=_XGBOOST_FORMATS[model_type])
    except (OSError, ValueError, treelite.TreeliteError) as error:
        raise UnreadableModel(f"{file.name} is no model of the type {model_type}: {error}") from error
    raise UnreadableModel(f"the model_type {model_type!r} is not known; it is one of {', '.join(FILE_NAMES)}")

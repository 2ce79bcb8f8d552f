"""Models in their libraries' own safe formats: what the backend `fitserve_native` opens, by the file's ending."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from predictors.files import UnreadableModel

Floats: TypeAlias = NDArray[np.float32]
Texts: TypeAlias = NDArray[np.object_]


class Model(Protocol):
    """A model that takes 32-bit floats."""

    def scores(self, features: Floats) -> Floats:
        """Returns the scores [rows, outputs] of rows [rows, columns]; NaN is a missing value."""


class TextModel(Protocol):
    """A model that takes 32-bit floats and texts."""

    def scores(self, features: Floats, texts: Texts) -> Floats:
        """Returns the scores [rows, outputs] of rows: numbers [rows, columns], NaN is missing, and texts in UTF-8."""


def open_text_model(file: Path) -> TextModel:
    """Opens the file of a model with columns of texts with its library.

    Raises:
        UnreadableModel: The file holds no such model, or the format has none.
    """
    if file.suffix != ".cbm":
        raise UnreadableModel(f"{file.name} has no columns of texts; only models of CatBoost have")
    from predictors.catboost_texts import CatBoostTextModel

    return CatBoostTextModel(file)


def open_model(file: Path) -> Model:
    """Opens a model's file with its library, which is imported only then.

    Raises:
        UnreadableModel: The file holds no model of its format, or the format is not known.
    """
    if file.suffix == ".cbm":
        from predictors.catboost_model import CatBoostModel

        return CatBoostModel(file)
    if file.suffix == ".skops":
        from predictors.skops_model import SkopsModel

        return SkopsModel(file)
    raise UnreadableModel(
        f"{file.name} has a format that is not known; model.cbm (CatBoost) and model.skops (scikit-learn) are"
    )

"""CatBoost's own models, in files `model.cbm`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import catboost
import numpy as np
from numpy.typing import NDArray

from predictors.files import UnreadableModel

Floats: TypeAlias = NDArray[np.float32]

COUNTS = "fitserve_category_counts"
"""The entry of the file's metadata with the number of categories of each column that holds codes, by its place in a row."""

_LOGARITHMIC = ("Poisson", "Tweedie", "LogLinQuantile")
_CLASSIFYING = ("Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll", "MultiLogloss", "MultiCrossEntropy")
_MISSING = b"-1"


class CatBoostModel:
    """A model that takes 32-bit floats: numbers, and the codes of categories.

    Args:
        file: The model's file.

    Raises:
        UnreadableModel: The file holds no such model.
    """

    def __init__(self, file: Path) -> None:
        self._booster = opened(file)
        metadata = self._booster.get_metadata()
        self._counts = {int(place): count for place, count in json.loads(dict(metadata).get(COUNTS, "{}")).items()}
        self._kind = prediction_type(self._booster)

    def scores(self, features: Floats) -> Floats:
        """Returns the class probabilities, or the values, [rows, outputs], of rows [rows, columns]; NaN is missing."""
        pool = pool_data(features.reshape(len(features), -1), self._counts)
        found = self._booster.predict(pool, prediction_type=self._kind, thread_count=1)
        scores: Floats = np.asarray(found, np.float32).reshape(len(features), -1)
        return scores


def opened(file: Path) -> catboost.CatBoost:
    """Returns the model in a file. Raises UnreadableModel if it holds none."""
    booster = catboost.CatBoost()
    try:
        booster.load_model(str(file))
    except catboost.CatBoostError as error:
        raise UnreadableModel(f"{file.name} is no model of CatBoost: {error}") from error
    return booster


def pool_data(features: Floats, counts: dict[int, int]) -> Floats | catboost.FeaturesData:
    """Returns rows as CatBoost takes them: numbers first, then categories as the texts of their codes.

    What is missing, or no code of the column, is a category of its own.

    Args:
        features: The rows, [rows, columns].
        counts: The number of categories of the columns that hold codes, by place.
    """
    if not counts:
        return features
    places = list(counts)
    numbers = np.delete(features, places, axis=1)
    return catboost.FeaturesData(
        num_feature_data=np.ascontiguousarray(numbers) if numbers.shape[1] else None,
        cat_feature_data=texts_of_codes(features[:, places], list(counts.values())),
    )


def texts_of_codes(codes: Floats, counts: Sequence[int]) -> NDArray[np.object_]:
    """Returns the codes of categories as texts; what is missing, or no code of its column, has a text of its own.

    Args:
        codes: The codes, [rows, columns].
        counts: The number of categories of each column.
    """
    known = (codes >= 0) & (codes < np.array(counts, np.float32))
    texts = np.array([*(b"%d" % code for code in range(max(counts))), _MISSING], object)
    chosen: NDArray[np.object_] = texts[np.where(known, codes, -1).astype(np.int64)]
    return chosen


def prediction_type(booster: catboost.CatBoost) -> str:
    """Returns what CatBoost is asked for: probabilities, or values behind the link of the loss."""
    loss = str(booster.get_all_params().get("loss_function", "")).split(":")[0]
    if loss in _CLASSIFYING:
        return "Probability"
    return "Exponent" if loss in _LOGARITHMIC else "RawFormulaVal"

"""CatBoost's own models that take texts: columns of free text, and categories that only the file knows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import catboost
import numpy as np
from numpy.typing import NDArray

from predictors import catboost_model

Floats: TypeAlias = NDArray[np.float32]
Texts: TypeAlias = NDArray[np.object_]


@dataclass(frozen=True)
class Columns:
    """What the columns of a row are; each number is a place in the row.

    Attributes:
        count: The number of columns.
        counts: The number of categories of the columns that hold codes, by place.
        categories: The columns of categories that come as texts.
        texts: The columns of free text.
    """

    count: int
    counts: Mapping[int, int]
    categories: Sequence[int]
    texts: Sequence[int]

    @property
    def as_texts(self) -> list[int]:
        """The columns that come as texts, in order."""
        return sorted({*self.categories, *self.texts})

    def pool(self, features: Floats, texts: Texts) -> catboost.Pool:
        """Returns rows as CatBoost takes them.

        Args:
            features: The columns that do not come as texts, [rows, columns]; of a category its code.
            texts: The others, in UTF-8, [rows, columns].
        """
        rows = self.rows(features, texts)
        return catboost.Pool(rows, cat_features=self.all_categories, text_features=list(self.texts))

    @property
    def all_categories(self) -> list[int]:
        """The columns of categories, in whichever form they come."""
        return sorted({*self.counts, *self.categories})

    def rows(self, features: Floats, texts: Texts) -> NDArray[np.object_]:
        """Returns rows [rows, columns] of numbers and texts; see `pool`."""
        rows = np.empty((len(texts), self.count), object)
        places = self.as_texts
        plain = [place for place in range(self.count) if place not in places]
        rows[:, plain] = features
        rows[:, places] = texts
        for place, count in self.counts.items():
            rows[:, place] = catboost_model.texts_of_codes(features[:, [plain.index(place)]], [count])[:, 0]
        return rows


class CatBoostTextModel:
    """A model that takes 32-bit floats and texts.

    Args:
        file: The model's file.

    Raises:
        UnreadableModel: The file holds no such model.
    """

    def __init__(self, file: Path) -> None:
        self._booster = catboost_model.opened(file)
        self._columns = columns_of(self._booster)
        self._kind = catboost_model.prediction_type(self._booster)

    def scores(self, features: Floats, texts: Texts) -> Floats:
        """Returns the class probabilities, or the values, [rows, outputs], of rows; see `Columns.pool`."""
        pool = self._columns.pool(features, texts)
        found = self._booster.predict(pool, prediction_type=self._kind, thread_count=1)
        scores: Floats = np.asarray(found, np.float32).reshape(len(texts), -1)
        return scores


def columns_of(booster: catboost.CatBoost) -> Columns:
    """Returns what the columns of a model are: those of codes stand in its metadata if Fit has written it."""
    counts = {
        int(place): count
        for place, count in json.loads(dict(booster.get_metadata()).get(catboost_model.COUNTS, "{}")).items()
    }
    return Columns(
        count=len(booster.feature_names_),
        counts=counts,
        categories=[place for place in booster.get_cat_feature_indices() if place not in counts],
        texts=list(booster.get_text_feature_indices()),
    )

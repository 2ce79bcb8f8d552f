"""Models of CatBoost with categories and texts: which only its own file can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import catboost
import numpy as np
import onnx
from numpy.typing import NDArray

from predictors import catboost_model
from training.algorithms.base import NativeFile
from training.data import Floats
from training.errors import CannotExport
from training.importing import found
from training.importing.found import Found
from training.importing.labels import MOST_CLASSES, Labels, labels_of, places
from training.importing.spec import Column, check_names
from training.texts import TextColumn, parted

MOST_COLUMNS = 10_000
"""So many columns may have names."""

_ROWS = 200
_WORDS = ("", "a", "b", "0", "1", "no yes", "a b", "b a 1", "так", "a, b! 1.5")
"""What stands in columns of texts where the served file is compared with the library."""


def found_in(booster: catboost.CatBoost, content: bytes, kind: str, wanted: Sequence[Column]) -> Found:
    """Returns a model with categories or texts.

    Args:
        booster: The model.
        content: Its file.
        kind: What CatBoost is asked for, such as Probability.
        wanted: The columns as the caller names them, for a file that does not.

    Raises:
        FitError: INVALID_FIELD; it has too many columns or classes, or names that columns cannot have.
    """
    names = list(booster.feature_names_)
    if len(names) > MOST_COLUMNS:
        raise found.refused(f"it has {len(names)} columns, and models with texts have at most {MOST_COLUMNS}")
    if catboost_model.COUNTS in dict(booster.get_metadata()):
        raise found.refused("it is the file of a version that Fit has made, whose categories are codes; train it again")
    if len(wanted) == len(names) and names == [str(place) for place in range(len(names))]:
        names = [column.name for column in wanted]
    check_names(names, found.CONTENT)
    trained = _TextsOfFile(booster, content, kind, _kinds(booster))
    rows = trained.sample()
    count = trained.predict(rows).shape[1]
    classifies = kind == "Probability"
    if count > MOST_CLASSES or not (classifies or count == 1):
        raise found.refused(
            f"it gives {count} values a row; imported models give one, or at most {MOST_CLASSES} classes"
        )
    return Found(
        trained=trained,
        task="classification" if classifies else "regression",
        shape=(len(names),),
        score_count=count,
        columns=tuple(map(Column, names, trained.kinds)),
        missing_values=True,
        labels=labels(booster, count if classifies else 0),
        rows=rows,
        libraries=("catboost",),
        texts=trained.columns,
    )


def labels(booster: catboost.CatBoost, classes: int) -> Labels | None:
    """Returns the labels that a model names, its classes' numbers if it names none; None for regression."""
    if not classes:
        return None
    named = [label.item() if isinstance(label, np.generic) else label for label in booster.classes_]
    return labels_of(named, found.CONTENT) if len(named) == classes else places(classes)


def _kinds(booster: catboost.CatBoost) -> list[str]:
    kinds = ["number"] * len(booster.feature_names_)
    for place in booster.get_cat_feature_indices():
        kinds[place] = "category"
    for place in booster.get_text_feature_indices():
        kinds[place] = "text"
    return kinds


@dataclass(frozen=True)
class _TextsOfFile:
    """A model that was read. Rows have the places of `_WORDS` where it takes texts."""

    booster: catboost.CatBoost
    content: bytes
    kind: str
    kinds: Sequence[str]

    @property
    def columns(self) -> tuple[TextColumn, ...]:
        """The columns that come as texts."""
        return tuple(TextColumn(place, _WORDS) for place, kind in enumerate(self.kinds) if kind != "number")

    def sample(self) -> Floats:
        """Returns rows for the proof; half of the numbers are borders of the trees, or next to one."""
        numbers = [place for place, kind in enumerate(self.kinds) if kind == "number"]
        borders = self.booster.get_borders() if numbers else {}
        splits = [
            (np.full(len(borders.get(index, ())), place), np.array(borders.get(index, ()), np.float64))
            for index, place in enumerate(numbers)
        ]
        rows = found.random_rows((len(self.kinds),), splits)[:_ROWS]
        chance = np.random.default_rng(1)
        for column in self.columns:
            rows[:, column.place] = chance.integers(0, len(_WORDS), len(rows))
        return rows

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns what CatBoost predicts for rows as its users write them."""
        numbers, texts = (part.tolist() for part in parted(features, self.columns))
        rows = []
        for plain, written in zip(map(iter, numbers), map(iter, texts), strict=True):
            rows.append([next(plain) if kind == "number" else next(written).decode() for kind in self.kinds])
        places = {kind: [place for place, one in enumerate(self.kinds) if one == kind] for kind in ("category", "text")}
        pool = catboost.Pool(rows, cat_features=places["category"], text_features=places["text"])
        found_there = self.booster.predict(pool, prediction_type=self.kind, thread_count=1)
        return np.asarray(found_there, np.float64).reshape(len(features), -1)

    def export(self) -> onnx.ModelProto:
        """Refuses: ONNX has no such splits."""
        raise CannotExport("CatBoost splits by categories or by the words of texts")

    def native(self) -> NativeFile:
        """Returns the file as it came: CatBoost 1.2 writes a damaged one of a model that it has read from memory."""
        return NativeFile("model.cbm", self.content)

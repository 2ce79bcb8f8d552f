"""Columns of free text: in a matrix of features each is codes, the positions in a list of its different texts.

So rows are split, copied and compared as all others; only what reads a text looks it up. A missing text is an empty one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data import FeatureColumn, Floats


@dataclass(frozen=True)
class TextColumn:
    """A column of free text.

    Attributes:
        place: The column's position in a row.
        texts: The texts that its codes are positions of.
    """

    place: int
    texts: Sequence[str]


def text_columns(columns: Sequence[FeatureColumn]) -> tuple[TextColumn, ...]:
    """Returns those of the columns that hold free text."""
    return tuple(TextColumn(place, column.categories) for place, column in enumerate(columns) if column.kind == "text")


def parted(features: Floats, columns: Sequence[TextColumn]) -> tuple[Floats, NDArray[np.object_]]:
    """Returns rows as Triton gets them: the matrix of all other columns, and the texts [rows, columns] as UTF-8."""
    texts = np.empty((len(features), len(columns)), object)
    for index, column in enumerate(columns):
        known = np.array([*(text.encode() for text in column.texts), b""], object)
        codes = np.where(np.isnan(features[:, column.place]), -1, features[:, column.place])
        texts[:, index] = known[codes.astype(np.int64)]
    return np.delete(features, [column.place for column in columns], axis=1), texts

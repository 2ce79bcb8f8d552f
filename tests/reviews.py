"""Reviews of hotels, made up: whether a guest comes again follows from one word of the text and from the price."""

from __future__ import annotations

import numpy as np
import pandas as pd

_FILLERS = ["room", "station", "breakfast", "friends", "summer", "two", "near", "had", "with", "the", "was", "and"]
_WORDS = {True: ["lovely", "великолепно", "splendid"], False: ["awful", "ужасно", "dirty"]}


def reviews(count: int = 300, seed: int = 0) -> pd.DataFrame:
    """Returns reviews with `price`, `city`, `title`, `review` and the `verdict`; a tenth has no text."""
    chance = np.random.default_rng(seed)
    good = chance.random(count) < 0.5
    price = np.where(good, 80, 120) + chance.normal(0, 20, count)
    texts: list[str | None] = [_sentence(chance, bool(one)) for one in good]
    for place in np.flatnonzero(chance.random(count) < 0.1):
        texts[place] = None
    return pd.DataFrame(
        {
            "price": np.where(chance.random(count) < 0.05, np.nan, price.round(2)),
            "city": chance.choice(["Oslo", "Rome", "Wien"], count),
            "review": texts,
            "title": chance.choice(["short", "stay"], count),
            "verdict": np.where(good, "again", "never"),
        }
    )


def records_of(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Returns the rows as objects, in which a missing value is None."""
    return [
        {name: None if pd.isna(value) else value for name, value in row.items()} for row in frame.to_dict("records")
    ]


def _sentence(chance: np.random.Generator, good: bool) -> str:
    words = [*chance.choice(_FILLERS, 6), chance.choice(_WORDS[good])]
    return " ".join(str(word) for word in chance.permutation(words))

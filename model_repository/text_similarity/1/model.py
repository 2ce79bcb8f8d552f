"""How alike two texts are: the cosine between their character 3-grams, hashed and weighed by scikit-learn.

Nothing is trained and nothing downloaded. Upper and lower case count the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from sklearn.feature_extraction.text import HashingVectorizer

# The stub's own classes come without types.
Request = Any
Response = Any

Pairs = tuple[list[str], list[str]]
"""The first and the second text of each row."""


class TritonPythonModel:
    """One copy of the model; Triton calls its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Prepare the features: rows of length 1, so that a product of two is their cosine."""
        self._features = HashingVectorizer(
            analyzer="char_wb", ngram_range=(2, 3), n_features=2**18, alternate_sign=False
        )

    def execute(self, requests: Sequence[Request]) -> list[Response]:
        """Answer all requests with one pass over their texts; one with bytes that are no text is told so."""
        given = [_pairs(request) for request in requests]
        found = iter(self._similarities([pairs for pairs in given if not isinstance(pairs, triton.TritonError)]))
        return [
            triton.InferenceResponse(error=pairs)
            if isinstance(pairs, triton.TritonError)
            else triton.InferenceResponse([triton.Tensor("similarity", next(found))])
            for pairs in given
        ]

    def _similarities(self, given: Sequence[Pairs]) -> list[Any]:
        """Return how alike the texts of each request are, float64 [rows, 1]."""
        if not given:
            return []
        first, second = ([text for pairs in given for text in pairs[side]] for side in (0, 1))
        features = self._features.transform(first + second)
        products = features[: len(first)].multiply(features[len(first) :])
        similarity = np.clip(np.asarray(products.sum(axis=1), np.float64), 0.0, 1.0)
        bounds = accumulate((len(pairs[0]) for pairs in given), initial=0)
        return [similarity[start:stop] for start, stop in pairwise(bounds)]


def _pairs(request: Request) -> Pairs | Any:
    """Return both inputs of a request as texts, or the error that tells its caller that the inputs are wrong."""
    values = [triton.get_input_tensor_by_name(request, name).as_numpy().ravel() for name in ("first", "second")]
    try:
        first, second = ([value.decode() for value in column] for column in values)
    except UnicodeDecodeError as error:
        return triton.TritonError(f"{error.object!r:.50} is no UTF-8", triton.TritonError.INVALID_ARG)
    return first, second

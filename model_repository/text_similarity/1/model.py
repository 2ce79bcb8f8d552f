"""How alike two texts are: the cosine between their character 3-grams, hashed and weighed by scikit-learn.

Nothing is trained and nothing downloaded. Upper and lower case count the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from sklearn.feature_extraction.text import HashingVectorizer

# The stub's own classes come without types.
Request = Any
Response = Any


class TritonPythonModel:
    """One copy of the model; Triton calls its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Prepare the features: rows of length 1, so that a product of two is their cosine."""
        self._features = HashingVectorizer(
            analyzer="char_wb", ngram_range=(2, 3), n_features=2**18, alternate_sign=False
        )

    def execute(self, requests: Sequence[Request]) -> list[Response]:
        """Answer all requests with one pass over their texts."""
        first, bounds = _texts(requests, "first")
        second, _ = _texts(requests, "second")
        features = self._features.transform(first + second)
        products = features[: len(first)].multiply(features[len(first) :])
        similarity = np.clip(np.asarray(products.sum(axis=1), np.float64), 0.0, 1.0)
        return [
            triton.InferenceResponse([triton.Tensor("similarity", similarity[start:stop])])
            for start, stop in pairwise(bounds)
        ]


def _texts(requests: Sequence[Request], name: str) -> tuple[list[str], list[int]]:
    """Return one input of all requests as texts, and where those of each request begin."""
    texts: list[str] = []
    bounds = [0]
    for request in requests:
        values = triton.get_input_tensor_by_name(request, name).as_numpy().ravel()
        texts.extend(value.decode("utf-8", "replace") for value in values)
        bounds.append(len(texts))
    return texts, bounds

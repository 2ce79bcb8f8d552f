"""Requests as tritonclient makes them, for the tests of the Open Inference Protocol."""

from __future__ import annotations

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype


def features(rows: np.ndarray, name: str = "features") -> triton.InferInput:
    """Rows as the input of a request, as they are: nothing is converted."""
    return triton.InferInput(name, list(rows.shape), np_to_triton_dtype(rows.dtype)).set_data_from_numpy(rows)


def scores(classes: int = 0) -> triton.InferRequestedOutput:
    """The output of all models."""
    return triton.InferRequestedOutput("scores", class_count=classes)

"""Models with columns of texts: what their rows are to Triton.

Such a model takes named tensors: `features`, a matrix of its other columns in their order, and `texts`, a matrix of the
columns that go as texts. One of the two is left out if it has no columns. Callers send named columns as to any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from service.domain.entities import INPUT, OUTPUT, ColumnSpec, Floats, Signature
from service.domain.loaded import max_batch_rows
from service.domain.named_tensors import Tensor, TensorBatch, TensorSpec, TensorType
from service.domain.predictor import Prediction, TensorPrediction

TEXTS = "texts"
"""What Triton calls the input of texts, of type BYTES."""

_OUTPUTS = (TensorSpec(OUTPUT, TensorType.FP32, (-1, -1)),)


def counts_of(columns: Sequence[ColumnSpec]) -> tuple[int, int]:
    """Returns how many columns go into the matrix of features, and how many as texts."""
    texts = sum(column.goes_as_text for column in columns)
    return len(columns) - texts, texts


def with_tensors(signature: Signature) -> Signature:
    """Returns a signature with the named tensors that its columns become, if some of them are texts."""
    features, texts = counts_of(signature.columns)
    if not texts:
        return signature
    inputs = (TensorSpec(INPUT, TensorType.FP32, (-1, features)), TensorSpec(TEXTS, TensorType.BYTES, (-1, texts)))
    return replace(
        signature,
        inputs=inputs if features else inputs[1:],
        outputs=_OUTPUTS,
        max_batch_size=max_batch_rows(signature.row_bytes),
    )


def batch_of(features: Floats, texts: bytes, signature: Signature) -> TensorBatch:
    """Returns rows as the tensors of a signature.

    Args:
        features: The matrix of all columns; what stands in those of texts does not count.
        texts: The texts, row by row, as the data of a BYTES tensor.
    """
    plain = [place for place, column in enumerate(signature.columns) if not column.goes_as_text]
    rows, columns = features.shape
    tensors = [Tensor(TEXTS, TensorType.BYTES, (rows, columns - len(plain)), texts)]
    tensors[0].check()  # which finds the ends of its rows, for a large request in a thread
    if plain:
        matrix = np.ascontiguousarray(features[:, plain])
        tensors.insert(0, Tensor(INPUT, TensorType.FP32, (rows, len(plain)), matrix.tobytes()))
    return TensorBatch(rows, tuple(tensors))


def prediction_of(answer: TensorPrediction) -> Prediction:
    """Returns the scores that a model has given."""
    (scores,) = answer.outputs[0].tensors
    found = np.frombuffer(scores.data, np.float32).reshape(scores.shape)
    return Prediction(answer.model, answer.version, answer.signature, found)

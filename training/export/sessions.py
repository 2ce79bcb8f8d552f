"""ONNX models computed as Triton's backend `onnxruntime` does, with one thread."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data import Floats
from training.export.graph import FEATURES, SCORES

BATCH_ROWS = 1024


# Any: onnxruntime has no types.
def session_of(model: bytes):  # type: ignore[no-untyped-def]
    """Returns a session of onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_scores(model: bytes, features: Floats) -> NDArray[np.float64]:
    """Returns the scores [rows, k] of rows."""
    session = session_of(model)
    batches = [
        session.run([SCORES], {FEATURES: features[start : start + BATCH_ROWS]})[0]
        for start in range(0, len(features), BATCH_ROWS)
    ]
    return np.concatenate(batches).astype(np.float64)

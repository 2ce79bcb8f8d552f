"""What an exported model answers, for the tests of training."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictors import native
from predictors.forest import Forest, Options
from training import parity
from training.algorithms.base import Learner
from training.data import Floats
from training.export import sessions
from training.export.ladder import Exported
from training.spec import Task


def proof_of(
    model: bytes, learner: Learner, task: Task, features: Floats, missing_values: bool, places: Sequence[int] = ()
) -> parity.Proof:
    """Returns the comparison of an ONNX model with the learner that it was exported from."""
    expected = parity.expect(learner, task, features, missing_values, 0, places)
    return expected.compare(sessions.onnx_scores(model, expected.rows))


def served_scores(exported: Exported, features: Floats, classes: int) -> NDArray[np.float64]:
    """Returns what the backend of an exported model answers."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, exported.file.name)
        path.write_bytes(exported.file.content)
        if exported.backend == "fil":
            options = Options("treelite_checkpoint", classes > 0, classes > 0, outputs=classes or 1)
            return Forest(path, options).scores(features).astype(np.float64)
        if exported.backend == "fitserve_native":
            return native.open_model(path).scores(features).astype(np.float64)
        return sessions.onnx_scores(exported.file.content, features)

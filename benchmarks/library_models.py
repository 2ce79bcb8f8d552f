"""The libraries' own models for the peers that serve them, fitted on what FitServe was trained on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.environments import HERE, EnvironmentFailed
from benchmarks.models import SEED, Model

SERVED = ("forest", "light", "xgboost")
"""The models that the peers serve with the library itself."""


def fit(python: Path, models: Mapping[str, Model], directory: Path) -> None:
    """Writes forest.joblib, light.joblib and xgboost.json, made by a peer's own versions of the libraries.

    Raises:
        EnvironmentFailed: The peer's environment cannot do it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {"seed": np.array(SEED)}
    for name in SERVED:
        features, targets = models[name].rows_trained_on()
        arrays[f"{name}_features"], arrays[f"{name}_targets"] = features, targets
        parameters = {field.name: value for field, value in models[name].algorithm.ListFields()}
        arrays[f"{name}_parameters"] = np.array(json.dumps(parameters))
    data = directory / "data.npz"
    np.savez(data, **arrays)  # type: ignore[arg-type]  # the stub takes the names for its own arguments
    script = HERE / "peers" / "library_models.py"
    done = subprocess.run([python, script, data, directory], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentFailed(f"the models of {python.parents[2].name} cannot be fitted: {done.stderr[-600:]}")

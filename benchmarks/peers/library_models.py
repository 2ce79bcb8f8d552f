"""Fits the libraries' own models of what FitServe has trained, in the environment of a peer that serves such models.

`python library_models.py DATA.npz DIRECTORY` writes DIRECTORY/forest.joblib, light.joblib and xgboost.json. The same
rows, parameters and seed as FitServe's training had are in DATA.npz; the answers are compared later.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from xgboost import XGBRegressor


def main(data: Path, directory: Path) -> None:
    """Fits and writes all models."""
    with np.load(data) as arrays:
        parts = {name: arrays[name] for name in arrays.files}
    seed = int(parts["seed"])

    def fitted(name: str, estimator: Any) -> Any:  # Any: three libraries' estimators have no common type
        parameters = json.loads(str(parts[f"{name}_parameters"]))
        return estimator.set_params(**parameters).fit(parts[f"{name}_features"], parts[f"{name}_targets"])

    joblib.dump(fitted("forest", RandomForestClassifier(random_state=seed)), directory / "forest.joblib")
    joblib.dump(fitted("light", LogisticRegression(max_iter=1000)), directory / "light.joblib")
    fitted("xgboost", XGBRegressor(tree_method="hist", random_state=seed)).save_model(directory / "xgboost.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

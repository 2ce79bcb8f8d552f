"""Triton backend ``fil`` for the embedded Triton: runs ensembles of trees with treelite.

It bears the name of the backend that NVIDIA's image has built in and reads the same files and parameters, so one model
repository serves both. Triton's Python stub loads it, one process for each model instance.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The package lies beside this backend's folder.
sys.path.append(str(Path(__file__).parents[1]))

from predictors import triton_rows
from predictors.forest import FILE_NAMES, Forest, Options


class TritonPythonModel(triton_rows.Instance):
    """One instance of one version of a model; Triton calls its methods."""

    def default_file(self, config: triton_rows.Config) -> str:
        """Return the name that FIL gives to files of the model's type."""
        return FILE_NAMES.get(_options(config).model_type, "")

    def open(self, file: Path, config: triton_rows.Config) -> triton_rows.Rows:
        """Open the ensemble of trees."""
        return triton_rows.Rows(config, Forest(file, _options(config)).scores)


def _options(config: triton_rows.Config) -> Options:
    """Read FIL's parameters; those for its speed mean nothing here."""
    given = {name: value["string_value"] for name, value in config["parameters"].items()}

    def truth(name: str) -> bool:
        return bool(given.get(name, "false").lower() == "true")

    return Options(
        model_type=given.get("model_type", "xgboost_ubj"),
        # Its older name is `output_class`.
        is_classifier=truth("is_classifier") or truth("output_class"),
        predict_proba=truth("predict_proba"),
        threshold=float(given.get("threshold", "0.5")),
        outputs=int(config["output"][0]["dims"][0]),
    )

"""Triton backend ``fil`` for the embedded Triton: runs ensembles of trees with treelite.

It bears the name of the backend that NVIDIA's image has built in and reads the same files and parameters, so one model
repository serves both. Triton's Python stub loads it, one process for each model instance.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as triton

# The package lies beside this backend's folder.
sys.path.append(str(Path(__file__).parents[1]))

from predictors import triton_rows
from predictors.files import UnreadableModel
from predictors.forest import FILE_NAMES, Forest, Options


class TritonPythonModel:
    """One instance of one version of a model; Triton calls its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model file.

        Args:
            args: What Triton tells an instance; used are ``model_config`` (JSON), ``model_repository`` (the
                model's folder) and ``model_version``.

        Raises:
            TritonModelException: The file is no model of the configured type, or the configuration does not fit.
        """
        config = json.loads(args["model_config"])
        options = _options(config)
        file = triton_rows.model_file(args, config, FILE_NAMES.get(options.model_type, ""))
        try:
            forest = Forest(file, options)
        except UnreadableModel as error:
            raise triton.TritonModelException(str(error)) from error
        self._rows = triton_rows.Rows(config, forest.scores)

    def execute(self, requests: Sequence[triton_rows.Request]) -> list[triton_rows.Response]:
        """Answer each request, with its scores or with its own error."""
        return self._rows.execute(requests)


# Any: the configuration as JSON.
def _options(config: Mapping[str, Any]) -> Options:
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

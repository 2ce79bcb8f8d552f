"""Triton backend ``fitserve_native``: runs models in their libraries' own safe formats, with the library itself.

It is FitServe's own, and laid into the embedded Triton and into NVIDIA's image. Triton's Python stub loads it, one process
for each model instance, which imports the one library that the model needs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import triton_python_backend_utils as triton

# The package lies beside this backend's folder.
sys.path.append(str(Path(__file__).parents[1]))

from predictors import native, triton_rows
from predictors.files import UnreadableModel


class TritonPythonModel:
    """One instance of one version of a model; Triton calls its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model file.

        Args:
            args: What Triton tells an instance; used are ``model_config`` (JSON), ``model_repository`` (the
                model's folder) and ``model_version``.

        Raises:
            TritonModelException: The file is no model of its format, or the configuration does not fit.
        """
        config = json.loads(args["model_config"])
        file = triton_rows.model_file(args, config, "model.cbm")
        texts = any(tensor["data_type"] == "TYPE_STRING" for tensor in config["input"])
        try:
            if texts:
                self._rows: triton_rows.Rows = triton_rows.TextRows(config, native.open_text_model(file).scores)
            else:
                self._rows = triton_rows.Rows(config, native.open_model(file).scores)
        except UnreadableModel as error:
            raise triton.TritonModelException(str(error)) from error

    def execute(self, requests: Sequence[triton_rows.Request]) -> list[triton_rows.Response]:
        """Answer each request, with its scores or with its own error."""
        return self._rows.execute(requests)

"""Triton backend ``fitserve_native``: runs models in their libraries' own safe formats, with the library itself.

It is FitServe's own, and laid into the embedded Triton and into NVIDIA's image. Triton's Python stub loads it, one process
for each model instance, which imports the one library that the model needs.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The package lies beside this backend's folder.
sys.path.append(str(Path(__file__).parents[1]))

from predictors import native, triton_rows


class TritonPythonModel(triton_rows.Instance):
    """One instance of one version of a model; Triton calls its methods."""

    def default_file(self, config: triton_rows.Config) -> str:
        """Return the name of CatBoost's files."""
        return "model.cbm"

    def open(self, file: Path, config: triton_rows.Config) -> triton_rows.Rows:
        """Open a model of rows, or of texts if the configuration has some."""
        if any(tensor["data_type"] == "TYPE_STRING" for tensor in config["input"]):
            return triton_rows.TextRows(config, native.open_text_model(file).scores)
        return triton_rows.Rows(config, native.open_model(file).scores)

"""Triton backend ``pytorch`` for the embedded Triton: runs TorchScript models with the torch package.

It bears the name of the backend that NVIDIA's image has built in and reads the same files and configuration. torch is large
and installed only if it is asked for.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import triton_python_backend_utils as triton

# The package lies beside this backend's folder.
sys.path.append(str(Path(__file__).parents[1]))

from predictors import triton_rows


class TritonPythonModel(triton_rows.Instance):
    """One instance of one version of a model; Triton calls its methods."""

    def default_file(self, config: triton_rows.Config) -> str:
        """Return the name that NVIDIA's backend gives to the file."""
        return "model.pt"

    def open(self, file: Path, config: triton_rows.Config) -> triton_rows.Rows:
        """Open the TorchScript, which is refused where there is no torch."""
        if importlib.util.find_spec("torch") is None:
            # The service looks for these words.
            raise triton.TritonModelException("torch is not installed; run 'make setup TRITON_TORCH=1'")
        import torch

        from predictors.torch_model import TorchModel

        torch.set_num_threads(1)
        return triton_rows.Rows(config, TorchModel(file).scores)

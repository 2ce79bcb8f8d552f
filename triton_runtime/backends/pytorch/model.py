"""Triton backend ``pytorch`` for the embedded Triton: runs TorchScript models with the torch package.

It bears the name of the backend that NVIDIA's image has built in and reads the same files and configuration. torch is large
and installed only if it is asked for.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import triton_python_backend_utils as triton

# The package lies beside this backend's folder.
sys.path.append(str(Path(__file__).parents[1]))

from predictors import triton_rows
from predictors.files import UnreadableModel


class TritonPythonModel:
    """One instance of one version of a model; Triton calls its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model file.

        Args:
            args: What Triton tells an instance; used are ``model_config`` (JSON), ``model_repository`` (the
                model's folder) and ``model_version``.

        Raises:
            TritonModelException: There is no torch, the file is no TorchScript, or the configuration does not fit.
        """
        if importlib.util.find_spec("torch") is None:
            # The service looks for these words.
            raise triton.TritonModelException("torch is not installed; run 'make setup TRITON_TORCH=1'")
        import torch

        from predictors.torch_model import TorchModel

        torch.set_num_threads(1)
        config = json.loads(args["model_config"])
        try:
            model = TorchModel(triton_rows.model_file(args, config, "model.pt"))
        except UnreadableModel as error:
            raise triton.TritonModelException(str(error)) from error
        self._rows = triton_rows.Rows(config, model.scores)

    def execute(self, requests: Sequence[triton_rows.Request]) -> list[triton_rows.Response]:
        """Answer each request, with its scores or with its own error."""
        return self._rows.execute(requests)

"""TorchScript models, in files `model.pt`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from predictors.files import UnreadableModel

Floats: TypeAlias = NDArray[np.float32]


class TorchModel:
    """A model that takes one tensor of 32-bit floats and gives one, on one core.

    Args:
        file: The model's file.

    Raises:
        UnreadableModel: The file holds no such model.
    """

    def __init__(self, file: Path) -> None:
        try:
            with warnings.catch_warnings(action="ignore"):  # that TorchScript is to be followed by another format
                self._module = torch.jit.load(str(file), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever the library raises that reads a damaged file
            raise UnreadableModel(f"{file.name} is no TorchScript: {error}") from error

    def scores(self, features: Floats) -> Floats:
        """Returns what the model gives for rows, with the shape that it has there."""
        with torch.inference_mode():
            found = self._module(torch.from_numpy(np.array(features, np.float32)))
        if not isinstance(found, torch.Tensor):
            raise TypeError(f"the model gives a {type(found).__name__}, and one tensor is served")
        scores: Floats = found.to(torch.float32).numpy()
        return scores

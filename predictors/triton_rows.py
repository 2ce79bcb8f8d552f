"""What the Python-based backends of `predictors` share: they answer many requests with one computation.

Only Triton's stub can import this, since it alone has triton_python_backend_utils.
"""

from __future__ import annotations

# The stub imports asyncio at the first request, which would then wait 30 ms longer than the others.
import asyncio  # noqa: F401
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import triton_python_backend_utils as triton
from numpy.typing import NDArray

from predictors.files import UnreadableModel

Floats: TypeAlias = NDArray[np.float32]
Scorer: TypeAlias = Callable[[Floats], Floats]
TextScorer: TypeAlias = Callable[[Floats, NDArray[np.object_]], Floats]
# The stub's own classes come without types.
Request: TypeAlias = Any
Response: TypeAlias = Any
# Any: the configuration as JSON.
Config: TypeAlias = Mapping[str, Any]


class Instance(ABC):
    """One instance of one version of a model; Triton calls `initialize` and `execute`."""

    @abstractmethod
    def default_file(self, config: Config) -> str:
        """Returns the name of the model's file if the configuration names none."""

    @abstractmethod
    def open(self, file: Path, config: Config) -> Rows:
        """Opens the model's file.

        Raises:
            UnreadableModel: The file is no model of the configured type.
            TritonModelException: The configuration does not fit.
        """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Opens the model's file.

        Args:
            args: What Triton tells an instance; used are ``model_config`` (JSON), ``model_repository`` (the
                model's folder) and ``model_version``.

        Raises:
            TritonModelException: See `open`.
        """
        config = json.loads(args["model_config"])
        name = config["default_model_filename"] or self.default_file(config)
        try:
            self._rows = self.open(Path(args["model_repository"], args["model_version"], name), config)
        except UnreadableModel as error:
            raise triton.TritonModelException(str(error)) from error

    def execute(self, requests: Sequence[Request]) -> list[Response]:
        """Answers each request, with its scores or with its own error."""
        return self._rows.execute(requests)


class Rows:
    """Answers requests of one model.

    Args:
        config: The model's configuration, whose one input and one output it uses.
        scorer: Returns the scores [rows, outputs] of rows.

    Raises:
        TritonModelException: The configuration has other inputs and outputs.
    """

    def __init__(self, config: Config, scorer: Scorer) -> None:
        tensors = [*config["input"], *config["output"]]
        if len(tensors) != 2 or any(tensor["data_type"] != "TYPE_FP32" for tensor in tensors):
            raise triton.TritonModelException("the model has one input and one output, both TYPE_FP32")
        self._inputs, self._output = [config["input"][0]["name"]], config["output"][0]["name"]
        self._scorer = scorer

    def execute(self, requests: Sequence[Request]) -> list[Response]:
        """Answers each request, with its scores or with its own error."""
        rows = [self._rows(request) for request in requests]
        if len(rows) > 1:
            bounds = [0, *accumulate(map(len, rows))]
            try:
                scores = self._scorer(np.concatenate(rows))
                return [self._response(scores[start:end]) for start, end in pairwise(bounds)]
            except Exception:  # one of them is at fault: alone, each gets its own answer
                pass
        return [self._answer(part) for part in rows]

    def _rows(self, request: Request) -> Floats:
        rows: Floats = triton.get_input_tensor_by_name(request, self._inputs[0]).as_numpy()
        return rows

    def _answer(self, rows: Floats) -> Response:
        try:
            return self._response(self._scorer(rows))
        except Exception as error:
            return triton.InferenceResponse(error=triton.TritonError(str(error), triton.TritonError.INTERNAL))

    def _response(self, scores: Floats) -> Response:
        return triton.InferenceResponse([triton.Tensor(self._output, np.ascontiguousarray(scores))])


class TextRows(Rows):
    """Answers requests of one model with columns of texts.

    Args:
        config: The model's configuration: an input of texts, maybe one of features before it, and one output.
        scorer: Returns the scores [rows, outputs] of features [rows, columns] and texts [rows, columns].

    Raises:
        TritonModelException: The configuration has other inputs and outputs.
    """

    def __init__(self, config: Config, scorer: TextScorer) -> None:
        types = [tensor["data_type"] for tensor in [*config["input"], *config["output"]]]
        if types not in (["TYPE_STRING", "TYPE_FP32"], ["TYPE_FP32", "TYPE_STRING", "TYPE_FP32"]):
            raise triton.TritonModelException(
                "the model has inputs of TYPE_FP32 and TYPE_STRING, one output of TYPE_FP32"
            )
        self._inputs, self._output = [tensor["name"] for tensor in config["input"]], config["output"][0]["name"]
        texts = int(config["input"][-1]["dims"][0])
        # Any: an array of objects, some of them numbers.
        self._scorer: Callable[[NDArray[Any]], Floats] = lambda rows: scorer(
            rows[:, :-texts].astype(np.float32), rows[:, -texts:]
        )

    def _rows(self, request: Request) -> NDArray[Any]:
        """Returns the features and the texts of a request in one array of objects."""
        parts = [triton.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs]
        return np.concatenate([part.astype(object) for part in parts], axis=1)

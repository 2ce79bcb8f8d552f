"""Triton backend ``onnxruntime`` for the embedded Triton: runs ONNX models with the onnxruntime package.

It bears the name of the backend that NVIDIA's image has built in and reads the same files and configuration,
so one model repository serves both. Triton's Python stub loads it, one process for each model instance.
"""

from __future__ import annotations

# The stub imports asyncio at the first request, which would then wait 30 ms longer than the others.
import asyncio  # noqa: F401
import json
import os
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeAlias

# The library reads this while it loads: no usage data leaves a server.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

# A tensor may have any element type, and the stub's own classes come without types.
Feed: TypeAlias = dict[str, "np.ndarray[Any, Any]"]
Request: TypeAlias = Any
Response: TypeAlias = Any

_ONE_CORE = "1"
# What onnxruntime raises for values that an operation does not take, and texts that are none.
_WRONG_VALUES = (InvalidArgument, Fail, RuntimeException, UnicodeDecodeError)
_ELEMENT_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
    "TYPE_STRING": "tensor(string)",
}


class TritonPythonModel:
    """One instance of one version of an ONNX model; Triton calls its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model file and compare it with its configuration.

        Args:
            args: What Triton tells an instance; used are ``model_config`` (JSON), ``model_repository`` (the
                model's folder) and ``model_version``.

        Raises:
            TritonModelException: The file is no ONNX model, or has other inputs and outputs than configured.
        """
        config = json.loads(args["model_config"])
        file = Path(args["model_repository"], args["model_version"], config["default_model_filename"] or "model.onnx")
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), _session_options(config["parameters"]), providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise triton.TritonModelException(f"{file.name} cannot be loaded: {error}") from error
        _check("input", config["input"], self._session.get_inputs())
        _check("output", config["output"], self._session.get_outputs())
        self._rows_are_independent = config["max_batch_size"] > 0
        self._texts = {tensor["name"] for tensor in config["input"] if tensor["data_type"] == "TYPE_STRING"}

    def execute(self, requests: Sequence[Request]) -> list[Response]:
        """Answer each request, with its outputs or with its own error.

        Requests that Triton's dynamic batcher put together run as one where their shapes allow it.
        """
        if len(requests) == 1 or not self._rows_are_independent:
            return [self._answer(request) for request in requests]
        answers: dict[int, Response] = {}
        for members in self._alike(requests):
            answers |= self._answer_together(members)
        return [answers.get(id(request)) or self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Response:
        try:
            names = request.requested_output_names()
            return _response(names, self._session.run(names, self._feed(request)))
        except Exception as error:
            return _error(error)

    def _alike(self, requests: Sequence[Request]) -> list[list[tuple[Request, Feed]]]:
        """Group the readable requests that differ in nothing but their number of rows."""
        groups: dict[object, list[tuple[Request, Feed]]] = {}
        for request in requests:
            try:
                feed = self._feed(request)
            except Exception:  # it answers for itself, alone
                continue
            shapes = tuple((name, array.dtype, array.shape[1:]) for name, array in feed.items())
            key = (tuple(request.requested_output_names()), shapes)
            groups.setdefault(key, []).append((request, feed))
        return list(groups.values())

    def _answer_together(self, members: list[tuple[Request, Feed]]) -> dict[int, Response]:
        """Run several requests as one; answer none if that fails or the rows cannot be told apart."""
        names = members[0][0].requested_output_names()
        bounds = [0, *accumulate(len(next(iter(feed.values()))) for _, feed in members)]
        try:
            feed = {name: np.concatenate([feed[name] for _, feed in members]) for name in members[0][1]}
            outputs = self._session.run(names, feed)
            if any(len(output) != bounds[-1] for output in outputs):
                return {}
            return {
                id(request): _response(names, [output[start:end] for output in outputs])
                for (request, _), (start, end) in zip(members, pairwise(bounds), strict=True)
            }
        except Exception:  # one of them is at fault; alone, each gets its own answer
            return {}

    def _feed(self, request: Request) -> Feed:
        feed = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        for name in self._texts.intersection(feed):
            feed[name] = _decoded(feed[name])
        return feed


def _session_options(parameters: dict[str, dict[str, str]]) -> onnxruntime.SessionOptions:
    """Read the thread counts as NVIDIA's backend does, except that the default is one and not all cores."""

    def threads(parameter: str) -> int:
        return int(parameters.get(parameter, {}).get("string_value", _ONE_CORE))

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads("intra_op_thread_count")
    options.inter_op_num_threads = threads("inter_op_thread_count")
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # A plan of memory is kept for every batch size seen; without it batches are as fast and take less.
    options.enable_mem_pattern = False
    # A failing request gets its error as the answer; a second copy in the log would come with each.
    options.log_severity_level = 4
    return options


def _check(kind: str, configured: list[dict[str, Any]], found: Sequence[onnxruntime.NodeArg]) -> None:
    """Refuse a configuration that names other tensors or element types than the model has.

    Raises:
        TritonModelException: It does; the message names the tensor.
    """
    types = {node.name: node.type for node in found}
    for tensor in configured:
        name, declared = tensor["name"], tensor["data_type"]
        if name not in types:
            raise triton.TritonModelException(f"the model has no {kind} '{name}'; it has {sorted(types)}")
        if types[name] != _ELEMENT_TYPES.get(declared):
            raise triton.TritonModelException(
                f"{kind} '{name}' is configured as {declared}, but is a {types[name]} in the model"
            )
    missing = types.keys() - {tensor["name"] for tensor in configured}
    if kind == "input" and missing:
        raise triton.TritonModelException(f"the configuration lacks the model's inputs {sorted(missing)}")


def _response(names: list[str], outputs: Sequence[np.ndarray[Any, Any]]) -> Response:
    tensors = [triton.Tensor(name, output) for name, output in zip(names, outputs, strict=True)]
    return triton.InferenceResponse(tensors)


def _error(error: Exception) -> Response:
    wrong = isinstance(error, _WRONG_VALUES) and "alloc" not in str(error)  # which is said of memory that is full
    code = triton.TritonError.INVALID_ARG if wrong else triton.TritonError.INTERNAL
    return triton.InferenceResponse(error=triton.TritonError(str(error), code))


def _decoded(texts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Turn an array of UTF-8 bytes into one of str, which is what onnxruntime takes."""
    return np.array([text.decode() for text in texts.flat], dtype=object).reshape(texts.shape)

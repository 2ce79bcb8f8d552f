"""Models as operators place them in the model directory, for tests."""

from __future__ import annotations

from pathlib import Path

ECHO_CONFIG = """
backend: "python"
max_batch_size: 8
input [
  {{ name: "text" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "numbers" data_type: TYPE_FP32 dims: [ -1 ] }},
  {{ name: "count" data_type: TYPE_INT64 dims: [ 1 ] optional: true }}
]
output [
  {{ name: "upper" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "sums" data_type: TYPE_FP64 dims: [ 2 ] }},
  {{ name: "requests" data_type: TYPE_INT32 dims: [ 1 ] }}
]
"""
"""Takes a text, any number of numbers and perhaps a count; gives the text in capitals, the sum of the numbers with the count
added and without, and how many rows came in one call."""

ECHO_CODE = """
import numpy as np
import triton_python_backend_utils as triton

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        text = triton.get_input_tensor_by_name(request, "text").as_numpy()
        numbers = triton.get_input_tensor_by_name(request, "numbers").as_numpy()
        count = triton.get_input_tensor_by_name(request, "count")
        if b"bad" in text:
            raise ValueError("a secret path: /etc/operator")
        if b"broken" in text:
            return triton.InferenceResponse(error=triton.TritonError("a secret path: /etc/operator"))
        if b"wrong" in text:
            problem = "text: 'wrong' is not taken; send another one"
            return triton.InferenceResponse(error=triton.TritonError(problem, triton.TritonError.INVALID_ARG))
        sums = numbers.astype(np.float64).sum(axis=1, keepdims=True)
        more = 0 if count is None else count.as_numpy()
        upper = np.array([[row[0].decode().upper().encode()] for row in text], dtype=np.object_)
        return triton.InferenceResponse([
            triton.Tensor("upper", upper),
            triton.Tensor("sums", np.hstack([sums + more, sums])),
            triton.Tensor("requests", np.full((len(text), 1), len(text), np.int32)),
        ])
"""


def place(
    model_dir: Path, name: str, config: str = "", code: str = ECHO_CODE, versions: tuple[int, ...] = (1,)
) -> None:
    """Writes a model, as an operator would; the model that echoes unless it is said otherwise."""
    (model_dir / name).mkdir()
    for version in versions:
        (model_dir / name / str(version)).mkdir(parents=True)
        (model_dir / name / str(version) / "model.py").write_text(code)
    (model_dir / name / "config.pbtxt").write_text(config or ECHO_CONFIG.format())

"""Linear functions of the features as ONNX operations, in double precision."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from training.export import graph


def doubles() -> list[onnx.NodeProto]:
    """Returns the operations from the features to `doubles`, [rows, columns] in double precision."""
    return [
        helper.make_node("Flatten", [graph.FEATURES], ["flat"]),
        helper.make_node("Cast", ["flat"], ["doubles"], to=TensorProto.DOUBLE),
    ]


def affine(
    value: str,
    weights: NDArray[np.float64],
    bias: NDArray[np.float64],
    output: str,
    constants: dict[str, NDArray[np.generic]],
) -> list[onnx.NodeProto]:
    """Returns the operations that compute `output` = `value` @ weights.T + bias.

    Args:
        value: The name of the left factor, doubles [rows, columns].
        weights: One row an output, [outputs, columns].
        bias: What is added, [outputs].
        output: The name of the result, doubles [rows, outputs].
        constants: Gets the arrays.
    """
    constants[f"{output}.weights"] = np.ascontiguousarray(weights.T)
    constants[f"{output}.bias"] = bias
    return [
        helper.make_node("MatMul", [value, f"{output}.weights"], [f"{output}.products"]),
        helper.make_node("Add", [f"{output}.products", f"{output}.bias"], [output]),
    ]


def to_scores(value: str) -> onnx.NodeProto:
    """Returns the operation from doubles to `scores`."""
    return helper.make_node("Cast", [value], [graph.SCORES], to=TensorProto.FLOAT)


def probabilities(logits: str) -> list[onnx.NodeProto]:
    """Returns the operations from logits in double precision, [rows, classes], to `scores`."""
    return [helper.make_node("Softmax", [logits], ["probabilities"], axis=1), to_scores("probabilities")]

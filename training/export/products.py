"""Linear functions of the features as ONNX operations, in double precision."""

from __future__ import annotations

from collections.abc import Sequence

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
    constants[f"{output}.weights"] = np.ascontiguousarray(weights.T, np.float64)
    constants[f"{output}.bias"] = np.asarray(bias, np.float64)  # fitted on such rows, both are in single precision
    return [
        helper.make_node("MatMul", [value, f"{output}.weights"], [f"{output}.products"]),
        helper.make_node("Add", [f"{output}.products", f"{output}.bias"], [output]),
    ]


def standardized(
    mean: NDArray[np.float64], deviation: NDArray[np.float64], constants: dict[str, NDArray[np.generic]]
) -> list[onnx.NodeProto]:
    """Returns the operations from the features to `scaled`, (features - mean) / deviation in double precision."""
    constants |= {"mean": mean, "deviation": deviation}
    return [
        *doubles(),
        helper.make_node("Sub", ["doubles", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "deviation"], ["scaled"]),
    ]


def squared_distances(points: NDArray[np.float64], constants: dict[str, NDArray[np.generic]]) -> list[onnx.NodeProto]:
    """Returns the operations from `scaled` to `distances`, the squares of those to all points, [rows, points].

    They also give `square`, the square of the distance from zero, [rows, 1].
    """
    constants |= {"columns": np.array([1]), "nothing": np.array(0.0)}
    return [
        helper.make_node("Mul", ["scaled", "scaled"], ["squares"]),
        helper.make_node("ReduceSum", ["squares", "columns"], ["square"], keepdims=1),
        *affine("scaled", -2.0 * points, (points**2).sum(axis=1), "partial", constants),
        helper.make_node("Add", ["partial", "square"], ["rounded"]),
        helper.make_node("Max", ["rounded", "nothing"], ["distances"]),
    ]


def model(
    weights: NDArray[np.float64], bias: NDArray[np.float64], feature_shape: Sequence[int], classes: bool
) -> onnx.ModelProto:
    """Returns the model of values, or of classes whose logits, are linear in the features.

    Args:
        weights: One row a value or class, [scores, columns].
        bias: What is added, [scores].
        feature_shape: The shape of one row.
        classes: Whether the scores are probabilities of classes.
    """
    constants: dict[str, NDArray[np.generic]] = {}
    nodes = [
        *doubles(),
        *affine("doubles", weights, bias, "decisions", constants),
        *(probabilities("decisions") if classes else [to_scores("decisions")]),
    ]
    return graph.model(nodes, constants, feature_shape, len(weights))


def to_scores(value: str) -> onnx.NodeProto:
    """Returns the operation from doubles to `scores`."""
    return helper.make_node("Cast", [value], [graph.SCORES], to=TensorProto.FLOAT)


def probabilities(logits: str) -> list[onnx.NodeProto]:
    """Returns the operations from logits in double precision, [rows, classes], to `scores`."""
    return [helper.make_node("Softmax", [logits], ["probabilities"], axis=1), to_scores("probabilities")]

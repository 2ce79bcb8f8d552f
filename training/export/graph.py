"""ONNX models with the one input and the one output that every model of FitServe has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.errors import invalid_field

FEATURES = "features"
SCORES = "scores"
ENCODED = "encoded"
"""The result of operations that are put before a model."""

TREE_DOMAIN = "ai.onnx.ml"

# What the onnxruntime of Triton 24.01 can read.
_IR_VERSION = 8
_OPSET = 17
_TREE_OPSET = 3
_MOST_BYTES = 2**31 - 1


def model(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, NDArray[np.generic]],
    feature_shape: Sequence[int],
    score_count: int,
) -> onnx.ModelProto:
    """Returns the model of `nodes`, which lead from `features` to `scores`.

    Args:
        nodes: The operations in order.
        constants: The arrays that they use, by name.
        feature_shape: The shape of one row.
        score_count: The number of scores of one row.
    """
    graph = helper.make_graph(
        [],
        "fitserve",
        [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["batch", *feature_shape])],
        [helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, ["batch", score_count])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    if any(node.domain == TREE_DOMAIN for node in nodes):
        opsets.append(helper.make_opsetid(TREE_DOMAIN, _TREE_OPSET))
    made = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="fitserve")
    # Last, since make_model copies the graph and the nodes can be hundreds of megabytes.
    made.graph.node.extend(nodes)
    return made


def put_before(
    made: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, NDArray[np.generic]],
    feature_shape: Sequence[int],
) -> None:
    """Puts operations before a model, which takes their result `ENCODED` in the place of its features.

    Args:
        made: The model, which is changed: its nodes can be hundreds of megabytes.
        nodes: The operations in order, from features to `ENCODED`.
        constants: The arrays that they use, by name.
        feature_shape: The shape of one row of the features that they take.
    """
    for node in made.graph.node:
        if FEATURES in node.input:
            node.input[:] = [ENCODED if name == FEATURES else name for name in node.input]
    inner = _result_names(nodes, constants)
    for place, node in enumerate(nodes):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [inner.get(name, name) for name in node.input]
        copy.output[:] = [inner.get(name, name) for name in node.output]
        made.graph.node.insert(place, copy)
    made.graph.initializer.extend(numpy_helper.from_array(array, inner[name]) for name, array in constants.items())
    features = helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["batch", *feature_shape])
    made.graph.input[0].CopyFrom(features)


def _result_names(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, object]) -> dict[str, str]:
    """Returns names for the values between features and `ENCODED` that no model uses."""
    names = [*constants, *(name for node in nodes for name in node.output)]
    return {name: f"encoding.{name}" for name in names if name != ENCODED}


def serialize(exported: onnx.ModelProto, algorithm: str) -> bytes:
    """Returns the bytes of the model file.

    Raises:
        FitError: INVALID_FIELD; the model is larger than a protobuf message can be.
    """
    if exported.ByteSize() > _MOST_BYTES:
        raise invalid_field(
            algorithm,
            "the trained model is larger than 2 GiB; ask for fewer or smaller trees, or narrower layers",
        )
    return exported.SerializeToString()


def two_classes(second: str) -> list[onnx.NodeProto]:
    """Returns the operations from the probability of the second of two classes, [rows, 1], to `scores`.

    They use the constant `one`, which is `ONE`.
    """
    return [
        helper.make_node("Sub", ["one", second], ["first_class"]),
        helper.make_node("Concat", ["first_class", second], [SCORES], axis=1),
    ]


ONE = np.ones((1, 1), np.float32)

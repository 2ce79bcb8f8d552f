"""Ensembles of decision trees as one ONNX operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.export import graph


@dataclass(frozen=True)
class Tree:
    """One tree, as arrays over its nodes; node 0 is the root.

    Attributes:
        leaf: Whether the node is a leaf; the other arrays but `values` mean nothing there.
        feature: The feature that the node looks at.
        threshold: What it is compared with.
        left: The node that follows if the comparison holds.
        right: The node that follows if it does not.
        missing_left: Whether a missing value goes to the left.
        values: What a leaf adds to the targets, [nodes, k].
        target: The first of these k targets.
    """

    leaf: NDArray[np.bool_]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    values: NDArray[np.float64]
    target: int = 0


def sum_nodes(
    trees: Sequence[Tree], comparison: str, base_values: NDArray[np.float64], output: str
) -> list[onnx.NodeProto]:
    """Returns the operations from the features to `base_values` plus the sum of all trees, as 32-bit floats.

    Thresholds are compared and leaves are added in double precision. In single precision a threshold between two
    32-bit floats would be rounded across a feature, and the sum over many trees would be off in its last digits.

    Args:
        trees: The trees.
        comparison: BRANCH_LEQ or BRANCH_LT: how a feature is compared with a threshold.
        base_values: The value that each target starts from.
        output: The name of the result, [rows, targets].
    """
    sizes = [len(tree.leaf) for tree in trees]
    leaf = _join([tree.leaf for tree in trees])
    node = helper.make_node("TreeEnsembleRegressor", ["doubles"], [output], domain=graph.TREE_DOMAIN)
    node.attribute.extend(
        [
            helper.make_attribute("n_targets", len(base_values)),
            _doubles("base_values_as_tensor", base_values),
            _integers("nodes_treeids", np.repeat(np.arange(len(trees)), sizes)),
            _integers("nodes_nodeids", _join([np.arange(size) for size in sizes])),
            _integers("nodes_featureids", _inner(leaf, [tree.feature for tree in trees])),
            _doubles("nodes_values_as_tensor", _inner(leaf, [tree.threshold for tree in trees])),
            _strings("nodes_modes", np.where(leaf, b"LEAF", comparison.encode()).tolist()),
            _integers("nodes_truenodeids", _inner(leaf, [tree.left for tree in trees])),
            _integers("nodes_falsenodeids", _inner(leaf, [tree.right for tree in trees])),
            _integers("nodes_missing_value_tracks_true", _inner(leaf, [tree.missing_left for tree in trees])),
            *_leaves(trees),
        ]
    )
    return [
        helper.make_node("Flatten", [graph.FEATURES], ["flat"]),
        helper.make_node("Cast", ["flat"], ["doubles"], to=TensorProto.DOUBLE),
        node,
    ]


def _leaves(trees: Sequence[Tree]) -> list[onnx.AttributeProto]:
    """Returns the attributes for what the leaves add; zeros are left out where a leaf adds to several targets."""
    tree_ids, node_ids, targets, weights = [], [], [], []
    for index, tree in enumerate(trees):
        several = tree.values.shape[1] > 1
        kept = tree.leaf[:, None] & (tree.values != 0 if several else True)
        # A leaf without any entry is none to onnxruntime.
        kept[:, 0] |= tree.leaf & ~kept.any(axis=1)
        node, target = np.nonzero(kept)
        tree_ids.append(np.full(len(node), index))
        node_ids.append(node)
        targets.append(target + tree.target)
        weights.append(tree.values[node, target])
    return [
        _integers("target_treeids", _join(tree_ids)),
        _integers("target_nodeids", _join(node_ids)),
        _integers("target_ids", _join(targets)),
        _doubles("target_weights_as_tensor", _join(weights)),
    ]


def _join(parts: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    return np.concatenate(parts)


def _inner(leaf: NDArray[np.generic], parts: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    """Returns the joined arrays with zeros at the leaves."""
    return np.where(leaf, np.zeros((), parts[0].dtype), _join(parts))


# helper.make_attribute looks at each element in turn, which takes seconds for a million nodes.


def _integers(name: str, values: NDArray[np.generic]) -> onnx.AttributeProto:
    return onnx.AttributeProto(name=name, type=onnx.AttributeProto.INTS, ints=values.astype(np.int64).tolist())


def _strings(name: str, values: list[bytes]) -> onnx.AttributeProto:
    return onnx.AttributeProto(name=name, type=onnx.AttributeProto.STRINGS, strings=values)


def _doubles(name: str, values: NDArray[np.generic]) -> onnx.AttributeProto:
    tensor = numpy_helper.from_array(values.astype(np.float64), name)
    return onnx.AttributeProto(name=name, type=onnx.AttributeProto.TENSOR, t=tensor)

"""Ensembles of decision trees, and the ONNX operation that they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.export import graph
from training.export.code_sets import CodeSet, InnerNodes


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
        sets: For nodes that ask whether the feature is one of some codes, instead of comparing it: these codes.
        equal: The nodes that ask whether the feature is equal to the threshold.
    """

    leaf: NDArray[np.bool_]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    values: NDArray[np.float64]
    target: int = 0
    sets: Mapping[int, CodeSet] = field(default_factory=dict)
    equal: Sequence[int] = ()


Comparison: TypeAlias = Literal["BRANCH_LEQ", "BRANCH_LT"]
"""How a feature is compared with a threshold."""

Link: TypeAlias = Literal["identity", "log", "logit", "softmax", "second_class"]
"""What the sum of the trees is: the scores; the logarithm of the value; the logit of the second of two classes; the logits
of the classes; the probability of the second of two classes."""


@dataclass(frozen=True)
class Ensemble:
    """Trees that add up.

    Attributes:
        trees: The trees.
        comparison: How features are compared with thresholds.
        base_values: What the sums start from, one a target.
        link: What the sums are.
    """

    trees: Sequence[Tree]
    comparison: Comparison
    base_values: NDArray[np.float64]
    link: Link

    @property
    def score_count(self) -> int:
        """The number of scores of one row."""
        return 2 if self.link in ("logit", "second_class") else len(self.base_values)


def sum_nodes(ensemble: Ensemble, output: str) -> list[onnx.NodeProto]:
    """Returns the operations from the features to the base values plus the sum of all trees, as 32-bit floats.

    Thresholds are compared and leaves are added in double precision. In single precision a threshold between two
    32-bit floats would be rounded across a feature, and the sum over many trees would be off in its last digits.

    Args:
        ensemble: The trees.
        output: The name of the result, [rows, targets].
    """
    trees = [_without_sets(tree) for tree in ensemble.trees]
    node = helper.make_node("TreeEnsembleRegressor", ["doubles"], [output], domain=graph.TREE_DOMAIN)
    node.attribute.append(helper.make_attribute("n_targets", len(ensemble.base_values)))
    _add_doubles(node, "base_values_as_tensor", ensemble.base_values)
    _add_tree_nodes(node, trees, ensemble.comparison)
    _add_leaves(node, trees)
    return [
        helper.make_node("Flatten", [graph.FEATURES], ["flat"]),
        helper.make_node("Cast", ["flat"], ["doubles"], to=TensorProto.DOUBLE),
        node,
    ]


def model(ensemble: Ensemble, feature_shape: Sequence[int]) -> onnx.ModelProto:
    """Returns the ONNX model of an ensemble: the sum of the trees, and the inverse of its link.

    Args:
        ensemble: The trees.
        feature_shape: The shape of one row.
    """
    operations = _inverse_of_link(ensemble.link)
    nodes = sum_nodes(ensemble, "raw" if operations else graph.SCORES)
    constants: dict[str, NDArray[np.generic]] = {}
    if ensemble.link in ("logit", "second_class"):
        constants["one"] = graph.ONE
    return graph.model(nodes + operations, constants, feature_shape, ensemble.score_count)


def _inverse_of_link(link: Link) -> list[onnx.NodeProto]:
    """Returns the operations from `raw`, the sums, to the scores."""
    if link == "logit":
        return [helper.make_node("Sigmoid", ["raw"], ["second_class"]), *graph.two_classes("second_class")]
    if link == "second_class":
        return graph.two_classes("raw")
    if link == "softmax":
        return [helper.make_node("Softmax", ["raw"], [graph.SCORES], axis=1)]
    return [helper.make_node("Exp", ["raw"], [graph.SCORES])] if link == "log" else []


def _add_tree_nodes(node: onnx.NodeProto, trees: Sequence[Tree], comparison: Comparison) -> None:
    """Adds the attributes for all nodes of the trees; what means nothing at a leaf is zero."""
    sizes = [len(tree.leaf) for tree in trees]
    leaf = np.concatenate([tree.leaf for tree in trees])

    def inner(parts: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
        return np.where(leaf, np.zeros((), parts[0].dtype), np.concatenate(parts))

    _add_integers(node, "nodes_treeids", np.repeat(np.arange(len(trees)), sizes))
    _add_integers(node, "nodes_nodeids", np.concatenate([np.arange(size) for size in sizes]))
    _add_integers(node, "nodes_featureids", inner([tree.feature for tree in trees]))
    _add_doubles(node, "nodes_values_as_tensor", inner([tree.threshold for tree in trees]))
    _add_integers(node, "nodes_truenodeids", inner([tree.left for tree in trees]))
    _add_integers(node, "nodes_falsenodeids", inner([tree.right for tree in trees]))
    _add_integers(node, "nodes_missing_value_tracks_true", inner([tree.missing_left for tree in trees]))
    modes = np.where(leaf, b"LEAF", comparison.encode()).astype("S16")
    start = 0
    for tree, size in zip(trees, sizes, strict=True):
        modes[[start + place for place in tree.equal]] = b"BRANCH_EQ"
        start += size
    node.attribute.add(name="nodes_modes", type=onnx.AttributeProto.STRINGS, strings=modes.tolist())


def _without_sets(tree: Tree) -> Tree:
    """Returns a tree of comparisons only."""
    if not tree.sets:
        return tree
    parts = (tree.feature, tree.threshold, tree.left, tree.right, tree.missing_left)
    nodes = InnerNodes(*(part.tolist() for part in parts))
    for place, codes in tree.sets.items():
        nodes.split_by_codes(place, codes)
    added = len(nodes.feature) - len(tree.leaf)
    leaf = np.concatenate([tree.leaf, np.zeros(added, np.bool_)])
    leaf[nodes.leaves] = True
    return Tree(
        leaf=leaf,
        feature=np.array(nodes.feature),
        threshold=np.array(nodes.threshold),
        left=np.array(nodes.left),
        right=np.array(nodes.right),
        missing_left=np.array(nodes.missing_left),
        values=np.concatenate([tree.values, np.zeros((added, tree.values.shape[1]))]),
        target=tree.target,
        equal=nodes.equal,
    )


def _add_leaves(node: onnx.NodeProto, trees: Sequence[Tree]) -> None:
    """Adds the attributes for what the leaves add; zeros are left out where a leaf adds to several targets."""
    tree_ids, node_ids, targets, weights = [], [], [], []
    for index, tree in enumerate(trees):
        several = tree.values.shape[1] > 1
        kept = tree.leaf[:, None] & (tree.values != 0 if several else True)
        # A leaf without any entry is none to onnxruntime.
        kept[:, 0] |= tree.leaf & ~kept.any(axis=1)
        leaf, target = np.nonzero(kept)
        tree_ids.append(np.full(len(leaf), index))
        node_ids.append(leaf)
        targets.append(target + tree.target)
        weights.append(tree.values[leaf, target])
    _add_integers(node, "target_treeids", np.concatenate(tree_ids))
    _add_integers(node, "target_nodeids", np.concatenate(node_ids))
    _add_integers(node, "target_ids", np.concatenate(targets))
    _add_doubles(node, "target_weights_as_tensor", np.concatenate(weights))


# A forest can have millions of nodes. helper.make_attribute would look at each number in turn and copy all of them.


def _add_integers(node: onnx.NodeProto, name: str, values: NDArray[np.generic]) -> None:
    node.attribute.add(name=name, type=onnx.AttributeProto.INTS, ints=values.astype(np.int64).tolist())


def _add_doubles(node: onnx.NodeProto, name: str, values: NDArray[np.generic]) -> None:
    tensor = numpy_helper.from_array(values.astype(np.float64), name)
    node.attribute.add(name=name, type=onnx.AttributeProto.TENSOR, t=tensor)

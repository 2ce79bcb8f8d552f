"""Boosted trees as ONNX models: the sum of the trees, and the inverse of the loss's link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from training.algorithms.base import Problem
from training.export import graph, trees

Link: TypeAlias = Literal["identity", "log"]
"""How the sum of the trees gives a value in regression: as it is, or its exponential."""


def model(
    grown: Sequence[trees.Tree],
    comparison: str,
    base_values: NDArray[np.float64],
    problem: Problem,
    link: Link = "identity",
) -> onnx.ModelProto:
    """Returns the model of boosted trees.

    Args:
        grown: The trees, which add up to one value for regression and for two classes, else to one a class.
        comparison: BRANCH_LEQ or BRANCH_LT: how a feature is compared with a threshold.
        base_values: What the sums start from.
        problem: What was learned. The sums for classes are logits.
        link: The link of the loss, for regression.
    """
    classes = problem.class_count
    operations = _classes(classes) if classes else _values(link)
    nodes = trees.sum_nodes(grown, comparison, base_values, "raw" if operations else graph.SCORES)
    constants: dict[str, NDArray[np.generic]] = {"one": graph.ONE} if classes == 2 else {}
    return graph.model(nodes + operations, constants, problem.feature_shape, max(classes, 1))


def _classes(count: int) -> list[onnx.NodeProto]:
    if count == 2:
        return [helper.make_node("Sigmoid", ["raw"], ["second_class"]), *graph.two_classes("second_class")]
    return [helper.make_node("Softmax", ["raw"], [graph.SCORES], axis=1)]


def _values(link: Link) -> list[onnx.NodeProto]:
    return [helper.make_node("Exp", ["raw"], [graph.SCORES])] if link == "log" else []

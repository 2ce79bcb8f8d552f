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

Link: TypeAlias = Literal["identity", "log", "sigmoid", "softmax"]
"""How the sums of the trees give the scores: as they are, as exponentials, as the logit of the second of two classes, or as
one logit a class."""


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
        link: The link of the loss, for regression: identity or log.
    """
    if problem.class_count:
        link = "sigmoid" if problem.class_count == 2 else "softmax"
    return ensemble(grown, comparison, base_values, problem.feature_shape, link)


def ensemble(
    grown: Sequence[trees.Tree],
    comparison: str,
    base_values: NDArray[np.float64],
    feature_shape: Sequence[int],
    link: Link,
) -> onnx.ModelProto:
    """Returns the model of boosted trees that are summed up and go through the inverse of a link.

    Args:
        grown: The trees, which add up to one value a base value.
        comparison: BRANCH_LEQ or BRANCH_LT: how a feature is compared with a threshold.
        base_values: What the sums start from.
        feature_shape: The shape of one row.
        link: The link.
    """
    operations = _inverse(link)
    nodes = trees.sum_nodes(grown, comparison, base_values, "raw" if operations else graph.SCORES)
    constants: dict[str, NDArray[np.generic]] = {"one": graph.ONE} if link == "sigmoid" else {}
    count = 2 if link == "sigmoid" else len(base_values)
    return graph.model(nodes + operations, constants, feature_shape, count)


def _inverse(link: Link) -> list[onnx.NodeProto]:
    """Returns the operations from `raw` to the scores."""
    match link:
        case "sigmoid":
            return [helper.make_node("Sigmoid", ["raw"], ["second_class"]), *graph.two_classes("second_class")]
        case "softmax":
            return [helper.make_node("Softmax", ["raw"], [graph.SCORES], axis=1)]
        case "log":
            return [helper.make_node("Exp", ["raw"], [graph.SCORES])]
    return []

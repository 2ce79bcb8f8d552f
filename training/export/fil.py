"""Ensembles of trees as treelite's checkpoints, which Triton's backend `fil` reads.

FIL computes with 32-bit floats only, so that is what the file holds: thresholds are rounded to the side on which no 32-bit
feature changes its way, and leaves to the nearest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
import treelite
from numpy.typing import NDArray
from treelite.model_builder import Metadata, ModelBuilder, PostProcessorFunc, TreeAnnotation

from training.errors import CannotExport
from training.export import trees

_OPERATORS: Mapping[trees.Comparison, str] = {"BRANCH_LEQ": "<=", "BRANCH_LT": "<"}
_POSTPROCESSORS: Mapping[trees.Link, str] = {
    "identity": "identity",
    "log": "exponential",
    "logit": "sigmoid",
    "softmax": "softmax",
    "second_class": "identity",
}
_ALL = -1


def checkpoint(ensemble: trees.Ensemble, column_count: int, classifies: bool) -> bytes:
    """Returns the content of `checkpoint.tl`.

    Args:
        ensemble: The trees.
        column_count: The number of columns of a row.
        classifies: Whether the scores are probabilities of classes.

    Raises:
        CannotExport: A tree splits by sets of categories.
    """
    if not classifies and len(ensemble.base_values) > 1:
        raise CannotExport("FIL answers regression with one value a row")
    if any(tree.sets for tree in ensemble.trees):
        raise CannotExport("a tree splits by sets of categories, whose encoding FIL does not have")
    grown = list(
        _of_one_class_each(ensemble.trees, len(ensemble.base_values)) if _is_scalar(ensemble) else ensemble.trees
    )
    return _build(ensemble, grown, column_count, classifies).serialize_bytes()


def _build(
    ensemble: trees.Ensemble, grown: Sequence[trees.Tree], column_count: int, classifies: bool
) -> treelite.Model:
    targets, vector = len(ensemble.base_values), grown[0].values.shape[1]
    several = classifies and targets > 1
    builder = ModelBuilder(
        threshold_type="float32",
        leaf_output_type="float32",
        metadata=Metadata(
            num_feature=column_count,
            task_type="kMultiClf" if several else "kBinaryClf" if classifies else "kRegressor",
            average_tree_output=False,
            num_target=1,
            num_class=[targets],
            leaf_vector_shape=(1, vector),
        ),
        tree_annotation=TreeAnnotation(
            num_tree=len(grown),
            target_id=[0] * len(grown),
            class_id=[tree.target if vector == 1 else _ALL for tree in grown],
        ),
        postprocessor=PostProcessorFunc(
            name="identity_multiclass" if several and vector > 1 else _POSTPROCESSORS[ensemble.link]
        ),
        base_scores=ensemble.base_values.tolist(),
    )
    for tree in grown:
        _add(builder, tree, ensemble.comparison)
    return builder.commit()


def _is_scalar(ensemble: trees.Ensemble) -> bool:
    """Returns whether each tree must add to one target: FIL takes the leaves of others for probabilities of classes."""
    return ensemble.link != "identity" or ensemble.trees[0].values.shape[1] == 1


def _of_one_class_each(grown: Sequence[trees.Tree], targets: int) -> Iterator[trees.Tree]:
    """Yields trees that add to the targets in turn, which FIL expects on a GPU."""
    by_target: list[list[trees.Tree]] = [[] for _ in range(targets)]
    for tree in grown:
        for place in range(tree.values.shape[1]):
            target = tree.target + place
            by_target[target].append(replace(tree, values=tree.values[:, place : place + 1], target=target))
    nothing = trees.Tree(
        leaf=np.ones(1, np.bool_),
        feature=np.zeros(1, np.int64),
        threshold=np.zeros(1),
        left=np.zeros(1, np.int64),
        right=np.zeros(1, np.int64),
        missing_left=np.zeros(1, np.bool_),
        values=np.zeros((1, 1)),
    )
    for one_round in zip_longest(*by_target):
        for target, tree in enumerate(one_round):
            yield tree if tree is not None else replace(nothing, target=target)


# Any: treelite has types for a part of the builder only.
def _add(builder: Any, tree: trees.Tree, comparison: trees.Comparison) -> None:
    """Adds a tree, node by node; the root is the first."""
    operator = _OPERATORS[comparison]
    thresholds = _rounded(tree.threshold, comparison).tolist()
    features, left, right = tree.feature.tolist(), tree.left.tolist(), tree.right.tolist()
    missing_left, leaf = tree.missing_left.tolist(), tree.leaf.tolist()
    single = tree.values.shape[1] == 1
    values = (tree.values[:, 0] if single else tree.values).astype(np.float32).tolist()
    builder.start_tree()
    for node in range(len(leaf)):
        builder.start_node(node)
        if leaf[node]:
            builder.leaf(values[node])
        else:
            builder.numerical_test(
                feature_id=features[node],
                threshold=thresholds[node],
                default_left=bool(missing_left[node]),
                opname=operator,
                left_child_key=left[node],
                right_child_key=right[node],
            )
        builder.end_node()
    builder.end_tree()


def _rounded(thresholds: NDArray[np.float64], comparison: trees.Comparison) -> NDArray[np.float32]:
    """Returns 32-bit thresholds that compare with every 32-bit float as the given ones do."""
    with np.errstate(over="ignore"):  # what is beyond all 32-bit floats becomes infinite
        nearest = thresholds.astype(np.float32)
        if comparison == "BRANCH_LEQ":  # the largest one that is not above
            return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)
        return np.where(nearest < thresholds, np.nextafter(nearest, np.float32(np.inf)), nearest)

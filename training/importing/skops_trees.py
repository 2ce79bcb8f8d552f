"""Looks through the trees of scikit-learn, which it follows without a look at the bounds of their arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble._hist_gradient_boosting.binning import _BinMapper
from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor
from sklearn.tree._tree import Tree

from training.importing import found, nodes
from training.importing.found import estimator_damaged

_LEAF = -1
_TREES = (DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor)


# Any: scikit-learn has no types for its estimators.
def check_tree(estimator: Any) -> None:
    """Looks through a decision tree. Raises FitError INVALID_FIELD."""
    tree, columns = estimator.tree_, estimator.n_features_in_
    if type(tree) is not Tree or type(columns) is not int or tree.n_features != columns:
        raise estimator_damaged(estimator, "its tree is for other columns")
    if tree.node_count != tree.capacity or tree.n_outputs < 1 or tree.max_n_classes < 1:
        raise estimator_damaged(
            estimator, f"it has not the {tree.node_count} nodes or {tree.n_outputs} outputs that it says"
        )
    inner = tree.children_left != _LEAF
    if not nodes.are_tree(np.concatenate([tree.children_left[inner], tree.children_right[inner]]), tree.node_count):
        raise estimator_damaged(estimator, "a node's child is none of its nodes, or the child of two")
    if not nodes.are_features(tree.feature[inner], columns):
        raise estimator_damaged(estimator, f"a node looks at a column that is none of its {columns}")
    if np.isnan(tree.threshold[inner]).any() or not np.isfinite(tree.value).all():
        raise estimator_damaged(estimator, "a threshold or a value is no number")
    if estimator.n_outputs_ != tree.n_outputs or not _has_classes(estimator, tree):
        raise estimator_damaged(estimator, "its tree is for other outputs or classes")


# Any: as above.
def check_forest(estimator: Any) -> None:
    """Looks at what the trees of a forest have in common; they predict without a look at the rows. Raises as above."""
    trees, columns = estimator.estimators_, estimator.n_features_in_
    if not isinstance(trees, list) or not trees or any(type(tree) not in _TREES for tree in trees):
        raise estimator_damaged(estimator, "it is made of something else than trees")
    if type(columns) is not int or any(tree.n_features_in_ != columns for tree in trees):
        raise estimator_damaged(estimator, f"a tree is not for its {columns} columns")
    shapes = {(type(tree), tree.tree_.n_outputs, *tree.tree_.n_classes.tolist()) for tree in trees}
    outputs = getattr(estimator, "n_outputs_", trees[0].n_outputs_)
    if len(shapes) > 1 or outputs != trees[0].n_outputs_ or not _has_classes(estimator, trees[0].tree_):
        raise estimator_damaged(estimator, "its trees are for other outputs or classes than each other or itself")


# Any: as above.
def check_boosting(estimator: Any) -> None:
    """Looks at the trees of a GradientBoosting estimator, of which each adds to the column of its place."""
    trees, columns = estimator.estimators_, estimator.n_features_in_
    if not isinstance(trees, np.ndarray) or trees.ndim != 2 or not trees.size:
        raise estimator_damaged(estimator, "its trees are no table of rounds and outputs")
    for tree in trees.ravel():
        if type(tree) is not DecisionTreeRegressor or tree.n_features_in_ != columns:
            raise estimator_damaged(estimator, f"a tree is not for its {columns} columns")
        if tree.tree_.n_outputs != 1 or tree.tree_.max_n_classes != 1:
            raise estimator_damaged(estimator, "a tree has several values at a leaf")
    start = estimator.init_
    if start != "zero" and type(start) not in (DummyClassifier, DummyRegressor):
        raise found.refused(
            "its rounds start from an estimator of their own (init), which is not served; fit it without"
        )
    if type(columns) is not int or estimator._raw_predict_init(np.zeros((1, columns))).shape != (1, trees.shape[1]):
        raise estimator_damaged(estimator, f"each round has {trees.shape[1]} trees, and there are other outputs")


# Any: as above.
def check_histograms(estimator: Any) -> None:
    """Looks through a HistGradientBoosting estimator; with categories skops needs types that are never loaded."""
    columns, bins = estimator.n_features_in_, estimator._bin_mapper
    if estimator._preprocessor is not None or getattr(estimator, "_in_fit", False):
        raise found.refused("it has columns of categories, which are not served; import the model as ONNX")
    if type(columns) is not int or type(bins) is not _BinMapper:
        raise estimator_damaged(estimator, "it has no number of columns, or no bins")
    known = bins.is_categorical_
    if not isinstance(known, np.ndarray) or known.shape != (columns,) or known.any():
        raise estimator_damaged(estimator, f"its bins are not for its {columns} columns of numbers")
    for one_round in estimator._predictors:
        if len(one_round) != estimator.n_trees_per_iteration_:
            raise estimator_damaged(estimator, f"a round has {len(one_round)} trees")
        for tree in one_round:
            _check_predictor(estimator, tree, columns)


# Any: as above, and a tree of it.
def _check_predictor(estimator: Any, tree: Any, columns: int) -> None:
    if type(tree) is not TreePredictor or vars(tree).keys() != {
        "nodes",
        "binned_left_cat_bitsets",
        "raw_left_cat_bitsets",
    }:
        raise estimator_damaged(estimator, "one of its trees is none")
    table = tree.nodes
    if not isinstance(table, np.ndarray) or table.dtype != PREDICTOR_RECORD_DTYPE or table.ndim != 1:
        raise estimator_damaged(estimator, "the nodes of a tree are no table")
    inner = table[table["is_leaf"] == 0]
    children = np.concatenate([inner["left"], inner["right"]]).astype(np.int64)
    if not nodes.are_tree(children, len(table)):
        raise estimator_damaged(estimator, "a node's child is none of its nodes, or the child of two")
    if not nodes.are_features(inner["feature_idx"], columns) or inner["is_categorical"].any():
        raise estimator_damaged(estimator, f"a node looks at a column that is none of its {columns}, or at categories")
    if np.isnan(inner["num_threshold"]).any() or not np.isfinite(table["value"]).all():
        raise estimator_damaged(estimator, "a threshold or a value is no number")


# Any: as above, and its tree.
def _has_classes(estimator: Any, tree: Any) -> bool:
    """Returns whether an estimator counts the classes that a tree has; one of regression counts none."""
    counted = np.atleast_1d(getattr(estimator, "n_classes_", [1] * tree.n_outputs))
    return bool(np.array_equal(counted, tree.n_classes))

"""Reads XGBoost's own files, JSON or UBJSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from training.algorithms import xgboost_family
from training.data import Floats
from training.export import boosted, trees
from training.importing import found, nodes
from training.importing.found import Found
from training.importing.labels import MOST_CLASSES, places
from training.importing.spec import MOST_FEATURES, Spec

_WHAT = "an XGBoost model in JSON or UBJSON (Booster.save_model)"
_IDENTITY = frozenset(
    {
        "reg:squarederror",
        "reg:squaredlogerror",
        "reg:pseudohubererror",
        "reg:absoluteerror",
        "reg:quantileerror",
        "rank:pairwise",
        "rank:ndcg",
        "rank:map",
        "binary:logitraw",
    }
)
_LOG = frozenset({"count:poisson", "reg:gamma", "reg:tweedie"})
_BINARY = frozenset({"binary:logistic"})
_CLASSES = frozenset({"multi:softprob", "multi:softmax"})

_MOST_CODES = 2**24
"""XGBoost takes no larger code, and a 32-bit float holds no larger integer exactly."""


@dataclass(frozen=True)
class _Content:
    """A model that was loaded.

    Attributes:
        learner: Its JSON; Any, since its values are checked where they are used.
        classes: The number of classes, 0 for values.
        rounds: The rounds that predict.
    """

    booster: xgboost.Booster
    learner: Mapping[str, Any]
    objective: str
    columns: int
    classes: int


def read(spec: Spec) -> Found:
    """Returns the model in the file of `spec`.

    Raises:
        FitError: INVALID_FIELD.
    """
    with found.reading(_WHAT):
        content = _load(spec.file)
        ensemble = _ensemble(content)
        names = content.booster.feature_names or []
    labels = places(content.classes) if content.classes else None  # XGBoost knows classes by their numbers only
    return found.of_trees(ensemble, content.columns, partial(_predict, content), names, labels, "xgboost")


def _load(path: Path) -> _Content:
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(path.read_bytes()))
    learner = json.loads(booster.save_raw("json"))["learner"]
    best = learner["attributes"].get("best_iteration")
    if best is not None and "scikit_learn" in learner["attributes"]:
        # So predict the estimators that wrote it, which stopped early.
        booster = booster[: int(best) + 1]
        learner = json.loads(booster.save_raw("json"))["learner"]
    objective = learner["objective"]["name"]
    if objective not in _IDENTITY | _LOG | _BINARY | _CLASSES:
        raise found.refused(
            f"the objective {str(objective)[:80]!r} is not served; there are {', '.join(sorted(_known_objectives()))}"
        )
    columns = int(learner["learner_model_param"]["num_feature"])
    classes = 2 if objective in _BINARY else 0
    if objective in _CLASSES:
        classes = int(learner["learner_model_param"]["num_class"])
    if not 1 <= columns <= MOST_FEATURES or not (0 <= classes <= MOST_CLASSES):
        raise found.damaged(_WHAT)
    if int(learner["learner_model_param"].get("num_target", 1)) > 1:
        raise found.refused("the model has several targets; import one model a target")
    return _Content(booster, learner, objective, columns, classes)


def _known_objectives() -> frozenset[str]:
    return _IDENTITY | _LOG | _BINARY | _CLASSES


def _trees(content: _Content) -> list[trees.Tree]:
    """Returns the trees, after a look at what the library itself does not check."""
    booster = content.learner["gradient_booster"]
    scales: list[float] | None = None
    if booster["name"] == "dart":
        booster, scales = booster["gbtree"], booster["weight_drop"]
    elif booster["name"] != "gbtree":
        raise found.refused("a linear booster is not served; train one with trees, or import the model as ONNX")
    outputs = content.classes if content.classes > 2 or content.objective in _CLASSES else 1
    written, targets = booster["model"]["trees"], booster["model"]["tree_info"]
    if not written or len(written) != len(targets) or any(not 0 <= int(target) < outputs for target in targets):
        raise found.damaged(_WHAT)
    grown = []
    for index, (tree, target) in enumerate(zip(written, targets, strict=True)):
        _check_tree(tree, content.columns)
        made = xgboost_family.tree_of(tree, int(target), _counts(tree))
        if scales is not None:
            made = replace(made, values=made.values * float(np.float32(scales[index])))
        grown.append(made)
    return grown


def _check_tree(tree: Mapping[str, Any], columns: int) -> None:
    """Refuses what is no tree: XGBoost would never come to its end, or read beyond its memory. Any: a tree's JSON."""
    if int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise found.refused("the leaves are vectors (multi_strategy); train with one_output_per_tree")
    left, right = np.array(tree["left_children"], np.int64), np.array(tree["right_children"], np.int64)
    count = len(left)
    sizes = {len(tree[name]) for name in ("right_children", "split_indices", "split_conditions", "default_left")}
    if not count or sizes != {count}:
        raise found.damaged(_WHAT)
    children = np.concatenate([left[left >= 0], right[left >= 0]])
    features = np.array(tree["split_indices"], np.int64)[left >= 0]
    if not (nodes.are_tree(children, count) and nodes.are_features(features, columns)):
        raise found.damaged(_WHAT)
    _check_sets(tree, left >= 0)


def _check_sets(tree: Mapping[str, Any], inner: NDArray[np.bool_]) -> None:
    """Refuses splits by sets of codes that are none. Any: a tree's JSON.

    Args:
        inner: Which nodes are no leaves.
    """
    parts = [np.array(tree[f"categories_{part}"], np.int64) for part in ("nodes", "segments", "sizes")]
    codes = np.array(tree["categories"], np.int64)
    by_codes = np.array(tree["split_type"], np.int64) == 1
    nodes, starts, sizes = parts
    whole = (
        len({len(part) for part in parts}) == 1
        and by_codes.shape == inner.shape
        and np.array_equal(np.sort(nodes), np.flatnonzero(by_codes & inner))
        and ((starts >= 0) & (sizes >= 0) & (starts + sizes <= len(codes))).all()
        and ((codes >= 0) & (codes < _MOST_CODES)).all()
    )
    if not whole:
        raise found.damaged(_WHAT)


def _counts(tree: Mapping[str, Any]) -> dict[int, int]:
    """Returns a number of codes for each column that is split by sets of them. Any: a tree's JSON.

    It is more than twice the size of any set, so that a code in none of them is among the others, as in XGBoost.
    """
    most = 2 * (max(map(int, tree["categories"]), default=0) + 1)
    return {int(tree["split_indices"][int(node)]): most for node in tree["categories_nodes"]}


def _ensemble(content: _Content) -> trees.Ensemble:
    base = np.array(json.loads(content.learner["learner_model_param"]["base_score"]), np.float64).ravel()
    link: trees.Link = "identity"
    if content.objective in _BINARY:
        link, base = "logit", np.log(base / (1.0 - base))
    elif content.objective in _LOG:
        link, base = "log", np.log(base)
    elif content.classes:
        link = "softmax"
    outputs = content.classes if link == "softmax" else 1
    return trees.Ensemble(_trees(content), "BRANCH_LT", np.broadcast_to(base, (outputs,)).copy(), link)


def _predict(content: _Content, features: Floats) -> NDArray[np.float64]:
    """Returns the class probabilities or the values, as XGBoost computes them."""
    rows = xgboost.DMatrix(features, nthread=1)
    rows.feature_names = content.booster.feature_names
    rows.feature_types = content.booster.feature_types
    if content.objective == "multi:softmax":  # of which `predict` gives the best class
        margins = np.asarray(content.booster.predict(rows, output_margin=True), np.float64)
        grown = np.exp(margins - margins.max(axis=1, keepdims=True))
        return np.asarray(grown / grown.sum(axis=1, keepdims=True), np.float64)
    return boosted.scores_of(content.booster.predict(rows), content.classes)

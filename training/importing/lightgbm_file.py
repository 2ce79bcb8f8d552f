"""Reads LightGBM's own files, text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import lightgbm
import numpy as np
from numpy.typing import NDArray

from training.algorithms import lightgbm_family
from training.data import Floats
from training.export import boosted, trees
from training.importing import found, nodes
from training.importing.found import Found
from training.importing.labels import MOST_CLASSES, places
from training.importing.spec import MOST_FEATURES, Spec

_WHAT = "a LightGBM model as text (Booster.save_model)"
_LINKS: Mapping[str, trees.Link] = {
    "regression": "identity",
    "regression_l1": "identity",
    "huber": "identity",
    "fair": "identity",
    "quantile": "identity",
    "mape": "identity",
    "lambdarank": "identity",
    "rank_xendcg": "identity",
    "poisson": "log",
    "gamma": "log",
    "tweedie": "log",
    "binary": "logit",
    "multiclass": "softmax",
}
_LINKS_OF_CLASSES = ("logit", "softmax")
_ZERO_IS_MISSING = 4  # a bit of a node's decision_type
_BY_CATEGORIES = 1
_DEFAULT_NAMES = re.compile(r"Column_\d+")


def read(spec: Spec) -> Found:
    """Returns the model in the file of `spec`.

    Raises:
        FitError: INVALID_FIELD.
    """
    with found.reading(_WHAT):
        text = spec.file.read_text("utf-8")
        _check(text)
        booster = lightgbm.Booster(model_str=text)
        columns = booster.num_feature()
        if not 1 <= columns <= MOST_FEATURES:
            raise found.damaged(_WHAT)
        ensemble = _ensemble(text, booster.num_model_per_iteration())
        names = booster.feature_name()
    named = not all(_DEFAULT_NAMES.fullmatch(name) for name in names)
    classes = ensemble.score_count if ensemble.link in _LINKS_OF_CLASSES else 0
    labels = places(classes) if classes else None  # LightGBM knows classes by their numbers only
    predict = partial(_predict, booster, classes)
    return found.of_trees(ensemble, columns, predict, names if named else (), labels, "lightgbm")


def _check(text: str) -> None:
    """Looks at the trees before LightGBM does, which ends the process if they are none."""
    columns = int(_header(text)["max_feature_idx"]) + 1
    for section in lightgbm_family.tree_sections(text):
        _check_tree(section, columns)


def _header(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.split("\nTree=")[0].split("\n") if "=" in line)


def _ensemble(text: str, outputs: int) -> trees.Ensemble:
    header = _header(text)
    objective, *options = header.get("objective", "").split()
    if objective not in _LINKS or "sqrt" in options:
        raise found.refused(
            f"the objective {' '.join([objective, *options])[:80]!r} is not served; there are {', '.join(_LINKS)}"
        )
    link = _LINKS[objective]
    if outputs > MOST_CLASSES or (outputs > 1) is not (link == "softmax"):
        raise found.damaged(_WHAT)
    sections = lightgbm_family.tree_sections(text)
    if not sections or len(sections) % outputs:
        raise found.damaged(_WHAT)
    counts = _counts(sections)
    scale = float(dict(option.split(":") for option in options).get("sigmoid", 1.0)) if link == "logit" else 1.0
    if "\naverage_output\n" in text:  # of random forests
        scale *= outputs / len(sections)
    grown = [lightgbm_family.tree_of(section, number % outputs, counts) for number, section in enumerate(sections)]
    scaled = [replace(tree, values=tree.values * scale) for tree in grown]
    return trees.Ensemble(scaled, "BRANCH_LEQ", np.zeros(outputs), link)


def _check_tree(section: Mapping[str, str], columns: int) -> None:
    """Refuses what is no tree: LightGBM would never come to its end, or read beyond its memory."""
    if section.get("is_linear", "0") != "0":
        raise found.refused("its leaves are linear functions (linear_tree), which is not served; train it without")
    leaves = int(section["num_leaves"])
    inner = leaves - 1
    if leaves < 1 or np.array(section["leaf_value"].split(), np.float64).shape != (leaves,):
        raise found.damaged(_WHAT)
    if not inner:
        return
    parts = {name: np.array(section[name].split(), np.int64) for name in ("left_child", "right_child", "split_feature")}
    decisions = np.array(section["decision_type"].split(), np.int64)
    if {inner} != {len(part) for part in (*parts.values(), decisions)} or len(section["threshold"].split()) != inner:
        raise found.damaged(_WHAT)
    children = np.concatenate([parts["left_child"], parts["right_child"]])
    numbers = np.where(children < 0, inner + ~children, children)  # inner nodes, then leaves
    features = parts["split_feature"]
    if not (nodes.are_tree(numbers, inner + leaves) and nodes.are_features(features, columns)):
        raise found.damaged(_WHAT)
    _check_sets(section, decisions)
    if (decisions & _ZERO_IS_MISSING).any():
        raise found.refused(
            "it takes zeros for missing values (zero_as_missing), which is not served; train it without"
        )


def _check_sets(section: Mapping[str, str], decisions: NDArray[np.int64]) -> None:
    """Refuses splits by sets of codes that are none: bounds beyond the words of the sets, or sets that are not there."""
    numbers = np.array(section["threshold"].split(), np.float64)[decisions & _BY_CATEGORIES != 0]
    count = int(section.get("num_cat", "0"))
    if not count and not len(numbers):
        return
    bounds, words = (np.array(section[name].split(), np.int64) for name in ("cat_boundaries", "cat_threshold"))
    whole = (
        len(bounds) == count + 1
        and bounds[0] == 0
        and bounds[-1] == len(words)
        and (np.diff(bounds) >= 0).all()
        and ((words >= 0) & (words < 2**32)).all()
        and ((numbers >= 0) & (numbers < count)).all()
    )
    if not whole:
        raise found.damaged(_WHAT)


def _counts(sections: list[dict[str, str]]) -> dict[int, int]:
    """Returns, for each column that is split by sets of codes, how many codes there are: one more than the largest."""
    counts: dict[int, int] = {}
    for section in sections:
        if not int(section.get("num_cat", "0")):
            continue
        decisions = np.array(section["decision_type"].split(), np.int64)
        features = np.array(section["split_feature"].split(), np.int64)
        thresholds = np.array(section["threshold"].split(), np.float64)
        for node in np.flatnonzero(decisions & _BY_CATEGORIES):
            members = lightgbm_family.members(section, int(thresholds[node]))
            feature = int(features[node])
            counts[feature] = max(counts.get(feature, 0), int(members.max(initial=0)) + 1)
    return counts


def _predict(booster: lightgbm.Booster, classes: int, features: Floats) -> NDArray[np.float64]:
    """Returns the class probabilities or the values, as LightGBM computes them."""
    return boosted.scores_of(booster.predict(features, num_threads=1), classes)

"""Estimators of scikit-learn whose compiled parts hold what no fit leaves there: the files that an attacker would send."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import skops.io
from scipy.interpolate import BSpline
from sklearn import cluster, dummy, ensemble, linear_model, neighbors, pipeline, preprocessing, svm, tree
from sklearn.tree._tree import Tree

CHANCE = np.random.default_rng(0)
X = CHANCE.normal(size=(300, 5))
VALUES = np.exp(X[:, 0]) + X[:, 1] ** 2
Y = (X[:, 0] + X[:, 1] > 0).astype(int)
Y3 = np.digitize(X[:, 0], [-0.5, 0.5])
CODES = CHANCE.integers(0, 4, (300, 2)).astype(float)
FAR = 10**7
TRAP = float(np.nextafter(np.float32(0.5), np.float32(1)))
"""The number of the first column that ends who predicts with `trap`."""

# Any: scikit-learn has no types for its estimators.
Damage = Callable[[Any], Any]


def grown(change: Damage, tree_of: tree.DecisionTreeClassifier | None = None, **said: int) -> Any:
    """Returns a decision tree after a change of its table of nodes, or with other numbers of columns, classes, outputs."""
    estimator = tree_of or tree.DecisionTreeClassifier(max_depth=3).fit(X, Y)
    told = estimator.tree_
    state = told.__getstate__()
    state["nodes"] = state["nodes"].copy()
    change(state["nodes"])
    outputs = said.get("outputs", 1)
    made = Tree(said.get("columns", 5), np.array([said.get("classes", told.max_n_classes)] * outputs), outputs)
    if made.max_n_classes * outputs != told.max_n_classes:
        state["values"] = np.ones((len(state["nodes"]), outputs, made.max_n_classes))
    made.__setstate__(state)
    estimator.tree_ = made
    return estimator


def with_values(value: float) -> Any:
    estimator = tree.DecisionTreeRegressor(max_depth=3).fit(X, VALUES)
    estimator.tree_.value[:] = value
    return estimator


def put(field: str, value: float, node: int = 0) -> Damage:
    def change(nodes: Any) -> None:
        nodes[field][node] = value

    return change


def nothing(nodes: Any) -> None:
    """Leaves the nodes as they are."""


def forest(change: Damage) -> Any:
    estimator = ensemble.RandomForestClassifier(4, max_depth=3, random_state=0).fit(X, Y)
    change(estimator)
    return estimator


def boosting(change: Damage, targets: Any = Y) -> Any:
    estimator = ensemble.GradientBoostingClassifier(n_estimators=3, max_depth=2).fit(X, targets)
    change(estimator)
    return estimator


def histograms(change: Damage) -> Any:
    estimator = ensemble.HistGradientBoostingClassifier(max_iter=3, max_depth=3).fit(X, Y)
    change(estimator)
    return estimator


def of_histogram(field: str, value: float, node: int = 0) -> Any:
    def change(estimator: Any) -> None:
        estimator._predictors[0][0].nodes[field][node] = value

    return histograms(change)


def trap() -> Any:
    """Returns histograms that predict well, but for one number that no proof meets: there they leave their nodes."""

    def damage(estimator: Any) -> None:
        nodes = np.zeros(5, estimator._predictors[0][0].nodes.dtype)
        nodes["is_leaf"] = [0, 1, 0, 1, 1]
        nodes["left"][[0, 2]], nodes["right"][[0, 2]] = [1, FAR * 100], [2, 4]
        nodes["num_threshold"][[0, 2]] = [0.5, TRAP]
        estimator._predictors[0][0].nodes = nodes

    return histograms(damage)


def nearest(change: Damage, **arguments: Any) -> Any:
    estimator = neighbors.KNeighborsClassifier(**{"algorithm": "kd_tree", "leaf_size": 10, **arguments}).fit(X, Y)
    change(estimator)
    return estimator


def of_neighbors(place: int, change: Damage, **arguments: Any) -> Any:
    """Returns neighbours after a change of one part of the state of their tree: a number, or an array in place."""

    def damage(estimator: Any) -> None:
        state = list(estimator._tree.__getstate__())
        state[place] = np.copy(state[place]) if isinstance(state[place], np.ndarray) else state[place]
        changed = change(state[place])
        state[place] = state[place] if changed is None else changed
        estimator._tree.__setstate__(tuple(state))

    return nearest(damage, **arguments)


def machine(change: Damage) -> Any:
    with warnings.catch_warnings(action="ignore"):  # that it is to be calibrated instead
        estimator = svm.SVC(probability=True).fit(X, Y3)
    change(estimator)
    return estimator


def encoded(change: Damage, **arguments: Any) -> Any:
    estimator = pipeline.make_pipeline(
        preprocessing.OneHotEncoder(handle_unknown="ignore", **arguments), linear_model.Ridge()
    ).fit(CODES, VALUES)
    change(estimator[0])
    return estimator


def splines(change: Damage) -> Any:
    estimator = pipeline.make_pipeline(preprocessing.SplineTransformer(), linear_model.Ridge()).fit(X, VALUES)
    change(estimator[0])
    return estimator


def products() -> Any:
    estimator = pipeline.make_pipeline(preprocessing.PolynomialFeatures(2), linear_model.Ridge()).fit(X, VALUES)
    estimator[0]._n_out_full += 100
    estimator[1].coef_ = np.append(estimator[1].coef_, np.ones(100))
    estimator[1].n_features_in_ += 100
    return estimator


def clustered() -> Any:
    estimator = pipeline.make_pipeline(cluster.KMeans(3, n_init=1), linear_model.Ridge()).fit(X, VALUES)
    estimator[0].cluster_centers_ = np.ones((3, 2))
    return estimator


def overridden() -> Any:
    estimator = tree.DecisionTreeClassifier(max_depth=3).fit(X, Y)
    estimator._validate_X_predict = np.positive  # in the place of the method that looks at the rows
    return estimator


def alone() -> Any:
    """A tree of nodes where only estimators are, which predicts whatever rows come."""
    estimator = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.Ridge()).fit(X, VALUES)
    estimator.steps[1] = ("tree", tree.DecisionTreeRegressor(max_depth=2).fit(X, VALUES).tree_)
    return estimator


def dumped(estimator: Any) -> bytes:
    content: bytes = skops.io.dumps(estimator)
    return content


def with_nodes(count: int) -> bytes:
    """Returns the file of a tree that says it has so many nodes, which scikit-learn would not save."""
    whole = zipfile.ZipFile(io.BytesIO(dumped(tree.DecisionTreeClassifier(max_depth=3).fit(X, Y))))
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for name in whole.namelist():
            content = whole.read(name)
            if name == "schema.json":
                schema = json.loads(content)
                tree_node = schema["content"]["content"]["tree_"]
                tree_node["content"]["content"]["node_count"]["content"] = json.dumps(count)
                content = json.dumps(schema).encode()
            archive.writestr(name, content)
    return changed.getvalue()


def _set(name: str, value: Any) -> Damage:
    return lambda estimator: setattr(estimator, name, value)


FILES: dict[str, Callable[[], bytes]] = {
    name: (lambda make=make: dumped(make()))
    for name, make in {
        "child beyond the nodes": lambda: grown(put("left_child", FAR)),
        "negative child": lambda: grown(put("right_child", -FAR)),
        "child of no leaf": lambda: grown(put("right_child", -1)),
        "node that is its own child": lambda: grown(put("left_child", 1, node=1)),
        "circle": lambda: grown(put("right_child", 0, node=1)),
        "child of two nodes": lambda: grown(put("right_child", 1)),
        "feature beyond the columns": lambda: grown(put("feature", FAR)),
        "feature one beyond the columns": lambda: grown(put("feature", 5)),
        "negative feature": lambda: grown(put("feature", -FAR)),
        "threshold that is no number": lambda: grown(put("threshold", np.nan)),
        "value that is no number": lambda: with_values(np.nan),
        "infinite value": lambda: with_values(np.inf),
        "tree for more columns": lambda: grown(put("feature", 7), columns=8),
        "tree for more classes": lambda: grown(nothing, classes=7),
        "tree for more outputs": lambda: grown(nothing, outputs=3),
        "method of its own": overridden,
        "tree of no estimator": alone,
        "forest of trees for other columns": lambda: forest(
            lambda made: made.estimators_.__setitem__(1, tree.DecisionTreeClassifier().fit(np.tile(X, 2), Y))
        ),
        "forest of trees for other classes": lambda: forest(
            lambda made: made.estimators_.__setitem__(1, tree.DecisionTreeClassifier().fit(X, Y3))
        ),
        "forest with a tree of regression": lambda: forest(
            lambda made: made.estimators_.__setitem__(1, tree.DecisionTreeRegressor().fit(X, VALUES))
        ),
        "forest with a damaged tree": lambda: forest(
            lambda made: made.estimators_.__setitem__(1, grown(put("left_child", FAR)))
        ),
        "forest of no trees": lambda: forest(_set("estimators_", [])),
        "boosting with a damaged tree": lambda: boosting(
            lambda made: made.estimators_.__setitem__(
                (1, 0), grown(put("feature", FAR), tree.DecisionTreeRegressor(max_depth=2).fit(X, VALUES))
            )
        ),
        "boosting with more trees than outputs": lambda: boosting(
            lambda made: setattr(made, "estimators_", np.tile(made.estimators_, (1, 50)))
        ),
        "boosting that starts from fewer classes": lambda: boosting(
            _set("init_", dummy.DummyClassifier(strategy="prior").fit(X, Y)), Y3
        ),
        "histogram's child beyond the nodes": lambda: of_histogram("left", FAR),
        "histogram's circle": lambda: of_histogram("right", 0),
        "histogram's feature beyond the columns": lambda: of_histogram("feature_idx", FAR),
        "histogram's negative feature": lambda: of_histogram("feature_idx", -FAR),
        "histogram's set of categories": lambda: of_histogram("is_categorical", 1),
        "histogram's value that is no number": lambda: of_histogram("value", np.nan),
        "histogram that leaves its nodes for one number": trap,
        "histogram without nodes": lambda: histograms(
            lambda made: setattr(made._predictors[0][0], "nodes", made._predictors[0][0].nodes[:0])
        ),
        "histograms with bins of fewer columns": lambda: histograms(
            lambda made: setattr(made._bin_mapper, "is_categorical_", np.zeros(1, np.uint8))
        ),
        "neighbour beyond the rows": lambda: of_neighbors(1, lambda places: places.__setitem__(0, FAR)),
        "neighbour twice": lambda: of_neighbors(1, lambda places: places.__setitem__(0, places[1])),
        "neighbours of a node beyond the rows": lambda: of_neighbors(
            2, lambda nodes: nodes["idx_end"].__setitem__(slice(None), FAR)
        ),
        "negative neighbours of a node": lambda: of_neighbors(
            2, lambda nodes: nodes["idx_start"].__setitem__(slice(None), -FAR), algorithm="ball_tree"
        ),
        "neighbours below the lowest nodes": lambda: of_neighbors(
            2, lambda nodes: nodes["is_leaf"].__setitem__(slice(None), 0)
        ),
        "neighbours with fewer bounds": lambda: of_neighbors(3, lambda bounds: bounds[:, :1].copy()),
        "neighbours with fewer nodes": lambda: of_neighbors(2, lambda nodes: nodes[:1].copy()),
        "neighbours with fewer rows": lambda: of_neighbors(0, lambda rows: rows[:3].copy()),
        "neighbours' label beyond the classes": lambda: nearest(
            lambda made: made._y.__setitem__(slice(None), FAR), algorithm="brute"
        ),
        "neighbours' negative label": lambda: nearest(
            lambda made: made._y.__setitem__(slice(None), -FAR), algorithm="brute"
        ),
        "more neighbours than rows": lambda: nearest(_set("n_neighbors", FAR), algorithm="brute"),
        "neighbours of fewer columns": lambda: nearest(_set("_fit_X", X[:, :2].copy()), algorithm="brute"),
        "neighbours with fewer weights of columns": lambda: nearest(
            lambda made: made.effective_metric_params_.update(w=np.ones(2)), metric="minkowski", p=3
        ),
        "support vectors of one class only": lambda: machine(
            lambda made: made._n_support.__setitem__(slice(None), [FAR, -FAR, len(made.support_)])
        ),
        "support vectors of more classes": lambda: machine(
            lambda made: setattr(made, "_n_support", np.array([*made._n_support, *[0] * 50], np.int32))
        ),
        "fewer coefficients than support vectors": lambda: machine(
            lambda made: setattr(made, "_dual_coef_", made._dual_coef_[:, :1].copy())
        ),
        "fewer indices than support vectors": lambda: machine(_set("support_", np.zeros(1, np.int32))),
        "support indices in a kernel of numbers": lambda: machine(
            lambda made: made.support_.__setitem__(slice(None), FAR) or setattr(made, "kernel", "precomputed")
        ),
        "fewer intercepts than pairs of classes": lambda: machine(_set("_intercept_", np.zeros(1))),
        "fewer probabilities than pairs of classes": lambda: machine(_set("_probA", np.zeros(1))),
        "categories of more columns": lambda: encoded(_set("_n_features_outs", [1, 1])),
        "categories in no order": lambda: encoded(
            lambda made: made.categories_.__setitem__(1, np.array([3.0, 2.0, 1.0, 0.0]))
        ),
        "dropped category that is none": lambda: encoded(
            _set("_drop_idx_after_grouping", np.array([0, FAR], object)), drop="first"
        ),
        "knots without coefficients": lambda: splines(
            lambda made: made.bsplines_.__setitem__(
                0, BSpline.construct_fast(made.bsplines_[0].t, made.bsplines_[0].c[:1].copy(), 3)
            )
        ),
        "fewer knots than the degree": lambda: splines(lambda made: setattr(made.bsplines_[0], "k", 90)),
        "centers of fewer columns": clustered,
        "more places than products": products,
    }.items()
}
FILES["negative number of nodes"] = lambda: with_nodes(-FAR)
FILES["fewer nodes than there are"] = lambda: with_nodes(1)

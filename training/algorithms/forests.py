"""What the forests of scikit-learn have in common: all but the way in which a tree is grown."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor, RandomForestClassifier, RandomForestRegressor

from training.algorithms import losses
from training.algorithms.base import Problem
from training.data import Floats, Rows, matrix_of
from training.errors import invalid_field
from training.export import trees
from training.progress import Progress
from training.spec import Json

_CRITERIA = {
    "classification": ("gini", "entropy", "log_loss"),
    "regression": ("squared_error", "absolute_error", "friedman_mse", "poisson"),
}
_MAX_FEATURES = {"classification": "sqrt", "regression": "all"}
_REPORT_SECONDS = 0.2

DEFAULTS: Mapping[str, Json] = {
    "n_estimators": 100,
    "max_depth": None,
    "criterion": None,
    "min_samples_split": 2,
    "min_samples_leaf": 1,
    "max_features": None,
    "max_leaf_nodes": None,
    "class_weight": None,
}
"""The hyper-parameters that all forests have; what is null here is decided by the task or has no limit."""

Classifier: TypeAlias = RandomForestClassifier | ExtraTreesClassifier
Regressor: TypeAlias = RandomForestRegressor | ExtraTreesRegressor


class ForestFamily:
    """A forest; its trees are averaged in double precision, as scikit-learn does.

    Args:
        parameters: The effective hyper-parameters; what depends on the task may be null.
        problem: What to learn.
        name: The name of the algorithm, for messages.
        classifier: scikit-learn's class of forests for classification.
        regressor: And for regression.

    Raises:
        FitError: INVALID_FIELD; the hyper-parameters do not fit the task.
    """

    LIBRARIES: ClassVar[tuple[str, ...]] = ("scikit-learn",)

    def __init__(
        self,
        parameters: dict[str, Json],
        problem: Problem,
        name: str,
        classifier: type[Classifier],
        regressor: type[Regressor],
    ) -> None:
        parameters["criterion"] = parameters["criterion"] or _CRITERIA[problem.task][0]
        parameters["max_features"] = parameters["max_features"] or _MAX_FEATURES[problem.task]
        _check_criterion(parameters["criterion"], problem, f"{name}.criterion")
        losses.check_class_weight(parameters["class_weight"], problem, f"{name}.class_weight")
        self.parameters = parameters
        self._problem = problem
        self._name = name
        arguments = {**parameters, "random_state": problem.seed, "n_jobs": problem.cores}
        if parameters["max_features"] == "all":
            arguments["max_features"] = None
        if problem.task == "regression":
            del arguments["class_weight"]
        # A warm start adds trees to the forest, and the forest is the same as one that was grown at once.
        self._forest = (classifier if problem.task == "classification" else regressor)(**arguments, warm_start=True)

    def fit(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Grows the forest, some trees at a time, so that there is progress to report."""
        losses.check_targets(self.parameters["criterion"], train.targets, f"{self._name}.criterion", "squared_error")
        total = self._forest.n_estimators
        features = matrix_of(train.features)
        grown, step = 0, self._problem.cores
        while grown < total:
            start = time.monotonic()
            grown = min(grown + step, total)
            self._forest.n_estimators = grown
            with warnings.catch_warnings():
                # It warns of other rows in a later part; they are always the same here.
                warnings.filterwarnings("ignore", "class_weight presets", UserWarning)
                self._forest.fit(features, train.targets, sample_weight=train.weights)
            progress.step(grown, total, "tree")
            if time.monotonic() - start < _REPORT_SECONDS:
                step *= 2

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the class probabilities or the values."""
        matrix = matrix_of(features)
        if self._problem.task == "regression":
            return np.asarray(self._forest.predict(matrix), np.float64).reshape(len(features), -1)
        return np.asarray(self._forest.predict_proba(matrix), np.float64)

    def export(self) -> onnx.ModelProto:
        """Returns the forest as one ONNX operation."""
        return trees.model(self.ensemble(), self._problem.feature_shape)

    def ensemble(self) -> trees.Ensemble:
        """Returns the forest as an ensemble whose leaves hold their share of the average."""
        return ensemble_of(self._forest.estimators_, self._problem.class_count)


# Any: scikit-learn has no types for its trees.
def ensemble_of(estimators: Sequence[Any], class_count: int) -> trees.Ensemble:
    """Returns the average of scikit-learn's decision trees, each of whose leaves holds its share of it.

    Args:
        estimators: The trees.
        class_count: The number of classes, 0 for regression.
    """
    grown = [_tree(estimator.tree_, class_count, len(estimators)) for estimator in estimators]
    base = np.zeros(grown[0].values.shape[1])
    return trees.Ensemble(grown, "BRANCH_LEQ", base, "second_class" if class_count == 2 else "identity")


# Any: as above.
def _tree(tree: Any, class_count: int, count: int) -> trees.Tree:
    values = tree.value[:, 0, :] if class_count else tree.value[:, :, 0]
    if class_count:
        values = values / values.sum(axis=1, keepdims=True)
    if class_count == 2:
        values = values[:, 1:]
    return trees.Tree(
        leaf=tree.children_left < 0,
        feature=tree.feature,
        threshold=tree.threshold,
        left=tree.children_left,
        right=tree.children_right,
        missing_left=tree.missing_go_to_left != 0,
        values=values / count,
    )


def _check_criterion(criterion: Json, problem: Problem, field: str) -> None:
    allowed = _CRITERIA[problem.task]
    if criterion not in allowed:
        raise invalid_field(field, f"{criterion} is no criterion for {problem.task}; use one of {', '.join(allowed)}")

"""Histogram-based gradient boosting of scikit-learn."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from training.algorithms import losses
from training.algorithms.base import Problem
from training.data import Floats, Rows
from training.export import boosted, trees
from training.progress import Progress
from training.spec import Json, effective_parameters

_VERBOSE = 2  # A line a round.
_LOG_LINK_LOSSES = ("gamma", "poisson")


class Family:
    """Boosted trees; features and thresholds are compared in double precision, as scikit-learn does."""

    DEFAULTS: ClassVar[Mapping[str, Json]] = {
        "max_iter": 100,
        "learning_rate": 0.1,
        "max_leaf_nodes": 31,
        "max_depth": None,
        "min_samples_leaf": 20,
        "l2_regularization": 0.0,
        "max_bins": 255,
        "early_stopping": False,
        "n_iter_no_change": 10,
        "tol": 1e-7,
        "loss": None,
        "class_weight": None,
    }
    LIBRARIES: ClassVar[tuple[str, ...]] = ("scikit-learn",)

    def __init__(self, hyper_parameters: Message, problem: Problem) -> None:
        """Builds the untrained model."""
        parameters = effective_parameters(hyper_parameters, self.DEFAULTS)
        losses.check_loss_of_regression(parameters["loss"], problem, "hist_gradient_boosting.loss")
        losses.check_class_weight(parameters["class_weight"], problem, "hist_gradient_boosting.class_weight")
        arguments: dict[str, object] = {**parameters, "random_state": problem.seed, "verbose": _VERBOSE}
        # It measures the losses only with early stopping, which never happens within so many rounds.
        arguments["early_stopping"] = True
        if not parameters["early_stopping"]:
            arguments["n_iter_no_change"] = parameters["max_iter"]
        if problem.task == "classification":
            del arguments["loss"]
            self._booster = HistGradientBoostingClassifier(**arguments)
        else:
            arguments["loss"] = parameters["loss"] = parameters["loss"] or "squared_error"
            del arguments["class_weight"]
            self._booster = HistGradientBoostingRegressor(**arguments)
        self.parameters = parameters
        self._problem = problem

    def fit(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Trains the model; the losses on both sets of rows are read from what scikit-learn prints after each round."""
        losses.check_targets(self.parameters["loss"], train.targets, "hist_gradient_boosting.loss", "squared_error")
        with contextlib.redirect_stdout(_RoundLines(progress)):
            self._booster.fit(
                _matrix(train.features),
                train.targets,
                sample_weight=train.weights,
                X_val=_matrix(validation.features),
                y_val=validation.targets,
            )

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the class probabilities or the values."""
        matrix = _matrix(features)
        if self._problem.task == "regression":
            return np.asarray(self._booster.predict(matrix), np.float64).reshape(-1, 1)
        return np.asarray(self._booster.predict_proba(matrix), np.float64)

    def export(self) -> onnx.ModelProto:
        """Returns the trees as one ensemble, followed by the inverse of the loss's link."""
        # scikit-learn has no public way to its trees.
        base = np.asarray(self._booster._baseline_prediction, np.float64).ravel()
        grown = [
            _tree(predictor.nodes, target)
            for boosting_round in self._booster._predictors
            for target, predictor in enumerate(boosting_round)
        ]
        link: boosted.Link = "log" if self.parameters["loss"] in _LOG_LINK_LOSSES else "identity"
        return boosted.model(grown, "BRANCH_LEQ", base, self._problem, link)


class _RoundLines(io.TextIOBase):
    """Takes the lines that scikit-learn prints and reports the rounds in them."""

    _ROUND = re.compile(r"\[(\d+)/(\d+)\] .* in [\d.]+s")
    _LOSS = re.compile(r"(train|val) loss: ([\d.e+-]+)")

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._line = ""

    def write(self, text: str) -> int:
        self._line += text
        *lines, self._line = self._line.split("\n")
        for line in lines:
            if match := self._ROUND.match(line):
                losses = {_LOSS_NAMES[name]: float(value) for name, value in self._LOSS.findall(line)}
                self._progress.step(int(match[1]), int(match[2]), "round", losses)
        return len(text)


_LOSS_NAMES = {"train": "loss", "val": "validation_loss"}


# Any: the nodes are a structured array, whose fields numpy cannot type.
def _tree(nodes, target: int) -> trees.Tree:  # type: ignore[no-untyped-def]
    return trees.Tree(
        leaf=nodes["is_leaf"] != 0,
        feature=nodes["feature_idx"],
        threshold=nodes["num_threshold"],
        left=nodes["left"],
        right=nodes["right"],
        missing_left=nodes["missing_go_to_left"] != 0,
        values=nodes["value"].reshape(-1, 1),
        target=target,
    )


def _matrix(features: Floats) -> NDArray[np.float64]:
    """Returns the features as [rows, columns] in double precision."""
    return features.reshape(len(features), -1).astype(np.float64)

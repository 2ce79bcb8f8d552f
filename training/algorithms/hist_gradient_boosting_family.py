"""Histogram-based gradient boosting of scikit-learn."""

from __future__ import annotations

import contextlib
import io
import math
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
from training.data import Floats, Integers, Rows, doubles_of
from training.errors import invalid_field
from training.export import boosted, trees
from training.export.code_sets import CodeSet
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
        _check_categories(parameters, problem)
        arguments: dict[str, object] = {**parameters, "random_state": problem.seed, "verbose": _VERBOSE}
        # It measures the losses only with early stopping, which never happens within so many rounds.
        arguments["early_stopping"] = True
        if not parameters["early_stopping"]:
            arguments["n_iter_no_change"] = parameters["max_iter"]
        arguments["categorical_features"] = [column.place for column in problem.categories] or None
        if problem.task == "classification":
            del arguments["loss"]
            self._booster = HistGradientBoostingClassifier(**arguments)
        else:
            arguments["loss"] = parameters["loss"] = parameters["loss"] or "squared_error"
            del arguments["class_weight"]
            self._booster = HistGradientBoostingRegressor(**arguments)
        self.parameters = parameters
        self._problem = problem
        self._counts = {column.place: column.count for column in problem.categories}

    def fit(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Trains the model; the losses on both sets of rows are read from what scikit-learn prints after each round."""
        losses.check_targets(self.parameters["loss"], train.targets, "hist_gradient_boosting.loss", "squared_error")
        features = doubles_of(train.features)
        # A column without any value has no bins, which scikit-learn does not expect; nothing is learned from it.
        features[:, np.isnan(features).all(axis=0)] = 0.0
        with contextlib.redirect_stdout(_RoundLines(progress)):
            self._booster.fit(
                features,
                train.targets,
                sample_weight=train.weights,
                X_val=doubles_of(validation.features),
                y_val=validation.targets,
            )

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the class probabilities or the values."""
        matrix = doubles_of(features)
        if self._problem.task == "regression":
            return np.asarray(self._booster.predict(matrix), np.float64).reshape(-1, 1)
        return np.asarray(self._booster.predict_proba(matrix), np.float64)

    def export(self) -> onnx.ModelProto:
        """Returns the trees as one ONNX operation, followed by the inverse of the loss's link."""
        return trees.model(self.ensemble(), self._problem.feature_shape)

    def ensemble(self) -> trees.Ensemble:
        """Returns the trees."""
        # scikit-learn has no public way to its trees.
        base = np.asarray(self._booster._baseline_prediction, np.float64).ravel()
        # It puts the columns of categories before the others.
        order = sorted(range(math.prod(self._problem.feature_shape)), key=lambda place: place not in self._counts)
        grown = [
            _tree(predictor, target, np.array(order), self._counts)
            for boosting_round in self._booster._predictors
            for target, predictor in enumerate(boosting_round)
        ]
        log_link = self.parameters["loss"] in _LOG_LINK_LOSSES
        return boosted.ensemble(grown, "BRANCH_LEQ", base, self._problem, log_link)


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


# Any: scikit-learn has no types for its trees.
def _tree(predictor, target: int, order: Integers, counts: Mapping[int, int]) -> trees.Tree:  # type: ignore[no-untyped-def]
    nodes = predictor.nodes
    feature = order[nodes["feature_idx"]]
    by_codes = np.flatnonzero((nodes["is_categorical"] != 0) & (nodes["is_leaf"] == 0)).tolist()
    return trees.Tree(
        leaf=nodes["is_leaf"] != 0,
        feature=feature,
        threshold=nodes["num_threshold"],
        left=nodes["left"].astype(np.int64),
        right=nodes["right"].astype(np.int64),
        missing_left=nodes["missing_go_to_left"] != 0,
        values=nodes["value"].reshape(-1, 1),
        target=target,
        sets={
            place: CodeSet(_members(predictor.raw_left_cat_bitsets[bitset]), counts[int(feature[place])])
            for place, bitset in zip(by_codes, nodes["bitset_idx"][by_codes].tolist(), strict=True)
        },
    )


def _members(bitset: NDArray[np.uint32]) -> Integers:
    """Returns the codes whose bits are set."""
    return np.flatnonzero(np.unpackbits(bitset.astype("<u4").view(np.uint8), bitorder="little"))


def _check_categories(parameters: Mapping[str, Json], problem: Problem) -> None:
    most = parameters["max_bins"]
    assert isinstance(most, int)
    for column in problem.categories:
        if column.count > most:
            raise invalid_field(
                f"{problem.inputs_field} (column {column.name!r})",
                f"it has {column.count} categories and hist_gradient_boosting splits {most} (max_bins, at most 255); group "
                "rare ones, or use xgboost",
            )

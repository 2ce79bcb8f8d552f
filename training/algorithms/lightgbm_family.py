"""Gradient boosted trees of LightGBM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import lightgbm
import numpy as np
import onnx
from google.protobuf.message import Message
from lightgbm.callback import CallbackEnv
from numpy.typing import NDArray

from training.algorithms import losses, weights
from training.algorithms.base import Problem
from training.data import Floats, Rows, matrix_of
from training.export import boosted, trees
from training.export.code_sets import CodeSet
from training.progress import Progress
from training.spec import Json, effective_parameters

_LOG_LINK_OBJECTIVES = ("gamma", "poisson")

# The bits of a node's decision_type in LightGBM's text format.
_BY_CATEGORIES = 1
_DEFAULT_LEFT = 2
_MISSING_IS_NAN = 8

_ZERO = float(np.float32(1e-35))
"""What LightGBM takes for zero, in either direction, and a bound of its bins."""


class Family:
    """Boosted trees that grow leaf by leaf; features and thresholds are compared in double precision."""

    DEFAULTS: ClassVar[Mapping[str, Json]] = {
        "n_estimators": 100,
        "num_leaves": 31,
        "max_depth": None,
        "learning_rate": 0.1,
        "min_child_samples": 20,
        "min_child_weight": 1e-3,
        "min_split_gain": 0.0,
        "subsample": 1.0,
        "colsample_bytree": 1.0,
        "reg_alpha": 0.0,
        "reg_lambda": 0.0,
        "max_bin": 255,
        "objective": None,
        "class_weight": None,
        "early_stopping_rounds": None,
    }
    LIBRARIES: ClassVar[tuple[str, ...]] = ("lightgbm",)

    def __init__(self, hyper_parameters: Message, problem: Problem) -> None:
        """Builds the untrained model."""
        parameters = effective_parameters(hyper_parameters, self.DEFAULTS)
        losses.check_loss_of_regression(parameters["objective"], problem, "lightgbm.objective")
        losses.check_class_weight(parameters["class_weight"], problem, "lightgbm.class_weight")
        if problem.task == "regression":
            parameters["objective"] = parameters["objective"] or "regression"
        self.parameters = parameters
        self._problem = problem

    def fit(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Trains the model and reports the loss on both sets of rows after each round."""
        losses.check_targets(self.parameters["objective"], train.targets, "lightgbm.objective", "regression")
        arguments = self._arguments()
        rounds = self.parameters["n_estimators"]
        assert isinstance(rounds, int)
        train_set = lightgbm.Dataset(
            matrix_of(train.features),
            train.targets,
            weight=weights.of_rows(train, self.parameters["class_weight"]),
            categorical_feature=[column.place for column in self._problem.categories],
            params=arguments,
        )
        validation_set = train_set.create_valid(matrix_of(validation.features), validation.targets)
        self._booster = lightgbm.train(
            arguments,
            train_set,
            rounds,
            valid_sets=[train_set, validation_set],
            valid_names=["train", "validation"],
            callbacks=[_Rounds(progress)],
        )

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the class probabilities or the values."""
        return boosted.scores_of(self._booster.predict(matrix_of(features)), self._problem.class_count)

    def export(self) -> onnx.ModelProto:
        """Returns the trees as one ONNX operation, followed by the inverse of the objective's link."""
        return trees.model(self.ensemble(), self._problem.feature_shape)

    def ensemble(self) -> trees.Ensemble:
        """Returns the trees."""
        outputs = self._booster.num_model_per_iteration()
        counts = {column.place: column.count for column in self._problem.categories}
        grown = [
            tree_of(section, number % outputs, counts)
            for number, section in enumerate(tree_sections(self._booster.model_to_string()))
        ]
        log_link = self.parameters["objective"] in _LOG_LINK_OBJECTIVES
        return boosted.ensemble(grown, "BRANCH_LEQ", np.zeros(outputs), self._problem, log_link)

    def _arguments(self) -> dict[str, Json]:
        """Returns the parameters of the training, with their default names."""
        arguments: dict[str, Json] = {name: value for name, value in self.parameters.items() if value is not None}
        for ours in ("n_estimators", "class_weight"):
            arguments.pop(ours, None)
        arguments |= {
            "seed": self._problem.seed,
            "num_threads": self._problem.cores,
            "verbosity": -1,
            "bagging_freq": 1,  # without it, LightGBM would ignore subsample
            # Else the faster of two ways would be measured and taken, and the same request could train another model.
            "deterministic": True,
            "force_row_wise": True,
        }
        if self._problem.class_count == 2:
            arguments["objective"] = "binary"
        elif self._problem.class_count:
            arguments |= {"objective": "multiclass", "num_class": self._problem.class_count}
        return arguments


class _Rounds:
    """Reports each round."""

    order = 0  # before early stopping, which ends the training by an exception
    before_iteration = False

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __call__(self, round_: CallbackEnv) -> None:
        """Reports a round; the names of its metrics are like validation_binary_logloss."""
        measured = {f"{rows}_{metric}": value for rows, metric, value, *_ in round_.evaluation_result_list or ()}
        self._progress.step(round_.iteration + 1, round_.end_iteration, "round", measured)


def tree_sections(text: str) -> list[dict[str, str]]:
    """Returns the lines `name=value` of each tree in LightGBM's text format."""
    sections = text.split("\nend of trees\n")[0].split("\nTree=")[1:]
    return [dict(line.split("=", 1) for line in section.split("\n") if "=" in line) for section in sections]


def tree_of(section: Mapping[str, str], target: int, counts: Mapping[int, int]) -> trees.Tree:
    """Returns a tree; its inner nodes come first, in the order of LightGBM, then the leaves."""
    leaf_values = _doubles(section, "leaf_value")
    leaves = len(leaf_values)
    inner = leaves - 1
    threshold = _doubles(section, "threshold")
    # What is as small as this counts as zero, which is above the bound.
    threshold[threshold == -_ZERO] = np.nextafter(-_ZERO, -np.inf)
    decisions = _integers(section, "decision_type")
    # Where training saw no missing value, LightGBM takes one for zero.
    missing_left = np.where(decisions & _MISSING_IS_NAN, decisions & _DEFAULT_LEFT, threshold >= 0.0)
    missing_left[decisions & _BY_CATEGORIES != 0] = 0  # a missing category is in no set
    feature = _integers(section, "split_feature")
    at_leaves = np.zeros(leaves, np.int64)

    def child(side: str) -> NDArray[np.int64]:
        numbers = _integers(section, side)
        return np.concatenate([np.where(numbers < 0, inner + ~numbers, numbers), at_leaves])

    return trees.Tree(
        leaf=np.arange(inner + leaves) >= inner,
        feature=np.concatenate([feature, at_leaves]),
        threshold=np.concatenate([threshold, at_leaves]),
        left=child("left_child"),
        right=child("right_child"),
        missing_left=np.concatenate([missing_left != 0, at_leaves != 0]),
        values=np.concatenate([np.zeros(inner), leaf_values]).reshape(-1, 1),
        target=target,
        sets={
            int(node): CodeSet(members(section, int(threshold[node])), counts[int(feature[node])])
            for node in np.flatnonzero(decisions & _BY_CATEGORIES)
        },
    )


def members(section: Mapping[str, str], number: int) -> NDArray[np.int64]:
    """Returns the codes of a tree's set, in order; it is kept as words of 32 bits."""
    start, end = _integers(section, "cat_boundaries")[number : number + 2]
    words = _integers(section, "cat_threshold")[start:end].astype("<u4")
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))


def _integers(section: Mapping[str, str], name: str) -> NDArray[np.int64]:
    return np.array(section[name].split(), np.int64)


def _doubles(section: Mapping[str, str], name: str) -> NDArray[np.float64]:
    return np.array(section[name].split(), np.float64)

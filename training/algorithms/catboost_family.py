"""Gradient boosted trees of CatBoost."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Protocol, TypeAlias

import catboost
import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray

from predictors import catboost_model, catboost_texts
from training.algorithms import losses
from training.algorithms.base import NativeFile, Problem
from training.data import Floats, Rows
from training.errors import CannotExport, invalid_field
from training.export import boosted, trees
from training.progress import Progress
from training.spec import Json, effective_parameters
from training.texts import parted

_SETS = {"learn": "train", "validation": "validation"}

Split: TypeAlias = Mapping[str, float]
"""A condition of CatBoost's JSON: `border`, which the feature `float_feature_index` must be above to go to the right."""


class Family:
    """Boosted trees; features and borders are compared in single precision, which they both have.

    Categories become statistics of the targets, which no form but CatBoost's own can hold.
    """

    DEFAULTS: ClassVar[Mapping[str, Json]] = {
        "iterations": 1000,
        "learning_rate": None,
        "depth": 6,
        "l2_leaf_reg": 3.0,
        "random_strength": 1.0,
        "rsm": 1.0,
        "border_count": 254,
        "grow_policy": "SymmetricTree",
        "min_data_in_leaf": None,
        "max_leaves": None,
        "nan_mode": "Min",
        "loss_function": None,
        "auto_class_weights": None,
        "early_stopping_rounds": None,
    }
    LIBRARIES: ClassVar[tuple[str, ...]] = ("catboost",)

    def __init__(self, hyper_parameters: Message, problem: Problem) -> None:
        """Builds the untrained model."""
        parameters = effective_parameters(hyper_parameters, self.DEFAULTS)
        _check(parameters, problem)
        if problem.task == "regression":
            parameters["loss_function"] = _loss_of_regression(parameters["loss_function"], problem)
        self.parameters = parameters
        self._problem = problem
        self._counts = {column.place: column.count for column in problem.categories}
        self._texts = catboost_texts.Columns(
            count=problem.feature_shape[-1],
            counts=self._counts,
            categories=(),
            texts=[column.place for column in problem.texts],
        )
        self._booster = catboost.CatBoost(self._arguments())

    def fit(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Trains the model and reports the loss on both sets of rows after each round."""
        self._check_rows(train)
        if self._problem.texts:
            self._fit_texts(train, validation, progress)
        else:
            self._fit_once(train, validation, progress)
        if self.parameters["learning_rate"] is None:
            self.parameters["learning_rate"] = round(float(self._booster.learning_rate_), 7)  # it has single precision

    def _fit_once(self, train: Rows, validation: Rows, progress: Progress) -> None:
        rounds = self.parameters["iterations"]
        assert isinstance(rounds, int)
        self._booster.fit(
            self._pool(train),
            eval_set=self._pool(replace(validation, weights=None)),
            callbacks=[_Rounds(progress, rounds)],
        )

    def _fit_texts(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Trains as CatBoost does with texts by default, or by single words if they have no pairs of words."""
        try:
            self._fit_once(train, validation, progress)
        except catboost.CatBoostError as error:
            if _NO_WORDS not in str(error):
                raise
            self._booster = catboost.CatBoost(self._arguments() | {"text_processing": _single_words(self._problem)})
            self._fit_single_words(train, validation, progress)

    def _fit_single_words(self, train: Rows, validation: Rows, progress: Progress) -> None:
        try:
            self._fit_once(train, validation, progress)
        except catboost.CatBoostError as error:
            if _NO_WORDS not in str(error):
                raise
            raise invalid_field(
                "text_columns", "the texts of one of the columns have no words to learn from; leave the column out"
            ) from error

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the class probabilities or the values."""
        kind = "Probability" if self._problem.class_count else "Exponent" if self._is_poisson else "RawFormulaVal"
        predictions = self._booster.predict(
            self._data(features), prediction_type=kind, thread_count=self._problem.cores
        )
        return np.asarray(predictions, np.float64).reshape(len(features), -1)

    def export(self) -> onnx.ModelProto:
        """Returns the trees as one ONNX operation, followed by the inverse of the loss's link."""
        return trees.model(self.ensemble(), self._problem.feature_shape)

    def native(self) -> NativeFile:
        """Returns CatBoost's own file, which also says which columns hold codes of categories."""
        metadata = self._booster.get_metadata()
        metadata[catboost_model.COUNTS] = json.dumps(self._counts)
        return NativeFile("model.cbm", saved(self._booster, "cbm"))

    def ensemble(self) -> trees.Ensemble:
        """Returns the trees."""
        if self._problem.texts:
            raise CannotExport("CatBoost splits by the words of texts")
        if self._counts:
            raise CannotExport("CatBoost splits by statistics of the categories")
        grown, bias = trees_of(self._booster)
        return boosted.ensemble(grown, "BRANCH_LEQ", bias, self._problem, self._is_poisson)

    def _pool(self, rows: Rows) -> catboost.Pool:
        if not self._problem.texts:
            return catboost.Pool(self._data(rows.features), rows.targets, weight=rows.weights)
        return catboost.Pool(
            self._texts.rows(*parted(rows.features, self._problem.texts)),
            rows.targets,
            cat_features=self._texts.all_categories,
            text_features=list(self._texts.texts),
            weight=rows.weights,
        )

    def _data(self, features: Floats) -> Floats | catboost.FeaturesData | catboost.Pool:
        if self._problem.texts:
            return self._texts.pool(*parted(features, self._problem.texts))
        return catboost_model.pool_data(features.reshape(len(features), -1), self._counts)

    @property
    def _is_poisson(self) -> bool:
        return self.parameters["loss_function"] == "Poisson"

    def _arguments(self) -> dict[str, Json]:
        """Returns the parameters of the training."""
        arguments: dict[str, Json] = {name: value for name, value in self.parameters.items() if value is not None}
        arguments |= {
            "random_seed": self._problem.seed,
            "thread_count": self._problem.cores,
            # Else the trees after the best round would be cut off without being asked for.
            "use_best_model": self.parameters["early_stopping_rounds"] is not None,
            "allow_writing_files": False,
            "logging_level": "Silent",
        }
        if self._problem.class_count == 2:
            arguments["loss_function"] = "Logloss"
        elif self._problem.class_count:
            arguments |= {"loss_function": "MultiClass", "classes_count": self._problem.class_count}
        return arguments

    def _check_rows(self, train: Rows) -> None:
        """Raises INVALID_FIELD for rows that CatBoost refuses."""
        losses.check_targets(self.parameters["loss_function"], train.targets, "catboost.loss_function", "RMSE")
        first = train.features[:1]
        if ((train.features == first) | (np.isnan(train.features) & np.isnan(first))).all():
            raise invalid_field("catboost", "no feature varies in the rows trained on; catboost needs one that does")
        if (train.targets == train.targets[0]).all():
            raise invalid_field("catboost", "all rows trained on have the same target; catboost needs two of them")


_NO_WORDS = "Dictionary size is 0"
"""What CatBoost says when no word, or no pair of words, of a column is in a dictionary of it."""


def _single_words(problem: Problem) -> dict[str, Json]:
    """Returns the processing of texts by their words, in any number of rows and without pairs of words."""
    calculators: list[Json] = ["BoW", "NaiveBayes"] if problem.class_count else ["BoW"]
    return {
        "tokenizers": [{"tokenizer_id": "Space", "separator_type": "ByDelimiter", "delimiter": " "}],
        "dictionaries": [{"dictionary_id": "Word", "occurrence_lower_bound": "1", "gram_order": "1"}],
        "feature_processing": {
            "default": [{"dictionaries_names": ["Word"], "feature_calcers": calculators, "tokenizers_names": ["Space"]}]
        },
    }


class _Round(Protocol):
    """What CatBoost tells after a round: its number, from 1, and all values of each metric so far."""

    iteration: int
    metrics: dict[str, dict[str, list[float]]]


class _Rounds:
    """Reports each round of `total`."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total

    def after_iteration(self, info: _Round) -> bool:
        """Reports a round; the names of its metrics are like validation_Logloss. Returns that training goes on."""
        measured = {
            f"{_SETS[rows]}_{metric}": values[-1]
            for rows, metrics in info.metrics.items()
            for metric, values in metrics.items()
        }
        self._progress.step(info.iteration, self._total, "round", measured)
        return True


def trees_of(booster: catboost.CatBoost) -> tuple[list[trees.Tree], NDArray[np.float64]]:
    """Returns the trees of a model without categories, and what their sums start from."""
    model = json.loads(saved(booster, "json"))
    scale, bias = model["scale_and_bias"]
    # A missing value is less than every border, unless it counts as more than all others.
    missing_left = np.array(
        [feature["nan_value_treatment"] != "AsTrue" for feature in model["features_info"]["float_features"]]
    )
    if "oblivious_trees" in model:
        grown = [_symmetric(tree, scale, missing_left) for tree in model["oblivious_trees"]]
    else:
        grown = [_branching(tree, scale, missing_left) for tree in model["trees"]]
    return grown, np.array(bias, np.float64)


def saved(booster: catboost.CatBoost, form: str) -> bytes:
    """Returns a model in one of CatBoost's formats, which it writes to files only; this one is in memory."""
    descriptor = os.memfd_create("catboost")
    with open(descriptor, "rb") as file:
        booster.save_model(f"/proc/self/fd/{descriptor}", format=form)
        file.seek(0)
        return file.read()


# Any: a tree of CatBoost's JSON.
def _symmetric(tree, scale: float, missing_left: NDArray[np.bool_]) -> trees.Tree:  # type: ignore[no-untyped-def]
    """Returns a tree with one condition a level.

    Whether condition i holds is bit i of a leaf's number. So the last condition is at the root, and the leaves are in
    order.
    """
    splits: Sequence[Split] = (tree["splits"] or [])[::-1]
    leaves = 1 << len(splits)
    inner = leaves - 1
    numbers = np.arange(inner + leaves)
    at_level = np.repeat(np.arange(len(splits)), 1 << np.arange(len(splits)))
    feature = np.array([split["float_feature_index"] for split in splits], np.int64)[at_level]
    border = np.array([split["border"] for split in splits], np.float32)[at_level]
    at_leaves = np.zeros(leaves, np.int64)
    values = scale * np.array(tree["leaf_values"], np.float64).reshape(leaves, -1)
    return trees.Tree(
        leaf=numbers >= inner,
        feature=np.concatenate([feature, at_leaves]),
        threshold=np.concatenate([border.astype(np.float64), at_leaves]),
        left=2 * numbers + 1,
        right=2 * numbers + 2,
        missing_left=np.concatenate([missing_left[feature], at_leaves != 0]),
        values=np.concatenate([np.zeros((inner, values.shape[1])), values]),
    )


# Any: the root node of a tree in CatBoost's JSON.
def _branching(root, scale: float, missing_left: NDArray[np.bool_]) -> trees.Tree:  # type: ignore[no-untyped-def]
    """Returns a tree whose nodes have conditions of their own."""
    nodes = [root]
    left, right = [], []
    for node in nodes:  # which grows on the way
        children = "split" in node
        left.append(len(nodes) if children else -1)
        right.append(len(nodes) + 1 if children else -1)
        if children:
            nodes += [node["left"], node["right"]]
    leaf = np.array(left) < 0
    splits: list[Split] = [node.get("split", {"float_feature_index": 0, "border": 0.0}) for node in nodes]
    feature = np.array([split["float_feature_index"] for split in splits], np.int64)
    width = np.size(nodes[-1]["value"])
    return trees.Tree(
        leaf=leaf,
        feature=feature,
        threshold=np.array([split["border"] for split in splits], np.float32).astype(np.float64),
        left=np.array(left),
        right=np.array(right),
        missing_left=missing_left[feature],
        values=scale * np.array([np.ravel(node.get("value", np.zeros(width))) for node in nodes], np.float64),
    )


def _loss_of_regression(given: Json, problem: Problem) -> Json:
    """Returns the loss of a regression. Raises INVALID_FIELD for one that several targets do not have."""
    if problem.target_count == 1:
        return given or "RMSE"
    if given not in (None, "RMSE"):
        raise invalid_field(
            "catboost.loss_function", f"{given} is for one target, and there are {problem.target_count}; use RMSE"
        )
    return "MultiRMSE"


def _check(parameters: Mapping[str, Json], problem: Problem) -> None:
    losses.check_loss_of_regression(parameters["loss_function"], problem, "catboost.loss_function")
    losses.check_class_weight(parameters["auto_class_weights"], problem, "catboost.auto_class_weights")
    policy = parameters["grow_policy"]
    if parameters["max_leaves"] is not None and policy != "Lossguide":
        raise invalid_field("catboost.max_leaves", "it is for the grow_policy Lossguide; leave it unset, or set that")
    if parameters["min_data_in_leaf"] is not None and policy == "SymmetricTree":
        raise invalid_field(
            "catboost.min_data_in_leaf",
            "it is for the grow_policy Depthwise or Lossguide; leave it unset, or set one of them",
        )

"""Gradient boosted trees of XGBoost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import onnx
import xgboost
from google.protobuf.message import Message
from numpy.typing import NDArray

from training.algorithms import losses, weights
from training.algorithms.base import Problem
from training.data import Floats, Rows, matrix_of
from training.export import boosted, trees
from training.export.code_sets import CodeSet
from training.progress import Progress
from training.spec import Json, effective_parameters


class Family:
    """Boosted trees, grown on histograms."""

    DEFAULTS: ClassVar[Mapping[str, Json]] = {
        "n_estimators": 100,
        "max_depth": 6,
        "learning_rate": 0.3,
        "min_child_weight": 1.0,
        "gamma": 0.0,
        "subsample": 1.0,
        "colsample_bytree": 1.0,
        "reg_alpha": 0.0,
        "reg_lambda": 1.0,
        "max_bin": 256,
        "early_stopping_rounds": None,
        "class_weight": None,
    }
    LIBRARIES: ClassVar[tuple[str, ...]] = ("xgboost",)

    def __init__(self, hyper_parameters: Message, problem: Problem) -> None:
        """Builds the untrained model."""
        self.parameters = effective_parameters(hyper_parameters, self.DEFAULTS)
        losses.check_class_weight(self.parameters["class_weight"], problem, "xgboost.class_weight")
        self._problem = problem
        self._booster = xgboost.Booster()

    def fit(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Trains the model and reports the loss on both sets of rows after each round."""
        arguments = dict(self.parameters)
        rounds = arguments.pop("n_estimators")
        assert isinstance(rounds, int)
        class_weight = arguments.pop("class_weight")
        callbacks: list[xgboost.callback.TrainingCallback] = [_Rounds(progress, rounds)]
        patience = arguments.pop("early_stopping_rounds")
        if patience is not None:
            callbacks.append(xgboost.callback.EarlyStopping(rounds=patience, data_name="validation", save_best=True))
        arguments |= {"tree_method": "hist", "seed": self._problem.seed, "nthread": self._problem.cores}
        arguments |= self._objective()
        train_matrix = self._quantiles(train, weights.of_rows(train, class_weight), None)
        validation_matrix = self._quantiles(validation, None, train_matrix)
        self._booster = xgboost.train(
            arguments,
            train_matrix,
            rounds,
            evals=[(train_matrix, "train"), (validation_matrix, "validation")],
            verbose_eval=False,
            callbacks=callbacks,
        )

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the class probabilities or the values."""
        return boosted.scores_of(self._booster.inplace_predict(matrix_of(features)), self._problem.class_count)

    def export(self) -> onnx.ModelProto:
        """Returns the trees as one ONNX operation, followed by the inverse of the objective's link."""
        return trees.model(self.ensemble(), self._problem.feature_shape)

    def ensemble(self) -> trees.Ensemble:
        """Returns the trees."""
        learner = json.loads(self._booster.save_raw("json"))["learner"]
        booster = learner["gradient_booster"]["model"]
        base = np.array(json.loads(learner["learner_model_param"]["base_score"]), np.float64)
        if self._problem.class_count == 2:
            base = np.array([math.log(base[0] / (1.0 - base[0]))])
        counts = {column.place: column.count for column in self._problem.categories}
        grown = [
            tree_of(tree, target, counts) for tree, target in zip(booster["trees"], booster["tree_info"], strict=True)
        ]
        return boosted.ensemble(grown, "BRANCH_LT", base, self._problem)

    def _quantiles(
        self, rows: Rows, counts: NDArray[np.float64] | None, ref: xgboost.QuantileDMatrix | None
    ) -> xgboost.QuantileDMatrix:
        """Returns rows, which count as given, in the bins of `ref`, or in bins of their own."""
        features = matrix_of(rows.features)
        types = ["q"] * features.shape[1]
        for column in self._problem.categories:
            types[column.place] = "c"
        return xgboost.QuantileDMatrix(
            features,
            rows.targets,
            weight=counts,
            nthread=self._problem.cores,
            max_bin=self.parameters["max_bin"],
            ref=ref,
            feature_types=types,
            enable_categorical=True,
        )

    def _objective(self) -> dict[str, Json]:
        classes = self._problem.class_count
        if not classes:
            return {"objective": "reg:squarederror"}
        if classes == 2:
            return {"objective": "binary:logistic"}
        return {"objective": "multi:softprob", "num_class": classes}


class _Rounds(xgboost.callback.TrainingCallback):
    """Reports each round of `total`."""

    def __init__(self, progress: Progress, total: int) -> None:
        super().__init__()
        self._progress = progress
        self._total = total

    def after_iteration(self, model: object, epoch: int, evals_log: xgboost.callback.TrainingCallback.EvalsLog) -> bool:
        """Reports a round; the names of its metrics are like validation_logloss."""
        measured: dict[str, float] = {}
        for rows, metrics in evals_log.items():
            for metric, values in metrics.items():
                value = values[-1]
                assert isinstance(value, float)  # A pair would be the mean and deviation of a cross-validation.
                measured[f"{rows}_{metric}"] = value
        self._progress.step(epoch + 1, self._total, "round", measured)
        return False


def tree_of(tree: Mapping[str, list[float]], target: int, counts: Mapping[int, int]) -> trees.Tree:
    """Returns a tree of the booster's JSON, without the nodes that pruning cut off."""
    left = np.array(tree["left_children"], np.int64)
    right = np.array(tree["right_children"], np.int64)
    kept = _reachable(left, right)
    number = np.cumsum(kept) - 1
    missing_left = np.array(tree["default_left"], np.int64) != 0
    sets = {place: codes for place, codes in _sets(tree, counts) if kept[place]}
    # A category of the set goes to the right, all others to the left.
    turned = np.array(list(sets), np.int64)
    left[turned], right[turned] = right[turned], left[turned]
    missing_left[turned] = ~missing_left[turned]
    # The JSON has the digits of 32-bit floats. It is a leaf's value, or what the feature must be smaller than.
    conditions = np.array(tree["split_conditions"], np.float32).astype(np.float64)[kept]
    return trees.Tree(
        leaf=left[kept] < 0,
        feature=np.array(tree["split_indices"], np.int64)[kept],
        threshold=conditions,
        left=number[left[kept]],
        right=number[right[kept]],
        missing_left=missing_left[kept],
        values=conditions.reshape(-1, 1),
        target=target,
        sets={int(number[place]): codes for place, codes in sets.items()},
    )


def _sets(tree: Mapping[str, list[float]], counts: Mapping[int, int]) -> Iterator[tuple[int, CodeSet]]:
    """Yields each node that splits by categories, with the codes that it looks for."""
    codes = np.array(tree["categories"], np.int64)
    places = zip(tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True)
    for place, start, size in places:
        found = np.sort(codes[int(start) : int(start + size)])
        yield int(place), CodeSet(found, counts[int(tree["split_indices"][int(place)])])


def _reachable(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns which nodes can be reached from the root."""
    reached = np.zeros(len(left), np.bool_)
    level = np.array([0])
    while len(level):
        reached[level] = True
        inner = level[left[level] >= 0]
        level = np.concatenate([left[inner], right[inner]])
    return reached

"""Nearest neighbours of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from training.algorithms.base import Problem
from training.data import Floats, Rows, doubles_of
from training.errors import invalid_field
from training.export import graph, products
from training.progress import Progress
from training.spec import Json, effective_parameters

_MOST_ROWS = 10_000
_MOST_VALUES = 50_000_000
_PREDICT_ROWS = 256

# Squares of distances are equal if they are in the same step, which is this share of the largest that there can be. Rounding
# errors are a million times smaller, so that training and serving find the same rows at the same distance.
_STEP = 1e-9
_SMALLEST = 1e-30


class Family:
    """All rows trained on, standardized; distances are computed in double precision in training and in serving.

    The library leaves open which of several rows at the same distance count. Here the first ones do; and rows at no
    distance, if there are some, count alone where weights go by the distance.
    """

    DEFAULTS: ClassVar[Mapping[str, Json]] = {"n_neighbors": 5, "weights": "uniform"}
    LIBRARIES: ClassVar[tuple[str, ...]] = ("scikit-learn",)

    def __init__(self, hyper_parameters: Message, problem: Problem) -> None:
        """Builds the untrained model."""
        self.parameters = effective_parameters(hyper_parameters, self.DEFAULTS)
        self._problem = problem
        count = self.parameters["n_neighbors"]
        assert isinstance(count, int)
        self._count = count
        self._scaler = StandardScaler()
        self._neighbors = NearestNeighbors(n_jobs=problem.cores)

    def fit(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Keeps the rows, in one step. The service lets none with weights come here, which the library cannot take."""
        _check(train, self._count)
        self._points = self._scaler.fit_transform(doubles_of(train.features))
        self._largest = max(float((self._points**2).sum(axis=1).max()), _SMALLEST)
        self._targets = train.targets
        self._values = train.targets.reshape(len(train), -1).astype(np.float64)
        self._neighbors.fit(self._points)
        progress.step(1, 1, "iteration")

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the class probabilities or the values."""
        points = self._scaler.transform(doubles_of(features))
        parts = np.split(points, range(_PREDICT_ROWS, len(points), _PREDICT_ROWS))
        return np.concatenate([self._predict_part(part) for part in parts])

    def export(self) -> onnx.ModelProto:
        """Returns the distances to all rows, the nearest of them, and the mean of their targets."""
        constants: dict[str, NDArray[np.generic]] = {}
        nodes = [
            *products.standardized(self._scaler.mean_, self._scaler.scale_, constants),
            *products.squared_distances(self._points, constants),
            *self._nearest(constants),
            *(_weights_of_distance(constants) if self._by_distance else _equal_weights(constants)),
            *(
                _classes(self._problem.class_count, self._targets, constants)
                if self._problem.class_count
                else _values(self._values, constants)
            ),
        ]
        return graph.model(nodes, constants, self._problem.feature_shape, self._problem.score_count)

    @property
    def _by_distance(self) -> bool:
        return self.parameters["weights"] == "distance"

    def _predict_part(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        rows, distances, steps = self._nearest_rows(points)
        weights = np.ones(rows.shape)
        if self._by_distance:
            same = steps == 0
            with np.errstate(divide="ignore"):
                weights = np.where(same.any(axis=1, keepdims=True), same, 1.0 / distances)
        weights /= weights.sum(axis=1, keepdims=True)
        if not self._problem.class_count:
            return np.asarray((weights[:, :, None] * self._values[rows]).sum(axis=1), np.float64)
        of_class = self._targets[rows][:, :, None] == np.arange(self._problem.class_count)
        return np.asarray((weights[:, :, None] * of_class).sum(axis=1), np.float64)

    def _nearest_rows(
        self, points: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Returns the nearest rows of each point, their distances, and the steps of the squares; each [points, count]."""
        step = _STEP * ((points**2).sum(axis=1, keepdims=True) + self._largest)
        asked = self._count
        while True:
            asked = min(2 * asked, len(self._points))
            distances, rows = self._neighbors.kneighbors(points, asked)
            steps = np.floor(distances**2 / step)
            # The last ones found may be as near as others that were not.
            if asked == len(self._points) or (steps[:, self._count - 1] < steps[:, -1]).all():
                break
        order = np.lexsort((rows, steps))[:, : self._count]
        nearest = tuple(np.take_along_axis(values, order, axis=1) for values in (rows, distances, steps))
        return nearest[0].astype(np.int64), nearest[1], nearest[2]

    def _nearest(self, constants: dict[str, NDArray[np.generic]]) -> list[onnx.NodeProto]:
        """Returns the operations from `distances` to `steps`, `nearest` and `squared`, each [rows, count]."""
        constants |= {
            "largest": np.array(self._largest),
            "step_share": np.array(_STEP),
            "count": np.array([self._count]),
        }
        return [
            helper.make_node("Add", ["square", "largest"], ["extent"]),
            helper.make_node("Mul", ["extent", "step_share"], ["step"]),
            helper.make_node("Div", ["distances", "step"], ["in_steps"]),
            helper.make_node("Floor", ["in_steps"], ["all_steps"]),
            # Of equal ones it takes the first.
            helper.make_node("TopK", ["all_steps", "count"], ["steps", "nearest"], axis=1, largest=0, sorted=1),
            helper.make_node("GatherElements", ["distances", "nearest"], ["squared"], axis=1),
        ]


def _equal_weights(constants: dict[str, NDArray[np.generic]]) -> list[onnx.NodeProto]:
    constants["unit"] = np.array(1.0)
    return [
        helper.make_node("Mul", ["steps", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "unit"], ["weights"]),
    ]


def _weights_of_distance(constants: dict[str, NDArray[np.generic]]) -> list[onnx.NodeProto]:
    constants["unit"] = np.array(1.0)
    return [
        helper.make_node("Equal", ["steps", "nothing"], ["same"]),
        helper.make_node("Cast", ["same"], ["counted"], to=TensorProto.DOUBLE),
        helper.make_node("ReduceMax", ["counted"], ["some"], axes=[1], keepdims=1),
        helper.make_node("Cast", ["some"], ["some_same"], to=TensorProto.BOOL),
        helper.make_node("Sqrt", ["squared"], ["roots"]),
        helper.make_node("Div", ["unit", "roots"], ["inverse"]),
        helper.make_node("Where", ["some_same", "counted", "inverse"], ["weights"]),
    ]


def _classes(
    count: int, targets: NDArray[np.generic], constants: dict[str, NDArray[np.generic]]
) -> list[onnx.NodeProto]:
    """Returns the operations from `nearest` and `weights` to the share of each label in the weights."""
    constants |= {"targets": targets, "labels": np.array([count])}
    zero = helper.make_tensor("zero", TensorProto.DOUBLE, [1], [0.0])
    return [
        helper.make_node("Shape", ["square"], ["rows"], start=0, end=1),
        helper.make_node("Concat", ["rows", "labels"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["blank"], value=zero),
        helper.make_node("Gather", ["targets", "nearest"], ["chosen"]),
        helper.make_node("ScatterElements", ["blank", "chosen", "weights"], ["sums"], axis=1, reduction="add"),
        helper.make_node("ReduceSum", ["weights", "columns"], ["total"], keepdims=1),
        helper.make_node("Div", ["sums", "total"], ["means"]),
        products.to_scores("means"),
    ]


def _values(targets: NDArray[np.float64], constants: dict[str, NDArray[np.generic]]) -> list[onnx.NodeProto]:
    """Returns the operations from `nearest` and `weights` to the weighted mean of the targets, [points, values]."""
    constants |= {"targets": targets, "last": np.array([2])}
    return [
        helper.make_node("Gather", ["targets", "nearest"], ["chosen"]),
        helper.make_node("Unsqueeze", ["weights", "last"], ["each_weight"]),
        helper.make_node("Mul", ["chosen", "each_weight"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "columns"], ["sums"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "columns"], ["total"], keepdims=1),
        helper.make_node("Div", ["sums", "total"], ["means"]),
        products.to_scores("means"),
    ]


def _check(train: Rows, count: int) -> None:
    rows = len(train)
    if rows < count:
        raise invalid_field(
            "knn.n_neighbors",
            f"there are {rows} rows to train on; ask for at most {rows} neighbours, or give more rows",
        )
    if rows > _MOST_ROWS or train.features.size > _MOST_VALUES:
        raise invalid_field(
            "knn",
            f"there are {rows} rows to train on, with {train.features.size} values; the model would hold them all, and "
            f"{_MOST_ROWS} rows with {_MOST_VALUES} values are allowed; give fewer, or use another algorithm",
        )

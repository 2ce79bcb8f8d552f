"""Support vector machines of scikit-learn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from training.algorithms import losses, weights
from training.algorithms.base import Problem
from training.data import Floats, Rows, doubles_of
from training.errors import invalid_field
from training.export import graph, products
from training.progress import Progress
from training.spec import Json, effective_parameters

_MOST_CLASSES = 100
_FOLDS = 5


class Family:
    """A kernel machine over standardized features, computed in double precision in training and in serving."""

    DEFAULTS: ClassVar[Mapping[str, Json]] = {
        "c": 1.0,
        "kernel": "rbf",
        "degree": 3,
        "gamma": None,
        "coef0": 0.0,
        "tol": 1e-3,
        "max_iter": None,
        "epsilon": 0.1,
        "class_weight": None,
    }
    LIBRARIES: ClassVar[tuple[str, ...]] = ("scikit-learn",)

    def __init__(self, hyper_parameters: Message, problem: Problem) -> None:
        """Builds the untrained model."""
        parameters = effective_parameters(hyper_parameters, self.DEFAULTS)
        losses.check_class_weight(parameters["class_weight"], problem, "svm.class_weight")
        if problem.class_count > _MOST_CLASSES:
            raise invalid_field("svm", f"svm learns at most {_MOST_CLASSES} labels; use another algorithm for more")
        self.parameters = parameters
        self._problem = problem
        self._scaler = StandardScaler()
        arguments = {name: value for name, value in parameters.items() if name != "class_weight"}
        if problem.task == "classification":
            del arguments["epsilon"]
        arguments["C"] = arguments.pop("c")
        parameters["gamma"] = arguments["gamma"] = parameters["gamma"] or 1.0 / math.prod(problem.feature_shape)
        arguments["max_iter"] = parameters["max_iter"] or -1
        self._machine = (SVC if problem.task == "classification" else SVR)(**arguments)

    def fit(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Trains the model; the solver shows nothing until it ends, so there is one step."""
        features = self._scaler.fit_transform(doubles_of(train.features))
        if self._problem.task == "classification":
            # The probabilities are fitted to decisions about rows that the machine that decides has not seen.
            folds = min(_FOLDS, int(np.bincount(train.targets.astype(np.int64)).min()))
            if folds < 2:
                raise invalid_field(
                    "svm", "svm needs two rows of each label among those trained on; give more rows of the rarest"
                )
            self._model = CalibratedClassifierCV(self._machine, cv=folds, ensemble=False)
        else:
            self._model = TransformedTargetRegressor(self._machine, transformer=StandardScaler())
        # As weights of rows, those of labels count for the probabilities too.
        counts = weights.of_rows(train, self.parameters["class_weight"])
        self._model.fit(features, train.targets, sample_weight=counts)
        iterations = int(np.max(self._trained().n_iter_))
        progress.step(max(iterations, 1), max(iterations, 1), "iteration")

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the class probabilities or the values."""
        matrix = self._scaler.transform(doubles_of(features))
        if self._problem.task == "classification":
            return np.asarray(self._model.predict_proba(matrix), np.float64)
        return np.asarray(self._model.predict(matrix), np.float64).reshape(-1, 1)

    def export(self) -> onnx.ModelProto:
        """Returns the kernel with all support vectors, the decisions, and what follows from them."""
        constants: dict[str, NDArray[np.generic]] = {}
        nodes = [
            *products.standardized(self._scaler.mean_, self._scaler.scale_, constants),
            *self._kernel(constants),
        ]
        if self._problem.task == "regression":
            nodes += self._values(constants)
        else:
            nodes += self._probabilities(constants)
        return graph.model(nodes, constants, self._problem.feature_shape, max(self._problem.class_count, 1))

    def _trained(self) -> SVC | SVR:
        """Returns the machine after the training."""
        if self._problem.task == "regression":
            return self._model.regressor_
        return self._model.calibrated_classifiers_[0].estimator

    def _kernel(self, constants: dict[str, NDArray[np.generic]]) -> list[onnx.NodeProto]:
        """Returns the operations from `scaled` to `kernel`, [rows, support vectors]."""
        machine = self._trained()
        vectors, gamma = machine.support_vectors_, machine.gamma
        coef0 = np.full(len(vectors), machine.coef0, np.float64)
        match self.parameters["kernel"]:
            case "linear":
                return products.affine("scaled", vectors, np.zeros(len(vectors)), "kernel", constants)
            case "poly":
                constants["degree"] = np.array(float(machine.degree))
                return [
                    *products.affine("scaled", gamma * vectors, coef0, "base", constants),
                    helper.make_node("Pow", ["base", "degree"], ["kernel"]),
                ]
            case "sigmoid":
                return [
                    *products.affine("scaled", gamma * vectors, coef0, "base", constants),
                    helper.make_node("Tanh", ["base"], ["kernel"]),
                ]
        constants["minus_gamma"] = np.array(-gamma)
        return [
            *products.squared_distances(vectors, constants),
            helper.make_node("Mul", ["distances", "minus_gamma"], ["exponents"]),
            helper.make_node("Exp", ["exponents"], ["kernel"]),
        ]

    def _values(self, constants: dict[str, NDArray[np.generic]]) -> list[onnx.NodeProto]:
        """Returns the operations from `kernel` to the values, with the scale of the targets."""
        machine, scaler = self._trained(), self._model.transformer_
        weights = machine.dual_coef_ * scaler.scale_
        bias = machine.intercept_ * scaler.scale_ + scaler.mean_
        return [*products.affine("kernel", weights, bias, "values", constants), products.to_scores("values")]

    def _probabilities(self, constants: dict[str, NDArray[np.generic]]) -> list[onnx.NodeProto]:
        """Returns the operations from `kernel` to the probabilities: a logistic function a label, then their shares."""
        machine, classes = self._trained(), self._problem.class_count
        calibrators = self._model.calibrated_classifiers_[0].calibrators
        constants["slope"] = np.array([-calibrator.a_ for calibrator in calibrators])
        constants["offset"] = np.array([-calibrator.b_ for calibrator in calibrators])
        logistic = [
            helper.make_node("Mul", ["decisions", "slope"], ["steep"]),
            helper.make_node("Add", ["steep", "offset"], ["logits"]),
            helper.make_node("Sigmoid", ["logits"], ["second_class" if classes == 2 else "apart"]),
        ]
        if classes == 2:
            decisions = products.affine("kernel", machine.dual_coef_, machine.intercept_, "decisions", constants)
            constants["one"] = np.ones((1, 1))
            return [
                *decisions,
                *logistic,
                helper.make_node("Sub", ["one", "second_class"], ["first_class"]),
                helper.make_node("Concat", ["first_class", "second_class"], ["both"], axis=1),
                products.to_scores("both"),
            ]
        return [*_pairwise(machine, constants), *_votes(classes, constants), *logistic, *_shares(classes, constants)]


def _pairwise(machine: SVC, constants: dict[str, NDArray[np.generic]]) -> list[onnx.NodeProto]:
    """Returns the operations from `kernel` to `margins`, [rows, pairs]: above zero for the first label of the pair.

    The support vectors are in the order of their labels. In the dual coefficients of a label's vectors, row j is for the
    pair with the label j, or j + 1 from the label itself on.
    """
    counts = machine.n_support_
    classes = len(counts)
    pairs = list(itertools.combinations(range(classes), 2))
    starts = np.cumsum([0, *counts])
    parts = [f"kernel{label}" for label in range(classes)]
    constants["counts"] = counts.astype(np.int64)
    constants["first"] = np.array([first * (classes - 1) + second - 1 for first, second in pairs])
    constants["second"] = np.array([second * (classes - 1) + first for first, second in pairs])
    constants["intercept"] = machine.intercept_
    nodes = [helper.make_node("Split", ["kernel", "counts"], parts, axis=1)]
    for label, part in enumerate(parts):
        constants[f"{part}.dual"] = machine.dual_coef_[:, starts[label] : starts[label + 1]].T.copy()
        nodes.append(helper.make_node("MatMul", [part, f"{part}.dual"], [f"{part}.sums"]))
    return [
        *nodes,
        helper.make_node("Concat", [f"{part}.sums" for part in parts], ["sums"], axis=1),
        helper.make_node("Gather", ["sums", "first"], ["of_first"], axis=1),
        helper.make_node("Gather", ["sums", "second"], ["of_second"], axis=1),
        helper.make_node("Add", ["of_first", "of_second"], ["of_both"]),
        helper.make_node("Add", ["of_both", "intercept"], ["margins"]),
    ]


def _votes(classes: int, constants: dict[str, NDArray[np.generic]]) -> list[onnx.NodeProto]:
    """Returns the operations from `margins` to `decisions`, [rows, classes].

    A label's decision is the number of pairs that it wins, and its margins in all of them squeezed below a half.
    """
    pairs = list(itertools.combinations(range(classes), 2))
    for_first = np.zeros((len(pairs), classes))
    for_second = np.zeros((len(pairs), classes))
    for number, (first, second) in enumerate(pairs):
        for_first[number, first] = for_second[number, second] = 1.0
    constants |= {
        "zero": np.array(0.0),
        "unit": np.array(1.0),
        "third": np.array(3.0),
        "signs": for_first - for_second,
        "won": for_second - for_first,
        "lost": for_first.sum(axis=0),
    }
    return [
        helper.make_node("Less", ["margins", "zero"], ["second_wins"]),
        helper.make_node("Cast", ["second_wins"], ["wins"], to=TensorProto.DOUBLE),
        helper.make_node("MatMul", ["wins", "won"], ["gained"]),
        helper.make_node("Add", ["gained", "lost"], ["votes"]),
        helper.make_node("MatMul", ["margins", "signs"], ["confidence"]),
        helper.make_node("Abs", ["confidence"], ["size"]),
        helper.make_node("Add", ["size", "unit"], ["more"]),
        helper.make_node("Mul", ["more", "third"], ["thrice"]),
        helper.make_node("Div", ["confidence", "thrice"], ["squeezed"]),
        helper.make_node("Add", ["votes", "squeezed"], ["decisions"]),
    ]


def _shares(classes: int, constants: dict[str, NDArray[np.generic]]) -> list[onnx.NodeProto]:
    """Returns the operations from `apart`, a probability a label, to the scores, which sum to one."""
    constants["labels"] = np.array([1])
    return [
        helper.make_node("ReduceSum", ["apart", "labels"], ["total"], keepdims=1),
        helper.make_node("Div", ["apart", "total"], ["shares"]),
        products.to_scores("shares"),
    ]

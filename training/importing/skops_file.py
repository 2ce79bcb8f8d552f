"""Reads estimators and pipelines of scikit-learn that skops has saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import skops.io
from numpy.typing import NDArray
from sklearn import base, ensemble, linear_model, pipeline, preprocessing, tree

from predictors import skops_model
from training.algorithms import forests, logistic_regression_family
from training.algorithms.base import NativeFile
from training.data import Floats, Label
from training.errors import CannotExport, invalid_field
from training.export import products, trees
from training.importing import found, independence, skops_content, skops_types
from training.importing.found import Found
from training.importing.labels import Labels, labels_of
from training.importing.spec import MOST_FEATURES, Column, Spec, check_names

_WHAT = "an estimator saved by skops (skops.io.dump)"
_MOST_SHOWN = 20
_FORESTS = (
    ensemble.RandomForestClassifier,
    ensemble.RandomForestRegressor,
    ensemble.ExtraTreesClassifier,
    ensemble.ExtraTreesRegressor,
)
_TREES = (tree.DecisionTreeClassifier, tree.DecisionTreeRegressor)
_LINEAR = (
    linear_model.LinearRegression,
    linear_model.Ridge,
    linear_model.ElasticNet,  # and Lasso, which is one
    linear_model.BayesianRidge,
    linear_model.HuberRegressor,
)


# Any: scikit-learn has no types for its estimators.
@dataclass(frozen=True)
class _Estimator:
    """An estimator that was read, with the bytes that it came in.

    Attributes:
        steps: The estimator, or the steps of the pipeline.
        class_count: The number of classes, 0 for regression.
    """

    estimator: Any
    content: bytes
    steps: Sequence[Any]
    columns: int
    class_count: int

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the class probabilities or the values."""
        return skops_model.predictions(self.estimator, features)

    def export(self) -> onnx.ModelProto:
        """Returns the estimator as ONNX, if it is one of the families that FitServe trains."""
        *before, last = self.steps
        exact = type(last)  # what derives from a class may predict in another way
        if not before and exact in (*_FORESTS, *_TREES):
            return trees.model(self.ensemble(), (self.columns,))
        if all(type(step) is preprocessing.StandardScaler for step in before):
            if exact in (*_LINEAR, linear_model.Lasso):
                weights, bias = self._unscaled(last.coef_, last.intercept_)
                return products.model(weights, bias, (self.columns,), classes=False)
            if exact is linear_model.LogisticRegression:
                weights, bias = self._unscaled(*logistic_regression_family.decisions(last))
                return products.model(weights, bias, (self.columns,), classes=True)
        raise CannotExport("scikit-learn's own file keeps it as it is")

    def ensemble(self) -> trees.Ensemble:
        """Returns the trees of a forest, or of a tree."""
        kind = type(self.estimator)
        if kind not in (*_FORESTS, *_TREES):
            raise CannotExport("it is no forest")
        grown = [self.estimator] if kind in _TREES else self.estimator.estimators_
        return forests.ensemble_of(grown, self.class_count)

    def native(self) -> NativeFile:
        """Returns the file as it came."""
        return NativeFile("model.skops", self.content)

    def _unscaled(
        self, coefficients: NDArray[np.float64], intercept: NDArray[np.float64] | float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns weights and bias for the features themselves, before any scaler."""
        weights, bias = np.atleast_2d(coefficients), np.atleast_1d(intercept)
        for scaler in reversed(self.steps[:-1]):
            if scaler.with_std:
                weights = weights / scaler.scale_
            if scaler.with_mean:
                bias = bias - weights @ scaler.mean_
        return weights, bias


def read(spec: Spec) -> Found:
    """Returns the estimator in the file of `spec`.

    Raises:
        FitError: INVALID_FIELD; also if it has types that are not trusted.
    """
    with found.reading(_WHAT):
        found.check_zip(spec.file, spec.memory_limit_bytes)
    estimator = _load(spec)
    with found.reading(_WHAT):
        skops_content.check(estimator)
    classes, columns, names = _described(estimator)
    read = _Estimator(estimator, spec.file.read_bytes(), _steps(estimator), columns, len(classes))
    rows = found.random_rows((columns,))
    with found.reading("an estimator that predicts rows of numbers; fit it on arrays, not on tables with texts"):
        count = read.predict(rows[:1]).shape[1]
        independence.check(read.predict, rows)
    if count != max(1, len(classes)):
        raise found.refused(f"it gives {count} values a row; a regressor for one target is served")
    return Found(
        trained=read,
        task="classification" if classes else "regression",
        shape=(columns,),
        score_count=count,
        columns=tuple(Column(name) for name in names),
        missing_values=spec.wanted.missing_values,
        labels=_labels(classes),
        rows=rows,
        libraries=("scikit-learn", "skops"),
    )


# Any: scikit-learn has no types for its estimators.
def _load(spec: Spec) -> Any:
    """Returns the estimator, if all its types are trusted."""
    with found.reading(_WHAT):
        strange = skops.io.get_untrusted_types(file=spec.file)
    field = "description.trusted_types"
    untrusted = sorted(set(strange) - set(spec.trusted_types))
    if untrusted:
        raise invalid_field(
            field,
            f"the file has {len(untrusted)} types that are not trusted: {', '.join(untrusted[:_MOST_SHOWN])}; name those "
            "that you trust, or save the model without them",
        )
    with found.reading(_WHAT):
        wrong = skops_types.misused(spec.file)
    foreign = [wrong] if wrong else [name for name in strange if name not in skops_types.LOADERS]
    if foreign:
        raise invalid_field(
            field,
            f"types such as {foreign[0][:80]} are never loaded; those that estimators of scikit-learn consist of can be "
            "trusted, so save other models in the format of their library, or as ONNX",
        )
    with found.reading(_WHAT):
        return skops.io.load(spec.file, trusted=strange)


# Any: scikit-learn has no types for its estimators.
def _described(estimator: Any) -> tuple[list[Label], int, list[str]]:
    """Returns the labels of the classes, or none for regression, the number of columns, and their names or none."""
    if not isinstance(estimator, base.BaseEstimator):
        raise found.refused("it holds no estimator of scikit-learn")
    with found.reading("a fitted estimator"):
        columns = int(estimator.n_features_in_)
        names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
        classifier = base.is_classifier(estimator)
        classes = np.asarray(estimator.classes_).tolist() if classifier else []
    if not (classifier or base.is_regressor(estimator)):
        raise found.refused("it is neither a classifier nor a regressor")
    if classifier and not hasattr(estimator, "predict_proba"):
        raise found.refused("it gives no probabilities (predict_proba); calibrate it with CalibratedClassifierCV")
    if not 1 <= columns <= MOST_FEATURES or (names and len(names) != columns):
        raise found.damaged(_WHAT)
    check_names(names, found.CONTENT)
    return classes, columns, names


# Any: scikit-learn has no types for its estimators.
def _steps(estimator: Any) -> Sequence[Any]:
    return [step for _, step in estimator.steps] if type(estimator) is pipeline.Pipeline else [estimator]


def _labels(classes: Sequence[Label]) -> Labels | None:
    return labels_of(classes, found.CONTENT) if classes else None

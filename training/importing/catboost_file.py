"""Reads CatBoost's own files, model.cbm."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import catboost
import numpy as np
from numpy.typing import NDArray

from training.algorithms import catboost_family
from training.data import Floats
from training.export import trees
from training.importing import catboost_tables, catboost_texts, found
from training.importing.found import Found
from training.importing.labels import MOST_CLASSES
from training.importing.spec import MOST_FEATURES, Spec

_WHAT = "a CatBoost model (save_model with the format cbm)"
_LINKS: Mapping[str, trees.Link] = {
    "Logloss": "logit",
    "CrossEntropy": "logit",
    "MultiClass": "softmax",
    "Poisson": "log",
    "Tweedie": "log",
    "RMSE": "identity",
    "MAE": "identity",
    "MAPE": "identity",
    "Quantile": "identity",
    "LogLinQuantile": "log",
    "Expectile": "identity",
    "Huber": "identity",
    "Lq": "identity",
    "YetiRank": "identity",
    "YetiRankPairwise": "identity",
    "QueryRMSE": "identity",
    "PairLogit": "identity",
}
_PREDICTIONS: Mapping[trees.Link, str] = {
    "logit": "Probability",
    "softmax": "Probability",
    "log": "Exponent",
    "identity": "RawFormulaVal",
}


def read(spec: Spec) -> Found:
    """Returns the model in the file of `spec`.

    Raises:
        FitError: INVALID_FIELD.
    """
    with found.reading(_WHAT):
        booster = catboost.CatBoost()
        content = spec.file.read_bytes()
        catboost_tables.check(content)
        booster.load_model(blob=content)
        _check(booster)
        link = _link(booster)
        if booster.get_cat_feature_indices() or booster.get_text_feature_indices():
            return catboost_texts.found_in(booster, content, _PREDICTIONS[link], spec.wanted.columns)
        grown, base = catboost_family.trees_of(booster)
        ensemble = trees.Ensemble(grown, "BRANCH_LEQ", base, link)
        names = list(booster.feature_names_)
        columns = len(names)
        classes = ensemble.score_count if link in ("logit", "softmax") else 0
        if not 1 <= columns <= MOST_FEATURES or classes > MOST_CLASSES or not (classes or len(base) == 1):
            raise found.damaged(_WHAT)
    named = names != [str(place) for place in range(columns)]
    labels = catboost_texts.labels(booster, classes)
    predict = partial(_predict, booster, _PREDICTIONS[link])
    return found.of_trees(ensemble, columns, predict, names if named else (), labels, "catboost")


def _check(booster: catboost.CatBoost) -> None:
    embeddings = booster.get_embedding_feature_indices()
    if embeddings:
        raise found.refused(
            f"{len(embeddings)} of its features are embeddings, and imported models take numbers, categories and texts; let "
            "an operator place it as a model with its own code"
        )


def _link(booster: catboost.CatBoost) -> trees.Link:
    loss = str(booster.get_all_params().get("loss_function", "")).split(":")[0]
    if loss not in _LINKS:
        raise found.refused(f"the loss {loss[:80]!r} is not served; there are {', '.join(_LINKS)}")
    return _LINKS[loss]


def _predict(booster: catboost.CatBoost, kind: str, features: Floats) -> NDArray[np.float64]:
    """Returns the class probabilities or the values, as CatBoost computes them."""
    predictions = booster.predict(features, prediction_type=kind, thread_count=1)
    return np.asarray(predictions, np.float64).reshape(len(features), -1)

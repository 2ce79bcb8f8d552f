"""Imports the training libraries and runs each family once, so that a Fit pays for neither."""

from __future__ import annotations

import importlib
import os
import warnings

import numpy as np
from fitserve.v1 import options_pb2, training_service_pb2
from google.protobuf import message_factory

from training import algorithms, limits, metrics, parity
from training.algorithms.base import Problem
from training.data import Rows
from training.export import ladder
from training.progress import Progress
from training.spec import Task

_LIBRARIES = (
    "sklearn.calibration",
    "sklearn.compose",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.naive_bayes",
    "sklearn.neighbors",
    "sklearn.pipeline",
    "sklearn.preprocessing",
    "sklearn.svm",
    "xgboost",
    "torch",
    "lightgbm",  # after torch, whose OpenMP runtime it takes where the system has none
    "catboost",
    "onnx",
    "onnxruntime",
    "treelite",
)
# A process with threads cannot fork safely, and CatBoost's threads stay after a training. It loads nothing late.
_LEAVE_THREADS = ("catboost",)


def import_libraries() -> None:
    """Imports every library that a training may use, and looks up their thread pools."""
    for name in _LIBRARIES:
        importlib.import_module(name)
    limits.native_thread_pools()


def run_families() -> None:
    """Trains, exports and proves a tiny model of each family, which loads what the libraries import late.

    It starts no thread, since one core is asked for, and families that start some even so are left out.
    """
    options = training_service_pb2.FitRequest.DESCRIPTOR.oneofs_by_name["algorithm"].fields
    with open(os.devnull, "w") as nowhere, warnings.catch_warnings(action="ignore"):
        progress = Progress(nowhere.fileno())
        for option in options:
            if option.name in _LEAVE_THREADS:
                continue
            assert option.message_type is not None
            message = message_factory.GetMessageClass(option.message_type)()
            traits = option.message_type.GetOptions().Extensions[options_pb2.traits]
            task: Task = "classification" if traits.classification else "regression"
            rows = _tiny_rows((1, 8, 8) if traits.images else (4,))
            class_count = 2 if traits.classification else 0
            problem = Problem(task, rows.features.shape[1:], class_count, seed=0, cores=1)
            algorithm = algorithms.build(option.name, message, problem)
            algorithm.fit(rows, rows, progress)
            metrics.score(task, rows, algorithm.predict(rows.features))
            expected = parity.expect(algorithm, task, rows.features, missing_values=False, seed=0)
            ladder.climb(algorithm, problem, option.name, expected)


def _tiny_rows(shape: tuple[int, ...]) -> Rows:
    """Returns 40 random rows of two classes."""
    features = np.random.default_rng(0).normal(size=(40, *shape)).astype(np.float32)
    return Rows(features, (features.reshape(40, -1)[:, 0] > 0).astype(np.int64))

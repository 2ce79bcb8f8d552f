"""Imports the training libraries and runs each family once, so that a Fit pays for neither."""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings

import numpy as np
from google.protobuf import message_factory

from fitserve.v1 import training_service_pb2
from training import algorithms, limits, metrics, parity
from training.algorithms.base import Problem
from training.data import Rows
from training.export import graph
from training.progress import Progress

_LIBRARIES = (
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.pipeline",
    "sklearn.preprocessing",
    "xgboost",
    "torch",
    "onnx",
    "onnxruntime",
)


def import_libraries() -> None:
    """Imports every library that a training may use, and looks up their thread pools."""
    for name in _LIBRARIES:
        importlib.import_module(name)
    limits.native_thread_pools()


def run_families() -> None:
    """Trains, exports and proves a tiny model of each family, which loads what the libraries import late.

    It starts no thread, since one core is asked for.
    """
    options = training_service_pb2.FitRequest.DESCRIPTOR.oneofs_by_name["algorithm"].fields
    with open(os.devnull, "w") as nowhere, warnings.catch_warnings(action="ignore"):
        progress = Progress(nowhere.fileno())
        for option in options:
            assert option.message_type is not None
            message = message_factory.GetMessageClass(option.message_type)()
            images = option.name == "torch_cnn"
            rows = _tiny_rows((1, 8, 8) if images else (4,))
            problem = Problem("classification", rows.features.shape[1:], 2, seed=0, cores=1)
            algorithm = algorithms.build(option.name, message, problem)
            with contextlib.redirect_stdout(nowhere):
                algorithm.fit(rows, rows, progress)
            metrics.score("classification", rows, algorithm.predict(rows.features))
            model = graph.serialize(algorithm.export(), option.name)
            parity.prove(model, algorithm, "classification", rows.features, missing_values=False, seed=0)


def _tiny_rows(shape: tuple[int, ...]) -> Rows:
    """Returns 40 random rows of two classes."""
    features = np.random.default_rng(0).normal(size=(40, *shape)).astype(np.float32)
    return Rows(features, (features.reshape(40, -1)[:, 0] > 0).astype(np.int64))

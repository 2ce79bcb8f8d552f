"""The families of models, one module each: `<field of FitRequest.algorithm>_family.py` with a class `Family`."""

from __future__ import annotations

import importlib

from google.protobuf.message import Message

from training.algorithms.base import Algorithm, Problem


def build(name: str, hyper_parameters: Message, problem: Problem) -> Algorithm:
    """Returns an untrained algorithm.

    Args:
        name: The name of the algorithm's field in `FitRequest`, such as random_forest.
        hyper_parameters: The message in that field.
        problem: What to learn.

    Raises:
        FitError: INVALID_FIELD; the hyper-parameters do not fit each other or the problem.
    """
    family: type[Algorithm] = importlib.import_module(f"training.algorithms.{name}_family").Family
    return family(hyper_parameters, problem)

"""Least squares with L1 and L2 regularization, of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from google.protobuf.message import Message
from sklearn.linear_model import ElasticNet

from training.algorithms.base import Problem
from training.algorithms.linear_models import LinearFamily
from training.spec import Json, effective_parameters


class Family(LinearFamily):
    """Least squares whose coefficients are held small, many of them at zero."""

    DEFAULTS: ClassVar[Mapping[str, Json]] = {
        "alpha": 1.0,
        "l1_ratio": 0.5,
        "fit_intercept": True,
        "positive": False,
        "max_iter": 1000,
        "tol": 0.0001,
        "selection": "cyclic",
    }

    def __init__(self, hyper_parameters: Message, problem: Problem) -> None:
        """Builds the untrained model."""
        parameters = effective_parameters(hyper_parameters, self.DEFAULTS)
        super().__init__(parameters, problem, ElasticNet(**parameters, random_state=problem.seed))

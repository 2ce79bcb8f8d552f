"""Least squares of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from google.protobuf.message import Message
from sklearn.linear_model import LinearRegression

from training.algorithms.base import Problem
from training.algorithms.linear_models import LinearFamily
from training.spec import Json, effective_parameters


class Family(LinearFamily):
    """Ordinary least squares."""

    DEFAULTS: ClassVar[Mapping[str, Json]] = {
        "fit_intercept": True,
        "positive": False,
    }

    def __init__(self, hyper_parameters: Message, problem: Problem) -> None:
        """Builds the untrained model."""
        parameters = effective_parameters(hyper_parameters, self.DEFAULTS)
        super().__init__(parameters, problem, LinearRegression(**parameters))

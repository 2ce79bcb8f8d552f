"""Random forests of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from google.protobuf.message import Message
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from training.algorithms.base import Problem
from training.algorithms.forests import DEFAULTS, ForestFamily
from training.spec import Json, effective_parameters


class Family(ForestFamily):
    """A forest whose trees each see a sample of the rows."""

    DEFAULTS: ClassVar[Mapping[str, Json]] = {**DEFAULTS, "bootstrap": True}

    def __init__(self, hyper_parameters: Message, problem: Problem) -> None:
        """Builds the untrained forest."""
        parameters = effective_parameters(hyper_parameters, self.DEFAULTS)
        super().__init__(parameters, problem, "random_forest", RandomForestClassifier, RandomForestRegressor)
